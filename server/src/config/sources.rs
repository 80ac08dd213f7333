//! Where values come from: flags, environment, file. Here they are text, with their origin; what they mean is for `read.rs`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use toml::de::{DeTable, DeValue};

use super::secret::SecretUrl;
use super::settings::{Kind, Part, SETTINGS, Setting, variable};

/// An unknown name may be a known one with one slip for so many letters.
const SLIPS: usize = 4;
/// The largest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// Flags for every setting.
pub const ALL: bool = true;
/// Flags for where the data is, alone. The rest is still read from environment and file.
pub const DATA: bool = false;

/// The flags that were given.
#[derive(Clone, Debug, Default)]
pub struct Flags<const WHOLE: bool> {
    config: Option<PathBuf>,
    given: BTreeMap<&'static str, String>,
}

impl<const WHOLE: bool> Flags<WHOLE> {
    fn settings() -> impl Iterator<Item = &'static Setting> {
        let of_data =
            |setting: &&Setting| setting.part == Part::Data && !["ephemeral", "migrate"].contains(&setting.name);
        SETTINGS
            .iter()
            .copied()
            .filter(move |setting| WHOLE || of_data(setting) && setting.name != "redis-url")
    }
}

impl<const WHOLE: bool> clap::FromArgMatches for Flags<WHOLE> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = BTreeMap::new();
        let mut take = |name: &'static str| {
            if let Some(text) = matches.get_one::<String>(name) {
                given.insert(name, text.clone());
            }
        };
        for setting in Self::settings() {
            take(setting.name);
            if setting.kind == Kind::Secret {
                take(setting.file_name);
            }
        }
        Ok(Flags {
            config: matches.get_one::<PathBuf>("config").cloned(),
            given,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Flags::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<const WHOLE: bool> clap::Args for Flags<WHOLE> {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Read settings from this TOML file, by the names of the flags [env: DRUMLINE_CONFIG]");
        let mut command = command.arg(config.help_heading("Configuration"));
        for setting in Self::settings() {
            let heading = setting.part.heading();
            let mut help = format!("{} [env: {}]", setting.help, setting.variable());
            if !setting.default.is_empty() && setting.kind != Kind::Switch {
                help.push_str(&format!(" [default: {}]", setting.default));
            }
            let arg = Arg::new(setting.name)
                .long(setting.name)
                .help(help)
                .help_heading(heading);
            command = command.arg(match setting.kind {
                Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                Kind::Plain | Kind::Secret => arg.value_name(setting.value_name),
            });
            if setting.kind == Kind::Secret {
                let name = setting.file_name;
                let help = format!("Read --{} from this file [env: {}]", setting.name, variable(name));
                let arg = Arg::new(name).long(name).value_name("FILE").help(help);
                command = command.arg(arg.help_heading(heading));
            }
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// What is around the process: its environment.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    variables: BTreeMap<String, OsString>,
}

impl Surroundings {
    /// The environment of this process.
    pub fn of_this_process() -> Surroundings {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Surroundings {
            variables: variables.collect(),
        }
    }

    /// These variables.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Surroundings {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Surroundings {
            variables: variables.collect(),
        }
    }

    /// A variable, unless it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&OsString> {
        self.variables.get(name).filter(|value| !value.is_empty())
    }

    /// The names of variables that look like a misspelt setting, with what they may have been meant to be.
    fn misspelt(&self) -> Vec<String> {
        let known: Vec<String> = names().map(variable).collect();
        let ours = self.variables.keys().filter(|name| name.starts_with("DRUMLINE_"));
        // What other commands, and who runs them, have for themselves.
        let others = [
            "DRUMLINE_SERVER",
            "DRUMLINE_NAMESPACE",
            "DRUMLINE_SESSION_ID",
            "DRUMLINE_CONFIG",
        ];
        let covers = |name: &&String| !name.ends_with("__COVERED");
        ours.filter(covers)
            .filter(|name| !known.contains(name) && !others.contains(&name.as_str()))
            .filter_map(|name| Some(format!("{name} is no setting: is {} meant?", nearest(name, &known)?)))
            .collect()
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Flag(&'static str),
    Variable(String),
    File { path: PathBuf, line: usize, key: String },
    Default,
}

impl Source {
    /// Flags before the environment before the file.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Source::Flag(_) => 0,
            Source::Variable(_) => 1,
            Source::File { .. } => 2,
            Source::Default => 3,
        }
    }

    /// For `drumline config`.
    pub(super) fn described(&self) -> String {
        match self {
            Source::Flag(_) => format!("flag {self}"),
            Source::Variable(_) => format!("environment {self}"),
            Source::File { .. } => format!("file {self}"),
            Source::Default => "default".to_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(name) => write!(f, "--{name}"),
            Source::Variable(name) => f.write_str(name),
            Source::File { path, line, key } => write!(f, "{}:{line}:{key}", path.display()),
            Source::Default => f.write_str("the default"),
        }
    }
}

/// A value that was given, or why it cannot be had.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) text: Result<String, String>,
    pub(super) source: Source,
    /// Whether it was given for a file that has the value.
    pub(super) from_file: bool,
}

