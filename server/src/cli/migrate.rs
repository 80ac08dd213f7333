//! `drumline migrate`: makes the tables of a database what this version needs, before its servers start.

use std::io::Write;

use clap::Args;

use super::connection::Format;
use super::{Failure, config};
use crate::config::{Backend, DATA, Flags};
use crate::store::{Postgres, Sqlite, Steps};

/// What `drumline migrate` can be told.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 done, or nothing needed; 1 steps are needed (--check), or the database was refused; \
    2 wrong arguments; 3 the database cannot be reached."
)]
pub struct MigrateArgs {
    /// Change nothing: say what is needed, and exit with 1 if anything is
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    flags: Flags<DATA>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Brings the database up to what this version needs, or says whether that is needed.
///
/// # Errors
/// When the database cannot be reached, is of a newer version, or needs steps that it was not to be given.
pub async fn run(args: MigrateArgs) -> Result<(), Failure> {
    let config = config::read(&args.flags)?.config;
    let steps = match &config.backend {
        Backend::Ephemeral => {
            return Err(Failure::usage(
                "the data is ephemeral: a server makes its tables when it starts",
            ));
        }
        Backend::Sqlite(directory) if args.check => Sqlite::steps(directory)?,
        Backend::Sqlite(directory) => Sqlite::migrate(directory)?,
        Backend::Postgres(url) if args.check => Postgres::steps(url.expose()).await?,
        Backend::Postgres(url) => Postgres::migrate(url.expose()).await?,
    };
    let mut out = std::io::stdout().lock();
    match args.output {
        Format::Json => writeln!(out, "{}", json(&steps, args.check))?,
        Format::Table => write!(out, "{}", text(&config.backend, &steps, args.check))?,
    }
    out.flush()?;
    if args.check && !steps.pending.is_empty() {
        return Err(Failure::Code(1));
    }
    Ok(())
}

fn text(backend: &Backend, steps: &Steps, check: bool) -> String {
    let word = if check { "needs" } else { "applied" };
    let mut text: String = steps.pending.iter().map(|step| format!("{word} {step}\n")).collect();
    let state = match (steps.pending.is_empty(), check) {
        (false, true) => "is not what this version needs: run `drumline migrate`",
        (true, _) => "is what this version needs already",
        (false, false) => "is what this version needs now",
    };
    text.push_str(&format!("{backend} {state}\n"));
    text
}

fn json(steps: &Steps, check: bool) -> serde_json::Value {
    let (before, now) = (&steps.applied, &steps.pending);
    if check {
        serde_json::json!({ "applied": before, "pending": now })
    } else {
        let all: Vec<_> = before.iter().chain(now).collect();
        serde_json::json!({ "applied": all, "applied_now": now, "pending": [] })
    }
}
