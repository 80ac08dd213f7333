//! From what was given to what holds. Every value is read, and everything that is wrong is said together.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::parse;
use super::secret::SecretUrl;
use super::settings::{self, SETTINGS, Setting};
use super::sources::{self, Flags, Found, Given, Source, Surroundings};
use super::{Backend, Config, Defaults, Limits, Log, LogFormat, Policy, Retention};
use crate::store::{Migrating, Postgres};
use crate::time::duration_text as show;
use crate::{locks, sessions, state, tasks, workflows};

/// Missed heartbeats after which an agent without a stream counts as dead.
const BEATS_OF_A_LIFE: u32 = 3;
/// How long anything may be kept.
const KEPT: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(3_650 * 86_400);
/// What is there for the frame of a message beside its payload.
const BESIDE_A_PAYLOAD: usize = 64 << 10;

/// What was read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What holds.
    pub config: Config,
    /// Every setting, for people.
    pub lines: Vec<Line>,
    /// What may be a mistake, but hinders nothing.
    pub warnings: Vec<String>,
}

/// A setting and what became of it. A password in the value is hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The setting's name.
    pub name: &'static str,
    /// Its value; empty if it has none.
    pub value: String,
    /// Where the value is from.
    pub source: String,
    /// What else there is to say of it.
    pub notes: Vec<String>,
}

/// What is wrong with what was given: a sentence each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Reads flags, environment and file.
///
/// # Errors
/// All that is wrong: values, names that are no settings, a file that cannot be read.
pub fn read<const WHOLE: bool>(flags: &Flags<WHOLE>, around: &Surroundings) -> Result<Reading, Problems> {
    let Found {
        given,
        problems,
        warnings,
    } = sources::find(flags, around);
    let mut reader = Reader {
        given,
        lines: Vec::new(),
        problems,
        warnings,
    };
    let config = reader.config(around);
    let Reader {
        mut lines,
        problems,
        warnings,
        ..
    } = reader;
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let place = |line: &Line| SETTINGS.iter().position(|setting| setting.name == line.name);
    lines.sort_by_key(place);
    Ok(Reading {
        config,
        lines,
        warnings,
    })
}