/// All that was given, and what is wrong with it as a whole.
pub(super) struct Found {
    pub(super) given: BTreeMap<&'static str, Vec<Given>>,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Looks for every setting, in order of precedence.
pub(super) fn find<const WHOLE: bool>(flags: &Flags<WHOLE>, around: &Surroundings) -> Found {
    let mut problems = Vec::new();
    let variable_of_file = around.get("DRUMLINE_CONFIG").map(PathBuf::from);
    let path = flags.config.clone().or(variable_of_file);
    let file = path.map_or_else(File::default, |path| File::read(&path, &mut problems));
    let mut given = BTreeMap::new();
    for setting in SETTINGS {
        given.insert(setting.name, of_setting(setting, flags, around, &file));
    }
    Found {
        given,
        problems,
        warnings: around.misspelt(),
    }
}

fn of_setting<const WHOLE: bool>(
    setting: &'static Setting,
    flags: &Flags<WHOLE>,
    around: &Surroundings,
    file: &File,
) -> Vec<Given> {
    let in_a_file = setting.is_secret().then_some((setting.file_name, true));
    let names: Vec<(&str, bool)> = [(setting.name, false)].into_iter().chain(in_a_file).collect();
    let aliases = setting.aliases.iter().map(|alias| (*alias, false));

    let mut all: Vec<Given> = Vec::new();
    let mut add = |text: Result<String, String>, source: Source, from_file: bool| {
        let text = if from_file {
            text.and_then(|path| content(Path::new(&path)))
        } else {
            text
        };
        all.push(Given {
            text,
            source,
            from_file,
        });
    };
    for (name, from_file) in &names {
        if let Some(text) = flags.given.get(name) {
            add(Ok(uncovered(setting, text, around)), Source::Flag(name), *from_file);
        }
    }
    let variables = names.iter().map(|(name, from_file)| (variable(name), *from_file));
    let older = aliases.clone().map(|(alias, from_file)| (alias.to_owned(), from_file));
    for (name, from_file) in variables.chain(older) {
        if let Some(value) = around.get(&name) {
            let text = value
                .to_str()
                .map(str::to_owned)
                .ok_or_else(|| "is not UTF-8".to_owned());
            add(text, Source::Variable(name), from_file);
        }
    }
    // Another name may be the setting's own, but for its case.
    let others = aliases.filter(|(alias, _)| normal(alias) != setting.name);
    for (name, from_file) in names.into_iter().chain(others) {
        if let Some(entry) = file.entries.get(&normal(name)) {
            let source = Source::File {
                path: file.path.clone(),
                line: entry.line,
                key: entry.key.clone(),
            };
            add(entry.text.clone(), source, from_file);
        }
    }
    all
}

/// The value of a flag. One with a password was covered on the command line, where every user of the machine can read it, and is in
/// the environment instead.
fn uncovered(setting: &Setting, text: &str, around: &Surroundings) -> String {
    let covered = around.get(&setting.covered_variable()).and_then(|value| value.to_str());
    match covered.map(SecretUrl::new) {
        Some(url) if url.to_string() == text => url.expose().to_owned(),
        _ => text.to_owned(),
    }
}

/// What is in a file that holds one value; without the end of its line.
fn content(path: &Path) -> Result<String, String> {
    let text = read_file(path).map_err(|error| format!("cannot be read: {error}"))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(text.to_owned())
}

fn read_file(path: &Path) -> Result<String, String> {
    let of = |error: std::io::Error| format!("{}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(of)?.len();
    if size > MAX_FILE {
        return Err(format!("{} is larger than 1 MiB", path.display()));
    }
    std::fs::read_to_string(path).map_err(of)
}

/// A configuration file.
#[derive(Default)]
struct File {
    path: PathBuf,
    /// By their names in lower case with dashes.
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    key: String,
    line: usize,
    text: Result<String, String>,
}

impl File {
    fn read(path: &Path, problems: &mut Vec<String>) -> File {
        let mut file = File {
            path: path.to_owned(),
            entries: BTreeMap::new(),
        };
        let text = match read_file(path) {
            Ok(text) => text,
            Err(error) => {
                problems.push(format!("the configuration file cannot be read: {error}"));
                return file;
            }
        };
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let table = match DeTable::parse(&text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                // Only what is wrong: the line itself may hold a password.
                let line = error.span().map_or(1, |span| line_of(span.start));
                problems.push(format!("{}:{line}: {}", path.display(), error.message()));
                return file;
            }
        };
        let known: Vec<String> = names().map(normal).chain(aliases().map(normal)).collect();
        for (key, value) in &table {
            let (name, line) = (normal(key.get_ref()), line_of(key.span().start));
            let at = format!("{}:{line}:{}", path.display(), key.get_ref());
            if !known.contains(&name) {
                let hint = match (value.get_ref(), nearest(&name, &known)) {
                    (DeValue::Table(_), _) => ": settings are not in sections".to_owned(),
                    (_, Some(near)) => format!(": is {near} meant?"),
                    _ => ": `drumline config` lists them".to_owned(),
                };
                problems.push(format!("{at} is no setting{hint}"));
                continue;
            }
            let entry = Entry {
                key: key.get_ref().to_string(),
                line,
                text: text_of(value.get_ref()),
            };
            if file.entries.insert(name, entry).is_some() {
                problems.push(format!("{at} is given twice"));
            }
        }
        file
    }
}

fn text_of(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) if text.is_empty() => Err("is empty".to_owned()),
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Integer(value) if value.radix() == 10 => Ok(value.as_str().replace('_', "")),
        DeValue::Float(value) => Ok(value.as_str().to_owned()),
        _ => Err("must be text in quotes, a decimal number, true or false".to_owned()),
    }
}

/// A name in lower case with dashes.
fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Every name that a setting has of its own.
fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().flat_map(|setting| {
        let file = setting.is_secret().then_some(setting.file_name);
        [setting.name].into_iter().chain(file)
    })
}

fn aliases() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().flat_map(|setting| setting.aliases.iter().copied())
}

/// The known name that is most like this one, if it can be a slip of the keyboard.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let word = |name: &str| normal(name).trim_start_matches("drumline-").to_owned();
    let name = word(name);
    let slips = |known: &&String| strsim::damerau_levenshtein(&name, &word(known));
    let best = known.iter().min_by_key(slips)?;
    (slips(&best) * SLIPS <= name.chars().count()).then_some(best)
}
