//! Reads a repository through the `git` program: which files HEAD holds, and what is in them.
//!
//! Only objects are read (`rev-parse`, `ls-tree`, `cat-file`), never the working tree, so the
//! outcome depends on nothing but the commit. No hook, filter, text conversion or fetch runs.
//! `GIT_DIR` and the other variables by which an outer git process points its children at a
//! repository are not passed on; those that carry configuration are.
//!
//! How it fails: every failure is a [`GitError`]. A path that is no repository, a repository git
//! refuses because somebody else owns it and a missing `git` each have a variant of their own. A
//! repository without commits is no failure but an empty [`Snapshot`], and a blob that is missing
//! from the object store is reported as such for this blob alone.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::git_process::{exchange, lossy_line, quiet_git, read_blob};

/// How much of a blob is looked at, from its start.
pub const MAX_BLOB_BYTES: u64 = 1024 * 1024;

/// Why a repository could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The path does not exist or is no directory.
    #[error("{path} is not a directory that can be opened: {source}")]
    NoDirectory {
        /// The path that was given.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Neither the path nor a directory above it is a git repository.
    #[error("{path} is not inside a git repository")]
    NotARepository {
        /// The path that was given.
        path: PathBuf,
    },
    /// Git refuses the repository because another user owns it.
    #[error(
        "git refuses to read {path} because another user owns it; if you trust it, run: \
         git config --global --add safe.directory {path}"
    )]
    UnsafeDirectory {
        /// The directory that git named, or else the path that was given.
        path: String,
    },
    /// The `git` program could not be started.
    #[error("the git program could not be started: {0}")]
    GitMissing(#[source] io::Error),
    /// HEAD names a commit that is not there.
    #[error("HEAD of {path} names a commit that cannot be read")]
    BrokenHead {
        /// The path that was given.
        path: PathBuf,
    },
    /// A commit or blob id handed in is not a full hexadecimal object id.
    #[error("{0:?} is not a full git object id")]
    BadObjectId(String),
    /// Git ended with an error of another kind.
    #[error("git {command} failed: {message}")]
    Failed {
        /// The git command.
        command: String,
        /// The first lines of what it wrote to its standard error.
        message: String,
    },
    /// Git answered something this module cannot read.
    #[error("git {command} gave an answer that cannot be read: {detail}")]
    UnexpectedAnswer {
        /// The git command.
        command: &'static str,
        /// What was wrong with it.
        detail: String,
    },
    /// Reading from or writing to the git process failed.
    #[error("talking to git failed: {0}")]
    Io(#[from] io::Error),
}

/// One regular file tracked at the commit under review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its place in the list of the snapshot. This tells files apart, since two paths that are
    /// not UTF-8 may look the same when shown.
    pub index: u32,
    /// Its path from the root of the repository; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Its mode as git writes it: `100644` or `100755`.
    pub mode: String,
    /// The object id of its content.
    pub blob: String,
    /// Its size in bytes; 0 when git could not tell.
    pub size: u64,
}

/// A tracked entry that is not reviewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedEntry {
    /// Its path, as in [`FileEntry::path`].
    pub path: String,
    /// Why: `symbolic link`, `submodule` or `mode NNNNNN`.
    pub reason: String,
}

/// What HEAD held when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The commit; none when HEAD has no commits yet.
    pub commit: Option<String>,
    /// The directory inside the repository the review is limited to, ending in `/`; empty for
    /// the whole repository.
    pub prefix: String,
    /// The regular files, in the order git lists them.
    pub files: Vec<FileEntry>,
    /// Links and submodules.
    pub skipped: Vec<SkippedEntry>,
}

/// The start of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its first [`MAX_BLOB_BYTES`] bytes.
    pub content: Vec<u8>,
    /// Its whole size.
    pub size: u64,
}

impl Blob {
    /// Whether the blob goes on after the part that was read.
    pub fn is_truncated(&self) -> bool {
        (self.content.len() as u64) < self.size
    }
}

/// A repository, or a directory inside one.
#[derive(Debug, Clone)]
pub struct Repository {
    path: PathBuf,
}

impl Repository {
    /// Opens the repository that `path` is or lies in; bare repositories are fine.
    ///
    /// # Errors
    /// [`GitError::NoDirectory`], [`GitError::NotARepository`], [`GitError::UnsafeDirectory`] or
    /// [`GitError::GitMissing`].
    pub fn open(path: &Path) -> Result<Self, GitError> {
        std::fs::read_dir(path).map_err(|source| GitError::NoDirectory {
            path: path.to_owned(),
            source,
        })?;
        let repository = Self { path: path.to_owned() };
        repository.run(&["rev-parse", "--git-dir"])?;
        Ok(repository)
    }

    /// The path the repository was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lists what HEAD holds now. Opened on a directory inside a working tree, only what lies in
    /// that directory is listed, with paths from the root of the repository all the same.
    ///
    /// # Errors
    /// [`GitError::BrokenHead`] when HEAD cannot be resolved though it should, and the failures
    /// of running git.
    pub fn snapshot(&self) -> Result<Snapshot, GitError> {
        self.snapshot_at(self.head()?)
    }

