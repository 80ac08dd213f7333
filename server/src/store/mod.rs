//! The store: the only truth, and the only place with SQL.
//!
//! The seam is in bulk: a lane asks for rows by key and for stretches of indexes ([`Plan`]), gets them together with the
//! namespace's locked head, and gives back the rows that changed ([`Save`]) in one commit. Reads that decide nothing use the same
//! plans in a snapshot of their own. What the tables look like comes from [`row::Table`]; a store makes its statements from it.
//!
//! Failure: whatever a driver says ends here, as a [`StoreError`]. A transaction that is dropped is rolled back. Work for the
//! database runs in tasks or threads of the store's own, so a cancelled call leaves no transaction open.

pub mod raw;
pub mod row;

mod action;
mod epoch;
mod migrations;
mod postgres;
#[cfg(test)]
pub mod simulated;
mod sqlite;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::lane::BatchRecord;
use crate::time::Time;
pub use epoch::TOKEN_COUNTER_BITS;
pub use migrations::{Migrating, Steps};
pub use postgres::Postgres;
use row::{Key, Row, Table, Value};
pub use sqlite::Sqlite;

/// The head of a namespace's log. Whoever has it locked decides for the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of the last batch, counted from 1; 0 in a new namespace.
    pub batch: i64,
    /// The position of the last event; 0 in a new namespace.
    pub position: i64,
    /// The position of the oldest event that is kept; one past `position` if none is.
    pub first_position: i64,
    /// The epoch of the last commit. Raised whenever history may have been lost.
    pub epoch: i64,
    /// The greatest fencing token that was given out.
    pub last_token: i64,
    /// The store's time, never less than at the last commit.
    pub now: Time,
}

impl Head {
    /// The head of a namespace in which nothing has happened yet.
    pub fn new(now: Time) -> Head {
        Head {
            batch: 0,
            position: 0,
            first_position: 1,
            epoch: 0,
            last_token: 0,
            now,
        }
    }
}

/// A stretch of an index: at most `limit` rows under `prefix`, in order, after `after`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    /// Which of the table's indexes.
    pub index: usize,
    /// The values of the index's prefix.
    pub prefix: Vec<Value>,
    /// Begin after this place (the values of some or all of the index's order columns); from the beginning if none.
    pub after: Option<Vec<Value>>,
    /// At most this many rows.
    pub limit: usize,
    /// From the end to the beginning; `after` then means before.
    pub backwards: bool,
}

/// What to read of one table.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// The table.
    pub table: &'static Table,
    /// Rows by key.
    pub keys: Vec<Vec<Value>>,
    /// Stretches of indexes.
    pub selections: Vec<Selection>,
}

/// What to read.
pub type Plan = Vec<TablePlan>;

/// A row as a store has it: its columns, without the namespace.
pub type Columns = Vec<Value>;

/// What was read of one table, in the order of its plan.
#[derive(Clone, Debug, Default)]
pub struct TableRows {
    /// The rows that exist, in any order.
    pub by_key: Vec<Columns>,
    /// For each selection its rows, in order.
    pub selected: Vec<Vec<Columns>>,
}

/// What was read, in the order of the plan.
pub type Rows = Vec<TableRows>;

/// What changed in one table.
#[derive(Debug)]
pub struct TableSave {
    /// The table.
    pub table: &'static Table,
    /// New rows, of keys that are known to be free.
    pub inserts: Vec<Columns>,
    /// Rows that exist, or may exist.
    pub upserts: Vec<Columns>,
    /// Keys of rows to delete.
    pub deletes: Vec<Columns>,
}

/// Old rows to delete in bulk: the first `limit` of an index without a prefix, from `from` up to `up_to`.
#[derive(Clone, Debug)]
pub struct Trim {
    /// The table.
    pub table: &'static Table,
    /// Which of the table's indexes; it has no prefix.
    pub index: usize,
    /// The first value of the index's first order column to delete: nothing is before it any more. What was deleted there lies in a
    /// store's way for long.
    pub from: Value,
    /// The last value of that column to delete.
    pub up_to: Value,
    /// At most this many rows.
    pub limit: usize,
}

