//! Throwaway repositories for the tests of the review.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Source;
use super::git::{FileEntry, Repository};
use super::git_process::quiet_git;

/// A repository in a directory of its own that is removed again when it goes out of scope.
pub struct TempRepo {
    path: PathBuf,
}

impl TempRepo {
    /// An empty directory, not yet a repository.
    pub fn directory() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "drumline-review-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    /// A repository without commits.
    pub fn new() -> Self {
        let repo = Self::directory();
        repo.git(&["init", "--quiet", "--initial-branch=main"]);
        repo
    }

    /// A repository with one commit that holds these files.
    pub fn with_files(files: &[(&str, &str)]) -> Self {
        let repo = Self::new();
        for (path, content) in files {
            repo.write(path, content.as_bytes());
        }
        repo.commit();
        repo
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The repository, opened for review.
    pub fn open(&self) -> Repository {
        Repository::open(&self.path).unwrap()
    }

    /// Writes a file, with the directories above it.
    pub fn write(&self, path: impl AsRef<OsStr>, content: &[u8]) {
        let path = self.path.join(Path::new(path.as_ref()));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Commits everything there is.
    pub fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=test"]);
    }

    /// Runs git in the repository and gives what it wrote.
    pub fn git(&self, args: &[&str]) -> String {
        let output = quiet_git()
            .args(["-c", "user.name=test", "-c", "user.email=test@example.com"])
            .args(["-c", "commit.gpgsign=false", "-c", "core.autocrlf=false"])
            .args(["-c", "core.hooksPath=/dev/null"])
            .args(args)
            .current_dir(&self.path)
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for TempRepo {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// An entry for a file that is in no repository.
pub fn entry(path: &str, size: u64) -> FileEntry {
    FileEntry {
        index: 0,
        path: path.to_owned(),
        mode: "100644".to_owned(),
        blob: "0".repeat(40),
        size,
    }
}

/// A source text that is in no repository.
pub fn source(path: &str, text: &str) -> Source {
    Source::new(path, text.as_bytes(), false)
}
