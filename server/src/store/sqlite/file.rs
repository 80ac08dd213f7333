//! The data directory: who may use it, how its file is opened, and what opening does to it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};

use super::session::{Session, refused};
use crate::store::migrations::{self, Applied, Migrating, Migration, Steps};
use crate::store::{StoreError, epoch};

/// How long SQLite waits for another process while the store is opened.
const BUSY_AT_FIRST: Duration = Duration::from_secs(5);
/// How long it waits later; whoever has more patience asks again.
const BUSY: Duration = Duration::from_millis(250);

/// A directory with a store in it, which nobody else can open while this exists.
pub(super) struct Directory {
    file: PathBuf,
    /// Whether what is committed must survive the machine.
    durable: bool,
    /// Locked as long as it is open; the system lets go of it when the process dies, however it dies.
    _lock: File,
    /// Removed with its contents when dropped.
    temporary: Mutex<Option<tempfile::TempDir>>,
}

impl Directory {
    /// Takes hold of a directory; makes it if there is none.
    pub(super) fn lock(path: &Path) -> Result<Directory, StoreError> {
        make_private(path).map_err(|error| cannot(path, &error))?;
        Directory::take(path, true, None)
    }

    /// Makes a directory that does not outlive this.
    pub(super) fn temporary() -> Result<Directory, StoreError> {
        let temporary = tempfile::Builder::new()
            .prefix("drumline-")
            .tempdir()
            .map_err(StoreError::unavailable)?;
        let path = temporary.path().to_owned();
        Directory::take(&path, false, Some(temporary))
    }

    fn take(path: &Path, durable: bool, temporary: Option<tempfile::TempDir>) -> Result<Directory, StoreError> {
        let lock = open_private(&path.join("lock")).map_err(|error| cannot(path, &error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                StoreError::refused(format!("another server is using the data directory {}", path.display()))
            }
            TryLockError::Error(error) => cannot(path, &error),
        })?;
        let file = path.join("drumline.db");
        // SQLite gives the files beside it the same permissions.
        open_private(&file).map_err(|error| cannot(path, &error))?;
        Ok(Directory {
            file,
            durable,
            _lock: lock,
            temporary: Mutex::new(temporary),
        })
    }

    /// Removes a temporary directory while it is in use: what has its files open keeps them, and nothing is opened any more.
    pub(super) fn discard(&self) {
        let temporary = self.temporary.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = temporary.map(tempfile::TempDir::close) {
            tracing::warn!(%error, "the temporary directory cannot be removed");
        }
    }

    /// Opens a connection. `cache_kib`: how much of the file it keeps in memory.
    pub(super) fn connect(&self, cache_kib: i64) -> Result<Session, StoreError> {
        let connect = || {
            let connection = Connection::open(&self.file)?;
            connection.busy_timeout(BUSY_AT_FIRST)?;
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
            connection.pragma_update(None, "synchronous", if self.durable { "FULL" } else { "OFF" })?;
            connection.pragma_update(None, "wal_autocheckpoint", 0)?;
            connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
            connection.pragma_update(None, "cache_size", -cache_kib)?;
            connection.pragma_update(None, "temp_store", "MEMORY")?;
            connection.pragma_update(None, "foreign_keys", false)?;
            connection.pragma_update(None, "trusted_schema", false)?;
            Ok(connection)
        };
        connect().map(Session::new).map_err(refused)
    }
}

/// Makes the tables what this version needs, or refuses to; raises the epoch, and tells it.
pub(super) fn prepare(connection: &mut Connection, migrating: Migrating) -> Result<i64, StoreError> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(refused)?;
    let applied = applied(&transaction)?;
    match migrations::pending(&applied, |step| step.sqlite)? {
        [] => {}
        pending if migrating == Migrating::Auto => migrate(&transaction, pending)?,
        pending => return Err(migrations::missing(pending)),
    }
    let (_, epoch) = raise(&transaction).map_err(refused)?;
    transaction.commit().map_err(refused)?;
    connection.busy_timeout(BUSY).map_err(refused)?;
    Ok(epoch)
}

/// Raises the epoch, and tells the one before and the new one.
fn raise(transaction: &Connection) -> rusqlite::Result<(Option<i64>, i64)> {
    let before: Option<i64> = transaction
        .query_row("SELECT value FROM meta WHERE name = 'epoch'", [], |row| {
            row.get::<_, String>(0)
        })
        .optional()?
        .and_then(|epoch| epoch.parse().ok());
    let last_token: i64 = transaction.query_row(epoch::LAST_TOKEN, [], |row| row.get(0))?;
    let epoch = epoch::next(before, last_token);
    transaction.execute(
        "INSERT INTO meta (name, value) VALUES ('epoch', ?1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [epoch.to_string()],
    )?;
    Ok((before, epoch))
}

/// Raises the epoch of a data directory that no server is using, and tells the one before and the new one.
pub(super) fn raise_epoch(path: &Path) -> Result<(Option<i64>, i64), StoreError> {
    let directory = Directory::lock(path)?;
    let mut session = directory.connect(0)?;
    let transaction = session
        .connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(refused)?;
    match migrations::pending(&applied(&transaction)?, |step| step.sqlite)? {
        [] => {}
        pending => return Err(migrations::missing(pending)),
    }
    let raised = raise(&transaction).map_err(refused)?;
    transaction.commit().map_err(refused)?;
    Ok(raised)
}

/// What a data directory has had of the steps, and what it needs. Nothing is made, and a server may be using it.
pub(super) fn steps(path: &Path) -> Result<Steps, StoreError> {
    let file = path.join("drumline.db");
    if !file.try_exists().map_err(|error| cannot(path, &error))? {
        return migrations::steps(&[], |step| step.sqlite);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags).map_err(refused)?;
    connection.busy_timeout(BUSY_AT_FIRST).map_err(refused)?;
    migrations::steps(&applied(&connection)?, |step| step.sqlite)
}

/// Brings a data directory that no server is using up to what this version needs, and tells what it had.
pub(super) fn upgrade(path: &Path) -> Result<Steps, StoreError> {
    let directory = Directory::lock(path)?;
    let mut session = directory.connect(0)?;
    let transaction = session
        .connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(refused)?;
    let applied = applied(&transaction)?;
    migrate(&transaction, migrations::pending(&applied, |step| step.sqlite)?)?;
    transaction.commit().map_err(refused)?;
    migrations::steps(&applied, |step| step.sqlite)
}

/// The steps that a file has had.
fn applied(connection: &Connection) -> Result<Vec<Applied>, StoreError> {
    let read = || {
        let exists = connection.table_exists(None, "migrations")?;
        if !exists {
            return Ok(Vec::new());
        }
        connection
            .prepare("SELECT number, checksum FROM migrations ORDER BY number")?
            .query_map([], |row| {
                Ok(Applied {
                    number: row.get(0)?,
                    checksum: row.get(1)?,
                })
            })?
            .collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(refused)
}

fn migrate(connection: &Connection, pending: &[Migration]) -> Result<(), StoreError> {
    let apply = || {
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL) STRICT",
        )?;
        for step in pending {
            connection.execute_batch(step.sqlite)?;
            connection.execute(
                "INSERT INTO migrations (number, name, checksum) VALUES (?1, ?2, ?3)",
                (step.number, step.name, migrations::checksum(step.sqlite)),
            )?;
        }
        Ok(())
    };
    apply().map_err(refused)
}

fn cannot(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::unavailable(format!("cannot use the data directory {}: {error}", path.display()))
}

/// Makes a directory that only its owner can enter.
pub(super) fn make_private(path: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens a file, made if there is none, that only its owner can read.
fn open_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
