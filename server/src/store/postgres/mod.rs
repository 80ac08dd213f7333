//! The store of a team: tables on a Postgres server, shared by any number of replicas.
//!
//! Whoever has a namespace's head row locked decides for the namespace. A batch costs two round trips and one commit, however many
//! jobs it holds: everything is read and written in arrays, and statements do not wait for each other's answers.
//!
//! Failure: a server that cannot be reached, is slow to answer or is a standby makes calls wait for at most some seconds, then they are
//! told "not available"; nothing has been changed then. Only a commit that was sent and can neither be found nor be excluded is unknown.

mod connection;
mod lineage;
mod pipeline;
mod raw;
mod reads;
mod sql;
mod statements;
#[cfg(test)]
mod tests;
mod tls;
mod transaction;
mod value;

use std::sync::Arc;

use deadpool_postgres::Pool;
use tokio::sync::mpsc;

use super::step::{self, Step, ask};
use super::{Head, Migrating, Newest, Plan, Rows, Save, Steps, StoreError};
use crate::time::Time;
use connection::{Connection, Failure, Target, patiently};
use lineage::Lineage;
pub use raw::{Raw, RawSession};
use reads::{Asked, Reads};
use statements::{BEAT, BEGIN_SNAPSHOT, COMMIT, HEADS, NAMESPACES, Preparer, READ_HEAD, Texts, read_head, read_plan};

/// How many connections write. More only add latency: what limits a server is its log, which they share.
const WRITERS: usize = 4;
/// How many connections read.
const READERS: usize = 8;

/// A store on a Postgres server. Cheap to clone.
#[derive(Clone)]
pub struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    writers: Pool,
    readers: Pool,
    /// For signs of life.
    beats: Pool,
    reads: Reads,
    lineage: Arc<Lineage>,
    texts: Texts,
}

impl Shared {
    fn preparer<'a>(&'a self, client: &'a Connection, namespace: &'a str) -> Preparer<'a> {
        Preparer {
            client,
            texts: &self.texts,
            namespace,
            decides: false,
        }
    }

    /// For a transaction that has the head locked.
    fn deciding<'a>(&'a self, client: &'a Connection, namespace: &'a str) -> Preparer<'a> {
        Preparer {
            decides: true,
            ..self.preparer(client, namespace)
        }
    }

    /// Reads in one round trip, in one snapshot.
    async fn read(&self, connection: &Connection, namespace: &str, plan: &Plan) -> Result<(Head, Rows), Failure> {
        let prepare = self.preparer(connection, namespace);
        let mut requests = vec![prepare.bare(BEGIN_SNAPSHOT).await?, prepare.head(READ_HEAD).await?];
        requests.extend(prepare.plan(plan).await?);
        requests.push(prepare.bare(COMMIT).await?);
        let mut answers = transaction::run(connection, &requests).await?.into_iter().skip(1);
        let head = read_head(&answers.next().unwrap_or_default());
        let head = head.ok_or_else(|| StoreError::refused("the head cannot be read"))?;
        self.lineage.heard_of(head.epoch);
        Ok((head, read_plan(plan, answers.collect())?))
    }
}

/// An open transaction. Dropped, it is rolled back.
pub struct Transaction {
    steps: mpsc::Sender<Step>,
}

impl Postgres {
    /// Connects to a server, and makes its tables what this version needs.
    ///
    /// # Errors
    /// If it cannot be reached, is a standby or too old, or if a newer version of this program has used it.
    pub async fn connect(url: &str) -> Result<Postgres, StoreError> {
        Postgres::connect_with(url, Migrating::Auto).await
    }

    /// Connects to a server whose tables are made what this version needs, or are so already.
    ///
    /// # Errors
    /// As for [`Postgres::connect`]; if tables are missing that nobody has allowed to be made.
    pub async fn connect_with(url: &str, migrating: Migrating) -> Result<Postgres, StoreError> {
        let target = target(url)?;
        let lineage = Arc::new(Lineage::open(&target, migrating).await?);
        let shared = Shared {
            writers: connection::pool(&target, WRITERS, &lineage, "")?,
            readers: connection::pool(&target, READERS, &lineage, "")?,
            beats: connection::pool(&target, 1, &lineage, connection::LAX)?,
            reads: Reads::default(),
            lineage,
            texts: Texts::default(),
        };
        Ok(Postgres {
            shared: Arc::new(shared),
        })
    }

    /// Says what is wrong with a URL. It is not connected to; certificates that it names are read.
    ///
    /// # Errors
    /// A sentence about the URL, which has no word of its password.
    pub fn check_url(url: &str) -> Result<(), String> {
        connection::target(url).map(drop)
    }

    /// What a server's database has had of the steps that make its tables, and what it needs.
    ///
    /// # Errors
    /// If it cannot be reached or is too old, or if a newer version of this program has used it.
    pub async fn steps(url: &str) -> Result<Steps, StoreError> {
        lineage::steps(&target(url)?).await
    }

    /// Makes the tables what this version needs, and tells what they had and needed. Others may be doing so: they are waited for.
    ///
    /// # Errors
    /// As for [`Postgres::connect`].
    pub async fn migrate(url: &str) -> Result<Steps, StoreError> {
        lineage::upgrade(&target(url)?).await
    }

