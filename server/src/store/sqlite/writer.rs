//! The thread that writes. It serves one transaction after another, which is what makes lanes exclude each other here.
//!
//! A transaction has a channel of its own to this thread. When its other end is dropped, or nothing comes through it for too long, the
//! transaction is rolled back. While it is open, other transactions wait in the thread's queue, in the order of their coming.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;

use super::checkpoint::{self, Pressure};
use super::session::{Session, refused};
use crate::store::step::{Reply, Step};
use crate::store::{Head, Plan, Rows, Save, StoreError};

/// How long a transaction may wait for its turn and for another process that has the file locked.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an open transaction may do nothing.
const MAX_SILENCE: Duration = Duration::from_secs(10);
/// After this long without a transaction the log is folded into the file.
const IDLE: Duration = Duration::from_secs(2);

/// What is asked of the thread between transactions.
pub(super) enum Message {
    Begin(Begin),
    /// Fold what is left of the write-ahead log into the file; it is little, the checkpoint thread has done the rest.
    Fold(Pressure),
    /// Nobody will ask for anything any more.
    Close,
}

/// A transaction that wants to be opened.
pub(super) struct Begin {
    pub(super) namespace: String,
    pub(super) plan: Plan,
    pub(super) asked_at: Instant,
    pub(super) reply: Reply<(Sender<Step>, Head, Rows)>,
}

pub(super) struct Writer {
    session: Session,
    messages: Receiver<Message>,
    checkpoints: SyncSender<Pressure>,
    /// How many pages the write-ahead log holds; SQLite says so after each commit.
    log_pages: Arc<AtomicUsize>,
    /// How many it held when the checkpoint thread was last called.
    called_at: usize,
}

impl Writer {
    pub(super) fn new(
        mut session: Session,
        messages: Receiver<Message>,
        checkpoints: SyncSender<Pressure>,
    ) -> Result<Writer, StoreError> {
        let log_pages = Arc::new(AtomicUsize::new(0));
        let noted = Arc::clone(&log_pages);
        let note = move |_: &mut rusqlite::hooks::Wal, pages| {
            noted.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        session.connection.wal_hook(Some(note)).map_err(refused)?;
        Ok(Writer {
            session,
            messages,
            checkpoints,
            log_pages,
            called_at: 0,
        })
    }

    /// Works until it is told to close.
    pub(super) fn run(mut self) {
        let mut dirty = false;
        loop {
            let message = if dirty {
                self.messages.recv_timeout(IDLE)
            } else {
                self.messages.recv().map_err(RecvTimeoutError::from)
            };
            match message {
                Ok(Message::Begin(begin)) => {
                    // A transaction that panics must not take the store with it.
                    let served = std::panic::catch_unwind(AssertUnwindSafe(|| self.serve(begin)));
                    if served.is_err() {
                        tracing::error!("a transaction panicked");
                    }
                    self.end();
                    dirty = true;
                    self.watch_log();
                }
                Ok(Message::Fold(pressure)) => {
                    dirty = !checkpoint::fold(&self.session.connection, &pressure);
                }
                Err(RecvTimeoutError::Timeout) => {
                    // Again and again until the log is small: the thread may be at work, or somebody may be reading.
                    let _ = self.checkpoints.try_send(Pressure::Idle);
                }
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Serves one transaction from its beginning to its end.
    fn serve(&mut self, begin: Begin) {
        let Begin {
            namespace,
            plan,
            asked_at,
            reply,
        } = begin;
        if reply.is_closed() {
            return;
        }
        let until = asked_at + PATIENCE;
        let opened = if Instant::now() < until {
            self.open(&namespace, &plan, until)
        } else {
            Err(StoreError::unavailable("a transaction waited too long for its turn"))
        };
        let (sender, steps) = channel();
        let failed = opened.is_err();
        // If nobody takes the reply, the sender in it is dropped, and that ends the transaction.
        let _ = reply.send(opened.map(|(head, rows)| (sender, head, rows)));
        if failed {
            return;
        }
        loop {
            match steps.recv_timeout(MAX_SILENCE) {
                Ok(Step::Load(plan, reply)) => {
                    let _ = reply.send(self.session.read(&namespace, &plan));
                }
                Ok(Step::Commit(save, reply)) => {
                    let _ = reply.send(self.commit(&namespace, &save));
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!(%namespace, "a transaction did nothing for too long and is rolled back");
                    return;
                }
            }
        }
    }

    fn open(&mut self, namespace: &str, plan: &Plan, until: Instant) -> Result<(Head, Rows), StoreError> {
        while let Err(error) = self.session.run("BEGIN IMMEDIATE") {
            let busy = matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            );
            if !busy || Instant::now() >= until {
                return Err(refused(error));
            }
        }
        let head = self.session.head(namespace)?;
        let rows = self.session.read(namespace, plan)?;
        Ok((head, rows))
    }

    fn commit(&mut self, namespace: &str, save: &Save) -> Result<(), StoreError> {
        self.session.save(namespace, save)?;
        match self.session.run("COMMIT") {
            Ok(()) => Ok(()),
            // The log may hold the whole of it, and be read again after a crash: nobody can say.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) => {
                Err(StoreError::unknown(error))
            }
            Err(error) => Err(StoreError::unavailable(error)),
        }
    }

    /// Rolls back what is not committed.
    fn end(&mut self) {
        if !self.session.connection.is_autocommit()
            && let Err(error) = self.session.run("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }

    /// Calls the checkpoint thread when the log has grown.
    fn watch_log(&mut self) {
        let pages = self.log_pages.load(Ordering::Relaxed);
        if pages < self.called_at {
            self.called_at = 0;
        }
        if pages >= self.called_at + checkpoint::PAGES && self.checkpoints.try_send(Pressure::Grown).is_ok() {
            self.called_at = pages;
        }
    }
}
