//! Logs, on standard error. A server says what its settings ask for; a client what `RUST_LOG` does.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// What the driver warns of, the bus says once and in this project's words.
const QUIET: &str = "fred=error";

/// What a server has to say of its life.
pub fn of_a_server(log: &Log) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter_of_a_server(&log.filter))
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

/// What is asked for, which is checked before, without what is said twice; whoever asks for that gets it.
fn filter_of_a_server(asked: &str) -> EnvFilter {
    EnvFilter::new(format!("{QUIET},{asked}"))
}

fn filter(otherwise: &str) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(otherwise))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(asked: &str) -> usize {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter_of_a_server(asked))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "fred::router", "the driver's words");
            tracing::info!(target: "drumline_server::bus", "the bus's words");
        });
        let written = written.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&written).lines().count()
    }

    #[test]
    fn the_driver_of_redis_is_heard_by_those_who_ask() {
        assert_eq!(lines("info"), 1);
        assert_eq!(lines("info,fred=warn"), 2);
        assert_eq!(lines("fred=warn,info"), 2);
        assert_eq!(lines("error"), 0);
    }
}
