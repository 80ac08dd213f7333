//! Postgres servers of a test's own, to be killed, stopped, filled and failed over.
//!
//! A data directory is made once for all tests and copied for each, since making one costs seconds. Postgres refuses to run as root: then
//! it runs as the user `postgres`, or as nobody.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio_postgres::{Client, NoTls};

use super::keeper::{Kept, Place, can_look_at_processes, children_of, send};
use super::server::lasting_address;

/// How long a server may take to start or to stop. It may have to recover.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the programs are; nothing if the tests were given none.
pub fn programs() -> Option<PathBuf> {
    let directory = std::env::var_os("DRUMLINE_TEST_PG_BINDIR").filter(|directory| !directory.is_empty());
    directory.map(PathBuf::from).filter(|_| can_look_at_processes())
}

/// A server of a test's own. It goes with the value.
pub struct Postgres {
    process: Option<Kept>,
    place: Place,
    address: String,
    settings: Vec<String>,
}

impl Postgres {
    /// Starts a primary with an empty database.
    pub async fn start() -> Postgres {
        Postgres::start_in(Place::new(), &[]).await
    }

    /// Starts a primary with an empty database in a directory, with settings.
    pub async fn start_in(place: Place, settings: &[&str]) -> Postgres {
        let mut postgres = Postgres::at(place);
        postgres
            .settings
            .extend(settings.iter().map(|&setting| setting.to_owned()));
        copy(&TEMPLATE.path().join("data"), &postgres.data());
        postgres.go().await;
        postgres
    }

