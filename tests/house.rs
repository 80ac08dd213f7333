//! The house check: who may import what, where SQL may be, and what may not be left behind. It reads the sources, so that it holds for
//! files that nobody thought of. Each failure says what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

/// The rooms.
const ROOMS: [&str; 7] = ["registry", "sessions", "events", "locks", "state", "tasks", "workflows"];
/// The files of a room that decide, by the beginning of their names: pure functions.
const RULES: [&str; 4] = ["rules", "dispatch", "plan", "expr"];
/// The files of a room that speak protobuf, by the beginning of their names: its doors. `edge` and `cli` are doors as a whole.
const DOORS: [&str; 5] = ["rpc", "connect", "subscribe", "watch", "list"];
/// What rules may take from the store: how rows look, and what is deleted in bulk.
const OF_THE_STORE: [&str; 2] = ["row", "Trim"];

struct Source {
    /// Its path in the repository, with `/`.
    path: String,
    /// Its whole text.
    text: String,
    /// Its code: no comments, and nothing of its tests.
    code: String,
    /// The paths that its code names, those of a `use` one by one.
    paths: BTreeSet<String>,
}

impl Source {
    /// Its path in `server/src`, if it is there.
    fn in_server(&self) -> Option<&str> {
        self.path.strip_prefix("server/src/")
    }

