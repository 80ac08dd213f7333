//! Which history the server has: its system identifier and its timeline. They change when a standby was promoted, or when another
//! server is behind the same address; commits may have been lost then, so the epoch is raised. It is kept in the table `meta`, and the
//! first that connects to a changed server raises it for all.
//!
//! An old primary may still be there, behind the same address or at the end of an old connection. What has a lower epoch than the
//! highest that was heard of, here or from another replica, is not the truth any more: connections to it are refused, and those that
//! were made before are not used again. A connection keeps its server's history for as long as it lives, so nothing is asked twice.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_postgres::{Client, GenericClient, Transaction};

use super::connection::{Failure, PATIENCE, Target, set_up};
use super::statements::NO_TIMEOUT;
use crate::store::migrations::{self, Applied, Migrating, Migration, Steps};
use crate::store::{StoreError, epoch};

/// Held by whoever makes tables or raises the epoch: "drumline" in bytes.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7238539128410271333)";

/// The oldest version that is supported.
const OLDEST: i32 = 150_000;

/// What a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    system: String,
    timeline: String,
}

/// The history that is known, and its epoch.
pub(super) struct Lineage {
    /// Made with the tables.
    store_id: String,
    /// The same, with where it is.
    id: String,
    view: Mutex<View>,
}

/// What is known of the history.
struct View {
    identity: Identity,
    /// Of that server.
    epoch: i64,
    /// The highest epoch that was heard of: never below the server's own.
    heard_of: i64,
    /// When this last became another view. What was connected before may be to another server.
    since: Instant,
}

impl View {
    fn is_behind(&self) -> bool {
        self.epoch < self.heard_of
    }
}

impl Lineage {
    /// Connects for the first time: makes the tables what this version needs, or refuses to, and finds out the epoch.
    pub(super) async fn open(target: &Target, migrating: Migrating) -> Result<Lineage, StoreError> {
        alone(target, async |client| {
            let identity = identify(client).await?;
            let (epoch, store_id) = settle(client, &identity, Seen::First(migrating)).await?;
            let id = format!("{store_id} in {} of {}", place(client).await?, identity.system);
            let view = View {
                identity,
                epoch,
                heard_of: epoch,
                since: Instant::now(),
            };
            Ok(Lineage {
                store_id,
                id,
                view: Mutex::new(view),
            })
        })
        .await
    }

    /// What tells this store from others, and from copies of it that a dump was restored to: a copy of the files is the same to the last
    /// bit.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The epoch that commits are made in.
    pub(super) fn epoch(&self) -> i64 {
        self.view().epoch
    }

    /// Notes that somebody has seen this epoch. If it is higher than that of the server that is known, no connection that was made until
    /// now is used any more.
    pub(super) fn heard_of(&self, epoch: i64) {
        let mut view = self.view();
        if epoch > view.heard_of {
            tracing::warn!(
                epoch,
                known = view.epoch,
                "the database has a later history than is known here"
            );
            view.heard_of = epoch;
            view.since = Instant::now();
        }
    }

    /// Whether a connection that was made then is to the server that is known now.
    pub(super) fn trusts(&self, connected: Instant) -> bool {
        let view = self.view();
        !view.is_behind() && connected >= view.since
    }

    /// Looks at a new connection: whether it is to a primary, and to the history that is known or to a later one.
    pub(super) async fn check(&self, client: &mut Client) -> Result<(), StoreError> {
        let identity = identify(client).await?;
        let heard_of = {
            let view = self.view();
            if identity == view.identity && !view.is_behind() {
                return Ok(());
            }
            view.heard_of
        };
        tracing::warn!(?identity, "the database has another history than before");
        let (epoch, store_id) = settle(client, &identity, Seen::Again(heard_of)).await?;
        if store_id != self.store_id {
            return Err(StoreError::refused("this is another database than before"));
        }
        self.adopt(identity, epoch)
    }

