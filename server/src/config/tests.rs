use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, FromArgMatches};

use super::*;

/// The flags of a command line.
fn flags(line: &[&str]) -> Flags<ALL> {
    let command = Flags::<ALL>::augment_args(clap::Command::new("drumline"));
    let matches = command.try_get_matches_from(["drumline"].iter().chain(line));
    Flags::from_arg_matches(&matches.expect("a command line")).expect("flags")
}

/// What holds, with a home.
fn reading(line: &[&str], variables: &[(&str, &str)]) -> Result<Reading, Problems> {
    let home = ("HOME", "/users/somebody");
    read(&flags(line), &Surroundings::of(variables.iter().copied().chain([home])))
}

fn well(line: &[&str], variables: &[(&str, &str)]) -> Reading {
    reading(line, variables).unwrap_or_else(|problems| panic!("{line:?} {variables:?}: {problems}"))
}

fn problems(line: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    reading(line, variables).expect_err("something is wrong").0
}

fn line<'a>(reading: &'a Reading, name: &str) -> &'a Line {
    reading.lines.iter().find(|line| line.name == name).expect(name)
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("drumline.toml");
    std::fs::write(&path, text).expect("written");
    (directory, path)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn without_a_word_everything_is_as_the_rooms_have_it() {
    let reading = well(&[], &[]);
    assert_eq!(reading.config.policy, Policy::default());
    assert_eq!(
        reading.config.backend,
        Backend::Sqlite("/users/somebody/.local/share/drumline".into())
    );
    assert_eq!(reading.config.listen.to_string(), "127.0.0.1:7400");
    assert_eq!(reading.config.max_connection_age, None);
    assert_eq!(reading.config.redis_url, None);
    let names: Vec<&str> = reading.lines.iter().map(|line| line.name).collect();
    let all: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(names, all, "every setting is shown once, in order");
    assert!(
        reading
            .lines
            .iter()
            .all(|line| line.source == "default" && line.notes.is_empty())
    );
    // What is shown can be given.
    for setting in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
        assert_eq!(line(&reading, setting.name).value, setting.default);
    }
    assert!(reading.warnings.is_empty());
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let (_directory, path) = file("lock-ttl = \"1m\"\ntask_timeout = 7\nlisten = '127.0.0.1:1'\naccept-timeout = '3s'");
    let environment = [
        ("DRUMLINE_CONFIG", text(&path)),
        ("DRUMLINE_LOCK_TTL", "2m"),
        ("DRUMLINE_TASK_TIMEOUT", "8"),
    ];
    let reading = well(&["--lock-ttl", "3m"], &environment);
    let defaults = &reading.config.policy.defaults;
    assert_eq!(defaults.lock_ttl, Duration::from_secs(180));
    assert_eq!(defaults.task_timeout, Duration::from_secs(8));
    assert_eq!(defaults.accept_timeout, Duration::from_secs(3));
    let lock = line(&reading, "lock-ttl");
    assert_eq!((lock.value.as_str(), lock.source.as_str()), ("3m", "flag --lock-ttl"));
    let others = [
        "environment DRUMLINE_LOCK_TTL is not used".to_owned(),
        format!("file {}:1:lock-ttl is not used", path.display()),
    ];
    assert_eq!(lock.notes, others);
    assert_eq!(
        line(&reading, "task-timeout").source,
        "environment DRUMLINE_TASK_TIMEOUT"
    );
    assert_eq!(
        line(&reading, "listen").source,
        format!("file {}:3:listen", path.display())
    );
    // The flag names another file than the environment.
    let (_directory, other) = file("lock-ttl = 9");
    let reading = well(&["--config", text(&other)], &[("DRUMLINE_CONFIG", text(&path))]);
    assert_eq!(line(&reading, "lock-ttl").value, "9s");
}

