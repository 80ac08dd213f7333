//! The steps that make the tables, the same for both stores: `migrations/{sqlite,postgres}/NNNN_name.sql`.
//!
//! A step that was released is never edited; what changes comes as a new step. A database that has steps which this program does not
//! know, or other ones under the same numbers, is refused: a newer version may have been writing to it.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::StoreError;

/// Whether the tables are made what this version needs when a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrating {
    /// They are.
    Auto,
    /// They must be already.
    Check,
}

/// What a database has had of the steps, and what it has not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Those that it has had, in order.
    pub applied: Vec<&'static str>,
    /// Those that it needs, in order.
    pub pending: Vec<&'static str>,
}

/// One step, in the dialects of both stores.
pub(super) struct Migration {
    pub(super) number: i64,
    pub(super) name: &'static str,
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

macro_rules! migration {
    ($number:literal, $file:literal) => {
        Migration {
            number: $number,
            name: $file,
            sqlite: include_str!(concat!("../../../migrations/sqlite/", $file, ".sql")),
            postgres: include_str!(concat!("../../../migrations/postgres/", $file, ".sql")),
        }
    };
}

/// Every step, in order.
pub(super) const MIGRATIONS: &[Migration] = &[migration!(1, "0001_tables")];

/// A step that a database says it has had.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) number: i64,
    pub(super) checksum: String,
}

/// What tells one text of a step from another.
pub(super) fn checksum(sql: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(sql)[..16])
}

/// What a database that has had these steps needs.
///
/// # Errors
/// If it has had steps that this program does not know.
pub(super) fn steps(applied: &[Applied], text: fn(&Migration) -> &'static str) -> Result<Steps, StoreError> {
    let pending = pending(applied, text)?;
    let names = |steps: &'static [Migration]| steps.iter().map(|step| step.name).collect();
    Ok(Steps {
        applied: names(&MIGRATIONS[..applied.len()]),
        pending: names(pending),
    })
}

/// The refusal of a database that needs steps which nobody has allowed.
pub(super) fn missing(pending: &[Migration]) -> StoreError {
    let names: Vec<&str> = pending.iter().map(|step| step.name).collect();
    StoreError::refused(format!(
        "its tables are not yet what this version of drumline needs ({} missing): run `drumline migrate`",
        names.join(", ")
    ))
}

/// The steps that a database still needs.
///
/// # Errors
/// If it has had steps that this program does not know.
pub(super) fn pending(
    applied: &[Applied],
    text: fn(&Migration) -> &'static str,
) -> Result<&'static [Migration], StoreError> {
    for (place, step) in applied.iter().enumerate() {
        let Some(known) = MIGRATIONS.get(place) else {
            return Err(StoreError::refused(format!(
                "its tables are those of a newer version of drumline (step {}; this version knows {})",
                step.number,
                MIGRATIONS.len()
            )));
        };
        if known.number != step.number || checksum(text(known)) != step.checksum {
            return Err(StoreError::refused(format!(
                "its tables were made by another version of drumline (step {} differs from {})",
                step.number, known.name
            )));
        }
    }
    Ok(&MIGRATIONS[applied.len()..])
}
