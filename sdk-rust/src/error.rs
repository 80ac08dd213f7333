//! What can go wrong, as one type.
//!
//! The server is authoritative: a refusal carries the reason, metadata and retry hint that it sent, decoded from
//! the `google.rpc` details of the status. What the SDK finds out by itself (no connection, a deadline that passed,
//! a payload that does not decode, a lease that ran out) is told apart by [`Kind`].

mod status;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1 as pb;
use tonic::Code;

pub use drumline_proto::v1::Reason;

/// The result of anything that asks the server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where an error comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The server decided it: [`Error::reason`] says why.
    Refused,
    /// The server could not be reached, or the connection broke. [`Error::is_indeterminate`] says whether a change may have been
    /// made.
    Transport,
    /// The call's time was up before an answer came. Whether a change was made cannot be known.
    Deadline,
    /// A payload could not be written as, or read as, the type that was asked for.
    Payload,
    /// The SDK was told something that cannot be: an address that is none, a setting out of range.
    Config,
    /// By this process's own clock a session or lease may be over; it must not act under it any more.
    Lost,
    /// A task or workflow was waited for, and ended other than well.
    Ended,
}

/// Why a call, a stream or an agent failed.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    code: Code,
    reason: Reason,
    message: String,
    metadata: BTreeMap<String, String>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
    after_unknown: bool,
    unsent: bool,
    conflict: Option<pb::State>,
    ended: Option<Ended>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone)]
enum Ended {
    Task(Box<pb::Task>),
    Workflow(Box<pb::Workflow>),
}