#[test]
fn the_older_names_are_known_and_the_own_name_wins() {
    let older = [
        ("REDIS_URL", "redis://redis:6379"),
        ("STATE_DB_URL", "postgresql://user:pass@postgres:5432/workflow_state"),
        ("REGISTRY_HEARTBEAT_INTERVAL", "30"),
        ("LOCK_TIMEOUT", "200"),
        ("EVENT_TTL", "1800"),
        ("STATE_VERSION_RETENTION", "20"),
        ("MAX_CONCURRENT_DELEGATES", "6"),
        ("TASK_TIMEOUT", "900"),
    ];
    let check = |reading: &Reading| {
        let Policy {
            defaults, retention, ..
        } = &reading.config.policy;
        assert_eq!(defaults.session_ttl, Duration::from_secs(90), "three heartbeats");
        assert_eq!(defaults.lock_ttl, Duration::from_secs(200));
        assert_eq!(retention.events, Duration::from_secs(1_800));
        assert_eq!((defaults.state_versions, defaults.max_concurrent_delegates), (20, 6));
        assert_eq!(defaults.task_timeout, Duration::from_secs(900));
        assert_eq!(reading.config.redis_url.as_ref().expect("a URL").expose(), older[0].1);
        assert_eq!(reading.config.backend, Backend::Postgres(SecretUrl::new(older[1].1)));
    };
    let reading = well(&[], &older);
    check(&reading);
    assert_eq!(line(&reading, "lock-ttl").source, "environment LOCK_TIMEOUT");
    let lines: String = older
        .iter()
        .map(|(name, value)| format!("{name} = '{value}'\n"))
        .collect();
    let (_directory, path) = file(&lines);
    check(&well(&["--config", text(&path)], &[]));

    let both = [older[3], ("DRUMLINE_LOCK_TTL", "10s")];
    let reading = well(&[], &both);
    let lock = line(&reading, "lock-ttl");
    assert_eq!(
        (lock.value.as_str(), lock.source.as_str()),
        ("10s", "environment DRUMLINE_LOCK_TTL")
    );
    assert_eq!(lock.notes, ["environment LOCK_TIMEOUT is not used"]);
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_source_and_what_is_allowed() {
    let (_directory, path) = file("lock-tll = 5\nevent-retention = '1 hour'\n[limits]\nmax-payload-size = 1\n");
    let line = [
        "--config",
        text(&path),
        "--max-payload-size",
        "1MB",
        "--listen",
        "0.0.0.0:7400",
    ];
    let environment = [
        ("DRUMLINE_TASK_TIMEOUT", "0"),
        ("STATE_VERSION_RETENTION", "0"),
        ("DRUMLINE_LOG_FORMAT", "xml"),
        ("DRUMLINE_LOG_FILTER", "a=b=c"),
        ("DRUMLINE_MIGRATE", "never"),
        ("DRUMLINE_INSECURE", "maybe"),
    ];
    let problems = problems(&line, &environment);
    for (source, allowed) in [
        ("drumline.toml:1:lock-tll is no setting", "is lock-ttl meant?"),
        ("drumline.toml:3:limits is no setting", "not in sections"),
        ("drumline.toml:2:event-retention: ", "\"1 hour\" is no duration"),
        ("--max-payload-size: ", "from 1KiB to 1GiB"),
        ("--listen: 0.0.0.0:7400", "--insecure"),
        ("DRUMLINE_TASK_TIMEOUT: ", "from 1ms to 30d"),
        ("STATE_VERSION_RETENTION: ", "from 1 to 1000"),
        ("DRUMLINE_LOG_FORMAT: ", "auto, text or json"),
        ("DRUMLINE_LOG_FILTER: ", "info"),
        ("DRUMLINE_MIGRATE: ", "auto or check"),
        ("DRUMLINE_INSECURE: ", "true or false"),
    ] {
        let said = problems
            .iter()
            .any(|problem| problem.contains(source) && problem.contains(allowed));
        assert!(said, "{source} … {allowed} in {problems:#?}");
    }
    assert_eq!(problems.len(), 11, "{problems:#?}");
}

#[test]
fn a_file_that_is_not_there_or_no_toml_is_named() {
    assert!(problems(&["--config", "/no/such/file"], &[])[0].contains("/no/such/file"));
    let (_directory, path) = file("listen = '127.0.0.1:1'\ndatabase-url = 'postgres://u:hunter2@h/d\n");
    let problems = problems(&["--config", text(&path)], &[]);
    assert!(problems[0].contains("drumline.toml:2: "), "{problems:?}");
    assert!(!problems[0].contains("hunter2"), "{problems:?}");
    let (_directory, path) = file("lock-ttl = 1\nlock_ttl = 2\ntask-timeout = [1]\n");
    let problems = super::tests::problems(&["--config", text(&path)], &[]);
    assert!(
        problems.iter().any(|problem| problem.contains("given twice")),
        "{problems:?}"
    );
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("task-timeout: must be text")),
        "{problems:?}"
    );
}

