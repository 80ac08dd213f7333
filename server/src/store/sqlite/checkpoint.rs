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
/// A log file of more bytes than this is cut when there is nothing to do.
const MAX_IDLE: u64 = 4 << 20;

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
        if checkpoint(&session.connection, "PASSIVE") && writer.send(Message::Fold(pressure)).is_err() {
            return;
        }
    }
}

/// The writer's part. Tells whether the log is as it should be when there is nothing to do. It is the file that counts: where SQLite has
/// begun anew in it, few pages of many are in use.
pub(super) fn fold(connection: &Connection, pressure: &Pressure) -> bool {
    let is_folded = checkpoint(connection, "PASSIVE");
    match pressure {
        Pressure::Grown => false,
        Pressure::Idle => is_folded && (size(connection) <= MAX_IDLE || checkpoint(connection, "TRUNCATE")),
    }
}

fn size(connection: &Connection) -> u64 {
    let log = connection.path().map(|path| std::fs::metadata(format!("{path}-wal")));
    log.and_then(Result::ok).map_or(0, |log| log.len())
}

/// Tells whether the checkpoint was made. It is not where another one is being made or somebody is reading: then it is made another time,
/// for nothing depends on it but space.
fn checkpoint(connection: &Connection, mode: &str) -> bool {
    let busy = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        row.get::<_, bool>(0)
    });
    busy.map_or_else(
        |error| {
            tracing::debug!(%error, mode, "no checkpoint now");
            false
        },
        |busy| !busy,
    )
}

#[cfg(test)]
mod tests {
    use super::super::file::Directory;
    use super::*;

    #[test]
    fn a_log_of_which_little_is_in_use_is_cut_too() {
        let directory = Directory::temporary().expect("a temporary directory");
        let connection = directory.connect(1_024).expect("a connection").connection;
        let write = |rows: i64| {
            let write = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) SELECT randomblob(4000) FROM n";
            connection.execute(write, [rows]).expect("written");
        };
        connection.execute_batch("CREATE TABLE t (x)").expect("a table");
        write(2_000);
        assert!(checkpoint(&connection, "RESTART"));
        write(1);
        assert!(size(&connection) > MAX_IDLE);
        assert!(!fold(&connection, &Pressure::Grown), "there may be more");
        assert!(fold(&connection, &Pressure::Idle));
        assert_eq!(size(&connection), 0);
        write(1);
        assert!(fold(&connection, &Pressure::Idle));
        assert_ne!(size(&connection), 0, "what is small may stay");
    }
}
