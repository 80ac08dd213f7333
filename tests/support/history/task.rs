//! A task: attempts one after another, of which one completes it.
//!
//! The server assigns attempts by itself. So each assignment is an operation of its own: one that an agent was told of happened before it
//! was, one that nobody was told of may have happened at any time, or never.

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
    /// An attempt's result.
    Complete {
        /// Its number.
        attempt: i32,
        /// What it found.
        result: u64,
        /// What came of it.
        outcome: Completed,
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

/// What came of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// It is the task's.
    Recorded,
    /// The attempt was over.
    Stale,
    /// Nobody knows.
    Unknown,
}

/// Whether it is there, its current attempt, and its result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    is_there: bool,
    attempt: i32,
    result: Option<u64>,
}

impl State {
    fn assign(&self, attempt: i32, is_certain: bool) -> Option<State> {
        if self.is_there && self.result.is_none() && attempt == self.attempt + 1 {
            return Some(State {
                attempt,
                ..self.clone()
            });
        }
        (!is_certain).then(|| self.clone())
    }

    fn complete(&self, attempt: i32, result: u64, outcome: Completed) -> Option<State> {
        let is_current = self.is_there && attempt == self.attempt;
        // The same said twice is fine both times.
        let counts = is_current && self.result.is_none_or(|known| known == result);
        let fits = match outcome {
            Completed::Recorded => counts,
            Completed::Stale => !counts,
            Completed::Unknown => true,
        };
        fits.then(|| State {
            result: if counts { Some(result) } else { self.result },
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
            Operation::Complete {
                attempt,
                result,
                outcome,
            } => state.complete(*attempt, *result, *outcome),
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
            Operation::Complete { attempt, result, .. } => Operation::Complete {
                attempt,
                result,
                outcome: Completed::Unknown,
            },
            Operation::Get { .. } | Operation::Nothing => Operation::Nothing,
        }
    }
}
