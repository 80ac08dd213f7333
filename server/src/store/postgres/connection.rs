//! Connections: how they are made, what each is told first, and how they get back into their pool.
//!
//! A connection goes back only when nothing is under way on it. One that was let go of in the middle of something is closed, and the
//! server rolls back what was open.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::{Client, Config, Error};

use super::lineage::Lineage;
use super::tls::{self, Tls};
use crate::store::StoreError;

/// How long anything but a commit may take: a connection, a turn, a lock, a read.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long one server of several may take to let a connection in.
const HOST_PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait before a lost connection is replaced by another.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// What the server is told on every connection.
///
/// The planner's ways around an index are closed: every statement is a walk along one, and a plan that was made while a table was
/// empty stays when it is not. Plans are made once (`force_generic_plan`): the arrays that they are run with do not change them.
/// A lock that is waited for, a statement, a transaction that does nothing are ended by the server before this side gives up on them. The
/// last is what a replica leaves that stands still or whose words do not arrive, and it has the head locked: nobody else can decide
/// for the namespace until it is ended.
const SETTINGS: &str = "\
    SET lock_timeout = '4s'; SET statement_timeout = '10s'; SET idle_in_transaction_session_timeout = '3s'; \
    SET jit = off; SET plan_cache_mode = force_generic_plan; \
    SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
    SET enable_sort = off; SET client_min_messages = warning";

/// The server notices, while it works or waits for a lock, that nobody is there any more. Not every system can tell it.
const CHECK_CLIENT: &str = "SET client_connection_check_interval = '1s'";

/// Which server, and how it is spoken to.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: Tls,
}

/// Reads a URL and adds what must hold for every connection. What it complains of has no word of the URL's password.
pub(super) fn target(url: &str) -> Result<Target, String> {
    let (url, mode, tls) = tls::of_url(url)?;
    let mut config: Config = url.parse().map_err(|error: Error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        format!("is no URL of a Postgres server: {cause}")
    })?;
    config
        .ssl_mode(mode)
        .connect_timeout(PATIENCE)
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(3))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(10));
    // Of several servers the primary is looked for, and one that does not answer leaves time for the others.
    if config.get_hosts().len() > 1 {
        config.connect_timeout(HOST_PATIENCE);
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
    }
    if config.get_application_name().is_none() {
        config.application_name("drumline");
    }
    Ok(Target { config, tls })
}

/// Tells the server what it is told on every connection.
pub(super) async fn set_up(client: &Client) -> Result<(), Error> {
    client.batch_execute(SETTINGS).await?;
    if let Err(error) = client.batch_execute(CHECK_CLIENT).await
        && error.as_db_error().is_none()
    {
        return Err(error);
    }
    Ok(())
}

/// What a connection for signs of life is told beside: they need not outlive a crash of the server, after which everybody is given time.
pub(super) const LAX: &str = "SET synchronous_commit = off";

/// A pool of at most this many connections, which are told this beside what all are told.
pub(super) fn pool(
    target: &Target,
    size: usize,
    lineage: &Arc<Lineage>,
    beside: &'static str,
) -> Result<Pool, StoreError> {
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let known = Arc::clone(lineage);
    let stale = Hook::sync_fn(move |_, metrics| {
        let trusted = known.trusts(metrics.created);
        trusted
            .then_some(())
            .ok_or_else(|| HookError::message("it may be to an old primary"))
    });
    let lineage = Arc::clone(lineage);
    let greet = Hook::async_fn(move |client, _| {
        let lineage = Arc::clone(&lineage);
        Box::pin(async move {
            set_up(client).await.map_err(HookError::Backend)?;
            client.batch_execute(beside).await.map_err(HookError::Backend)?;
            lineage
                .check(client)
                .await
                .map_err(|error| HookError::message(error.to_string()))
        })
    });
    Pool::builder(Manager::from_config(
        target.config.clone(),
        target.tls.clone(),
        recycling,
    ))
    .max_size(size)
    .timeouts(Timeouts {
        wait: Some(PATIENCE),
        create: Some(PATIENCE),
        recycle: Some(PATIENCE),
    })
    .runtime(Runtime::Tokio1)
    .post_create(greet)
    .pre_recycle(stale)
    .build()
    .map_err(StoreError::refused)
}

