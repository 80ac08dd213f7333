//! The door of the locks room.
//!
//! A call that waits is a reader of the log, woken by the one event that its grant causes. What becomes of a call that is dropped
//! (its client cancelled it, or its connection broke) is in [`wait::Presence`].

mod wait;

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::lock_service_server::LockService;
use tonic::{Request, Response, Status};

use super::rules::{self, Acquire, Release, Renewal};
use super::{Lock, MAX_TTL, MAX_WAIT, MIN_TTL};
use crate::app::App;
use crate::edge::check::Check;
use crate::edge::page::{self, Page};
use crate::edge::{Context, payload};
use crate::error::Refusal;
use crate::lane::{Urgency, refusal_of};
use crate::machine;
use crate::store::row::{Row, Value};
use crate::store::{Selection, TablePlan};
use crate::tail::Cursor;

/// How many bytes an attempt's token may have: a task's id and what makes it unguessable.
const MAX_ATTEMPT_TOKEN: usize = 512;
/// How many locks are looked at for one page of a list that is filtered by agent.
const SCAN: usize = 1_000;

/// The service.
pub struct Locks {
    app: Arc<App>,
}

impl Locks {
    /// The service of a server.
    pub fn new(app: Arc<App>) -> Locks {
        Locks { app }
    }
}

