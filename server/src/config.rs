//! What a server can be told. One struct, checked once.

use std::time::Duration;

/// What the server accepts from clients.
#[derive(Clone, Debug)]
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

/// Where the truth is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In a temporary directory that goes with the process.
    Ephemeral,
    /// In a directory.
    Sqlite(std::path::PathBuf),
    /// On a Postgres server.
    Postgres(String),
}

impl Backend {
    /// The backend that the settings ask for; a directory under the user's data home if they ask for none.
    ///
    /// # Errors
    /// A sentence that names the setting and what is allowed.
    pub fn choose(
        data_dir: Option<std::path::PathBuf>,
        ephemeral: bool,
        database_url: Option<String>,
    ) -> Result<Backend, String> {
        if ephemeral {
            return Ok(Backend::Ephemeral);
        }
        if let Some(url) = database_url {
            return Backend::of_url(url);
        }
        data_dir.map_or_else(default_directory, Ok).map(Backend::Sqlite)
    }

    fn of_url(url: String) -> Result<Backend, String> {
        if let Some(directory) = url.strip_prefix("sqlite:") {
            let directory = directory.strip_prefix("//").unwrap_or(directory);
            if directory.is_empty() {
                return Err("--database-url: sqlite: must be followed by a directory".to_owned());
            }
            return Ok(Backend::Sqlite(directory.into()));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Backend::Postgres(url));
        }
        // The URL may hold a password: only what comes before it is shown.
        let scheme = url.split(':').next().unwrap_or_default();
        Err(format!(
            "--database-url: `{scheme}:` is not known; give sqlite:DIR or postgres://USER:PASSWORD@HOST:PORT/DATABASE"
        ))
    }
}

fn default_directory() -> Result<std::path::PathBuf, String> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(std::path::PathBuf::from)
    };
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("drumline"))
        .ok_or_else(|| "neither HOME nor XDG_DATA_HOME is set: give --data-dir DIR, or --ephemeral".to_owned())
}