    /// Its first folder or file in `server/src`.
    fn room(&self) -> &str {
        let path = self.in_server().unwrap_or_default();
        path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Whether it is a room's, and the file or folder below the room begins with one of these.
    fn is_a_rooms(&self, beginnings: &[&str]) -> bool {
        let Some((room, rest)) = self.in_server().and_then(|path| path.split_once('/')) else {
            return false;
        };
        let name = rest.split(['/', '.']).next().unwrap_or_default();
        let is = |beginning: &&str| {
            name.strip_prefix(*beginning)
                .is_some_and(|end| end.is_empty() || end.starts_with('_'))
        };
        ROOMS.contains(&room) && beginnings.iter().any(is)
    }

    fn is_rules(&self) -> bool {
        self.is_a_rooms(&RULES)
    }

    fn is_door(&self) -> bool {
        self.is_a_rooms(&DOORS) || ["edge", "cli"].contains(&self.room())
    }

    /// Whether it is nothing but tests, by its name.
    fn is_test(&self) -> bool {
        let name = self.path.trim_end_matches(".rs");
        let is_simulation = self.room() == "sim" || self.path.contains("/simulated");
        is_simulation || name.ends_with("tests") || self.path.contains("/tests/") || self.path.starts_with("tests/")
    }

    /// Those of the paths that its code names which lie under one of these.
    fn names(&self, paths: &[&str]) -> Vec<&String> {
        let under = |named: &str, path: &str| {
            named
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let is_named = |named: &&String| paths.iter().any(|path| under(named, path));
        self.paths.iter().filter(is_named).collect()
    }
}

/// Every Rust source of the repository.
static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let mut sources = Vec::new();
    for folder in ["server", "sdk-rust", "tests", "proto", "examples"] {
        for path in files_under(&root().join(folder)) {
            if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source in UTF-8");
                let path = path.strip_prefix(root()).expect("under the root");
                let code = code_of(&text);
                sources.push(Source {
                    path: path.to_str().expect("a path in UTF-8").replace('\\', "/"),
                    paths: paths_of(&code),
                    code,
                    text,
                });
            }
        }
    }
    assert!(sources.len() > 50, "the sources are not where the house check looks");
    sources
});

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_under(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// A text without its comments, up to the tests at its end.
fn code_of(text: &str) -> String {
    static COMMENT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(^|\s)//.*$").expect("a pattern"));
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end]
        .lines()
        .map(|line| COMMENT.replace(line, ""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The paths that a code names.
fn paths_of(code: &str) -> BTreeSet<String> {
    static PATH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+(::\w+)*").expect("a pattern"));
    static USE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\buse\s+([^;]+);").expect("a pattern"));
    let mut paths: BTreeSet<String> = PATH.find_iter(code).map(|path| path.as_str().to_owned()).collect();
    for (_, [tree]) in USE.captures_iter(code).map(|found| found.extract()) {
        let tree: String = tree.replace(" as ", "::").split_whitespace().collect();
        expand("", &tree, &mut paths);
    }
    paths
}

/// The paths of `a::{b, c::{d, e}}`.
fn expand(prefix: &str, tree: &str, paths: &mut BTreeSet<String>) {
    let (mut depth, mut begin) = (0, 0);
    for (at, letter) in tree.char_indices().chain([(tree.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branch = &tree[begin..at];
                begin = at + 1;
                match branch.split_once('{') {
                    Some((stem, group)) => {
                        let group = group.strip_suffix('}').unwrap_or(group);
                        expand(&format!("{prefix}{stem}"), group, paths);
                    }
                    None => {
                        paths.insert(format!("{prefix}{branch}"));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Fails with every fault at once, and with what to do about them.
fn assert_none(faults: Vec<String>, what_to_do: &str) {
    assert!(faults.is_empty(), "{what_to_do}\n  {}", faults.join("\n  "));
}

/// Faults of the sources that `concerns` picks: those that name any of these paths.
fn naming(paths: &[&str], concerns: impl Fn(&Source) -> bool) -> Vec<String> {
    let sources = SOURCES.iter().filter(|source| !source.is_test() && concerns(source));
    sources
        .flat_map(|source| {
            let named = source.names(paths).into_iter();
            named.map(|name| format!("{} names {name}", source.path))
        })
        .collect()
}

#[test]
fn rules_know_no_transport_no_driver_no_clock_and_no_chance() {
    assert!(SOURCES.iter().filter(|source| source.is_rules()).count() > 7);
    let forbidden = [
        "tonic",
        "prost",
        "prost_types",
        "drumline_proto",
        "tokio",
        "tokio_postgres",
        "deadpool_postgres",
        "rusqlite",
        "fred",
        "rand",
        "std::time::Instant",
        "std::time::SystemTime",
    ];
    let mut faults = naming(&forbidden, Source::is_rules);
    let clocks = SOURCES
        .iter()
        .filter(|source| source.is_rules() && !source.is_test() && source.code.contains("of_this_machine"));
    faults.extend(clocks.map(|source| format!("{} reads the clock", source.path)));
    assert_none(
        faults,
        "Rules are pure: take time from `world.now()`, ids from `world.new_id()`, and leave messages to the room's `rpc.rs`.",
    );
}

#[test]
fn time_chance_and_tasks_come_from_the_machine() {
    let direct = [
        "std::time::Instant",
        "std::time::SystemTime",
        "rand",
        "tokio::select",
        "tokio::spawn",
        "tokio::task::spawn",
        "tokio::task::spawn_blocking",
        "tokio::runtime::Handle",
        "uuid::Uuid::now_v7",
        "uuid::Uuid::new_v4",
    ];
    let outside = ["bus", "cli", "machine", "store", "main"];
    let mut faults = naming(&direct, |source| {
        source.in_server().is_some() && !outside.contains(&source.room()) && source.path != "server/src/edge/server.rs"
    });
    // A gap is where two clocks disagree, so it has to name both.
    faults.retain(|fault| fault != "server/src/sessions/gap.rs names std::time::SystemTime");
    assert_none(
        faults,
        "Above the store's seam, clocks, chance and tasks come from `crate::machine`, so that the simulation runs the same code.",
    );
}

#[test]
fn rules_take_nothing_from_the_edge_the_tail_or_the_store_but_rows() {
    let mut faults = naming(
        &[
            "crate::edge",
            "crate::tail",
            "crate::app",
            "crate::bus",
            "crate::cli",
            "crate::sweep",
        ],
        Source::is_rules,
    );
    let of_the_store = naming(&["crate::store"], Source::is_rules);
    faults.extend(of_the_store.into_iter().filter(|fault| {
        let allowed = |item: &&str| fault.contains(&format!("crate::store::{item}"));
        !OF_THE_STORE.iter().any(allowed) && !fault.ends_with("crate::store")
    }));
    assert_none(
        faults,
        "No arrow runs backwards: rules see the `World` alone. Read in the room's `rpc.rs`, or through the tables of the world.",
    );
}

#[test]
fn only_doors_speak_protobuf() {
    let faults = naming(&["drumline_proto", "prost_types"], |source| {
        source.in_server().is_some() && !source.is_door()
    });
    assert_none(
        faults,
        "Only doors import generated types: a room's rpc, connect, subscribe, watch or list files, `edge/` and `cli/`. Give the others \
         the types of the room.",
    );
}

#[test]
fn only_the_store_speaks_to_databases() {
    let drivers = ["rusqlite", "tokio_postgres", "deadpool_postgres", "postgres_types"];
    let outside = |source: &Source| source.in_server().is_some() && source.room() != "store";
    let mut faults = naming(&drivers, outside);
    let sql = Regex::new(
        r#""[\s\\]*(SELECT\s|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+(TABLE|INDEX)|BEGIN\b|COMMIT\b|ROLLBACK\b|PRAGMA\s)"#,
    )
    .expect("a pattern");
    for source in SOURCES.iter().filter(|source| outside(source) && !source.is_test()) {
        for found in sql.find_iter(&source.code) {
            faults.push(format!("{} has SQL: {}", source.path, found.as_str().trim()));
        }
    }
    assert_none(
        faults,
        "SQL and drivers belong in `server/src/store`: describe the table with `row!` in the room's `store.rs`, and read through `Store`.",
    );
}

#[test]
fn the_store_knows_no_rules_and_no_doors() {
    let mut forbidden: Vec<String> = ["crate::edge", "crate::tail", "crate::app", "tonic"]
        .map(str::to_owned)
        .into();
    for room in ROOMS {
        forbidden.extend(["rules", "rpc"].map(|door| format!("crate::{room}::{door}")));
    }
    let forbidden: Vec<&str> = forbidden.iter().map(String::as_str).collect();
    let faults = naming(&forbidden, |source| source.room() == "store");
    assert_none(
        faults,
        "The store keeps rows and decides nothing: move what decides to the room's rules.",
    );
}

/// The tables of a folder of migrations, with their columns.
fn tables_of(backend: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let create =
        Regex::new(r"(?is)CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)\s*\((.*?)\n\s*\)[^;]*;").expect("a pattern");
    let add = Regex::new(r"(?i)ALTER\s+TABLE\s+(\w+)\s+ADD\s+(?:COLUMN\s+)?(?:IF\s+NOT\s+EXISTS\s+)?(\w+)")
        .expect("a pattern");
    let comment = Regex::new(r"(?m)--.*$").expect("a pattern");
    for file in migrations_of(backend) {
        let text =
            fs::read_to_string(root().join("migrations").join(backend).join(file)).expect("a migration in UTF-8");
        let text = comment.replace_all(&text, "");
        for (_, [table, body]) in create.captures_iter(&text).map(|found| found.extract()) {
            let columns = body.lines().filter_map(|line| line.split_whitespace().next());
            let is_column = |word: &&str| {
                let constraints = ["PRIMARY", "CONSTRAINT", "UNIQUE", "FOREIGN", "CHECK", "EXCLUDE"];
                !constraints.contains(&word.trim_end_matches(',').to_uppercase().as_str())
            };
            tables
                .entry(table.to_owned())
                .or_default()
                .extend(columns.filter(is_column).map(str::to_owned));
        }
        for (_, [table, column]) in add.captures_iter(&text).map(|found| found.extract()) {
            tables.entry(table.to_owned()).or_default().insert(column.to_owned());
        }
    }
    tables
}

fn migrations_of(backend: &str) -> BTreeSet<String> {
    let files = files_under(&root().join("migrations").join(backend));
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    files.iter().filter_map(name).collect()
}

#[test]
fn both_stores_have_the_same_migrations_tables_and_columns() {
    let (postgres, sqlite) = (migrations_of("postgres"), migrations_of("sqlite"));
    assert_eq!(
        postgres, sqlite,
        "Every migration is there for both stores, under the same name."
    );
    assert!(!sqlite.is_empty(), "the migrations are not where the house check looks");
    let (postgres, sqlite) = (tables_of("postgres"), tables_of("sqlite"));
    assert!(
        sqlite.len() > 10 && sqlite.values().all(|columns| !columns.is_empty()),
        "{sqlite:?}"
    );
    assert_eq!(
        postgres, sqlite,
        "Both stores have the same tables with the same columns."
    );
}

#[test]
fn files_are_short_enough_to_be_read() {
    let long: Vec<String> = SOURCES
        .iter()
        .map(|source| (source.text.lines().count(), &source.path))
        .filter(|(lines, _)| *lines > 500)
        .map(|(lines, path)| format!("{path} has {lines} lines"))
        .collect();
    assert!(
        long.len() * 20 <= SOURCES.len(),
        "{} of {} files have over 500 lines, at most 5 % may: split by sub-noun, never by layer.\n  {}",
        long.len(),
        SOURCES.len(),
        long.join("\n  ")
    );
}

#[test]
fn nothing_is_left_to_be_done() {
    let marks = ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "TODO", "XXX"];
    // What a program says of others is no mark of its own.
    let literal = Regex::new(r#""(\\.|[^"\\])*""#).expect("a pattern");
    let mut faults = Vec::new();
    // The demo's review looks for these marks in the code of others, and its test gives it some to find.
    let looks_for_them = |path: &str| path.starts_with("server/src/cli/demo/review/") || path == "tests/demo.rs";
    for source in SOURCES.iter().filter(|source| !looks_for_them(&source.path)) {
        for (number, line) in source.text.lines().enumerate() {
            let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) else {
                continue;
            };
            if literal.replace_all(line, "").contains(*mark) {
                faults.push(format!("{}:{} has {mark}", source.path, number + 1));
            }
        }
    }
    assert_none(
        faults,
        "Finish it, or take it out: what is there works, and every test runs.",
    );
}

#[test]
fn nothing_knows_the_machine_that_it_was_written_on() {
    let path = Regex::new(r#"["\s(]/(work|home|root|Users)/"#).expect("a pattern");
    let of_a_machine = SOURCES.iter().filter(|source| path.is_match(&source.code));
    let faults = of_a_machine.map(|source| source.path.clone()).collect();
    assert_none(
        faults,
        "Take paths from arguments, the environment or `CARGO_MANIFEST_DIR`.",
    );
}