/// What a batch changed.
#[derive(Debug)]
pub struct Save {
    /// Table by table.
    pub tables: Vec<TableSave>,
    /// Old rows to delete.
    pub trims: Vec<Trim>,
    /// The head as it is from now on; its batch is this one.
    pub head: Head,
    /// What the batch says of itself.
    pub note: Note,
}

/// What a batch says of itself, beside the head that it leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Made by the lane that commits it: how a commit that was not answered is told from another's.
    pub batch_id: String,
    /// How many events it has; they end at the head's position.
    pub events: i64,
    /// When the earliest of the rows that it changed wants to be looked at again.
    pub next_due: Option<Time>,
    /// The agents and sessions that it changed, for replicas that did not hear of it.
    pub changed: Option<String>,
}

/// How old the time that a batch was decided at may be when it is appended without having been asked for.
const MAX_DELAY: Duration = Duration::from_secs(3);

fn overtaken() -> StoreError {
    StoreError::unavailable("another batch came between")
}

/// The newest batch of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// The namespace.
    pub namespace: String,
    /// The batch's number.
    pub batch: i64,
    /// The epoch that it was committed in.
    pub epoch: i64,
    /// The position of the log's last event after it.
    pub position: i64,
}

/// Why the store did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or is busy for too long. Nothing was changed; trying again can help.
    #[error("the store is not available: {0}")]
    Unavailable(Arc<str>),
    /// It refused what it was given. Nothing was changed; trying the same again will not help.
    #[error("the store refused: {0}")]
    Refused(Arc<str>),
    /// The commit was sent and not answered.
    #[error("the outcome of a commit is unknown: {0}")]
    Unknown(Arc<str>),
}

impl StoreError {
    /// Not now.
    pub fn unavailable(cause: impl std::fmt::Display) -> StoreError {
        StoreError::Unavailable(cause.to_string().into())
    }

    /// Not this.
    pub fn refused(cause: impl std::fmt::Display) -> StoreError {
        StoreError::Refused(cause.to_string().into())
    }

    /// Who knows.
    pub fn unknown(cause: impl std::fmt::Display) -> StoreError {
        StoreError::Unknown(cause.to_string().into())
    }
}

impl From<row::Corrupt> for StoreError {
    fn from(corrupt: row::Corrupt) -> StoreError {
        StoreError::refused(corrupt)
    }
}

/// A store of either kind. Cheap to clone.
#[derive(Clone)]
pub enum Store {
    /// A file, or several servers' worth of patience less.
    Sqlite(Sqlite),
    /// A Postgres server.
    Postgres(Postgres),
    /// A database in memory, for simulations.
    #[cfg(test)]
    Simulated(simulated::Simulated),
}

/// An open transaction that has the head of its namespace locked. Dropped, it is rolled back.
pub enum Transaction {
    /// On the embedded store.
    Sqlite(sqlite::Transaction),
    /// On Postgres.
    Postgres(postgres::Transaction),
    /// In memory.
    #[cfg(test)]
    Simulated(simulated::Transaction),
}

impl Store {
    /// Opens a transaction on a namespace: locks its head, tells the time, and reads what the plan says, in one round trip.
    pub async fn begin(&self, namespace: &str, plan: Plan) -> Result<(Transaction, Head, Rows), StoreError> {
        match self {
            Store::Sqlite(store) => {
                let (transaction, head, rows) = store.begin(namespace, plan).await?;
                Ok((Transaction::Sqlite(transaction), head, rows))
            }
            Store::Postgres(store) => {
                let (transaction, head, rows) = store.begin(namespace, plan).await?;
                Ok((Transaction::Postgres(transaction), head, rows))
            }
            #[cfg(test)]
            Store::Simulated(store) => {
                let (transaction, head, rows) = store.begin(namespace, plan).await?;
                Ok((Transaction::Simulated(transaction), head, rows))
            }
        }
    }