/// A connection that is closed when it is dropped, unless it was released.
pub(super) struct Connection {
    object: Option<Object>,
}

impl Connection {
    pub(super) async fn get(pool: &Pool) -> Result<Connection, Failure> {
        let object = pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => Failure::Lost(StoreError::unavailable(said(&error))),
            PoolError::Timeout(TimeoutType::Wait) => {
                Failure::Lost(StoreError::unavailable("all connections are in use"))
            }
            PoolError::Timeout(_) => {
                Failure::Lost(StoreError::unavailable("the database let no connection in in time"))
            }
            error => Failure::Lost(StoreError::unavailable(error)),
        })?;
        Ok(Connection { object: Some(object) })
    }

    /// When it was made, which is before it was looked at.
    pub(super) fn made(&self) -> std::time::Instant {
        self.object
            .as_ref()
            .map(|object| Object::metrics(object).created)
            .expect("it is there until it is released or dropped")
    }

    /// Gives it back, with nothing under way on it.
    pub(super) fn release(mut self) {
        self.object = None;
    }
}

impl Deref for Connection {
    type Target = Object;
    fn deref(&self) -> &Object {
        self.object
            .as_ref()
            .expect("it is there until it is released or dropped")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            // Closes it: the driver's task ends with the client.
            drop(Object::take(object));
        }
    }
}

/// What became of a statement that failed.
pub(super) enum Failure {
    /// The server said no, and is there: the transaction is undone.
    Answered(StoreError),
    /// The connection is gone, or going.
    Lost(StoreError),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::Answered(error) | Failure::Lost(error) => error,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Answered(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        if let Some(explained) = tls::explain(&error) {
            return Failure::Lost(StoreError::unavailable(explained));
        }
        let Some(answer) = error.as_db_error() else {
            let sent = !error.is_closed()
                && std::error::Error::source(&error).is_some_and(|cause| !cause.is::<std::io::Error>());
            // Neither the server nor the network: this side could not write a parameter or read an answer.
            return if sent {
                Failure::Answered(StoreError::refused(said(&error)))
            } else {
                Failure::Lost(StoreError::unavailable(said(&error)))
            };
        };
        if !goes_on(&error) {
            return Failure::Lost(StoreError::unavailable(said(&error)));
        }
        // Classes of SQLSTATE: connection, transaction undone, resources, operator, system, and what is said by a server that is
        // not, or not any more, the primary.
        let code = answer.code().code();
        let passing =
            matches!(&code[..2], "08" | "40" | "53" | "57" | "58") || matches!(code, "55P03" | "25006" | "25P02");
        Failure::Answered(if passing {
            StoreError::unavailable(said(&error))
        } else {
            StoreError::refused(said(&error))
        })
    }
}

/// Whether an error is the word of a server that goes on with this connection.
pub(super) fn goes_on(error: &Error) -> bool {
    let severity = error.as_db_error().map(DbError::parsed_severity);
    severity.is_some_and(|severity| !matches!(severity, Some(Severity::Fatal | Severity::Panic)))
}

/// Tries until the server answers, over as many connections as it takes, but not for ever.
pub(super) async fn patiently<T, A>(mut attempt: impl FnMut() -> A) -> Result<T, StoreError>
where
    A: Future<Output = Result<T, Failure>>,
{
    let until = Instant::now() + PATIENCE;
    let mut last = StoreError::unavailable("the database did not answer in time");
    loop {
        match timeout_at(until, attempt()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Failure::Answered(error))) => return Err(error),
            Ok(Err(Failure::Lost(error))) => last = error,
            Err(_) => return Err(last),
        }
        sleep(PAUSE).await;
    }
}

/// What the driver says, with what the server told it.
pub(super) fn said(error: &Error) -> String {
    if let Some(explained) = tls::explain(error) {
        return explained;
    }
    match error.as_db_error() {
        Some(answer) => format!("{} ({})", answer.message(), answer.code().code()),
        None => std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
    }
}