#[test]
fn the_data_is_where_the_highest_of_three_settings_says() {
    let database = ("DRUMLINE_DATABASE_URL", "postgres://u:hunter2@h/d");
    let reading = well(&["--ephemeral"], &[database]);
    assert_eq!(reading.config.backend, Backend::Ephemeral);
    let other = line(&reading, "database-url");
    assert_eq!(other.value, "postgres://u:***@h/d");
    assert_eq!(other.notes, ["not used: ephemeral is given by flag --ephemeral"]);
    let reading = well(&["--data-dir", "/d"], &[database]);
    assert_eq!(reading.config.backend, Backend::Sqlite("/d".into()));
    let reading = well(
        &["--ephemeral=false"],
        &[("DRUMLINE_DATABASE_URL", "sqlite:///var/lib/d")],
    );
    assert_eq!(reading.config.backend, Backend::Sqlite("/var/lib/d".into()));
    assert_eq!(
        well(&[], &[("DRUMLINE_EPHEMERAL", "1")]).config.backend,
        Backend::Ephemeral
    );
    for line in [
        ["--ephemeral", "--data-dir", "d"],
        ["--ephemeral", "--database-url", "sqlite:d"],
    ] {
        assert!(problems(&line, &[])[0].contains("both given"), "{line:?}");
    }
    let nowhere = read(&flags(&[]), &Surroundings::default()).expect_err("no home");
    assert!(nowhere.to_string().contains("--data-dir"), "{nowhere}");
}

#[test]
fn secrets_come_from_files_too() {
    let (_directory, path) = file("postgres://u:hunter2@h/d\n");
    let reading = well(&[], &[("DRUMLINE_DATABASE_URL_FILE", text(&path))]);
    assert_eq!(
        reading.config.backend,
        Backend::Postgres(SecretUrl::new("postgres://u:hunter2@h/d"))
    );
    assert_eq!(line(&reading, "database-url").value, "postgres://u:***@h/d");
    let both = [
        ("DRUMLINE_REDIS_URL", "redis://h"),
        ("DRUMLINE_REDIS_URL_FILE", text(&path)),
    ];
    assert!(problems(&[], &both)[0].contains("both given"));
    let missing = problems(&["--database-url-file", "/no/such/file"], &[]);
    assert!(
        missing[0].starts_with("--database-url-file: ") && missing[0].contains("/no/such/file"),
        "{missing:?}"
    );
    // One that an older name gives is only not used.
    let reading = well(
        &[],
        &[
            ("DRUMLINE_DATABASE_URL_FILE", text(&path)),
            ("STATE_DB_URL", "sqlite:x"),
        ],
    );
    assert_eq!(
        line(&reading, "database-url").notes,
        ["environment STATE_DB_URL is not used"]
    );
}

#[test]
fn the_redis_of_replicas_is_left_alone_by_a_server_with_its_data_to_itself() {
    let redis = ("REDIS_URL", "redis://r:6379");
    let shared = well(&["--database-url", "postgres://u@h/d"], &[redis]);
    assert!(shared.config.redis_url.is_some() && shared.warnings.is_empty());
    let alone = well(&["--ephemeral"], &[redis]);
    assert_eq!(alone.config.redis_url, None);
    assert!(alone.warnings[0].contains("REDIS_URL"), "{:?}", alone.warnings);
    assert_eq!(
        line(&alone, "redis-url").notes,
        ["not used: the data is not in Postgres"]
    );
}