    /// Lists what a commit holds, in the same way. Without a commit there is nothing.
    ///
    /// # Errors
    /// [`GitError::BadObjectId`] and the failures of running git.
    pub fn snapshot_at(&self, commit: Option<String>) -> Result<Snapshot, GitError> {
        let prefix = lossy_line(&self.run(&["rev-parse", "--show-prefix"])?);
        let mut snapshot = Snapshot {
            commit,
            prefix,
            files: Vec::new(),
            skipped: Vec::new(),
        };
        if let Some(commit) = &snapshot.commit {
            check_object_id(commit)?;
            let args = ["ls-tree", "-r", "-z", "--long", "--full-name", commit];
            let listing = self.run(&args)?;
            for record in listing.split(|byte| *byte == 0).filter(|r| !r.is_empty()) {
                add_record(&mut snapshot, record)?;
            }
        }
        Ok(snapshot)
    }

    /// The paths of everything tracked at `commit`, in the whole repository.
    ///
    /// # Errors
    /// [`GitError::BadObjectId`] and the failures of running git.
    pub fn tracked_paths(&self, commit: &str) -> Result<Vec<String>, GitError> {
        check_object_id(commit)?;
        let args = ["ls-tree", "-r", "-z", "--name-only", "--full-tree", commit];
        Ok(self
            .run(&args)?
            .split(|byte| *byte == 0)
            .filter(|path| !path.is_empty())
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect())
    }

    /// Reads blobs in one git process and hands each, with its place in `ids`, to `each`, in
    /// order. A blob that is missing, or an id that is no blob, is handed over as `None`.
    ///
    /// # Errors
    /// [`GitError::BadObjectId`] before anything runs, and the failures of running git.
    pub fn read_blobs(&self, ids: &[&str], mut each: impl FnMut(usize, Option<Blob>)) -> Result<(), GitError> {
        let mut request = String::new();
        for id in ids {
            check_object_id(id)?;
            request.push_str(id);
            request.push('\n');
        }
        if ids.is_empty() {
            return Ok(());
        }
        let mut child = self
            .command(&["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .spawn()
            .map_err(GitError::GitMissing)?;
        let result = exchange(&mut child, &request, |output| {
            (0..ids.len()).try_for_each(|place| {
                each(place, read_blob(output)?);
                Ok(())
            })
        });
        if result.is_err() {
            // The process may be in the middle of a blob; it may just as well have ended.
            let _ = child.kill();
        }
        let status = child.wait()?;
        let stderr = result?;
        if status.success() {
            return Ok(());
        }
        Err(self.classify("cat-file", &stderr))
    }

    /// The commit HEAD stands for, or none when its branch has no commits yet.
    fn head(&self) -> Result<Option<String>, GitError> {
        let output = self
            .command(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])
            .output()
            .map_err(GitError::GitMissing)?;
        if output.status.success() {
            return Ok(Some(lossy_line(&output.stdout)));
        }
        let broken = || GitError::BrokenHead {
            path: self.path.clone(),
        };
        let branch = self.run(&["symbolic-ref", "--quiet", "HEAD"]).map_err(|_| broken())?;
        let exists = self
            .run(&["show-ref", "--verify", "--quiet", &lossy_line(&branch)])
            .is_ok();
        if exists { Err(broken()) } else { Ok(None) }
    }

    /// Runs git to its end and gives what it wrote.
    fn run(&self, args: &[&str]) -> Result<Vec<u8>, GitError> {
        let output = self.command(args).output().map_err(GitError::GitMissing)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(self.classify(args[0], &output.stderr))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = quiet_git();
        command
            .current_dir(&self.path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Turns what git wrote to its standard error into an error.
    fn classify(&self, command: &str, stderr: &[u8]) -> GitError {
        let text = String::from_utf8_lossy(stderr);
        if text.contains("dubious ownership") || text.contains("unsafe repository") {
            let named = text.split('\'').nth(1).map(str::to_owned);
            return GitError::UnsafeDirectory {
                path: named.unwrap_or_else(|| self.path.display().to_string()),
            };
        }
        if text.contains("not a git repository") {
            return GitError::NotARepository {
                path: self.path.clone(),
            };
        }
        GitError::Failed {
            command: command.to_owned(),
            message: text.trim().chars().take(500).collect(),
        }
    }
}

/// Adds one record of `git ls-tree -r -z --long` to the snapshot.
fn add_record(snapshot: &mut Snapshot, record: &[u8]) -> Result<(), GitError> {
    let unexpected = || GitError::UnexpectedAnswer {
        command: "ls-tree",
        detail: String::from_utf8_lossy(record).into_owned(),
    };
    let tab = record.iter().position(|byte| *byte == b'\t');
    let (head, path) = record.split_at(tab.ok_or_else(unexpected)?);
    let head = String::from_utf8_lossy(head);
    let fields: Vec<&str> = head.split_ascii_whitespace().collect();
    let [mode, _, blob, size] = fields[..] else {
        return Err(unexpected());
    };
    let path = String::from_utf8_lossy(&path[1..]).into_owned();
    let reason = match mode {
        "160000" => "submodule".to_owned(),
        "120000" => "symbolic link".to_owned(),
        regular if regular.starts_with("100") => {
            snapshot.files.push(FileEntry {
                index: u32::try_from(snapshot.files.len()).map_err(|_| unexpected())?,
                path,
                mode: mode.to_owned(),
                blob: blob.to_owned(),
                size: size.parse().unwrap_or(0),
            });
            return Ok(());
        }
        other => format!("mode {other}"),
    };
    snapshot.skipped.push(SkippedEntry { path, reason });
    Ok(())
}

fn check_object_id(id: &str) -> Result<(), GitError> {
    let hexadecimal = id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hexadecimal && matches!(id.len(), 40 | 64) {
        return Ok(());
    }
    Err(GitError::BadObjectId(id.to_owned()))
}

#[cfg(test)]
#[path = "git_tests.rs"]
mod tests;
