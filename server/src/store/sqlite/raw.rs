//! SQLite without the store: a file of its own beside the store's, with the same settings, and one connection that all take in turn,
//! since a file has one writer at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, params_from_iter, types::Value};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::checkpoint::PAGES;
use super::file::make_private;
use super::session::refused;
use crate::store::StoreError;
use crate::store::raw::Disk;

/// A file of its own.
pub struct Raw {
    table: Arc<Mutex<Table>>,
    directory: TempDir,
    /// The store's directory, if it was made for this.
    made: Option<PathBuf>,
}

/// One who writes.
pub struct RawSession {
    table: Arc<Mutex<Table>>,
}

struct Table {
    connection: Connection,
    next: i64,
    text: String,
}

impl Raw {
    pub(in crate::store) fn open(directory: &Path, text_bytes: usize) -> Result<Raw, StoreError> {
        let made = (!directory.exists()).then(|| directory.to_owned());
        let cannot = |error| StoreError::unavailable(format!("cannot write in {}: {error}", directory.display()));
        make_private(directory).map_err(cannot)?;
        let directory = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(directory)
            .map_err(cannot)?;
        let open = || {
            let connection = Connection::open(directory.path().join("bench.db"))?;
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "wal_autocheckpoint", i64::try_from(PAGES).unwrap_or(i64::MAX))?;
            connection.execute_batch("CREATE TABLE bench (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT")?;
            Ok(connection)
        };
        let table = Table {
            connection: open().map_err(refused)?,
            next: 1,
            text: "x".repeat(text_bytes),
        };
        Ok(Raw {
            table: Arc::new(Mutex::new(table)),
            directory,
            made,
        })
    }

    pub(in crate::store) fn session(&self) -> RawSession {
        RawSession {
            table: Arc::clone(&self.table),
        }
    }

    pub(in crate::store) async fn rows(&self) -> Result<i64, StoreError> {
        let table = self.table.lock().await;
        let count = table
            .connection
            .query_row("SELECT count(*) FROM bench", [], |row| row.get(0));
        count.map_err(refused)
    }

    pub(in crate::store) fn settings(&self) -> &'static str {
        "SQLite, journal_mode=WAL synchronous=FULL, one connection"
    }

    pub(in crate::store) fn disk(&self) -> Result<Disk, StoreError> {
        Disk::at(self.directory.path(), "beside the data").map_err(StoreError::unavailable)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            // What it held is gone before the directory can be; nothing is lost if it stays.
            let _ = std::fs::remove_dir_all(self.directory.path());
            let _ = std::fs::remove_dir(made);
        }
    }
}

impl RawSession {
    pub(in crate::store) async fn insert(&mut self, rows: usize) -> Result<(), StoreError> {
        let mut table = self.table.lock().await;
        tokio::task::block_in_place(|| table.insert(rows)).map_err(refused)
    }
}

impl Table {
    fn insert(&mut self, rows: usize) -> rusqlite::Result<()> {
        let statement = format!(
            "INSERT INTO bench (id, text) VALUES (?, ?){}",
            ", (?, ?)".repeat(rows - 1)
        );
        let ids = self.next..;
        let values = ids
            .take(rows)
            .flat_map(|id| [Value::Integer(id), Value::Text(self.text.clone())]);
        self.connection
            .prepare_cached(&statement)?
            .execute(params_from_iter(values))?;
        self.next += i64::try_from(rows).unwrap_or(i64::MAX);
        Ok(())
    }
}
