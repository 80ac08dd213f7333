//! The embedded store: one SQLite file in a data directory, used by one server.
//!
//! One thread writes, transaction after transaction; two read; one moves the write-ahead log into the file. Calls reach them through
//! channels, so no call ever blocks a thread of the runtime, and a call that is given up leaves nothing behind.
//!
//! Failure: a file that another process has locked makes calls wait for at most some seconds, then they are told "not available"; so
//! are they when the disk is full or fails. Nothing has been changed then, and the next call may do better.

mod checkpoint;
mod file;
mod raw;
mod reader;
mod session;
mod sql;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::step::{self, Step, ask};
use super::{Head, Migrating, Plan, Rows, Save, Steps, StoreError};
use file::Directory;
pub use raw::{Raw, RawSession};
use reader::Read;
use writer::{Begin, Message, Writer};

/// How many threads read.
const READERS: usize = 2;
/// How much of the file the writer keeps in memory.
const WRITER_CACHE_KIB: i64 = 32 << 10;
/// How much of the file each reader keeps in memory.
const READER_CACHE_KIB: i64 = 8 << 10;

/// A store in a data directory. Cheap to clone; closed when the last clone and the last transaction are gone.
#[derive(Clone)]
pub struct Sqlite {
    shared: Arc<Shared>,
}

struct Shared {
    writer: Sender<Message>,
    /// Nothing once the store is closing.
    readers: Option<Sender<Read>>,
    epoch: i64,
    threads: Vec<JoinHandle<()>>,
    directory: Directory,
}

/// An open transaction. Dropped, it is rolled back.
pub struct Transaction {
    // Dropped before the store is, which waits for the end of it.
    steps: Sender<Step>,
    _store: Arc<Shared>,
}

impl Sqlite {
    /// Opens the store in a data directory; makes both if there are none.
    ///
    /// # Errors
    /// If another server uses the directory, if a newer version has, or if it cannot be read or written.
    pub fn open(directory: &Path) -> Result<Sqlite, StoreError> {
        Sqlite::open_with(directory, Migrating::Auto)
    }

    /// Opens the store in a data directory whose tables are made what this version needs, or are so already.
    ///
    /// # Errors
    /// As for [`Sqlite::open`]; if tables are missing that nobody has allowed to be made.
    pub fn open_with(directory: &Path, migrating: Migrating) -> Result<Sqlite, StoreError> {
        Sqlite::over(Directory::lock(directory)?, migrating)
    }

    /// What a data directory has had of the steps that make its tables, and what it needs. A server may be using it.
    ///
    /// # Errors
    /// If a newer version has used it, or if it cannot be read.
    pub fn steps(directory: &Path) -> Result<Steps, StoreError> {
        file::steps(directory)
    }

    /// Makes the tables of a data directory what this version needs, and tells what they had and needed.
    ///
    /// # Errors
    /// If a server uses the directory, if a newer version has, or if it cannot be read or written.
    pub fn migrate(directory: &Path) -> Result<Steps, StoreError> {
        file::upgrade(directory)
    }

    /// Opens a new store that is gone when it is closed.
    ///
    /// # Errors
    /// If there is no room for temporary files.
    pub fn open_ephemeral() -> Result<Sqlite, StoreError> {
        Sqlite::over(Directory::temporary()?, Migrating::Auto)
    }

    /// Removes what an ephemeral store has on disk, whoever still holds it: for a process that ends. Other stores stay.
    pub fn discard(&self) {
        self.shared.directory.discard();
    }

    /// Raises the epoch of a data directory that no server is using, as opening it does too. Tells the epoch before, and the new one.
    ///
    /// # Errors
    /// As for [`Sqlite::migrate`]; if its tables are not what this version needs.
    pub fn raise_epoch(directory: &Path) -> Result<(Option<i64>, i64), StoreError> {
        file::raise_epoch(directory)
    }

    fn over(directory: Directory, migrating: Migrating) -> Result<Sqlite, StoreError> {
        let mut writing = directory.connect(WRITER_CACHE_KIB)?;
        let epoch = file::prepare(&mut writing.connection, migrating)?;
        let moving = directory.connect(READER_CACHE_KIB)?;
        let reading: Vec<_> = (0..READERS)
            .map(|_| directory.connect(READER_CACHE_KIB))
            .collect::<Result<_, _>>()?;

        let (writer, messages) = channel();
        let (checkpoints, calls) = sync_channel(1);
        let (readers, reads) = channel();
        let reads = Arc::new(Mutex::new(reads));
        let thread = Writer::new(writing, messages, checkpoints)?;
        let mut threads = vec![start("store-writer", move || thread.run())?];
        let back = writer.clone();
        let checkpoint = move || checkpoint::run(&moving, &calls, &back);
        threads.push(start("store-checkpoint", checkpoint)?);
        for session in reading {
            let reads = Arc::clone(&reads);
            threads.push(start("store-reader", move || reader::run(session, &reads))?);
        }
        let shared = Shared {
            writer,
            readers: Some(readers),
            epoch,
            threads,
            directory,
        };
        Ok(Sqlite {
            shared: Arc::new(shared),
        })
    }

    pub(super) async fn begin(&self, namespace: &str, plan: Plan) -> Result<(Transaction, Head, Rows), StoreError> {
        let (steps, head, rows) = ask(|reply| {
            let begin = Begin {
                namespace: namespace.to_owned(),
                plan,
                asked_at: Instant::now(),
                reply,
            };
            self.shared.writer.send(Message::Begin(begin)).is_ok()
        })
        .await
        .unwrap_or_else(|| Err(closed()))?;
        let transaction = Transaction {
            steps,
            _store: Arc::clone(&self.shared),
        };
        Ok((transaction, head, rows))
    }

    pub(super) async fn read(&self, namespace: &str, plan: Plan) -> Result<(Head, Rows), StoreError> {
        ask(|reply| self.shared.read(Read::Plan(namespace.to_owned(), plan, reply)))
            .await
            .unwrap_or_else(|| Err(closed()))
    }

    pub(super) fn epoch(&self) -> i64 {
        self.shared.epoch
    }

    pub(super) async fn namespaces(&self) -> Result<Vec<String>, StoreError> {
        ask(|reply| self.shared.read(Read::Namespaces(reply)))
            .await
            .unwrap_or_else(|| Err(closed()))
    }
}

impl Shared {
    fn read(&self, read: Read) -> bool {
        self.readers.as_ref().is_some_and(|readers| readers.send(read).is_ok())
    }
}

impl Drop for Shared {
    /// Waits for the threads: whoever opens the directory next finds it free and the file whole.
    fn drop(&mut self) {
        let _ = self.writer.send(Message::Close);
        self.readers = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

impl Transaction {
    pub(super) async fn load(&mut self, plan: Plan) -> Result<Rows, StoreError> {
        step::load(plan, |step| self.steps.send(step).is_ok()).await
    }

    pub(super) async fn commit(self, save: Save) -> Result<(), StoreError> {
        step::commit(save, |step| self.steps.send(step).is_ok()).await
    }
}

fn closed() -> StoreError {
    StoreError::unavailable("the store is closed")
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map_err(StoreError::unavailable)
}
