//! Every setting, listed once: flags, environment, file and `drumline config` follow from this list.

/// What a setting's value is like, as far as where it comes from matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any value.
    Plain,
    /// True or false; the flag alone means true.
    Switch,
    /// A URL that may hold a password: it can also be read from a file of its own, whose path has the setting's name with `-file`.
    Secret,
}

/// The parts that `--help` and `drumline config` group settings by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Where the truth is.
    Data,
    /// How others reach the server.
    Network,
    /// What the server says of its life.
    Log,
    /// What it accepts.
    Limits,
    /// What holds where a request does not say.
    Defaults,
    /// How long things are kept.
    Retention,
}

impl Part {
    /// Its heading.
    pub fn heading(self) -> &'static str {
        match self {
            Part::Data => "Data",
            Part::Network => "Network",
            Part::Log => "Log",
            Part::Limits => "Limits",
            Part::Defaults => "Where a request does not say",
            Part::Retention => "How long things are kept",
        }
    }
}

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name: the flag's and the file's. In the environment it is `DRUMLINE_` and the name in upper case.
    pub name: &'static str,
    /// The name with which it is read from a file of its own, if it is a secret.
    pub file_name: &'static str,
    /// Other names in environment and file, for who has them already. Its own name wins over them.
    pub aliases: &'static [&'static str],
    /// What stands for its value in `--help`.
    pub value_name: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// The value that it has where nothing is given, as text; empty if it has none.
    pub default: &'static str,
    /// What it belongs to.
    pub part: Part,
    /// What its value is like.
    pub kind: Kind,
}

impl Setting {
    /// Whether its value may hold a password.
    pub fn is_secret(&self) -> bool {
        self.kind == Kind::Secret
    }

    /// Where the value of its flag is, if the flag's password was covered on the command line.
    pub fn covered_variable(&self) -> String {
        format!("{}__COVERED", self.variable())
    }

    /// Its name in the environment.
    pub fn variable(&self) -> String {
        variable(self.name)
    }
}

/// The name of a setting, or of a file that it can be read from, in the environment.
pub(super) fn variable(name: &str) -> String {
    format!("DRUMLINE_{}", name.to_ascii_uppercase().replace('-', "_"))
}

macro_rules! settings {
    ($($id:ident = $name:literal $(or $alias:literal)? : $part:ident $kind:ident $value_name:literal, $default:literal, $help:literal;)+) => {
        $(pub(super) const $id: &Setting = &Setting {
            name: $name,
            file_name: concat!($name, "-file"),
            aliases: &[$($alias)?],
            value_name: $value_name,
            help: $help,
            default: $default,
            part: Part::$part,
            kind: Kind::$kind,
        };)+

        /// Every setting, in the order in which they are shown.
        pub const SETTINGS: &[&Setting] = &[$($id),+];
    };
}

settings! {
    DATA_DIR = "data-dir": Data Plain "DIR", "", "Keep the data in this directory (by default under the user's data home)";
    EPHEMERAL = "ephemeral": Data Switch "BOOL", "false", "Keep the data only until the server stops";
    DATABASE_URL = "database-url" or "STATE_DB_URL": Data Secret "URL", "", "Keep the data in this database: sqlite:DIR or postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…";
    MIGRATE = "migrate": Data Plain "WHEN", "auto", "Make the tables what this version needs (auto), or refuse to start unless they are (check)";
    REDIS_URL = "redis-url" or "REDIS_URL": Data Secret "URL", "", "Tell other replicas of what was committed through this Redis: redis://, rediss://, redis-sentinel:// or redis-cluster://";

    LISTEN = "listen": Network Plain "ADDR", "127.0.0.1:7400", "Listen on this address";
    INSECURE = "insecure": Network Switch "BOOL", "false", "Listen on an address that others can reach, though there is no authentication yet";
    MAX_CONNECTION_AGE = "max-connection-age": Network Plain "DURATION", "off", "Ask clients to connect again after about this long, so that they spread over replicas; off: never";

    LOG_FILTER = "log-filter" or "RUST_LOG": Log Plain "FILTER", "info", "What to log: error, warn, info, debug or trace, or by module, such as info,drumline_server::lane=debug";
    LOG_FORMAT = "log-format": Log Plain "FORMAT", "auto", "How to log: text, json, or auto, which is text on a terminal and JSON elsewhere";

    MAX_PAYLOAD_SIZE = "max-payload-size": Limits Plain "SIZE", "1MiB", "The largest payload";
    MAX_MESSAGE_SIZE = "max-message-size": Limits Plain "SIZE", "4MiB", "The largest message";
    RECONNECT_GRACE = "reconnect-grace": Limits Plain "DURATION", "1s", "How long a broken stream may stay broken before its agent counts as dead";

    LOCK_TTL = "lock-ttl" or "LOCK_TIMEOUT": Defaults Plain "DURATION", "5m", "How long a lock is leased for";
    TASK_TIMEOUT = "task-timeout" or "TASK_TIMEOUT": Defaults Plain "DURATION", "10m", "How long an attempt of a task may take";
    ACCEPT_TIMEOUT = "accept-timeout": Defaults Plain "DURATION", "10s", "How long an agent has to accept a task";
    MAX_CONCURRENT_DELEGATES = "max-concurrent-delegates" or "MAX_CONCURRENT_DELEGATES": Defaults Plain "COUNT", "5", "How many tasks of a workflow are under way at once";
    STATE_VERSION_RETENTION = "state-version-retention" or "STATE_VERSION_RETENTION": Defaults Plain "COUNT", "10", "How many versions of a document are kept";
    HEARTBEAT_INTERVAL = "heartbeat-interval" or "REGISTRY_HEARTBEAT_INTERVAL": Defaults Plain "DURATION", "10s", "How often an agent without a stream says that it lives; its session ends after three times this";
    STREAM_SESSION_TTL = "stream-session-ttl": Defaults Plain "DURATION", "3s", "How long the session of an agent with a stream lives without a sign of life";

    EVENT_RETENTION = "event-retention" or "EVENT_TTL": Retention Plain "DURATION", "1h", "Events";
    REQUEST_RETENTION = "request-retention": Retention Plain "DURATION", "1h", "Answers to requests with a request_id, which a retry gets again";
    TASK_RETENTION = "task-retention": Retention Plain "DURATION", "7d", "Tasks that have ended and belong to no workflow";
    WORKFLOW_RETENTION = "workflow-retention": Retention Plain "DURATION", "7d", "Workflows that have ended, with their tasks and histories";
}
