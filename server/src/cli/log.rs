//! Logs, on standard error: for people on a terminal, JSON elsewhere. `RUST_LOG` asks for more or less.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What a server has to say of its life.
pub fn of_a_server() {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter("info,fred=error"))
        .with_writer(std::io::stderr);
    // Only a second subscriber fails, and then the first is there.
    let _first = match std::io::stderr().is_terminal() {
        true => subscriber.with_target(false).try_init(),
        false => subscriber.json().try_init(),
    };
}

/// What the SDK has to say when something is wrong.
pub fn of_a_client() {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter("warn"))
        .with_writer(std::io::stderr);
    let ansi = std::io::stderr().is_terminal();
    let _first = subscriber.with_target(false).without_time().with_ansi(ansi).try_init();
}

fn filter(otherwise: &str) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(otherwise))
}
