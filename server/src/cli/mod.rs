//! The commands of the binary, one file each.
//!
//! Client commands are thin: they turn arguments into calls of the SDK, and answers into a table or into the JSON that
//! protobuf has for them. What goes wrong is one line on standard error and an exit code that scripts can tell apart:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; also when the reader of standard output has gone |
//! | 1 | refused by the server, or what was waited for ended otherwise than well |
//! | 2 | the arguments are wrong |
//! | 3 | the server cannot be reached, or cannot answer now |
//! | 130, 143 | interrupted, terminated |
//!
//! `lock run` passes on the code of its child, 128 + n where signal n ended it.

mod agent;
mod agents;
pub mod bench;
mod child;
mod conceal;
mod config;
mod connection;
pub mod demo;
mod details;
mod epoch;
mod events;
mod failure;
mod files;
mod human;
mod json;
mod lock_run;
mod locks;
mod log;
mod migrate;
mod parse;
mod screen;
pub mod serve;
mod signals;
mod state;
mod table;
mod tasks;
mod workflow_file;
mod workflows;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use failure::Failure;

/// Drumline: the coordination plane for autonomous agents.
#[derive(Debug, Parser)]
#[command(name = "drumline", version, max_term_width = 120)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused or ended badly, 2 wrong arguments, 3 the server cannot be reached."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::ServeArgs),
    /// Show every setting of a server, and who says so
    Config(config::ConfigArgs),
    /// Make the tables of a database what this version needs
    Migrate(migrate::MigrateArgs),
    /// After a restore from a backup
    Epoch(epoch::EpochArgs),
    /// Watch four agents review a git repository, and one of them be killed
    Demo(demo::DemoArgs),
    /// One of the agents of the demo
    #[command(hide = true)]
    DemoAgent(demo::agents::DemoAgentArgs),
    /// Measure a server
    Bench(bench::Args),
    /// Run a program as an agent
    Agent(agent::Args),
    /// Find agents
    Agents(agents::Args),
    /// Publish events and read the log
    Events(events::Args),
    /// Run a program under a lock
    Lock(lock_run::Args),
    /// Take, release and list locks
    Locks(locks::Args),
    /// Read and write shared documents
    State(state::Args),
    /// Delegate tasks and follow them
    Tasks(tasks::Args),
    /// Start workflows and follow them
    Workflows(workflows::Args),
    /// Print the completions of a shell
    Completions(Completions),
}

#[derive(Debug, clap::Args)]
struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

/// Parses the arguments, runs the command, and says how it went.
pub fn main() -> ExitCode {
    conceal::passwords();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(),
    };
    let done = runtime.block_on(dispatch(cli.command));
    // What still blocks, such as a read of the terminal, must not keep the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn dispatch(command: Command) -> Result<(), Failure> {
    if !matches!(command, Command::Serve(_)) {
        log::of_a_client();
    }
    match command {
        // These look after signals themselves.
        Command::Serve(args) => {
            let reading = args.read()?;
            log::of_a_server(&reading.config.log);
            Ok(serve::run(args, reading).await?)
        }
        Command::Demo(args) => demo::run(args).await,
        Command::DemoAgent(args) => demo::agents::run_agent(args).await,
        Command::Agent(args) => agent::run(args).await,
        Command::Lock(args) => lock_run::run(args).await,
        Command::Bench(args) => signals::interruptible(bench::run(args)).await,
        Command::Agents(args) => signals::interruptible(agents::run(args)).await,
        Command::Events(args) => signals::interruptible(events::run(args)).await,
        Command::Locks(args) => signals::interruptible(locks::run(args)).await,
        Command::State(args) => signals::interruptible(state::run(args)).await,
        Command::Tasks(args) => signals::interruptible(tasks::run(args)).await,
        Command::Workflows(args) => signals::interruptible(workflows::run(args)).await,
        Command::Config(args) => config::run(&args),
        Command::Migrate(args) => signals::interruptible(migrate::run(args)).await,
        Command::Epoch(args) => signals::interruptible(epoch::run(args)).await,
        Command::Completions(args) => completions(args.shell),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    // Into memory first: the generator panics where its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "drumline", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_connection_may_be_named_anywhere_in_a_client_command() {
        for line in [
            "drumline state -o json get a",
            "drumline state get a -o json --namespace n --server http://h:1",
            "drumline events tail task.* --show-cursor",
            "drumline lock run build --ttl 10s -- make -j 4",
            "drumline agent exec --capability a --capability b --concurrency 3 -- ./run --fast",
            "drumline bench lock --callers 8 --hot -o json",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert!(
            Cli::try_parse_from(["drumline", "lock", "run", "build"]).is_err(),
            "a command is needed"
        );
    }

    #[test]
    fn completions_are_made_for_every_shell() {
        for shell in <clap_complete::Shell as clap::ValueEnum>::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "drumline", &mut script);
            assert!(!script.is_empty());
        }
    }
}