/// A field of a request that is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl Error {
    fn local(kind: Kind, code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            code,
            reason: Reason::Unspecified,
            message: message.into(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: None,
            after_unknown: false,
            unsent: false,
            conflict: None,
            ended: None,
            source: None,
        }))
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::local(Kind::Config, Code::InvalidArgument, message)
    }

    pub(crate) fn payload(message: impl fmt::Display) -> Self {
        Self::local(Kind::Payload, Code::InvalidArgument, message.to_string())
    }

    pub(crate) fn lost(message: impl Into<String>) -> Self {
        Self::local(Kind::Lost, Code::FailedPrecondition, message)
    }

    pub(crate) fn transport(message: impl Into<String>) -> Self {
        Self::local(Kind::Transport, Code::Unavailable, message)
    }

    /// The server could not be connected to: nothing was sent.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        let mut made = Self::transport(message);
        made.0.unsent = true;
        made
    }

    pub(crate) fn deadline() -> Self {
        let message = "no answer came in time";
        Self::local(Kind::Deadline, Code::DeadlineExceeded, message)
    }

    pub(crate) fn task_ended(task: pb::Task) -> Self {
        let error = task.error.clone().unwrap_or_default();
        let state = task.state().as_str_name().trim_start_matches("STATE_");
        let message = format!("task {} is {state}: {} {}", task.task_id, error.kind, error.message);
        let mut made = Self::local(Kind::Ended, Code::Aborted, message.trim_end());
        made.0.ended = Some(Ended::Task(Box::new(task)));
        made
    }

    pub(crate) fn workflow_ended(workflow: pb::Workflow) -> Self {
        let state = workflow.state().as_str_name().trim_start_matches("STATE_");
        let last = workflow.error_log.last().cloned().unwrap_or_default();
        let message = format!("workflow {} is {state}: {last}", workflow.workflow_id);
        let mut made = Self::local(Kind::Ended, Code::Aborted, message);
        made.0.ended = Some(Ended::Workflow(Box::new(workflow)));
        made
    }

    /// An error that came as an answer on the session's stream.
    pub(crate) fn from_frame(error: pb::Error) -> Self {
        let reason = error.reason();
        let mut made = Self::local(Kind::Refused, Code::from_i32(error.code), error.message);
        made.0.reason = reason;
        made.0.metadata = error.metadata;
        made.0.retry_after = error.retry_delay.and_then(|delay| delay.try_into().ok());
        made
    }

    /// Where it comes from.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The gRPC status code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The server's reason; `Unspecified` where the server did not decide it.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// A sentence for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the reason documents, by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// One value of the metadata.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.metadata.get(key).map(String::as_str)
    }

    /// When the server says that it can help to try again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Every field of the request that is at fault.
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// The document as it is now, of a version conflict.
    pub fn conflict(&self) -> Option<&pb::State> {
        self.0.conflict.as_ref()
    }

    /// The task that was waited for and did not end well.
    pub fn task(&self) -> Option<&pb::Task> {
        match &self.0.ended {
            Some(Ended::Task(task)) => Some(task),
            _ => None,
        }
    }

    /// The workflow that was waited for and did not end well.
    pub fn workflow(&self) -> Option<&pb::Workflow> {
        match &self.0.ended {
            Some(Ended::Workflow(workflow)) => Some(workflow),
            _ => None,
        }
    }

    /// Whether another holds the lock, at once or after the wait.
    pub fn is_lock_held(&self) -> bool {
        matches!(self.reason(), Reason::LockHeld | Reason::LockWaitTimeout)
    }

    /// Whether the lease that was acted under is over.
    pub fn is_lease_over(&self) -> bool {
        use Reason::{LeaseEnded, LockNotFound, StaleFencingToken};
        matches!(self.reason(), LeaseEnded | LockNotFound | StaleFencingToken)
    }

    /// Whether the document's version was not the expected one.
    pub fn is_conflict(&self) -> bool {
        self.reason() == Reason::VersionConflict
    }

    /// Whether the session that was acted under is over, for whatever reason.
    pub fn is_session_over(&self) -> bool {
        matches!(self.reason(), Reason::SessionEnded | Reason::SessionSuperseded)
    }

    /// Whether the attempt is over: nobody waits for its result.
    pub fn is_stale_attempt(&self) -> bool {
        matches!(self.reason(), Reason::StaleAttempt | Reason::TaskEnded)
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.code() == Code::NotFound
    }

    /// Whether the same request may be sent again, with the same `request_id`, in the hope of another answer.
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            Kind::Transport => true,
            Kind::Refused => match self.code() {
                Code::Unavailable | Code::Unknown => true,
                Code::ResourceExhausted => self.retry_after().is_some(),
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether it cannot be known if the change was made.
    pub fn is_indeterminate(&self) -> bool {
        let unanswered = match self.kind() {
            Kind::Transport => !self.0.unsent,
            // Where the server says so itself, nothing was changed.
            Kind::Deadline => !self.is_decided(),
            _ => false,
        };
        self.0.after_unknown || unanswered || self.reason() == Reason::OutcomeUnknown
    }

    /// Whether the server decided it, and gave its reason.
    pub(crate) fn is_decided(&self) -> bool {
        self.reason() != Reason::Unspecified
    }

    /// Whether it speaks against the address that it came from, so that another is to be tried: nobody is there, nobody
    /// answers, or the server cannot answer now.
    pub(crate) fn is_of_address(&self) -> bool {
        match self.kind() {
            Kind::Transport => true,
            Kind::Deadline => !self.is_decided(),
            Kind::Refused => self.code() == Code::Unavailable,
            _ => false,
        }
    }

    /// Why it failed, without the words of the layers between.
    pub(crate) fn why(&self) -> String {
        let status = self.0.source.as_deref().filter(|_| self.kind() == Kind::Transport);
        match status.and_then(|status| status.source()) {
            Some(cause) => innermost(cause),
            None => self.to_string(),
        }
    }

    /// The same error in other words.
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// The same error, naming the address that it came from where no server decided it.
    pub(crate) fn at(self, place: &str) -> Self {
        if self.is_decided() || self.kind() == Kind::Refused {
            return self;
        }
        let message = format!("{place}: {}", self.why());
        self.with_message(message)
    }

    /// The same error, of a call with an earlier try of which it cannot be known what became.
    pub(crate) fn after_unknown(mut self, unknown: bool) -> Self {
        self.0.after_unknown |= unknown;
        self
    }
}

/// The cause at the bottom of an error, which is the one that says something.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Reason::Unspecified => write!(out, "{}", self.message()),
            reason => {
                let name = reason.as_str_name().trim_start_matches("REASON_");
                write!(out, "{name}: {}", self.message())
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Error")
            .field("kind", &self.kind())
            .field("code", &self.code())
            .field("reason", &self.reason())
            .field("message", &self.message())
            .field("metadata", &self.metadata())
            .field("violations", &self.violations())
            .field("retry_after", &self.retry_after())
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| source.as_ref() as &(dyn std::error::Error + 'static))
    }
}
