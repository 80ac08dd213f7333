//! Starts the `git` program and speaks with `git cat-file --batch`.
//!
//! The program runs without the variables that would point it at another repository, without
//! network and without asking for anything. How it fails: as [`super::git`] says.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command};

use super::git::{Blob, GitError, MAX_BLOB_BYTES};

/// Variables starting with `GIT_` that the child may still see: they carry configuration or
/// bound the search for a repository, and do not point at one.
const KEPT_VARIABLES: &[&str] = &[
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_KEY_",
    "GIT_CONFIG_VALUE_",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_EXEC_PATH",
    "GIT_CEILING_DIRECTORIES",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
];

/// The git program without the variables that would point it elsewhere, and without network.
pub(super) fn quiet_git() -> Command {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if is_foreign_variable(&name) {
            command.env_remove(name);
        }
    }
    command
        .env("LC_ALL", "C")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_ALLOW_PROTOCOL", "none");
    command
}

fn is_foreign_variable(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("GIT_") && !KEPT_VARIABLES.iter().any(|kept| name.starts_with(kept))
}

/// Writes `request` to a process while `read` takes in its answer; gives its standard error.
pub(super) fn exchange(
    child: &mut Child,
    request: &str,
    read: impl FnOnce(&mut BufReader<std::process::ChildStdout>) -> Result<(), GitError>,
) -> Result<Vec<u8>, GitError> {
    let missing = || io::Error::other("a pipe to git is missing");
    let mut input = child.stdin.take().ok_or_else(missing)?;
    let output = child.stdout.take().ok_or_else(missing)?;
    let mut errors = child.stderr.take().ok_or_else(missing)?;
    std::thread::scope(|scope| {
        // A process that ends early closes this pipe; its status and standard error say why.
        scope.spawn(move || {
            let _ = input.write_all(request.as_bytes());
        });
        let errors = scope.spawn(move || {
            let mut text = Vec::new();
            let _ = errors.read_to_end(&mut text);
            text
        });
        let mut output = BufReader::with_capacity(64 * 1024, output);
        let outcome = read(&mut output);
        // Closing the pipe ends a process that is still writing, so that the threads end too.
        drop(output);
        let stderr = errors.join().unwrap_or_default();
        match outcome {
            Err(GitError::UnexpectedAnswer { detail, .. }) if !stderr.is_empty() => {
                let text = String::from_utf8_lossy(&stderr);
                Err(GitError::Failed {
                    command: "cat-file".to_owned(),
                    message: format!("{} ({detail})", text.trim()),
                })
            }
            outcome => outcome.map(|()| stderr),
        }
    })
}

/// Reads one answer of `git cat-file --batch`.
pub(super) fn read_blob(output: &mut impl BufRead) -> Result<Option<Blob>, GitError> {
    let mut header = Vec::new();
    output.read_until(b'\n', &mut header)?;
    let header = lossy_line(&header);
    let unexpected = || GitError::UnexpectedAnswer {
        command: "cat-file",
        detail: format!("header {header:?}"),
    };
    let parts: Vec<&str> = header.split(' ').collect();
    if parts.last() == Some(&"missing") {
        return Ok(None);
    }
    let [_, kind, size] = parts[..] else {
        return Err(unexpected());
    };
    let size: u64 = size.parse().map_err(|_| unexpected())?;
    let wanted = size.min(MAX_BLOB_BYTES);
    let mut content = Vec::with_capacity(wanted as usize);
    output.take(wanted).read_to_end(&mut content)?;
    let rest = size - wanted + 1;
    let dropped = io::copy(&mut output.take(rest), &mut io::sink())?;
    if content.len() as u64 != wanted || dropped != rest {
        return Err(unexpected());
    }
    Ok((kind == "blob").then_some(Blob { content, size }))
}

/// The text of a line that git wrote, without its line end.
pub(super) fn lossy_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_an_outer_git_are_dropped() {
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_TRACE"] {
            assert!(is_foreign_variable(OsStr::new(name)), "{name}");
        }
        for name in ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_KEY_0", "PATH", "HOME"] {
            assert!(!is_foreign_variable(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn answers_that_make_no_sense_are_errors() {
        for answer in [
            "",
            "x",
            "a blob z\n",
            "a blob 5\nab\n",
            "a blob 18446744073709551615\nab\n",
        ] {
            assert!(read_blob(&mut answer.as_bytes()).is_err(), "{answer:?}");
        }
        let blob = read_blob(&mut "a blob 2\nab\n".as_bytes()).unwrap().unwrap();
        assert_eq!(blob.content, b"ab");
        assert_eq!(read_blob(&mut "a tree 2\nab\n".as_bytes()).unwrap(), None);
        assert_eq!(read_blob(&mut "a missing\n".as_bytes()).unwrap(), None);
    }
}