struct Reader {
    given: std::collections::BTreeMap<&'static str, Vec<Given>>,
    lines: Vec<Line>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Reader {
    fn config(&mut self, around: &Surroundings) -> Config {
        let listen = self.value(settings::LISTEN, parse::address, SocketAddr::to_string);
        let insecure = self.value(settings::INSECURE, parse::switch, bool::to_string);
        if !listen.ip().is_loopback() && !insecure {
            let source = self.source_of(settings::LISTEN);
            self.problems.push(format!(
                "{source}: {listen} can be reached from other machines, and there is no authentication yet: listen on a loopback \
                 address, or add --insecure"
            ));
        }
        let backend = self.backend(around);
        let redis_url = self.redis_url(&backend);
        let age = Duration::from_secs(1)..=Duration::from_secs(86_400);
        Config {
            backend,
            migrating: self.value(settings::MIGRATE, parse::migrating, |when| {
                let name = match when {
                    Migrating::Auto => "auto",
                    Migrating::Check => "check",
                };
                name.to_owned()
            }),
            redis_url,
            listen,
            max_connection_age: self.value(
                settings::MAX_CONNECTION_AGE,
                |text| match text {
                    "off" => Ok(None),
                    text => parse::duration(text, age.clone())
                        .map(Some)
                        .map_err(|error| error + ", or off"),
                },
                |age| age.map_or_else(|| "off".to_owned(), show),
            ),
            log: Log {
                filter: self.value(settings::LOG_FILTER, parse::log_filter, String::clone),
                format: self.value(settings::LOG_FORMAT, parse::log_format, |format| {
                    let name = match format {
                        LogFormat::Auto => "auto",
                        LogFormat::Text => "text",
                        LogFormat::Json => "json",
                    };
                    name.to_owned()
                }),
            },
            policy: Policy {
                limits: self.limits(),
                defaults: self.defaults(),
                retention: Retention {
                    events: self.duration(settings::EVENT_RETENTION, KEPT),
                    requests: self.duration(settings::REQUEST_RETENTION, KEPT),
                    tasks: self.duration(settings::TASK_RETENTION, KEPT),
                    workflows: self.duration(settings::WORKFLOW_RETENTION, KEPT),
                },
            },
        }
    }

    fn limits(&mut self) -> Limits {
        let size = |text: &str| parse::size(text, 1 << 10..=1 << 30);
        let limits = Limits {
            max_payload_bytes: self.value(settings::MAX_PAYLOAD_SIZE, size, |bytes| parse::show_size(*bytes)),
            max_message_bytes: self.value(settings::MAX_MESSAGE_SIZE, size, |bytes| parse::show_size(*bytes)),
            reconnect_grace: self.duration(settings::RECONNECT_GRACE, Duration::ZERO..=sessions::MAX_TTL),
        };
        let least = limits.max_payload_bytes + BESIDE_A_PAYLOAD;
        if limits.max_message_bytes < least {
            let source = self.source_of(settings::MAX_MESSAGE_SIZE);
            self.problems.push(format!(
                "{source}: a message of {} has no room for a payload of {} (max-payload-size): it must be at least {least} bytes",
                parse::show_size(limits.max_message_bytes),
                parse::show_size(limits.max_payload_bytes),
            ));
        }
        limits
    }

    fn defaults(&mut self) -> Defaults {
        let beat = sessions::MIN_TTL / BEATS_OF_A_LIFE + Duration::from_micros(1)..=sessions::MAX_TTL / BEATS_OF_A_LIFE;
        Defaults {
            lock_ttl: self.duration(settings::LOCK_TTL, locks::MIN_TTL..=locks::MAX_TTL),
            task_timeout: self.duration(settings::TASK_TIMEOUT, tasks::MIN_TIMEOUT..=tasks::MAX_TIMEOUT),
            accept_timeout: self.duration(settings::ACCEPT_TIMEOUT, tasks::MIN_TIMEOUT..=tasks::MAX_TIMEOUT),
            max_concurrent_delegates: self.count(settings::MAX_CONCURRENT_DELEGATES, 1..=workflows::MAX_CONCURRENCY),
            state_versions: self.count(settings::STATE_VERSION_RETENTION, 1..=state::MAX_RETENTION),
            stream_session_ttl: self.duration(settings::STREAM_SESSION_TTL, sessions::MIN_TTL..=sessions::MAX_TTL),
            session_ttl: self.duration(settings::HEARTBEAT_INTERVAL, beat) * BEATS_OF_A_LIFE,
        }
    }

    fn duration(&mut self, setting: &'static Setting, allowed: RangeInclusive<Duration>) -> Duration {
        self.value(
            setting,
            move |text| parse::duration(text, allowed.clone()),
            |value| show(*value),
        )
    }

    fn count(&mut self, setting: &'static Setting, allowed: RangeInclusive<i32>) -> i32 {
        self.value(setting, move |text| parse::count(text, allowed.clone()), i32::to_string)
    }

    /// The value of a setting that has a default.
    fn value<T>(
        &mut self,
        setting: &'static Setting,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> T {
        let given = self.optional(setting, &parse, &show);
        given.unwrap_or_else(|| parse(setting.default).expect("defaults are what they may be"))
    }

    /// The value of a setting, if one was given, or the default, and is what it may be.
    fn optional<T>(
        &mut self,
        setting: &'static Setting,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let given = self.given.get(setting.name).cloned().unwrap_or_default();
        let (value, source) = match given.first() {
            Some(first) => {
                if let Some(other) = given.iter().skip(1).find(|other| first.rivals(other)) {
                    let (one, other) = (&first.source, &other.source);
                    self.problems
                        .push(format!("{one} and {other} are both given: give one of them"));
                }
                let value = first.text.clone().and_then(|text| parse(&text));
                if let Err(problem) = &value {
                    self.problems.push(format!("{}: {problem}", first.source));
                }
                (value.ok(), first.source.clone())
            }
            None if setting.default.is_empty() => (None, Source::Default),
            None => (parse(setting.default).ok(), Source::Default),
        };
        let unused = given
            .iter()
            .skip(1)
            .map(|other| format!("{} is not used", other.source.described()));
        self.lines.push(Line {
            name: setting.name,
            value: value.as_ref().map(show).unwrap_or_default(),
            source: source.described(),
            notes: unused.collect(),
        });
        value
    }

    fn source_of(&self, setting: &'static Setting) -> Source {
        let given = self.given.get(setting.name).and_then(|given| given.first());
        given.map_or(Source::Default, |given| given.source.clone())
    }

    /// Where the data is. Three settings say so: what a flag says wins over the environment, and that over the file.
    fn backend(&mut self, around: &Surroundings) -> Backend {
        let directory = self.optional(
            settings::DATA_DIR,
            |text| Ok(PathBuf::from(text)),
            |path| path.display().to_string(),
        );
        let ephemeral = self.value(settings::EPHEMERAL, parse::switch, bool::to_string);
        let database = self.optional(settings::DATABASE_URL, Backend::of_url, |backend| match backend {
            Backend::Sqlite(directory) => format!("sqlite:{}", directory.display()),
            other => other.to_string(),
        });
        let choices = [
            (settings::DATA_DIR, directory.map(Backend::Sqlite)),
            (settings::EPHEMERAL, ephemeral.then_some(Backend::Ephemeral)),
            (settings::DATABASE_URL, database),
        ];
        let mut choices: Vec<(&Setting, Source, Backend)> = choices
            .into_iter()
            .filter_map(|(setting, backend)| Some((setting, self.source_of(setting), backend?)))
            .collect();
        choices.sort_by_key(|(_, source, _)| source.rank());
        let mut choices = choices.into_iter();
        let Some((chosen, source, backend)) = choices.next() else {
            return self.default_directory(around);
        };
        for (setting, other, _) in choices {
            if other.rank() == source.rank() {
                self.problems
                    .push(format!("{source} and {other} are both given: give one of them"));
            }
            self.note(
                setting,
                format!("not used: {} is given by {}", chosen.name, source.described()),
            );
        }
        backend
    }

    /// The Redis between replicas. A data directory has none: then it is left alone, since it may be in the environment for others.
    fn redis_url(&mut self, backend: &Backend) -> Option<SecretUrl> {
        let url = self.optional(settings::REDIS_URL, redis_url, SecretUrl::to_string)?;
        if matches!(backend, Backend::Postgres(_)) {
            return Some(url);
        }
        let source = self.source_of(settings::REDIS_URL);
        self.warnings.push(format!(
            "{source} is not used: it is for servers that share a Postgres database"
        ));
        self.note(settings::REDIS_URL, "not used: the data is not in Postgres".to_owned());
        None
    }

    fn default_directory(&mut self, around: &Surroundings) -> Backend {
        let given_but_wrong = [settings::DATA_DIR, settings::DATABASE_URL]
            .iter()
            .any(|setting| self.given.get(setting.name).is_some_and(|given| !given.is_empty()));
        let Some(usual) = Backend::usual(around) else {
            if !given_but_wrong {
                let problem = "neither HOME nor XDG_DATA_HOME is set: give --data-dir DIR, or --ephemeral";
                self.problems.push(problem.to_owned());
            }
            return Backend::Ephemeral;
        };
        if let Some(line) = self.lines.iter_mut().find(|line| line.name == settings::DATA_DIR.name) {
            line.value = usual.to_string();
        }
        usual
    }

    fn note(&mut self, setting: &Setting, note: String) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.name == setting.name) {
            line.notes.push(note);
        }
    }
}

