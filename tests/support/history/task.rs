//! A task: attempts one after another, of which one completes it.
//!
//! The server assigns attempts by itself, and ends them by time or with their agent. So both are operations of their own: an assignment
//! that an agent was told of happened before it was; one that nobody was told of, and an end, may have happened at any time, or never.

use todc_utils::specifications::Specification;

use super::Model;

/// A task.
#[derive(Clone, Copy, Debug)]
pub struct Task;

/// What is asked of a task, and what comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is delegated.
    Delegate,
    /// An attempt is given to an agent. Certain, if an agent was told.
    Assign {
        /// Its number.
        attempt: i32,
        /// Whether it certainly was.
        is_certain: bool,
    },
    /// An attempt ends without a word of its agent.
    End {
        /// Its number.
        attempt: i32,
    },
    /// An agent's last word on an attempt.
    Say {
        /// Its number.
        attempt: i32,
        /// What it found; nothing if it failed.
        result: Option<u64>,
        /// What came of it.
        outcome: Said,
    },
    /// A read: the number of the attempt, and the result if there is one.
    Get {
        /// The number of the current or last attempt.
        attempt: i32,
        /// Its result.
        result: Option<u64>,
    },
    /// A read whose answer nobody has.
    Nothing,
}

/// What came of a last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It counts.
    Recorded,
    /// The attempt was over.
    Stale,
    /// Nobody knows.
    Unknown,
}

/// Whether it is there, its last attempt, whether that is over, and the result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    is_there: bool,
    attempt: i32,
    is_over: bool,
    result: Option<u64>,
}

impl State {
    fn assign(&self, attempt: i32, is_certain: bool) -> Option<State> {
        if self.is_there && self.result.is_none() && attempt == self.attempt + 1 {
            return Some(State {
                attempt,
                is_over: false,
                ..self.clone()
            });
        }
        (!is_certain).then(|| self.clone())
    }

    fn end(&self, attempt: i32) -> State {
        State {
            is_over: self.is_over || (self.attempt == attempt && self.result.is_none()),
            ..self.clone()
        }
    }

    fn say(&self, attempt: i32, result: Option<u64>, outcome: Said) -> Option<State> {
        let is_current = self.is_there && attempt == self.attempt && !self.is_over;
        // The same result said twice is fine both times.
        let counts = is_current && (self.result.is_none() || self.result == result);
        let fits = match outcome {
            Said::Recorded => counts,
            Said::Stale => !counts,
            Said::Unknown => true,
        };
        fits.then(|| State {
            result: if counts { result } else { self.result },
            is_over: self.is_over || (counts && result.is_none()),
            ..self.clone()
        })
    }
}

impl Specification for Task {
    type State = State;
    type Operation = Operation;

    fn init() -> State {
        State::default()
    }

    fn apply(operation: &Operation, state: &State) -> (bool, State) {
        let next = match operation {
            Operation::Delegate => Some(State {
                is_there: true,
                ..state.clone()
            }),
            Operation::Assign { attempt, is_certain } => state.assign(*attempt, *is_certain),
            Operation::End { attempt } => Some(state.end(*attempt)),
            Operation::Say {
                attempt,
                result,
                outcome,
            } => state.say(*attempt, *result, *outcome),
            Operation::Get { attempt, result } => {
                let fits = state.is_there && state.attempt == *attempt && state.result == *result;
                fits.then(|| state.clone())
            }
            Operation::Nothing => Some(state.clone()),
        };
        match next {
            Some(next) => (true, next),
            None => (false, state.clone()),
        }
    }
}

impl Model for Task {
    fn forget(operation: &Operation) -> Operation {
        match *operation {
            Operation::Delegate => Operation::Delegate,
            Operation::Assign { attempt, .. } => Operation::Assign {
                attempt,
                is_certain: false,
            },
            Operation::Say { attempt, result, .. } => Operation::Say {
                attempt,
                result,
                outcome: Said::Unknown,
            },
            Operation::End { attempt } => Operation::End { attempt },
            Operation::Get { .. } | Operation::Nothing => Operation::Nothing,
        }
    }
}
