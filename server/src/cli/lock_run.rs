//! `drumline lock run`: a program under a lock.
//!
//! The lock is renewed for as long as the program runs. If the lease is lost, or may be by this process's clock, the program is
//! stopped: SIGTERM, then SIGKILL after a grace that fits into the margin before the server gives the lock to another. What must
//! be safe even then (this process may itself be stopped) shows the fencing token, `DRUMLINE_FENCING_TOKEN`, to what the
//! lock protects.
//!
//! The program is in a process group of its own, and its descendants are stopped with it, unless standard input is a terminal: then
//! it shares this process's group, so that it can read from the terminal and is interrupted by it.

use std::io::IsTerminal;
use std::time::Duration;

use drumline::{LockGuard, lease};
use tokio::process::Command as Program;

use super::child::{Child, Reach, exit_code};
use super::connection::Connection;
use super::screen::note;
use super::signals::{Order, Orders};
use super::{Failure, locks, parse};

/// Run a program under a lock.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Take a lock, run a program, give the lock back; exits with the program's code
    Run(Run),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// What to lock
    resource_id: String,
    /// Who holds it [default: user@host:process]
    #[arg(long, value_name = "ID")]
    holder: Option<String>,
    /// The lease's length: how long the lock outlives this process at most
    #[arg(long, value_parser = parse::duration, value_name = "DURATION", default_value = "30s")]
    ttl: Duration,
    /// How long to wait for the lock
    #[arg(long, value_parser = parse::duration, value_name = "DURATION", default_value = "0s")]
    wait: Duration,
    /// How long the program may take to end once the lease is lost [default: within the lease's margin]
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    grace: Option<Duration>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    program: Vec<String>,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let Command::Run(run) = args.command;
    let mut orders = Orders::listen()?;
    let guard = tokio::select! {
        biased;
        order = orders.next() => return Err(Failure::Code(order.exit_code())),
        guard = acquire(&args.connection, &run) => guard?,
    };
    let done = under(&guard, &run, &mut orders).await;
    let lost = !guard.is_held();
    if let Err(error) = guard.release().await
        && !lost
    {
        note(&format!(
            "warning: {} was not given back, it ends with its lease: {error}",
            run.resource_id
        ));
    }
    match done? {
        0 => Ok(()),
        code => Err(Failure::Code(code)),
    }
}

async fn acquire(connection: &Connection, run: &Run) -> Result<LockGuard, Failure> {
    let client = connection.client().await?;
    let holder = run.holder.clone().unwrap_or_else(locks::default_holder);
    Ok(client
        .locks()
        .acquire(&run.resource_id)
        .holder_id(holder)
        .ttl(run.ttl)
        .wait(run.wait)
        .await?)
}

/// Runs the program until it ends, or the lock is lost.
async fn under(guard: &LockGuard, run: &Run, orders: &mut Orders) -> Result<u8, Failure> {
    let reach = if std::io::stdin().is_terminal() {
        Reach::Process
    } else {
        Reach::Group
    };
    let mut child = spawn(guard, run, reach)?;
    let grace = run.grace.unwrap_or_else(|| lease::margin(run.ttl) * 3 / 4);
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return Ok(exit_code(status?)),
            cause = guard.lost() => {
                child.stop(grace).await?;
                return Err(Failure::message(format!("the lock on {} is lost, the program was stopped: {cause}", run.resource_id)));
            }
            order = orders.next() => {
                // A terminal has interrupted the program itself.
                if !(reach == Reach::Process && order == Order::Interrupt) {
                    child.signal(order.signal());
                }
            }
        }
    }
}

fn spawn(guard: &LockGuard, run: &Run, reach: Reach) -> Result<Child, Failure> {
    let (name, arguments) = run
        .program
        .split_first()
        .ok_or_else(|| Failure::usage("a program is needed"))?;
    let mut program = Program::new(name);
    program
        .args(arguments)
        .env("DRUMLINE_FENCING_TOKEN", guard.token().to_string())
        .env("DRUMLINE_RESOURCE", guard.resource_id())
        .env("DRUMLINE_HOLDER", guard.holder_id());
    Child::spawn(program, reach).map_err(|error| {
        note(&format!("error: {name}: {error}"));
        // As shells have it.
        Failure::Code(if error.kind() == std::io::ErrorKind::NotFound {
            127
        } else {
            126
        })
    })
}