impl Given {
    /// Whether nothing says which of two is meant: a value, and a file with the value.
    fn rivals(&self, other: &Given) -> bool {
        let is_alias =
            |given: &Given| matches!(&given.source, Source::Variable(name) if !name.starts_with("DRUMLINE_"));
        self.source.rank() == other.source.rank() && self.from_file != other.from_file && !is_alias(other)
    }
}

impl Backend {
    /// Where a database's URL says that the data is.
    ///
    /// # Errors
    /// What is wrong with it. The URL itself is not repeated: it may hold a password.
    pub fn of_url(text: &str) -> Result<Backend, String> {
        if let Some(directory) = text.strip_prefix("sqlite:") {
            let directory = directory.strip_prefix("//").unwrap_or(directory);
            if directory.is_empty() {
                return Err("sqlite: must be followed by a directory".to_owned());
            }
            return Ok(Backend::Sqlite(directory.into()));
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Postgres::check_url(text)?;
            return Ok(Backend::Postgres(SecretUrl::new(text)));
        }
        Err("must be sqlite:DIR or postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned())
    }

    /// Where the data is if nobody says otherwise: under the user's data home, if there is one.
    pub fn usual(around: &Surroundings) -> Option<Backend> {
        let home = || around.get("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        let data = around.get("XDG_DATA_HOME").map(PathBuf::from).or_else(home)?;
        Some(Backend::Sqlite(data.join("drumline")))
    }
}

fn redis_url(text: &str) -> Result<SecretUrl, String> {
    crate::bus::check_url(text).map_err(|error| error.to_string())?;
    Ok(SecretUrl::new(text))
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backend::Ephemeral => f.write_str("nowhere: it is gone when the server stops"),
            Backend::Sqlite(directory) => write!(f, "{}", directory.display()),
            Backend::Postgres(url) => write!(f, "{url}"),
        }
    }
}