    /// Goes over to another history, unless a later one was heard of.
    fn adopt(&self, identity: Identity, epoch: i64) -> Result<(), StoreError> {
        let mut view = self.view();
        if epoch < view.heard_of {
            return Err(StoreError::unavailable(format!(
                "the database server is at epoch {epoch}, but {} was heard of: an old primary, or a backup",
                view.heard_of
            )));
        }
        if identity != view.identity || epoch != view.epoch {
            *view = View {
                identity,
                epoch,
                heard_of: epoch,
                since: Instant::now(),
            };
        }
        Ok(())
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a database has had of the steps, and what it needs. It may be a standby's.
pub(super) async fn steps(target: &Target) -> Result<Steps, StoreError> {
    alone(target, async |client| {
        migrations::steps(&applied(client).await?, |step| step.postgres)
    })
    .await
}

/// Brings a database up to what this version needs, and tells what it had.
pub(super) async fn upgrade(target: &Target) -> Result<Steps, StoreError> {
    alone(target, async |client| {
        identify(client).await?;
        let transaction = lock(client).await?;
        let applied = applied(&transaction).await?;
        migrate(&transaction, migrations::pending(&applied, |step| step.postgres)?).await?;
        commit(transaction).await?;
        migrations::steps(&applied, |step| step.postgres)
    })
    .await
}

/// Raises the epoch, and tells the one before and the new one.
pub(super) async fn raise_epoch(target: &Target) -> Result<(Option<i64>, i64), StoreError> {
    alone(target, async |client| {
        let identity = identify(client).await?;
        let transaction = lock(client).await?;
        match migrations::pending(&applied(&transaction).await?, |step| step.postgres)? {
            [] => {}
            pending => return Err(migrations::missing(pending)),
        }
        let before = epoch_in(&meta(&transaction).await?);
        let epoch = raise(&transaction, &identity, before).await?;
        commit(transaction).await?;
        Ok((before, epoch))
    })
    .await
}

/// Does something on a connection of its own.
async fn alone<T>(
    target: &Target,
    work: impl AsyncFnOnce(&mut Client) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let (mut client, connection) = target.config.connect(target.tls.clone()).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let work = async {
        set_up(&client).await.map_err(failed)?;
        check_server(&client).await?;
        work(&mut client).await
    };
    let done = work.await;
    driver.abort();
    done
}

async fn check_server(client: &Client) -> Result<(), StoreError> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')",
            &[],
        )
        .await
        .map_err(failed)?;
    let (version, encoding): (i32, String) = (row.get(0), row.get(1));
    if version < OLDEST {
        return Err(StoreError::refused(format!(
            "PostgreSQL {} is too old: 15 is needed",
            version / 10_000
        )));
    }
    if encoding != "UTF8" {
        return Err(StoreError::refused(format!(
            "the database's encoding is {encoding}: UTF8 is needed"
        )));
    }
    Ok(())
}

/// Who the server is. The timeline is read from the name of the file that is being written, not from the last checkpoint, which may be
/// older than a promotion.
async fn identify(client: &Client) -> Result<Identity, StoreError> {
    let row = client
        .query_one(
            "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END, \
             system_identifier::text FROM pg_control_system()",
            &[],
        )
        .await
        .map_err(failed)?;
    match row.get(0) {
        Some(timeline) => Ok(Identity {
            system: row.get(1),
            timeline,
        }),
        None => Err(StoreError::unavailable("the database server is a standby")),
    }
}

/// A transaction that nobody else makes tables or raises the epoch in.
async fn lock(client: &mut Client) -> Result<Transaction<'_>, StoreError> {
    let transaction = client.transaction().await.map_err(failed)?;
    // Another server may be making large tables: that is waited for.
    transaction
        .batch_execute("SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '60s'")
        .await
        .map_err(failed)?;
    transaction.execute(LOCK, &[]).await.map_err(failed)?;
    Ok(transaction)
}

/// How this process has come to know a server.
#[derive(Clone, Copy)]
enum Seen {
    /// It is the first: its tables are made what this version needs, or are so already.
    First(Migrating),
    /// Another was before, and this epoch was heard of.
    Again(i64),
}

