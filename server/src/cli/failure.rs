//! How a command fails: one line on standard error, and an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use drumline::{Kind, Reason};
use tonic::Code;

use super::human;
use super::serve::ServeError;
use crate::config::Problems;
use crate::store::StoreError;

/// Refused, or ended otherwise than well.
const REFUSED: u8 = 1;
/// The arguments are wrong.
const USAGE: u8 = 2;
/// The server cannot be reached, or cannot answer now.
const UNAVAILABLE: u8 = 3;

/// Why a command ends otherwise than well.
#[derive(Debug)]
pub enum Failure {
    /// The server refused it, could not be reached, or what was waited for ended badly.
    Call(Box<drumline::Error>),
    /// The arguments cannot be.
    Usage(String),
    /// What the server was told is wrong, in so many ways.
    Config(Problems),
    /// Anything else, in a sentence.
    Other(String),
    /// What was waited for has not come in time.
    Late(String),
    /// There is nothing to say: only the code.
    Code(u8),
}

impl Failure {
    /// A failure in a sentence.
    pub fn message(text: impl Into<String>) -> Failure {
        Failure::Other(text.into())
    }

    /// Arguments that cannot be.
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure::Usage(text.into())
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Call(error) => call_code(error),
            Failure::Usage(_) | Failure::Config(_) => USAGE,
            Failure::Other(_) => REFUSED,
            Failure::Late(_) => UNAVAILABLE,
            Failure::Code(code) => *code,
        }
    }

    /// Says it on standard error, and returns the exit code.
    pub fn report(&self) -> ExitCode {
        for line in self.lines() {
            // Where standard error is gone there is nobody to tell.
            let _told = writeln!(io::stderr(), "error: {line}");
        }
        ExitCode::from(self.code())
    }

    /// The lines for people, most often one; none where there is nothing to say.
    fn lines(&self) -> Vec<String> {
        let lines = match self {
            Failure::Call(error) => vec![call_line(error)],
            Failure::Usage(text) | Failure::Other(text) | Failure::Late(text) => vec![text.clone()],
            Failure::Config(Problems(problems)) => problems.clone(),
            Failure::Code(_) => Vec::new(),
        };
        lines.iter().map(|line| human::one_line(line)).collect()
    }
}

fn call_code(error: &drumline::Error) -> u8 {
    match error.kind() {
        Kind::Config => USAGE,
        Kind::Transport | Kind::Deadline => UNAVAILABLE,
        Kind::Refused => match error.code() {
            Code::Unavailable | Code::ResourceExhausted | Code::Unknown | Code::DeadlineExceeded => UNAVAILABLE,
            _ => REFUSED,
        },
        _ => REFUSED,
    }
}

/// `LOCK_HELD: the lock is held (holder_id=a, queue_length=0)`.
fn call_line(error: &drumline::Error) -> String {
    let mut line = match error.reason() {
        Reason::Unspecified if error.kind() == Kind::Refused => format!("{:?}: {}", error.code(), error.message()),
        _ => error.to_string(),
    };
    let mut details: Vec<String> = error
        .metadata()
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    details.sort_unstable();
    // Where the message says it already it is not said again.
    let violations = error
        .violations()
        .iter()
        .filter(|violation| !line.contains(&violation.description));
    details.extend(violations.map(|violation| format!("{}: {}", violation.field, violation.description)));
    if !details.is_empty() {
        line.push_str(&format!(" ({})", details.join(", ")));
    }
    line
}

impl From<drumline::Error> for Failure {
    fn from(error: drumline::Error) -> Failure {
        Failure::Call(Box::new(error))
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        match error {
            ServeError::Store(error) => error.into(),
            _ => Failure::Other(error.to_string()),
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Failure {
        Failure::Config(problems)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::Unavailable(_) => Failure::Late(error.to_string()),
            _ => Failure::Other(error.to_string()),
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Failure {
        drumline::Error::from(status).into()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            // The reader has seen enough, as in `| head`.
            io::ErrorKind::BrokenPipe => Failure::Code(0),
            _ => Failure::Other(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::{ErrorDetails, StatusExt};

    fn refused(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Failure {
        let metadata = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let details = ErrorDetails::with_error_info(
            reason,
            "drumline",
            metadata.collect::<std::collections::HashMap<_, _>>(),
        );
        tonic::Status::with_error_details(code, "no", details).into()
    }

    #[test]
    fn a_refusal_is_one_line_with_its_metadata() {
        let failure = refused(
            Code::Aborted,
            "LOCK_HELD",
            &[("queue_length", "0"), ("holder_id", "a\nb")],
        );
        assert_eq!(failure.lines(), ["LOCK_HELD: no (holder_id=a b, queue_length=0)"]);
        assert_eq!(failure.code(), REFUSED);
    }

    #[test]
    fn scripts_can_tell_the_codes_apart() {
        assert_eq!(refused(Code::Unavailable, "DRAINING", &[]).code(), UNAVAILABLE);
        assert_eq!(refused(Code::ResourceExhausted, "OVERLOADED", &[]).code(), UNAVAILABLE);
        assert_eq!(Failure::from(tonic::Status::unavailable("gone")).code(), UNAVAILABLE);
        assert_eq!(Failure::usage("x").code(), USAGE);
        let pipe = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((pipe.code(), pipe.lines()), (0, Vec::new()));
    }
}
