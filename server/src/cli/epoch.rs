//! `drumline epoch raise`: what an operator does after a database was restored from a backup.

use std::io::Write;

use clap::{Args, Subcommand};

use super::{Failure, config};
use crate::config::{Backend, DATA, Flags};
use crate::store::{Postgres, Sqlite};

/// What `drumline epoch` can be told.
#[derive(Args, Debug)]
pub struct EpochArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Begin a new epoch, while no server is running: after a restore from a backup, before the servers start
    ///
    /// A restored database does not know what was acknowledged after its backup. In a new epoch fencing tokens are higher than any that
    /// were given out, and cursors from the lost part are refused instead of silently meaning something else.
    Raise(Flags<DATA>),
}

/// Raises the epoch.
///
/// # Errors
/// When the database cannot be reached, or its tables are not what this version needs.
pub async fn run(args: EpochArgs) -> Result<(), Failure> {
    let Command::Raise(flags) = args.command;
    let config = config::read(&flags)?.config;
    let (before, epoch) = match &config.backend {
        Backend::Ephemeral => return Err(Failure::usage("the data is ephemeral: it has no epochs to be raised")),
        Backend::Sqlite(directory) => Sqlite::raise_epoch(directory)?,
        Backend::Postgres(url) => Postgres::raise_epoch(url.expose()).await?,
    };
    let before = before.map_or_else(|| "none".to_owned(), |before| before.to_string());
    let mut out = std::io::stdout().lock();
    writeln!(out, "epoch {epoch} begins (before: {before})")?;
    Ok(out.flush()?)
}
