//! What is under a store, without the store: a disk that syncs, a database that commits and takes rows. `drumline bench store` measures
//! it, so that a server's figures can be told as parts of what its machine can do.
//!
//! It works in a file and a table of its own, beside a server that may be running, and removes both when it is dropped.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::{StoreError, postgres, sqlite};

/// How much is written before each sync: a page of Postgres.
const PAGE: usize = 8 << 10;
/// How large the file is in which pages are written one after the other, again and again: as a log that uses its files again.
const FILE: usize = 16 << 20;

/// A database, and a table of its own in it: an id that is the primary key, and a text.
pub enum Raw {
    /// A file of SQLite.
    Sqlite(sqlite::Raw),
    /// A table on a Postgres server.
    Postgres(postgres::Raw),
}

/// One who writes to it.
pub enum Session {
    /// Over the one connection that the others use too.
    Sqlite(sqlite::RawSession),
    /// Over a connection of its own.
    Postgres(postgres::RawSession),
}

impl Raw {
    /// In a directory of the embedded store, which is made if it is not there; the text has this many bytes.
    pub fn sqlite(directory: &Path, text_bytes: usize) -> Result<Raw, StoreError> {
        sqlite::Raw::open(directory, text_bytes).map(Raw::Sqlite)
    }

    /// On a Postgres server.
    pub async fn postgres(url: &str, text_bytes: usize) -> Result<Raw, StoreError> {
        postgres::Raw::open(url, text_bytes).await.map(Raw::Postgres)
    }

    /// One more who writes.
    pub async fn session(&self) -> Result<Session, StoreError> {
        match self {
            Raw::Sqlite(raw) => Ok(Session::Sqlite(raw.session())),
            Raw::Postgres(raw) => raw.session().await.map(Session::Postgres),
        }
    }

    /// How many rows there are.
    pub async fn rows(&self) -> Result<i64, StoreError> {
        match self {
            Raw::Sqlite(raw) => raw.rows().await,
            Raw::Postgres(raw) => raw.rows().await,
        }
    }

    /// What it is, and the settings that durability hangs on.
    pub fn settings(&self) -> &str {
        match self {
            Raw::Sqlite(raw) => raw.settings(),
            Raw::Postgres(raw) => raw.settings(),
        }
    }

    /// A file on the disk that it keeps its log on, or as near to that as can be.
    pub fn disk(&self) -> Result<Disk, StoreError> {
        match self {
            Raw::Sqlite(raw) => raw.disk(),
            Raw::Postgres(raw) => raw.disk(),
        }
    }
}

impl Session {
    /// Inserts so many rows, and commits. Over the embedded store this blocks the thread, and needs a runtime with several.
    pub async fn insert(&mut self, rows: usize) -> Result<(), StoreError> {
        match self {
            Session::Sqlite(session) => session.insert(rows).await,
            Session::Postgres(session) => session.insert(rows).await,
        }
    }
}

/// A file that is written and synced again and again, as the log of a database is. Removed when it is dropped.
#[derive(Debug)]
pub struct Disk {
    file: File,
    place: String,
    next: usize,
}

impl Disk {
    /// A file in a directory, of which something is to be said.
    pub(super) fn at(directory: &Path, said: &str) -> std::io::Result<Disk> {
        let mut file = tempfile::tempfile_in(directory)?;
        file.write_all(&vec![0; FILE])?;
        file.sync_all()?;
        Ok(Disk {
            file,
            place: format!("a file in {}, {said}", directory.display()),
            next: 0,
        })
    }

    /// A file beside a path, as near as can be: in the first directory above it, on the same device, that can be written to.
    pub(super) fn beside(path: &Path, said: &str) -> std::io::Result<Disk> {
        let device = path.metadata()?.dev();
        let above = path.ancestors().skip(1);
        let same_device = above.filter(|above| above.metadata().is_ok_and(|found| found.dev() == device));
        let mut tried = Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        for directory in same_device {
            tried = Disk::at(directory, said);
            if tried.is_ok() {
                break;
            }
        }
        tried
    }

    /// Which file it is, and what that says of the database's.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Writes a page and syncs it, without what only the file's times would need.
    pub fn sync(&mut self) -> std::io::Result<()> {
        let offset = self.next * PAGE % FILE;
        self.next += 1;
        self.file.write_all_at(&[0x5a; PAGE], offset as u64)?;
        self.file.sync_data()
    }
}
