//! A document with compare-and-swap: versions go up by one, also through a deletion.

use todc_utils::specifications::Specification;

use super::Model;

/// A document.
#[derive(Clone, Copy, Debug)]
pub struct Document;

/// What is asked of a document, and what comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A read: the version and the content, if the document is there.
    Get(Option<(i64, u64)>),
    /// A write, or a deletion if there is no content.
    Put {
        /// What the version must be; 0: it must not be there; nothing: whatever it is.
        expected: Option<i64>,
        /// What is written.
        content: Option<u64>,
        /// What came of it.
        outcome: Outcome,
    },
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It made this version.
    Made(i64),
    /// The version was this, and not the expected one; 0: the document was not there.
    Conflict(i64),
    /// There was nothing to delete.
    NotFound,
    /// Nobody knows.
    Unknown,
}

/// The highest version, and the content of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    version: i64,
    content: Option<u64>,
}

impl State {
    /// The version that is shown: 0 if the document is not there.
    fn shown(&self) -> i64 {
        if self.content.is_some() { self.version } else { 0 }
    }

    /// What a write comes to.
    fn put(&self, expected: Option<i64>, content: Option<u64>) -> (Outcome, State) {
        if content.is_none() && self.content.is_none() {
            return (Outcome::NotFound, self.clone());
        }
        if expected.is_some_and(|expected| expected != self.shown()) {
            return (Outcome::Conflict(self.shown()), self.clone());
        }
        let version = self.version + 1;
        (Outcome::Made(version), State { version, content })
    }
}

impl Specification for Document {
    type State = State;
    type Operation = Operation;

    fn init() -> State {
        State::default()
    }

    fn apply(operation: &Operation, state: &State) -> (bool, State) {
        match operation {
            Operation::Get(seen) => {
                let there = state.content.map(|content| (state.version, content));
                (*seen == there, state.clone())
            }
            Operation::Put {
                expected,
                content,
                outcome,
            } => {
                let (made, next) = state.put(*expected, *content);
                let fits = *outcome == Outcome::Unknown || *outcome == made;
                (fits, if fits { next } else { state.clone() })
            }
        }
    }
}

impl Model for Document {
    fn forget(operation: &Operation) -> Operation {
        match operation {
            Operation::Put { expected, content, .. } => Operation::Put {
                expected: *expected,
                content: *content,
                outcome: Outcome::Unknown,
            },
            // A read whose answer nobody has constrains nothing; a deletion of nothing changes nothing.
            Operation::Get(_) => Operation::Put {
                expected: Some(i64::MIN),
                content: None,
                outcome: Outcome::Unknown,
            },
        }
    }
}