#[test]
fn no_password_is_in_anything_that_is_shown() {
    for url in [
        "postgres://u:hunter2@h/d",
        "postgres://u:hun@ter2@h/d",
        "postgres://u:hun/ter2@h/d",
        "postgres://u:hun?ter2@h/d",
        "postgres://h/d?password=hunter2&user=u",
        "redis://:hunter2@h:6379/0",
        "redis-sentinel://u:ter2@h:1?sentinelServiceName=m&sentinelPassword=hunter2",
        "hunter2",
        "postgres:u:hunter2@h",
        "://u:hunter2@h",
    ] {
        let secret = SecretUrl::new(url);
        for shown in [secret.to_string(), format!("{secret:?}")] {
            assert!(!shown.contains("ter2"), "{url} is shown as {shown}");
        }
        assert!(secret.has_secret());
        for name in ["database-url", "redis-url"] {
            let shown = match reading(&[&format!("--{name}"), url], &[]) {
                Ok(reading) => format!("{:?} {:?}", reading.lines, reading.config),
                Err(problems) => problems.to_string(),
            };
            assert!(!shown.contains("ter2"), "--{name} {url}: {shown}");
        }
    }
    for url in [
        "postgres://u@h/d",
        "redis://h:6379",
        "sqlite:/a/b",
        "postgres://h:5432/d?application_name=x",
    ] {
        assert_eq!(SecretUrl::new(url).to_string(), url);
        assert!(!SecretUrl::new(url).has_secret());
    }
}

#[test]
fn the_value_of_a_covered_flag_is_taken_from_the_environment() {
    let covered = ("DRUMLINE_DATABASE_URL__COVERED", "postgres://u:hunter2@h/d");
    let reading = well(&["--database-url", "postgres://u:***@h/d"], &[covered]);
    assert_eq!(reading.config.backend, Backend::Postgres(SecretUrl::new(covered.1)));
    assert_eq!(line(&reading, "database-url").source, "flag --database-url");
    assert!(reading.warnings.is_empty(), "{:?}", reading.warnings);
    // It is of that flag only.
    let reading = well(&["--database-url", "postgres://u@h/d"], &[covered]);
    assert_eq!(
        reading.config.backend,
        Backend::Postgres(SecretUrl::new("postgres://u@h/d"))
    );
}

#[test]
fn a_variable_that_looks_misspelt_is_pointed_out_and_others_are_left_alone() {
    let around = [
        ("DRUMLINE_DATABSE_URL", "x"),
        ("DRUMLINE_SERVER", "x"),
        ("DRUMLINE_SERVICE_HOST", "10.0.0.1"),
        ("DRUMLINE_PORT_7400_TCP_ADDR", "10.0.0.1"),
        ("DRUMLINE_TEST_POSTGRES", "x"),
        ("DRUMLINE_LOCK_TTL", ""),
    ];
    let warnings = well(&[], &around).warnings;
    assert_eq!(
        warnings,
        ["DRUMLINE_DATABSE_URL is no setting: is DRUMLINE_DATABASE_URL meant?"]
    );
}

#[test]
fn values_are_read_as_people_write_them() {
    let reading = well(
        &[
            "--max-payload-size",
            "512KiB",
            "--max-message-size=1048576",
            "--max-connection-age",
            "1h",
            "--insecure",
        ],
        &[
            ("DRUMLINE_LISTEN", "[::]:7400"),
            ("RUST_LOG", "warn,drumline_server::lane=debug"),
        ],
    );
    let Config {
        policy, listen, log, ..
    } = &reading.config;
    assert_eq!(
        (policy.limits.max_payload_bytes, policy.limits.max_message_bytes),
        (512 << 10, 1 << 20)
    );
    assert_eq!(reading.config.max_connection_age, Some(Duration::from_secs(3_600)));
    assert_eq!(listen.to_string(), "[::]:7400");
    assert_eq!(log.filter, "warn,drumline_server::lane=debug");
    assert_eq!(line(&reading, "max-message-size").value, "1MiB");
    assert_eq!(line(&reading, "insecure").value, "true");
    let problems = problems(&["--max-message-size", "1MiB"], &[]);
    assert!(problems[0].contains("max-payload-size"), "{problems:?}");
    assert_eq!(
        well(&["--listen", "localhost:80"], &[]).config.listen.to_string(),
        "127.0.0.1:80"
    );
}
