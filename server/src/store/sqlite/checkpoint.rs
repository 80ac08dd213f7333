//! The thread that moves pages from the write-ahead log into the file, beside the writer instead of in its way.
//!
//! SQLite begins its log anew only when all of it has been moved and nobody reads in it, which never happens while a busy writer adds
//! to it. So this thread moves the bulk, and then asks the writer to move the few pages that came in meanwhile, between two
//! transactions.

use std::sync::mpsc::{Receiver, Sender};

use rusqlite::Connection;

use super::session::Session;
use super::writer::Message;

/// The log may grow by this many pages (of 4 KiB) before they are moved.
pub(super) const PAGES: usize = 8_192;
/// A log file that is larger than this is cut when there is nothing to do.
const MAX_IDLE_PAGES: i64 = 1_024;

/// Why the thread is called.
pub(super) enum Pressure {
    /// The log has grown.
    Grown,
    /// Nothing is being written.
    Idle,
}

/// Works until the writer is gone.
pub(super) fn run(session: &Session, calls: &Receiver<Pressure>, writer: &Sender<Message>) {
    while let Ok(pressure) = calls.recv() {
        if checkpoint(&session.connection, "PASSIVE").is_some() && writer.send(Message::Fold(pressure)).is_err() {
            return;
        }
    }
}

/// The writer's part. Tells whether the log is as small as it should be when there is nothing to do.
pub(super) fn fold(connection: &Connection, pressure: &Pressure) -> bool {
    let Some(log) = checkpoint(connection, "PASSIVE") else {
        return false;
    };
    log <= MAX_IDLE_PAGES || (matches!(pressure, Pressure::Idle) && checkpoint(connection, "TRUNCATE").is_some())
}

/// Tells how many pages the log holds; nothing, if the checkpoint could not be made now, because another one was being made or
/// somebody was reading. It is made another time: nothing depends on it but space.
fn checkpoint(connection: &Connection, mode: &str) -> Option<i64> {
    let result = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok((row.get::<_, bool>(0)?, row.get(1)?))
    });
    match result {
        Ok((false, log)) => Some(log),
        Ok((true, _)) => None,
        Err(error) => {
            tracing::debug!(%error, mode, "no checkpoint now");
            None
        }
    }
}
