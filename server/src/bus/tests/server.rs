//! Servers of Redis for tests that stop and kill them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long anything may take before a test says that it does not happen.
pub(super) const LONG: Duration = Duration::from_secs(30);

/// A server on a port of its own. It is killed when this goes, and when the test process ends.
pub(super) struct Server {
    pub(super) port: u16,
    arguments: Vec<String>,
    running: Option<(Child, rustix::process::Pid)>,
    _folder: tempfile::TempDir,
}

/// Whether Redis is installed here. Where it is not, these tests say so and try nothing.
pub(super) fn is_installed() -> bool {
    let found = Command::new("redis-server")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    let is_there = found.is_ok_and(|status| status.success());
    if !is_there {
        eprintln!("no redis-server here");
    }
    is_there
}

impl Server {
    /// A server that is started.
    pub(super) async fn start(arguments: &[&str]) -> Server {
        let mut server = Server::new(arguments);
        server.restart().await;
        server
    }

    /// A server that is not started yet, on a port that nobody else is given meanwhile: below those of outgoing connections.
    pub(super) fn new(arguments: &[&str]) -> Server {
        let port = std::iter::repeat_with(|| rand::random_range(10_000u16..22_000))
            // A node of a cluster takes the port that is 10,000 higher too.
            .find(|port| {
                [*port, port + 10_000]
                    .iter()
                    .all(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
            })
            .expect("an endless list");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_str().expect("a path in UTF-8");
        let common = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", path];
        let is_port = |pair: &[&str]| matches!(pair[0], "--port" | "--tls-port");
        let mut all: Vec<String> = common
            .iter()
            .chain(arguments)
            .map(|argument| argument.replace("@PORT@", &port.to_string()))
            .collect();
        if !arguments.windows(2).any(is_port) {
            all.extend(["--port".to_owned(), port.to_string()]);
        }
        Server {
            port,
            arguments: all,
            running: None,
            _folder: folder,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it, again after a kill.
    pub(super) async fn restart(&mut self) {
        self.run(&self.arguments.clone()).await;
    }

    /// Starts it with a file of configuration, which it may write to.
    pub(super) async fn restart_with_file(&mut self, file: &Path, first: &str) {
        let mut arguments = vec![file.to_str().expect("a path in UTF-8").to_owned(), first.to_owned()];
        arguments.retain(|argument| !argument.is_empty());
        self.run(&arguments).await;
    }

    async fn run(&mut self, arguments: &[String]) {
        // The shell outlives a kill of the server, and ends with the test process: its pipe is closed then.
        let script = "redis-server \"$@\" > /dev/null & echo $!; cat > /dev/null; kill -9 $!";
        let mut shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        let pid = line
            .trim()
            .parse()
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a process id");
        self.running = Some((shell, pid));
        until("the server listens", || async {
            TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
        })
        .await;
    }

    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        let (_, pid) = self.running.as_ref().expect("it runs");
        rustix::process::kill_process(*pid, signal).expect("it can be signalled");
    }

    /// Kills it with SIGKILL.
    pub(super) fn kill(&mut self) {
        if let Some((mut shell, _)) = self.running.take() {
            drop(shell.stdin.take());
            shell.wait().expect("the shell ends");
        }
    }

    /// What it answers to a command.
    pub(super) async fn ask(&self, command: &str) -> String {
        let mut talk = Talk::with(self.port).await;
        talk.ask(command).await
    }

    /// What it says of itself.
    pub(super) async fn info(&self, name: &str) -> i64 {
        let info = self.ask("INFO").await;
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {info}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A plain connection, to say and read what no client would.
pub(super) struct Talk(TcpStream);

impl Talk {
    pub(super) async fn with(port: u16) -> Talk {
        Talk(TcpStream::connect(("127.0.0.1", port)).await.expect("a server"))
    }

    pub(super) async fn say(&mut self, parts: &[&[u8]]) {
        let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            bytes.extend(format!("${}\r\n", part.len()).into_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        self.0.write_all(&bytes).await.expect("a connection");
    }

    /// What comes next; of a long answer, until it is whole.
    pub(super) async fn read(&mut self) -> String {
        let mut bytes = Vec::new();
        loop {
            let count = tokio::time::timeout(LONG, self.0.read_buf(&mut bytes))
                .await
                .expect("an answer")
                .expect("a connection");
            assert!(count > 0, "the connection was closed");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let length = text
                .strip_prefix('$')
                .and_then(|rest| rest.split_once("\r\n")?.0.parse::<usize>().ok());
            if bytes.ends_with(b"\r\n") && length.is_none_or(|length| bytes.len() >= length) {
                return text;
            }
        }
    }

    pub(super) async fn ask(&mut self, command: &str) -> String {
        let parts: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.say(&parts).await;
        self.read().await
    }
}

/// Waits until something is so.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < LONG, "{what}: not after {LONG:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