    /// Saves and commits a batch that was decided on what is known from the batch `newest`, if that is the newest still. Tells the store's
    /// time. One round trip on a shared store.
    ///
    /// # Errors
    /// As for [`Transaction::commit`]; "not available" also if another batch came between, or the batch's time is long past.
    pub async fn append(&self, namespace: &str, newest: &str, save: Save) -> Result<Time, StoreError> {
        if let Store::Postgres(store) = self {
            return store.append(namespace, newest, save).await;
        }
        let plan = vec![TablePlan {
            table: BatchRecord::TABLE,
            keys: vec![(save.head.batch - 1).columns()],
            selections: Vec::new(),
        }];
        let (transaction, head, rows) = self.begin(namespace, plan).await?;
        let batches = rows.into_iter().flat_map(|rows| rows.by_key);
        let batch = batches.map(BatchRecord::from_columns).next().transpose()?;
        let is_newest = head.batch + 1 == save.head.batch && batch.is_some_and(|batch| batch.batch_id == newest);
        // An epoch that has begun meanwhile has to be in what is decided.
        if !is_newest || self.epoch() > save.head.epoch {
            return Err(overtaken());
        }
        if head.now.since(save.head.now) > MAX_DELAY {
            return Err(StoreError::unavailable("the batch comes too late"));
        }
        transaction.commit(save).await?;
        Ok(head.now)
    }

    /// Reads what the plan says, in one snapshot, with the head as it is in it.
    pub async fn read(&self, namespace: &str, plan: Plan) -> Result<(Head, Rows), StoreError> {
        match self {
            Store::Sqlite(store) => store.read(namespace, plan).await,
            Store::Postgres(store) => store.read(namespace, plan).await,
            #[cfg(test)]
            Store::Simulated(store) => store.read(namespace, plan).await,
        }
    }

    /// The epoch that commits are made in now. Known from opening; no I/O.
    pub fn epoch(&self) -> i64 {
        match self {
            Store::Sqlite(store) => store.epoch(),
            Store::Postgres(store) => store.epoch(),
            #[cfg(test)]
            Store::Simulated(store) => store.epoch(),
        }
    }

    /// Notes an epoch that another server commits in. A shared store commits nothing more below it: if the database that this server is
    /// connected to has not come so far, it is an old one, and calls are told "not available" until a newer is found. No I/O.
    pub fn heard_of(&self, epoch: i64) {
        match self {
            // Nobody else writes to it.
            Store::Sqlite(_) => {}
            Store::Postgres(store) => store.heard_of(epoch),
            // It is one database.
            #[cfg(test)]
            Store::Simulated(_) => {}
        }
    }

    /// Removes what was only to last as long as the process, which ends now.
    pub fn discard(&self) {
        if let Store::Sqlite(store) = self {
            store.discard();
        }
    }

    /// Whether other servers may be working over it.
    pub fn is_shared(&self) -> bool {
        match self {
            Store::Sqlite(_) => false,
            Store::Postgres(_) => true,
            #[cfg(test)]
            Store::Simulated(store) => store.is_shared(),
        }
    }

    /// What tells a shared store from others; empty for one that nobody shares.
    pub fn id(&self) -> &str {
        match self {
            Store::Sqlite(_) => "",
            Store::Postgres(store) => store.id(),
            #[cfg(test)]
            Store::Simulated(_) => "",
        }
    }

    /// The newest batch of each namespace.
    pub async fn heads(&self) -> Result<Vec<Newest>, StoreError> {
        if let Store::Postgres(store) = self {
            return store.heads().await;
        }
        #[cfg(test)]
        if let Store::Simulated(store) = self {
            return store.heads().await;
        }
        let mut heads = Vec::new();
        for namespace in self.namespaces().await? {
            let (head, _) = self.read(&namespace, Plan::new()).await?;
            heads.push(Newest {
                namespace,
                batch: head.batch,
                epoch: head.epoch,
                position: head.position,
            });
        }
        Ok(heads)
    }

