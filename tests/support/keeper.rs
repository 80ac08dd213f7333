//! Programs and directories that do not outlive the tests, however those end.
//!
//! Beside each there is a shell that waits for the test's end of a pipe to close, which also happens when the test process is killed with
//! -9; then it kills what it keeps, stopped or not, or removes it. So nothing depends on the thread that started it, or on a destructor.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Runs a program whose output goes to a file; says its process id. In the end its children die too: Postgres has its in groups of their own.
const KEEP: &str = r#"
trap '' INT TERM HUP
log=$1; shift
"$@" </dev/null >>"$log" 2>&1 &
program=$!
echo "$program"
cat >/dev/null
kill -STOP "$program" 2>/dev/null
for stat in /proc/[0-9]*/stat; do
  read -r line 2>/dev/null <"$stat" || continue
  set -- ${line##*') '}
  [ "$2" = "$program" ] && kill -KILL "$(basename "${stat%/stat}")" 2>/dev/null
done
kill -KILL "$program" 2>/dev/null
wait "$program" 2>/dev/null
"#;

/// Removes a directory in the end, though somebody who is just being killed may still write to it.
const REMOVE: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
if [ "$2" ]; then umount -l "$1"; fi
for _ in 1 2 3 4 5 6 7 8 9; do rm -rf "$1" 2>/dev/null && exit; sleep 0.2; done
"#;

/// Whether processes can be looked at here, as these tests do.
pub fn can_look_at_processes() -> bool {
    Path::new("/proc/self/stat").exists()
}

/// A program that is running, or was.
pub struct Kept {
    keeper: Child,
    pid: u32,
    log: PathBuf,
}

impl Kept {
    /// Starts a program. What it prints is appended to `log`.
    pub fn start(command: &[String], log: &Path) -> Kept {
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEP, "sh"]).arg(log).args(command);
        let mut keeper = keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let stdout = keeper.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a process id");
        Kept {
            pid: line.trim().parse().expect("a process id"),
            keeper,
            log: log.to_owned(),
        }
    }

    /// Its process id, which nobody else is given before this is dropped.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has printed.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it has not ended.
    pub fn runs(&self) -> bool {
        !matches!(state_of(self.pid), None | Some('Z' | 'X'))
    }

    /// Whether it was stopped by a signal, and not continued.
    pub fn is_stopped(&self) -> bool {
        state_of(self.pid) == Some('T')
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    /// Kills it with -9, and waits for its end.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        self.ends();
    }

    /// Waits for its end.
    pub fn ends(&self) {
        let began = Instant::now();
        while self.runs() {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "process {} goes on",
                self.pid
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // There is nothing else to be done if it cannot be waited for.
        let _ = self.keeper.wait();
    }
}

/// A directory that goes with the tests.
pub struct Place {
    keeper: Child,
    path: PathBuf,
}

impl Place {
    /// A new directory.
    pub fn new() -> Place {
        Place::make(None)
    }

    /// A new directory on a file system of its own, of so many megabytes; nothing if this user may not make one.
    pub fn of_size(megabytes: usize) -> Option<Place> {
        rustix::process::geteuid()
            .is_root()
            .then(|| Place::make(Some(megabytes)))
    }

    fn make(megabytes: Option<usize>) -> Place {
        // Not where a variable says, which another user may not be allowed to enter.
        let base = if rustix::process::geteuid().is_root() {
            PathBuf::from("/tmp")
        } else {
            std::env::temp_dir()
        };
        let directory = tempfile::Builder::new().prefix("drumline-test.").tempdir_in(base);
        let path = directory.expect("a directory").keep();
        if let Some(megabytes) = megabytes {
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
                .arg(&path)
                .status();
            assert!(mounted.expect("mount").success(), "a file system cannot be mounted");
        }
        let mut keeper = Command::new("sh");
        keeper.args(["-c", REMOVE, "sh"]).arg(&path);
        keeper.arg(if megabytes.is_some() { "mounted" } else { "" });
        let keeper = keeper.stdin(Stdio::piped()).spawn().expect("a shell");
        Place { keeper, path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // There is nothing else to be done if it cannot be waited for.
        let _ = self.keeper.wait();
    }
}

/// Sends a signal to a process that may have ended.
pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
    // It may have ended already.
    let _ = kill_process(pid, signal);
}

/// The processes that a process has started.
pub fn children_of(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|child| fields_of(*child).is_some_and(|fields| fields.1 == pid))
        .collect()
}

fn state_of(pid: u32) -> Option<char> {
    fields_of(pid).map(|fields| fields.0)
}

/// The state of a process and its parent.
fn fields_of(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
