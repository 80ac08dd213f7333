//! Why a call is refused: one closed list of reasons, said in the terms of the domain.
//!
//! Rules and doors return a [`Refusal`]; [`crate::edge::status`] turns it into a gRPC status, once. What a driver said
//! never gets into one: store errors stop at the store and arrive here as `STORE_UNAVAILABLE` or `INTERNAL`.

use std::fmt;
use std::time::Duration;

use crate::state::Document;

/// The gRPC status code family that a reason belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The request is wrong and stays wrong.
    InvalidArgument,
    /// It is not there.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// The caller must do something else first.
    FailedPrecondition,
    /// It lost a race: look again and retry.
    Aborted,
    /// The cursor points outside what is kept.
    OutOfRange,
    /// Too much at once.
    ResourceExhausted,
    /// Not now.
    Unavailable,
    /// It may or may not have happened.
    Unknown,
    /// Out of time.
    DeadlineExceeded,
    /// A defect of the server.
    Internal,
}

macro_rules! reasons {
    ($($variant:ident = $name:literal : $class:ident),+ $(,)?) => {
        /// The reasons of `errors.proto`, where each is documented with its metadata.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $(#[allow(missing_docs)] $variant),+ }

        impl Reason {
            /// The name that clients see in `ErrorInfo.reason`.
            pub fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name),+ }
            }

            /// The family of status codes that it belongs to.
            pub fn class(self) -> Class {
                match self { $(Reason::$variant => Class::$class),+ }
            }
        }
    };
}

reasons! {
    InvalidRequest = "INVALID_REQUEST": InvalidArgument,
    PayloadTooLarge = "PAYLOAD_TOO_LARGE": InvalidArgument,
    RequestIdReused = "REQUEST_ID_REUSED": InvalidArgument,
    AgentNotFound = "AGENT_NOT_FOUND": NotFound,
    SessionEnded = "SESSION_ENDED": FailedPrecondition,
    SessionSuperseded = "SESSION_SUPERSEDED": FailedPrecondition,
    SessionRequired = "SESSION_REQUIRED": FailedPrecondition,
    StreamSuperseded = "STREAM_SUPERSEDED": Aborted,
    EventNotFound = "EVENT_NOT_FOUND": NotFound,
    EventTypeReserved = "EVENT_TYPE_RESERVED": InvalidArgument,
    CursorOutOfRange = "CURSOR_OUT_OF_RANGE": OutOfRange,
    SlowConsumer = "SLOW_CONSUMER": ResourceExhausted,
    LockHeld = "LOCK_HELD": Aborted,
    LockWaitTimeout = "LOCK_WAIT_TIMEOUT": Aborted,
    LockNotFound = "LOCK_NOT_FOUND": NotFound,
    StaleFencingToken = "STALE_FENCING_TOKEN": FailedPrecondition,
    LeaseEnded = "LEASE_ENDED": FailedPrecondition,
    StateNotFound = "STATE_NOT_FOUND": NotFound,
    VersionConflict = "VERSION_CONFLICT": Aborted,
    VersionNotFound = "VERSION_NOT_FOUND": NotFound,
    TaskNotFound = "TASK_NOT_FOUND": NotFound,
    StaleAttempt = "STALE_ATTEMPT": FailedPrecondition,
    TaskEnded = "TASK_ENDED": FailedPrecondition,
    InputSchemaMismatch = "INPUT_SCHEMA_MISMATCH": InvalidArgument,
    WorkflowNotFound = "WORKFLOW_NOT_FOUND": NotFound,
    WorkflowExists = "WORKFLOW_EXISTS": AlreadyExists,
    InvalidExpression = "INVALID_EXPRESSION": InvalidArgument,
    WorkflowEnded = "WORKFLOW_ENDED": FailedPrecondition,
    StepNotFound = "STEP_NOT_FOUND": NotFound,
    Overloaded = "OVERLOADED": ResourceExhausted,
    StoreUnavailable = "STORE_UNAVAILABLE": Unavailable,
    OutcomeUnknown = "OUTCOME_UNKNOWN": Unknown,
    Draining = "DRAINING": Unavailable,
    DeadlineExceeded = "DEADLINE_EXCEEDED": DeadlineExceeded,
    Internal = "INTERNAL": Internal,
    InvalidPageToken = "INVALID_PAGE_TOKEN": InvalidArgument,
    TaskExists = "TASK_EXISTS": AlreadyExists,
}

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field: `events[3].event_type`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// A refused call: nothing was changed by it.
#[derive(Clone, Debug)]
pub struct Refusal(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    reason: Reason,
    message: String,
    metadata: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    violations: Vec<Violation>,
    document: Option<Document>,
}

impl Refusal {
    /// A refusal with a sentence for people.
    pub fn new(reason: Reason, message: impl Into<String>) -> Refusal {
        Refusal(Box::new(Inner {
            reason,
            message: message.into(),
            metadata: Vec::new(),
            retry_after: None,
            violations: Vec::new(),
            document: None,
        }))
    }

    /// A request with one field that is wrong.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Refusal {
        Refusal::of_violations(vec![Violation {
            field: field.into(),
            description: description.into(),
        }])
    }

    /// A request with several fields that are wrong.
    pub fn of_violations(violations: Vec<Violation>) -> Refusal {
        let message = violations
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.description))
            .collect::<Vec<_>>()
            .join("; ");
        let mut refusal = Refusal::new(Reason::InvalidRequest, message);
        refusal.0.violations = violations;
        refusal
    }

    /// The same with one more key that the reason documents.
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Refusal {
        self.0.metadata.push((key, value.to_string()));
        self
    }

    /// The same with the places that are at fault.
    pub fn with_violations(mut self, violations: Vec<Violation>) -> Refusal {
        self.0.violations = violations;
        self
    }

    /// The same with a hint when to try again.
    pub fn retry_after(mut self, delay: Duration) -> Refusal {
        self.0.retry_after = Some(delay);
        self
    }

    /// The same with the document as it is now.
    pub fn with_document(mut self, document: Document) -> Refusal {
        self.0.document = Some(document);
        self
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the reason documents.
    pub fn metadata(&self) -> &[(&'static str, String)] {
        &self.0.metadata
    }

    /// When to try again, where that can help.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The fields at fault.
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// The document that stood in the way.
    pub fn document(&self) -> Option<&Document> {
        self.0.document.as_ref()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.reason.name(), self.0.message)
    }
}

impl std::error::Error for Refusal {}
