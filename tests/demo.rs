//! `drumline demo`, as a newcomer runs it: on repositories of all sizes, with and without somebody being killed.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::server::{binary, signal};

/// A new git repository with these files.
fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    git(directory.path(), &["init", "--quiet"]);
    for (path, text) in files {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }
    if !files.is_empty() {
        git(directory.path(), &["add", "--all"]);
        git(directory.path(), &["commit", "--quiet", "--message", "first"]);
    }
    directory
}

fn git(directory: &Path, arguments: &[&str]) {
    let status = Command::new("git")
        .current_dir(directory)
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.com",
            "-c",
            "commit.gpgsign=false",
        ])
        .args(arguments)
        .status()
        .expect("git");
    assert!(status.success(), "git {arguments:?}");
}

/// A demo in a repository, and a place for its temporary files.
struct Demo {
    repository: tempfile::TempDir,
    temporary: tempfile::TempDir,
}

impl Demo {
    fn new(files: &[(&str, &str)]) -> Demo {
        Demo {
            repository: repository(files),
            temporary: tempfile::tempdir().expect("a directory"),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .arg("demo")
            .args(arguments)
            .current_dir(self.repository.path())
            .env("TMPDIR", self.temporary.path())
            // A server of one's own must not be led astray by what is meant for others.
            .env("DRUMLINE_DATABASE_URL", "postgres://nowhere.invalid/x")
            .stdin(Stdio::null());
        command
    }

    /// Runs it to a good end; gives the object that it says on its last line.
    fn succeeds(&self, arguments: &[&str]) -> Value {
        let output = self.command(&["--json"]).args(arguments).output().expect("the binary");
        assert!(output.status.success(), "{}", both(&output));
        let stdout = String::from_utf8_lossy(&output.stdout);
        let last = stdout.lines().last().unwrap_or_default();
        let object: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{}", both(&output)));
        assert_eq!(object["workflow_state"], "COMPLETED", "{}", both(&output));
        assert_eq!(object["agents"], 4);
        self.nothing_is_left_but(Path::new(object["report"].as_str().expect("a path")));
        object
    }

    /// The report is there, and nothing else.
    fn nothing_is_left_but(&self, report: &Path) {
        let report = std::fs::read_to_string(report).expect("a report");
        assert!(report.starts_with("# Review of"), "{report}");
        assert_eq!(self.left().len(), 1, "{:?}", self.left());
    }

    fn left(&self) -> Vec<std::ffi::OsString> {
        let entries = std::fs::read_dir(self.temporary.path()).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name()).collect()
    }
}

fn both(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

const FILES: &[(&str, &str)] = &[
    ("README.md", "# A thing\n"),
    (
        "src/main.rs",
        "fn main() {\n    unsafe { b() } // TODO: less of it\n}\n",
    ),
    ("src/a.rs", "pub fn a() {}\n"),
    ("src/b.py", "def b(x):\n    return eval(x)\n"),
    ("docs/c d.txt", "text \n"),
];

#[test]
fn a_killed_agents_work_is_taken_over_and_the_review_comes_out_right() {
    let object = Demo::new(FILES).succeeds(&[]);
    // One list, one task for each of five files, one reduce, one report.
    assert_eq!(object["tasks_completed"], 8, "{object}");
    assert!(object["tasks_reassigned"].as_u64() >= Some(1), "{object}");
    let recovery = object["recovery_ms"].as_u64().expect("a number");
    // Far more than is promised: here it is only looked at whether it was measured at all.
    assert!((1..30_000).contains(&recovery), "{object}");
    assert!(object["findings"].as_u64() >= Some(3), "{object}");
    assert!(object["events"].as_u64() >= Some(30), "{object}");
}

#[test]
fn without_chaos_nobody_is_killed() {
    let object = Demo::new(FILES).succeeds(&["--no-chaos"]);
    assert_eq!(
        (
            &object["tasks_completed"],
            &object["tasks_reassigned"],
            &object["recovery_ms"]
        ),
        (&Value::from(8), &Value::from(0), &Value::from(0)),
        "{object}"
    );
}

#[test]
fn a_repository_with_one_file_is_enough() {
    let object = Demo::new(&[("one.txt", "one\n")]).succeeds(&[]);
    assert_eq!(object["tasks_completed"], 4, "{object}");
    assert!(object["tasks_reassigned"].as_u64() >= Some(1), "{object}");
}

#[test]
fn so_is_a_repository_without_commits() {
    let object = Demo::new(&[]).succeeds(&[]);
    assert_eq!(object["tasks_completed"], 3, "{object}");
    assert!(object["tasks_reassigned"].as_u64() >= Some(1), "{object}");
    assert_eq!(object["findings"], 0, "{object}");
}

#[test]
fn people_see_who_did_what() {
    let demo = Demo::new(FILES);
    let output = demo.command(&[]).output().expect("the binary");
    assert!(output.status.success(), "{}", both(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    for text in [
        "accepted   review.chunk #",
        "SIGKILL",
        "took over",
        "Who did what",
        "COMPLETED",
        "fencing token",
    ] {
        assert!(stdout.contains(text), "no {text:?} in {stdout}");
    }
    assert!(!stdout.contains('\u{1b}'), "colours are for terminals");
}

#[test]
fn what_is_no_repository_is_said_so() {
    let directory = tempfile::tempdir().expect("a directory");
    for path in [directory.path(), Path::new("/nowhere at all")] {
        let output = Command::new(binary())
            .args(["demo", "--json", "--repo"])
            .arg(path)
            .env("GIT_CEILING_DIRECTORIES", directory.path().parent().expect("a parent"))
            .output()
            .expect("the binary");
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(output.stdout.is_empty(), "{}", both(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.lines().count() == 1 && stderr.starts_with("error: "), "{stderr}");
    }
}

#[test]
fn without_git_it_says_what_is_missing() {
    let demo = Demo::new(&[]);
    let output = demo.command(&[]).env("PATH", "/nowhere").output().expect("the binary");
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("git is needed"), "{stderr}");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let demo = Demo::new(FILES);
    let mut child = demo
        .command(&["--json"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary");
    let began = Instant::now();
    // Its directories are there once it has begun.
    while demo.left().len() < 2 && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = child.id();
    let children = children_of(pid);
    signal(pid, "INT");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert!(demo.left().is_empty(), "{:?}", demo.left());
    for child in children {
        assert!(!Path::new(&format!("/proc/{child}")).exists(), "{child} lives on");
    }
}

#[test]
fn a_killed_demo_takes_its_processes_with_it() {
    let demo = Demo::new(FILES);
    let mut child = demo
        .command(&["--json"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary");
    let began = Instant::now();
    let children = loop {
        let children = children_of(child.id());
        if children.len() >= 5 || began.elapsed() > Duration::from_secs(20) {
            break children;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert!(children.len() >= 5, "a server and four agents: {children:?}");
    let began = Instant::now();
    for child in children {
        while is_alive(child) {
            assert!(began.elapsed() < Duration::from_secs(20), "{child} lives on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The processes that a process has started.
fn children_of(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// Whether a process runs; a zombie that nobody has waited for does not.
fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z'));
    state == Some(false)
}