    /// Starts a standby that follows this primary, which it reaches at an address.
    pub async fn standby(&self, address: &str) -> Postgres {
        let mut standby = Postgres::at(Place::new());
        own(standby.place.path());
        let (host, port) = address.split_once(':').expect("an address");
        let data = standby.data();
        let arguments = [
            "-h", host, "-p", port, "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "-D",
        ];
        let mut command = as_owner(&program("pg_basebackup"));
        command.extend(arguments.map(str::to_owned));
        command.push(data.to_str().expect("a path in UTF-8").to_owned());
        run(&command);
        standby.go().await;
        let began = Instant::now();
        while self
            .ask("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
            .await
            == "0"
        {
            assert!(began.elapsed() < PATIENCE, "the standby does not follow");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        standby
    }

    fn at(place: Place) -> Postgres {
        Postgres {
            process: None,
            place,
            address: lasting_address(),
            settings: Vec::new(),
        }
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// Where it listens: a host and a port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address)
    }

    /// What it has printed.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    fn process(&self) -> &Kept {
        self.process.as_ref().expect("it was started")
    }

    /// Whether it has not ended.
    pub fn runs(&self) -> bool {
        self.process.as_ref().is_some_and(Kept::runs)
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.process().is_stopped()
    }

    /// Starts it, on the same address if it was there before, and waits until it answers.
    pub async fn go(&mut self) {
        let (host, port) = self.address.split_once(':').expect("an address");
        let data = self.data();
        let mut command = as_owner(&program("postgres"));
        command.extend(["-D", data.to_str().expect("a path in UTF-8"), "-p", port].map(str::to_owned));
        let listen = format!("listen_addresses={host}");
        let fixed = [listen.as_str(), "unix_socket_directories=", "max_connections=200"];
        for setting in fixed.into_iter().chain(self.settings.iter().map(String::as_str)) {
            command.extend(["-c".to_owned(), setting.to_owned()]);
        }
        self.process = None;
        self.process = Some(Kept::start(&command, &self.place.path().join("log")));
        let began = Instant::now();
        while let Err(error) = self.connect().await {
            let goes_on = self.runs() && began.elapsed() < PATIENCE;
            assert!(goes_on, "Postgres does not start: {error}\n{}", self.printed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it and its children with -9.
    pub fn kill(&mut self) {
        let process = self.process();
        // So that it starts no other meanwhile.
        process.signal(Signal::STOP);
        for child in children_of(process.pid()) {
            send(child, Signal::KILL);
        }
        process.kill();
    }

    /// Stops it as an operator does who does not wait for clients.
    pub fn stop(&mut self) {
        self.process().signal(Signal::INT);
        self.process().ends();
    }

    /// Stops it and its children in the middle of whatever they do.
    pub fn pause(&self) {
        let process = self.process();
        process.signal(Signal::STOP);
        for child in children_of(process.pid()) {
            send(child, Signal::STOP);
        }
    }

    /// Lets them go on.
    pub fn resume(&self) {
        let process = self.process();
        for child in children_of(process.pid()) {
            send(child, Signal::CONT);
        }
        process.signal(Signal::CONT);
    }

    /// Makes a standby a primary.
    pub async fn promote(&self) {
        assert_eq!(self.ask("SELECT pg_is_in_recovery()::text").await, "true");
        assert_eq!(self.ask("SELECT pg_promote(true, 30)::text").await, "true");
    }

    /// From now on nothing is acknowledged before a standby has it too.
    pub async fn waits_for_a_standby(&self) {
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        self.execute("SELECT pg_reload_conf()").await;
        let began = Instant::now();
        while self
            .ask("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
            .await
            == "0"
        {
            assert!(began.elapsed() < PATIENCE, "no standby is synchronous");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs statements.
    pub async fn execute(&self, statements: &str) {
        let client = self.connect().await.expect("it answers");
        client.batch_execute(statements).await.expect("no error");
    }

    /// The one value that a query gives, as text.
    pub async fn ask(&self, query: &str) -> String {
        let client = self.connect().await.expect("it answers");
        let rows = client.simple_query(query).await.expect("no error");
        let row = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        row.and_then(|row| row.get(0)).expect("a row").to_owned()
    }

    async fn connect(&self) -> Result<Client, String> {
        let url = format!("{}?connect_timeout=5", self.url());
        let connecting = tokio::time::timeout(Duration::from_secs(5), tokio_postgres::connect(&url, NoTls));
        let connected = connecting.await.map_err(|_| "no answer".to_owned())?;
        let (client, connection) = connected.map_err(|error| format!("{error:?}"))?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// A data directory that was made and never used.
static TEMPLATE: LazyLock<Place> = LazyLock::new(|| {
    let place = Place::new();
    own(place.path());
    let data = place.path().join("data");
    let mut command = as_owner(&program("initdb"));
    command.extend(
        [
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "-D",
        ]
        .map(str::to_owned),
    );
    command.push(data.to_str().expect("a path in UTF-8").to_owned());
    run(&command);
    place
});

fn copy(from: &Path, to: &Path) {
    run(&["cp", "-a"]
        .map(str::to_owned)
        .into_iter()
        .chain([from, to].map(|path| path.display().to_string()))
        .collect::<Vec<_>>());
    own(to.parent().expect("a directory"));
}

fn program(name: &str) -> String {
    let path = programs().expect("Postgres was found before").join(name);
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// The user and the group that Postgres runs as, if it cannot run as this one.
static OWNER: LazyLock<Option<(u32, u32)>> = LazyLock::new(|| {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let id = |flag: &str, user: &str| {
        let output = Command::new("id").args([flag, user]).output().expect("id");
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    let ids = |user: &str| Some((id("-u", user)?, id("-g", user)?));
    Some(
        ids("postgres")
            .or_else(|| ids("nobody"))
            .expect("a user that is not root"),
    )
});

/// Gives a file or a directory to the user that Postgres runs as.
pub fn own(path: &Path) {
    if let Some((user, group)) = *OWNER {
        chown(path, Some(user), Some(group)).expect("the directory can be given away");
    }
}

/// The beginning of a command that is run as that user.
fn as_owner(program: &str) -> Vec<String> {
    let mut command = Vec::new();
    if let Some((user, group)) = *OWNER {
        let (user, group) = (user.to_string(), group.to_string());
        let arguments = ["setpriv", "--reuid", &user, "--regid", &group, "--clear-groups"];
        command.extend(arguments.map(str::to_owned));
    }
    command.push(program.to_owned());
    command
}

fn run(command: &[String]) {
    let output = Command::new(&command[0]).args(&command[1..]).current_dir("/").output();
    let output = output.expect("it can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
