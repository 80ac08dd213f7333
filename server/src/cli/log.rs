//! Logs, on standard error. A server says what its settings ask for; a client what `RUST_LOG` does.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// What a server has to say of its life.
pub fn of_a_server(log: &Log) {
    let filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_checked_before| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let text = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    // Only a second subscriber fails, and then the first is there.
    let _first = match text {
        true => subscriber.with_target(false).with_ansi(terminal).try_init(),
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