    /// Notes in a shared store, by its clock, that `home` has heard of these sessions now. Tells of which it could be noted: not of one
    /// that has ended, nor of one that a batch is deciding on. In a store that nobody shares nothing is noted: the server remembers.
    pub async fn beat(&self, beats: &[(Arc<str>, String)], home: &str) -> Result<Vec<bool>, StoreError> {
        match self {
            Store::Sqlite(_) => Ok(vec![true; beats.len()]),
            Store::Postgres(store) => store.beat(beats, home).await,
            #[cfg(test)]
            Store::Simulated(store) => store.beat(beats, home).await,
        }
    }

    /// The namespaces in which anything has happened.
    pub async fn namespaces(&self) -> Result<Vec<String>, StoreError> {
        match self {
            Store::Sqlite(store) => store.namespaces().await,
            Store::Postgres(store) => store.namespaces().await,
            #[cfg(test)]
            Store::Simulated(store) => store.namespaces().await,
        }
    }

    /// One row by its key.
    pub async fn get<R: Row>(&self, namespace: &str, key: &R::Key) -> Result<Option<R>, StoreError> {
        Ok(self.get_all(namespace, std::slice::from_ref(key)).await?.pop())
    }

    /// The rows with these keys that exist, in any order.
    pub async fn get_all<R: Row>(&self, namespace: &str, keys: &[R::Key]) -> Result<Vec<R>, StoreError> {
        Ok(self.get_all_at(namespace, keys).await?.1)
    }

    /// The rows with these keys that exist, in any order, and the store's time.
    pub async fn get_all_at<R: Row>(&self, namespace: &str, keys: &[R::Key]) -> Result<(Time, Vec<R>), StoreError> {
        let keys = keys.iter().map(Key::columns).collect();
        let plan = vec![TablePlan {
            table: R::TABLE,
            keys,
            selections: Vec::new(),
        }];
        let (head, mut rows) = self.read(namespace, plan).await?;
        let rows = rows.pop().unwrap_or_default().by_key;
        Ok((
            head.now,
            rows.into_iter().map(R::from_columns).collect::<Result<_, _>>()?,
        ))
    }

    /// A stretch of an index, with the head of the same snapshot.
    pub async fn select<R: Row>(&self, namespace: &str, selection: Selection) -> Result<(Head, Vec<R>), StoreError> {
        let plan = vec![TablePlan {
            table: R::TABLE,
            keys: Vec::new(),
            selections: vec![selection],
        }];
        let (head, mut rows) = self.read(namespace, plan).await?;
        let rows = rows.pop().and_then(|mut rows| rows.selected.pop()).unwrap_or_default();
        Ok((head, rows.into_iter().map(R::from_columns).collect::<Result<_, _>>()?))
    }
}

impl Transaction {
    /// Reads more.
    pub async fn load(&mut self, plan: Plan) -> Result<Rows, StoreError> {
        match self {
            Transaction::Sqlite(transaction) => transaction.load(plan).await,
            Transaction::Postgres(transaction) => transaction.load(plan).await,
            #[cfg(test)]
            Transaction::Simulated(transaction) => transaction.load(plan).await,
        }
    }

    /// Saves and commits, in one round trip. What returns `Ok` is as durable as the store is set up to be.
    pub async fn commit(self, save: Save) -> Result<(), StoreError> {
        match self {
            Transaction::Sqlite(transaction) => transaction.commit(save).await,
            Transaction::Postgres(transaction) => transaction.commit(save).await,
            #[cfg(test)]
            Transaction::Simulated(transaction) => transaction.commit(save).await,
        }
    }
}
