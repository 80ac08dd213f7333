//! What the demo starts and cleans up: a server of its own, four agent processes, directories for the server's data and for logs.
//!
//! Every process is in a process group of its own, so that Ctrl-C on the terminal reaches the demo alone, and holds the end of a pipe as
//! its lifeline: should the demo itself be killed, they end as well. When the stage is dropped, however that comes about, all
//! processes are killed and waited for, and the directories removed; logs stay if they are asked to.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::cli::{Failure, human};

/// How long the server may take to start.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long processes may take to end once they are killed.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How much of a log is shown when something went wrong.
const LOG_TAIL: usize = 2_000;

/// A process of the demo.
#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
    /// Its other end is the process's standard input.
    _lifeline: Option<ChildStdin>,
    /// Killed on purpose, or its end was told already.
    over: bool,
}

/// The processes and directories of a demo.
#[derive(Debug)]
pub struct Stage {
    // Dropped before the directories, in which they write.
    processes: Vec<Process>,
    data: TempDir,
    logs: Option<TempDir>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error is that it has ended.
        let _killed = self.child.start_kill();
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < END_PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Stage {
    /// A stage without anybody on it.
    ///
    /// # Errors
    /// When there is no room for temporary files.
    pub fn new() -> Result<Stage, Failure> {
        let directory = |prefix: &str| {
            let made = tempfile::Builder::new().prefix(prefix).tempdir();
            made.map_err(|error| Failure::message(format!("there is no place for temporary files: {error}")))
        };
        Ok(Stage {
            processes: Vec::new(),
            data: directory("drumline-demo-data-")?,
            logs: Some(directory("drumline-demo-logs-")?),
        })
    }

    /// Starts the server, and says where it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_server(&mut self) -> Result<String, Failure> {
        let arguments = ["serve", "--ephemeral", "--lifeline", "--listen", "127.0.0.1:0"];
        let stdout = self.start("server", &arguments.map(OsStr::new))?;
        let mut lines = BufReader::new(stdout).lines();
        let listening = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some((_, address)) = line.split_once("listening on ") {
                    return Some(address.trim().to_owned());
                }
            }
            None
        };
        let address = tokio::time::timeout(START_PATIENCE, listening).await;
        // Whatever else it says is read, or it would block.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        match address {
            Ok(Some(address)) => Ok(address),
            Ok(None) => Err(Failure::message("the server ended before it listened")),
            Err(_elapsed) => Err(Failure::message(format!(
                "the server did not start in {START_PATIENCE:?}"
            ))),
        }
    }

    /// Starts an agent.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start_agent(&mut self, agent: &str, server: &str, repo: &Path, pace: Duration) -> Result<(), Failure> {
        let pace = pace.as_millis().to_string();
        let arguments = [
            "demo-agent",
            "--server",
            server,
            "--agent-id",
            agent,
            "--pace-ms",
            &pace,
            "--repo",
        ];
        let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        arguments.push(repo.as_os_str());
        self.start(agent, &arguments).map(drop)
    }

    fn start(&mut self, name: &str, arguments: &[&OsStr]) -> Result<ChildStdout, Failure> {
        let failed = |error: std::io::Error| Failure::message(format!("{name} cannot be started: {error}"));
        let log = File::create(self.log(name)).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command
            .args(arguments)
            .env("TMPDIR", self.data.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        // What is meant for other servers must not lead these astray.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("DRUMLINE_") {
                command.env_remove(variable);
            }
        }
        let mut child = command.spawn().map_err(failed)?;
        let (lifeline, stdout) = (child.stdin.take(), child.stdout.take());
        self.processes.push(Process {
            name: name.to_owned(),
            child,
            _lifeline: lifeline,
            over: false,
        });
        stdout.ok_or_else(|| Failure::message(format!("{name} has no standard output")))
    }

    /// Kills an agent with SIGKILL; its process id and the moment, or nothing if it has ended already.
    pub fn kill(&mut self, agent: &str) -> Option<(u32, Instant)> {
        let process = self.processes.iter_mut().find(|process| process.name == agent)?;
        let pid = process.child.id()?;
        let at = Instant::now();
        process.child.start_kill().ok()?;
        process.over = true;
        Some((pid, at))
    }

    /// A process that has ended by itself since this was last asked.
    pub fn ended(&mut self) -> Option<(String, ExitStatus)> {
        self.processes.iter_mut().find_map(|process| {
            // Asked of all, so that those that were killed are reaped.
            let status = process.child.try_wait().ok().flatten()?;
            let news = !std::mem::replace(&mut process.over, true);
            news.then(|| (process.name.clone(), status))
        })
    }

    /// Whether any agent still runs.
    pub fn has_agents(&self) -> bool {
        let mut processes = self.processes.iter();
        processes.any(|process| process.name != "server" && !process.over)
    }

    /// Keeps the logs; where they are, and the end of those that say something.
    pub fn keep_logs(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for process in &self.processes {
            let log = std::fs::read(self.log(&process.name)).unwrap_or_default();
            let tail = human::tail(&log, LOG_TAIL);
            if !tail.trim().is_empty() {
                lines.push(format!("--- {}", process.name));
                lines.extend(tail.lines().map(human::one_line));
            }
        }
        if let Some(logs) = self.logs.take() {
            lines.push(format!("The logs are in {}", logs.keep().display()));
        }
        lines
    }

    fn log(&self, name: &str) -> PathBuf {
        let logs = self.logs.as_ref().map_or(self.data.path(), TempDir::path);
        logs.join(format!("{name}.log"))
    }
}