/// Tells the epoch, raised if the server is not the one that was noted, and the store's id. The first time it makes the tables too.
async fn settle(client: &mut Client, identity: &Identity, seen: Seen) -> Result<(i64, String), StoreError> {
    let transaction = lock(client).await?;
    if let Seen::First(migrating) = seen {
        match migrations::pending(&applied(&transaction).await?, |step| step.postgres)? {
            [] => {}
            pending if migrating == Migrating::Auto => migrate(&transaction, pending).await?,
            pending => return Err(migrations::missing(pending)),
        }
    }
    let meta = meta(&transaction).await?;
    let before = epoch_in(&meta);
    let same = meta.get("system") == Some(&identity.system) && meta.get("timeline") == Some(&identity.timeline);
    let epoch = match before {
        Some(epoch) if same => epoch,
        // Above what was heard of too: the server may not know of an epoch that was lost with the one before it.
        _ => {
            let heard_of = match seen {
                Seen::First(_) => None,
                Seen::Again(epoch) => Some(epoch),
            };
            raise(&transaction, identity, before.max(heard_of)).await?
        }
    };
    let store_id = match meta.get("store_id") {
        Some(store_id) => store_id.clone(),
        None => {
            let store_id = uuid::Uuid::new_v4().to_string();
            note(&transaction, "store_id", &store_id).await?;
            store_id
        }
    };
    commit(transaction).await?;
    Ok((epoch, store_id))
}

/// Commits, however long that takes: a wait for a standby that a timeout ends would count as done without the standby.
async fn commit(transaction: Transaction<'_>) -> Result<(), StoreError> {
    transaction.batch_execute(NO_TIMEOUT).await.map_err(failed)?;
    let mut committed = std::pin::pin!(transaction.commit());
    if let Ok(committed) = tokio::time::timeout(PATIENCE, &mut committed).await {
        return committed.map_err(failed);
    }
    tracing::warn!("a commit takes long: is a synchronous standby missing?");
    committed.await.map_err(failed)
}

/// Where in its server the store is: the database and the table in it, as the server numbers them.
async fn place(client: &Client) -> Result<String, StoreError> {
    let place =
        "SELECT oid::text || '/' || 'meta'::regclass::oid::text FROM pg_database WHERE datname = current_database()";
    Ok(client.query_one(place, &[]).await.map_err(failed)?.get(0))
}

/// What is noted of the database as a whole.
async fn meta(transaction: &Transaction<'_>) -> Result<HashMap<String, String>, StoreError> {
    let rows = transaction
        .query("SELECT name, value FROM meta", &[])
        .await
        .map_err(failed)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn epoch_in(meta: &HashMap<String, String>) -> Option<i64> {
    meta.get("epoch").and_then(|epoch| epoch.parse().ok())
}

async fn note(transaction: &Transaction<'_>, name: &str, value: &str) -> Result<(), StoreError> {
    let note = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    transaction.execute(note, &[&name, &value]).await.map_err(failed)?;
    Ok(())
}

/// Notes another server, with the epoch that begins with it.
async fn raise(transaction: &Transaction<'_>, identity: &Identity, before: Option<i64>) -> Result<i64, StoreError> {
    let row = transaction.query_one(epoch::LAST_TOKEN, &[]).await.map_err(failed)?;
    let epoch = epoch::next(before, row.get(0));
    for (name, value) in [
        ("epoch", &epoch.to_string()),
        ("system", &identity.system),
        ("timeline", &identity.timeline),
    ] {
        note(transaction, name, value).await?;
    }
    Ok(epoch)
}

/// The steps that a database has had.
async fn applied(client: &impl GenericClient) -> Result<Vec<Applied>, StoreError> {
    let row = client
        .query_one("SELECT to_regclass('migrations') IS NOT NULL", &[])
        .await
        .map_err(failed)?;
    if !row.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = client
        .query("SELECT number, checksum FROM migrations ORDER BY number", &[])
        .await
        .map_err(failed)?;
    let applied = rows.iter().map(|row| Applied {
        number: row.get(0),
        checksum: row.get(1),
    });
    Ok(applied.collect())
}

/// Brings the tables up to what this version needs.
async fn migrate(transaction: &Transaction<'_>, pending: &[Migration]) -> Result<(), StoreError> {
    transaction
        .batch_execute(
            "SET LOCAL statement_timeout = 0; \
             CREATE TABLE IF NOT EXISTS migrations (number bigint PRIMARY KEY, name text NOT NULL, checksum text NOT NULL)",
        )
        .await
        .map_err(failed)?;
    for step in pending {
        transaction.batch_execute(step.postgres).await.map_err(failed)?;
        transaction
            .execute(
                "INSERT INTO migrations (number, name, checksum) VALUES ($1, $2, $3)",
                &[&step.number, &step.name, &migrations::checksum(step.postgres)],
            )
            .await
            .map_err(failed)?;
    }
    Ok(())
}

fn failed(error: tokio_postgres::Error) -> StoreError {
    Failure::from(error).into()
}
