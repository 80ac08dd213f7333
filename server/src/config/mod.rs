//! What a server can be told: one struct, made from flags, environment and file in one place, once.
//!
//! ```text
//!  sources.rs   flags > DRUMLINE_* > the older names > file > default       text, and where it comes from
//!      │
//!  settings.rs  every setting: its name, what it is for, its default
//!      │
//!  read.rs      text ──parse.rs──▶ values; what is wrong is collected, all of it    Config, and lines for people
//! ```
//!
//! A URL may hold a password: it is a [`SecretUrl`], which shows itself without, and no complaint repeats its text.

mod parse;
mod read;
mod secret;
mod settings;
mod sources;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use read::{Line, Problems, Reading, read};
pub use secret::SecretUrl;
pub use settings::{SETTINGS, Setting};
pub use sources::{ALL, DATA, Flags, Surroundings};

use crate::store::Migrating;
use crate::{locks, sessions, state, tasks, workflows};

/// Everything that a server can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the truth is kept.
    pub backend: Backend,
    /// Whether tables are made what this version needs, or have to be already.
    pub migrating: Migrating,
    /// Where replicas tell each other what they committed; none: they ask the database.
    pub redis_url: Option<SecretUrl>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How old a connection may become before its client is asked to make another; none: as old as it likes.
    pub max_connection_age: Option<Duration>,
    /// What the server says of its life.
    pub log: Log,
    /// What the rooms go by.
    pub policy: Policy,
}

/// What the server says of its life, on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// What is said, as `tracing` filters it.
    pub filter: String,
    /// How it is said.
    pub format: LogFormat,
}

/// How the server's log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For programs, one object a line.
    Json,
}

/// What the rooms go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What is accepted from clients.
    pub limits: Limits,
    /// What holds where a request does not say.
    pub defaults: Defaults,
    /// How long things are kept.
    pub retention: Retention,
}

/// What the server accepts from clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest payload, in bytes.
    pub max_payload_bytes: usize,
    /// The largest message, in bytes.
    pub max_message_bytes: usize,
    /// How long a broken stream may stay broken before its agent counts as dead.
    pub reconnect_grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_payload_bytes: 1 << 20,
            max_message_bytes: 4 << 20,
            reconnect_grace: Duration::from_secs(1),
        }
    }
}

/// What holds where a request does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// How long a lock is leased for.
    pub lock_ttl: Duration,
    /// How long an attempt of a task may take.
    pub task_timeout: Duration,
    /// How long an agent has to accept a task.
    pub accept_timeout: Duration,
    /// How many tasks of a workflow are under way at once.
    pub max_concurrent_delegates: i32,
    /// How many versions of a document are kept.
    pub state_versions: i32,
    /// How long a session lives without a sign of life, where its agent keeps a stream open.
    pub stream_session_ttl: Duration,
    /// How long a session lives without a sign of life, where its agent keeps none.
    pub session_ttl: Duration,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            lock_ttl: locks::DEFAULT_TTL,
            task_timeout: tasks::DEFAULT_TIMEOUT,
            accept_timeout: tasks::DEFAULT_ACCEPT_TIMEOUT,
            max_concurrent_delegates: workflows::DEFAULT_CONCURRENCY,
            state_versions: state::DEFAULT_RETENTION,
            stream_session_ttl: sessions::DEFAULT_STREAM_TTL,
            session_ttl: sessions::DEFAULT_UNARY_TTL,
        }
    }
}

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Events, from when they were committed.
    pub events: Duration,
    /// Answers to requests with a `request_id`, from when they were given.
    pub requests: Duration,
    /// Tasks of no workflow, from their end.
    pub tasks: Duration,
    /// Workflows with their tasks and histories, from their end.
    pub workflows: Duration,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            events: Duration::from_secs(3_600),
            requests: Duration::from_secs(3_600),
            tasks: Duration::from_secs(7 * 86_400),
            workflows: Duration::from_secs(7 * 86_400),
        }
    }
}

/// Where the truth is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In a temporary directory that goes with the process.
    Ephemeral,
    /// In a directory.
    Sqlite(PathBuf),
    /// On a Postgres server.
    Postgres(SecretUrl),
}