    /// Raises the epoch: for who has restored the database from a backup. What was given out since then (cursors, fencing tokens) is told
    /// from what will be. Tells the epoch before, and the new one.
    ///
    /// # Errors
    /// As for [`Postgres::connect`]; if its tables are not what this version needs.
    pub async fn raise_epoch(url: &str) -> Result<(Option<i64>, i64), StoreError> {
        lineage::raise_epoch(&target(url)?).await
    }

    pub(super) async fn begin(&self, namespace: &str, plan: Plan) -> Result<(Transaction, Head, Rows), StoreError> {
        let (shared, namespace) = (Arc::clone(&self.shared), namespace.to_owned());
        let opened = ask(|reply| {
            tokio::spawn(transaction::serve(shared, namespace, plan, reply));
            true
        });
        let (steps, head, rows) = opened
            .await
            .unwrap_or_else(|| Err(StoreError::unavailable("the transaction was not opened")))?;
        Ok((Transaction { steps }, head, rows))
    }

    pub(super) async fn append(&self, namespace: &str, newest: &str, save: Save) -> Result<Time, StoreError> {
        let (shared, namespace, newest) = (Arc::clone(&self.shared), namespace.to_owned(), newest.to_owned());
        let appended = tokio::spawn(async move { transaction::append(&shared, &namespace, &newest, &save).await });
        // A task that panicked may have sent it.
        let lost = |_| Err(StoreError::unknown("the commit was not answered"));
        appended.await.unwrap_or_else(lost)
    }

    pub(super) async fn read(&self, namespace: &str, plan: Plan) -> Result<(Head, Rows), StoreError> {
        let asked = ask(|reply| {
            reads::read(&self.shared, namespace, Asked { plan, reply });
            true
        });
        asked
            .await
            .unwrap_or_else(|| Err(StoreError::unavailable("the read was not finished")))
    }

    pub(super) async fn namespaces(&self) -> Result<Vec<String>, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.in_a_task(async move {
            patiently(async || {
                let connection = Connection::get(&shared.readers).await?;
                let rows = connection.query(NAMESPACES, &[]).await?;
                connection.release();
                Ok(rows.iter().map(|row| row.get(0)).collect())
            })
            .await
        })
        .await
    }

    pub(super) async fn heads(&self) -> Result<Vec<Newest>, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.in_a_task(async move {
            patiently(async || {
                let connection = Connection::get(&shared.readers).await?;
                let statement = connection.prepare_cached(HEADS).await?;
                let rows = connection.query(&statement, &[]).await?;
                connection.release();
                let newest = |row: &tokio_postgres::Row| Newest {
                    namespace: row.get(0),
                    batch: row.get(1),
                    epoch: row.get(2),
                    position: row.get(3),
                };
                let heads: Vec<_> = rows.iter().map(newest).collect();
                shared
                    .lineage
                    .heard_of(heads.iter().map(|head| head.epoch).max().unwrap_or(0));
                Ok(heads)
            })
            .await
        })
        .await
    }

    pub(super) async fn beat(&self, beats: &[(Arc<str>, String)], home: &str) -> Result<Vec<bool>, StoreError> {
        let (namespaces, sessions): (Vec<String>, Vec<String>) = beats
            .iter()
            .map(|(namespace, session_id)| (namespace.to_string(), session_id.clone()))
            .unzip();
        let (shared, home) = (Arc::clone(&self.shared), home.to_owned());
        self.in_a_task(async move {
            patiently(async || {
                let connection = Connection::get(&shared.beats).await?;
                let statement = connection.prepare_cached(BEAT).await?;
                let noted = connection.query(&statement, &[&namespaces, &sessions, &home]).await?;
                connection.release();
                let mut there = vec![false; sessions.len()];
                for row in noted {
                    let number: i64 = row.get(0);
                    if let Some(there) = usize::try_from(number - 1)
                        .ok()
                        .and_then(|number| there.get_mut(number))
                    {
                        *there = true;
                    }
                }
                Ok(there)
            })
            .await
        })
        .await
    }

    pub(super) fn id(&self) -> &str {
        self.shared.lineage.id()
    }

    /// Does something whether or not it is waited for: a call that is given up must not cost its connection.
    async fn in_a_task<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = tokio::spawn(work).await;
        done.unwrap_or_else(|_| Err(StoreError::unavailable("the read was not finished")))
    }

    pub(super) fn epoch(&self) -> i64 {
        self.shared.lineage.epoch()
    }

    pub(super) fn heard_of(&self, epoch: i64) {
        self.shared.lineage.heard_of(epoch);
    }
}

fn target(url: &str) -> Result<Target, StoreError> {
    connection::target(url).map_err(|problem| StoreError::refused(format!("the database URL {problem}")))
}

impl Transaction {
    pub(super) async fn load(&mut self, plan: Plan) -> Result<Rows, StoreError> {
        step::load(plan, |step| self.steps.try_send(step).is_ok()).await
    }

    pub(super) async fn commit(self, save: Save) -> Result<(), StoreError> {
        step::commit(save, |step| self.steps.try_send(step).is_ok()).await
    }
}
