//! How many files the process may have open: every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Failure;

/// Raises the limit as far as the process may, and tells where it is then; none is no limit.
pub fn allow_many() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Raises the limit, and refuses if it is too low for so many files all the same.
pub fn enough_for(files: u64) -> Result<(), Failure> {
    match allow_many() {
        Some(limit) if limit < files => Err(Failure::message(format!(
            "{files} open files are needed and {limit} are allowed: raise the hard limit (ulimit -Hn, LimitNOFILE= of systemd)"
        ))),
        _ => Ok(()),
    }
}