#[tonic::async_trait]
impl LockService for Locks {
    async fn acquire_lock(
        &self,
        request: Request<v1::AcquireLockRequest>,
    ) -> Result<Response<v1::AcquireLockResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            acquire_lock(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn renew_lock(
        &self,
        request: Request<v1::RenewLockRequest>,
    ) -> Result<Response<v1::RenewLockResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            renew_lock(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn release_lock(
        &self,
        request: Request<v1::ReleaseLockRequest>,
    ) -> Result<Response<v1::ReleaseLockResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            release_lock(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn get_lock(&self, request: Request<v1::GetLockRequest>) -> Result<Response<v1::GetLockResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            get_lock(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn list_locks(
        &self,
        request: Request<v1::ListLocksRequest>,
    ) -> Result<Response<v1::ListLocksResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            list_locks(&self.app, &context, request.into_inner()).await?,
        ))
    }
}

/// Takes a lock, waiting for it if asked to.
///
/// # Errors
/// LOCK_HELD, LOCK_WAIT_TIMEOUT, LEASE_ENDED, STALE_FENCING_TOKEN, STALE_ATTEMPT, REQUEST_ID_REUSED, SESSION_ENDED,
/// SESSION_REQUIRED, DRAINING, and those of every change.
pub async fn acquire_lock(
    app: &App,
    context: &Context,
    request: v1::AcquireLockRequest,
) -> Result<v1::AcquireLockResponse, Refusal> {
    // The rules know repeated requests themselves: the first answer would have an old expiry.
    let call = context.call("AcquireLock", "", &request, Urgency::Normal);
    let wish = wish_of(app, context, request)?;
    let acquired = wait::acquire(app, context, call, wish).await?;
    Ok(v1::AcquireLockResponse {
        lock: Some(to_proto(&acquired.lock)),
        queued: Some(payload::duration(acquired.queued)),
        position: acquired.position,
        cursor: cursor(acquired.epoch, acquired.position),
    })
}

fn wish_of(app: &App, context: &Context, request: v1::AcquireLockRequest) -> Result<Acquire, Refusal> {
    let mut check = Check::default();
    let wish = Acquire {
        call_id: machine::new_id(),
        session_id: session_id(&mut check, &request.session_id),
        request_id: check.optional_id("request_id", &request.request_id),
        resource_id: check.id("resource_id", &request.resource_id),
        holder_id: check.optional_id("holder_id", &request.holder_id),
        ttl: check.duration("ttl", request.ttl, app.defaults.lock_ttl, MIN_TTL..=MAX_TTL),
        wait: check.duration(
            "wait_timeout",
            request.wait_timeout,
            Duration::ZERO,
            Duration::ZERO..=MAX_WAIT,
        ),
        token: (request.fencing_token != 0).then_some(request.fencing_token),
        attempt_token: some(check.text("attempt_token", &request.attempt_token, MAX_ATTEMPT_TOKEN)),
        correlation_id: check.optional_id("correlation_id", &request.correlation_id),
        traceparent: context.traceparent.clone(),
    };
    if request.fencing_token < 0 {
        check.violation("fencing_token", "must be the token of a grant");
    }
    let named = !wish.holder_id.is_empty() || wish.token.is_some();
    if wish.session_id.is_none() && !named {
        check.violation("holder_id", "must not be empty without a session_id");
    }
    check.finish()?;
    Ok(wish)
}

/// Extends a lease. A repeated request extends it again: the first answer's expiry would be old.
///
/// # Errors
/// LOCK_NOT_FOUND, STALE_FENCING_TOKEN, SESSION_ENDED, and those of every change.
pub async fn renew_lock(
    app: &App,
    context: &Context,
    request: v1::RenewLockRequest,
) -> Result<v1::RenewLockResponse, Refusal> {
    let call = context.call("RenewLock", "", &request, Urgency::High);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    let ttl = check.duration("ttl", request.ttl, Duration::ZERO, MIN_TTL..=MAX_TTL);
    let wish = Renewal {
        session_id: session_id(&mut check, &request.session_id),
        resource_id: check.id("resource_id", &request.resource_id),
        token: token(&mut check, request.fencing_token),
        ttl: (!ttl.is_zero()).then_some(ttl),
    };
    check.finish()?;
    let reads = {
        let (resource_id, session_id) = (wish.resource_id.clone(), wish.session_id.clone());
        move |world: &mut crate::lane::World| {
            world.locks.want(&resource_id);
            crate::sessions::rules::want_caller(world, &session_id);
        }
    };
    let committed = app
        .lanes
        .run(call, reads, move |world| rules::renew(world, &wish))
        .await?;
    Ok(v1::RenewLockResponse {
        lock: Some(to_proto(&committed.answer)),
        position: committed.position,
        cursor: cursor(committed.epoch, committed.position),
    })
}

/// Gives a lock back.
///
/// # Errors
/// LOCK_NOT_FOUND, STALE_FENCING_TOKEN, SESSION_ENDED, and those of every change.
pub async fn release_lock(
    app: &App,
    context: &Context,
    request: v1::ReleaseLockRequest,
) -> Result<v1::ReleaseLockResponse, Refusal> {
    let call = context.call("ReleaseLock", &request.request_id, &request, Urgency::High);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    let wish = Release {
        session_id: session_id(&mut check, &request.session_id),
        resource_id: check.id("resource_id", &request.resource_id),
        token: token(&mut check, request.fencing_token),
        traceparent: context.traceparent.clone(),
    };
    check.finish()?;
    let read = wish.clone();
    let committed = app
        .lanes
        .run(
            call,
            move |world| rules::want_release(world, &read),
            move |world| rules::release(world, &wish),
        )
        .await?;
    Ok(v1::ReleaseLockResponse {
        position: committed.position,
        cursor: cursor(committed.epoch, committed.position),
    })
}

/// The lock on a resource.
///
/// # Errors
/// LOCK_NOT_FOUND.
pub async fn get_lock(
    app: &App,
    context: &Context,
    request: v1::GetLockRequest,
) -> Result<v1::GetLockResponse, Refusal> {
    let mut check = Check::default();
    let resource_id = check.id("resource_id", &request.resource_id);
    check.finish()?;
    let lock = app.store.get::<Lock>(&context.namespace, &resource_id).await;
    let lock = lock.map_err(|error| refusal_of(&error))?.filter(Lock::is_held);
    let lock = lock.ok_or_else(|| rules::not_found(&resource_id))?;
    Ok(v1::GetLockResponse {
        lock: Some(to_proto(&lock)),
    })
}

/// The locks that are held, by resource.
///
/// # Errors
/// INVALID_PAGE_TOKEN.
pub async fn list_locks(
    app: &App,
    context: &Context,
    request: v1::ListLocksRequest,
) -> Result<v1::ListLocksResponse, Refusal> {
    let mut check = Check::default();
    let prefix = check.optional_id("prefix", &request.prefix);
    let agent_id = check.optional_id("agent_id", &request.agent_id);
    check.finish()?;
    let list = format!("locks\0{prefix}\0{agent_id}");
    let page = Page::new(request.page_size, &request.page_token, &list)?;
    let limit = if agent_id.is_empty() {
        page.size
    } else {
        SCAN.max(page.size)
    };
    let rows = read_from(app, context, &prefix, page.after, limit).await?;

    let mut locks = Vec::new();
    let mut last = None;
    let mut ended = rows.len() < limit;
    for row in &rows {
        if locks.len() == page.size {
            ended = false;
            break;
        }
        if !row.resource_id.starts_with(&prefix) {
            ended = true;
            break;
        }
        last = Some(&row.resource_id);
        if row.is_held() && (agent_id.is_empty() || row.agent_id == agent_id) {
            locks.push(to_proto(row));
        }
    }
    let next = last.filter(|_| !ended);
    let next_page_token = next.map(|resource_id| page::token(&[Value::Text(resource_id.clone())], &list));
    Ok(v1::ListLocksResponse {
        locks,
        next_page_token: next_page_token.unwrap_or_default(),
    })
}

/// The first rows after a place; without one, from the resource that is the prefix itself on.
async fn read_from(
    app: &App,
    context: &Context,
    prefix: &str,
    after: Option<Vec<Value>>,
    limit: usize,
) -> Result<Vec<Lock>, Refusal> {
    let begin = vec![Value::Text(prefix.to_owned())];
    let first_page = after.is_none() && !prefix.is_empty();
    let selection = Selection {
        index: Lock::PRIMARY,
        prefix: Vec::new(),
        after: after.or_else(|| first_page.then(|| begin.clone())),
        limit,
        backwards: false,
    };
    let plan = vec![TablePlan {
        table: Lock::TABLE,
        keys: if first_page { vec![begin] } else { Vec::new() },
        selections: vec![selection],
    }];
    let (_, mut rows) = app
        .store
        .read(&context.namespace, plan)
        .await
        .map_err(|error| refusal_of(&error))?;
    let rows = rows.pop().unwrap_or_default();
    let columns = rows.by_key.into_iter().chain(rows.selected.into_iter().flatten());
    columns
        .map(|columns| Lock::from_columns(columns).map_err(|corrupt| refusal_of(&corrupt.into())))
        .collect()
}

/// A lock for the wire.
pub fn to_proto(lock: &Lock) -> v1::Lock {
    v1::Lock {
        resource_id: lock.resource_id.clone(),
        holder_id: lock.holder_id.clone(),
        agent_id: lock.agent_id.clone(),
        fencing_token: lock.token,
        acquire_time: Some(payload::timestamp(lock.acquired_at)),
        expire_time: Some(payload::timestamp(lock.expires_at())),
        ttl: Some(payload::duration(lock.ttl)),
        queue_length: lock.queue_length,
        bound_to_session: lock.session_id.is_some(),
    }
}

fn cursor(epoch: i64, position: i64) -> String {
    Cursor { epoch, position }.encode()
}

fn session_id(check: &mut Check, session_id: &str) -> Option<String> {
    some(check.optional_id("session_id", session_id))
}

fn token(check: &mut Check, token: i64) -> i64 {
    if token <= 0 {
        check.violation("fencing_token", "must be the token of a grant");
    }
    token
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
