//! The real binary, started for tests.
//!
//! Tests that do the server no harm share one for each composition. It ends with the test process: a shell beside it waits for the
//! test's end of a pipe to close. Tests that kill or stop a server start their own, and have its process id.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

/// A store and a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Composition {
    /// SQLite, and the bus within the process.
    Sqlite,
    /// Postgres, and the bus within the process.
    Postgres,
    /// Postgres, and Redis as the bus.
    PostgresRedis,
    /// Two servers over Postgres and Redis; calls go to one or the other.
    TwoReplicas,
}

impl Composition {
    fn servers(self) -> usize {
        if self == Composition::TwoReplicas { 2 } else { 1 }
    }
}

/// What there is to test on here.
pub fn compositions() -> &'static [Composition] {
    static ALL: LazyLock<Vec<Composition>> = LazyLock::new(|| {
        let mut all = vec![Composition::Sqlite];
        if std::env::var_os("DRUMLINE_TEST_POSTGRES").is_some() {
            all.push(Composition::Postgres);
            if std::env::var_os("DRUMLINE_TEST_REDIS").is_some() {
                all.extend([Composition::PostgresRedis, Composition::TwoReplicas]);
            }
        }
        all
    });
    &ALL
}

/// The addresses of the servers that tests share on a composition.
pub fn shared(composition: Composition) -> Vec<String> {
    static SHARED: LazyLock<Mutex<HashMap<Composition, Vec<String>>>> = LazyLock::new(Mutex::default);
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    shared
        .entry(composition)
        .or_insert_with(|| start_shared(composition))
        .clone()
}

fn start_shared(composition: Composition) -> Vec<String> {
    let mut arguments = vec!["serve".to_owned(), "--listen".into(), "127.0.0.1:0".into()];
    match composition {
        Composition::Sqlite => arguments.push("--ephemeral".into()),
        Composition::Postgres => arguments.extend(["--database-url".into(), new_database()]),
        Composition::PostgresRedis | Composition::TwoReplicas => {
            let redis = std::env::var("DRUMLINE_TEST_REDIS").expect("a Redis for tests");
            arguments.extend(["--database-url".into(), new_database(), "--redis-url".into(), redis]);
        }
    }
    (0..composition.servers()).map(|_| start_one(&arguments)).collect()
}

fn start_one(arguments: &[String]) -> String {
    // Killed, it leaves its temporary directory behind, so that is made in one that goes with it.
    let script = "export TMPDIR=$(mktemp -d); \"$@\" & server=$!; cat > /dev/null; kill -9 $server; rm -rf \"$TMPDIR\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh", binary()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("a shell");
    let address = listening(&mut child);
    // The pipe must stay open as long as the tests run.
    std::mem::forget(child.stdin.take());
    address
}

/// An address for a server that will be started on it again: below the ports that connections going out are given, so that nobody takes it
/// while no server is there.
pub fn lasting_address() -> String {
    let ports = std::iter::repeat_with(|| 12_000 + uuid::Uuid::new_v4().as_u128() % 20_000);
    ports
        .take(100)
        .map(|port| format!("127.0.0.1:{port}"))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .expect("a free port")
}

/// The path of the binary.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_drumline")
}

/// A new database on the Postgres that the tests were given.
pub fn new_database() -> String {
    let base = std::env::var("DRUMLINE_TEST_POSTGRES").expect("a Postgres for tests");
    let name = format!("drumline_{}", uuid::Uuid::new_v4().simple());
    let statement = format!("CREATE DATABASE {name}");
    let url = base.clone();
    // A test may already be in a runtime, so the statement gets one of its own.
    let created = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute(&statement).await
        })
    });
    created.join().expect("no panic").expect("the database can be created");
    let (server, _) = base.rsplit_once('/').expect("a URL with a database");
    format!("{server}/{name}")
}

fn listening(child: &mut Child) -> String {
    let stdout = child.stdout.take().expect("piped");
    let mut lines = BufReader::new(stdout).lines();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        match lines.next() {
            Some(Ok(line)) => {
                if let Some((_, address)) = line.split_once("listening on ") {
                    let address = address.trim().to_owned();
                    // Whatever else it prints is read, or it would block.
                    std::thread::spawn(move || lines.for_each(drop));
                    return address;
                }
            }
            _ => break,
        }
    }
    panic!("the server did not start");
}

/// A server of a test's own. Killed when it goes.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: String,
    /// Where it has temporary files: an ephemeral one leaves them behind when it is killed.
    pub temporary: tempfile::TempDir,
}

impl Server {
    /// Starts a server on a data directory. `listen` may be the address of an earlier one.
    pub fn start(data_dir: &Path, listen: &str) -> Server {
        let dir = data_dir.to_str().expect("a path in UTF-8");
        Server::with(&["--data-dir", dir, "--listen", listen])
    }

    /// Starts a server with these arguments.
    pub fn with(arguments: &[&str]) -> Server {
        let temporary = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(binary());
        command
            .arg("serve")
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the binary");
        let address = listening(&mut child);
        Server {
            child,
            address,
            temporary,
        }
    }

    /// The address to start its successor on.
    pub fn listen_address(&self) -> &str {
        self.address.trim_start_matches("http://")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("it is a child")
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(mut self) {
        self.signal("KILL");
        self.child.wait().expect("it ends");
    }

    /// Waits for its end by itself.
    pub fn wait(mut self) -> std::process::ExitStatus {
        self.child.wait().expect("it ends")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process, by name.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()
        .expect("kill");
    assert!(status.success(), "SIG{name} could not be sent to {pid}");
}
