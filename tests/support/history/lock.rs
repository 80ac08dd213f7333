//! A lock with fencing tokens, and a document that is written under it.
//!
//! Leases end by time, which a sequential object does not have. So the end of a lease is an operation of its own, which nobody sent:
//! it can happen from the moment on at which the lease, counted from before it was asked for, or from before its last renewal, is over,
//! and it does nothing if the lease has ended otherwise. A lease that ends before that is a fault, one that lasts longer is none.

use std::time::Duration;

use todc_utils::specifications::Specification;

use super::{Model, Recorded};

/// A lock, and a document.
#[derive(Clone, Copy, Debug)]
pub struct Lock;

/// What is asked of a lock, and what comes of it. A lease is named by its holder, who asks once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A holder asks for it.
    Acquire {
        /// Who.
        holder: String,
        /// What came of it.
        outcome: Acquired,
    },
    /// A lease is extended, or given back.
    Show {
        /// The token that is shown.
        token: i64,
        /// Whether the lock is given back.
        gives_back: bool,
        /// What came of it.
        outcome: Shown,
    },
    /// The document is written by who shows a token.
    Write {
        /// The token that is shown.
        token: i64,
        /// The version that was made, or that it was refused.
        outcome: Written,
    },
    /// A read: the holder and its token, if somebody holds it.
    Get(Option<(String, i64)>),
    /// The end of a lease by time.
    End {
        /// Whose.
        holder: String,
    },
    /// A read whose answer nobody has.
    Nothing,
}

/// What came of a wish for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It was granted, with this token.
    Granted(i64),
    /// It was held by another: by whom, if that was said.
    HeldBy(Option<String>),
    /// Nobody knows; or it was granted, and has ended.
    Unknown,
}

/// What came of a token that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It was the holder's.
    Holds,
    /// Another had the lock.
    Stale,
    /// Nobody had it.
    NotHeld,
    /// Nobody knows.
    Unknown,
}

/// What came of a guarded write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It made this version.
    Made(i64),
    /// The token was not the holder's.
    Stale,
    /// Nobody knows.
    Unknown,
}

/// Who holds the lock, the highest token that is known, and the document's version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    holder: Option<(String, Option<i64>)>,
    token: i64,
    version: i64,
}

impl State {
    fn is_held_with(&self, token: i64) -> bool {
        self.holder.as_ref().is_some_and(|(_, held)| *held == Some(token))
    }

    fn free(&self) -> State {
        State {
            holder: None,
            ..self.clone()
        }
    }

    fn acquire(&self, holder: &str, outcome: &Acquired) -> Option<State> {
        let token = match outcome {
            Acquired::HeldBy(other) => {
                let is_it = |(held, _): &(String, _)| other.as_ref().is_none_or(|other| other == held);
                return self.holder.as_ref().is_some_and(is_it).then(|| self.clone());
            }
            Acquired::Granted(token) if self.holder.is_some() || *token <= self.token => return None,
            Acquired::Granted(token) => Some(*token),
            Acquired::Unknown if self.holder.is_some() => return Some(self.clone()),
            Acquired::Unknown => None,
        };
        Some(State {
            holder: Some((holder.to_owned(), token)),
            token: token.unwrap_or(self.token),
            version: self.version,
        })
    }

    fn show(&self, token: i64, gives_back: bool, outcome: Shown) -> Option<State> {
        let found = match &self.holder {
            Some(_) if self.is_held_with(token) => Shown::Holds,
            Some(_) => Shown::Stale,
            None => Shown::NotHeld,
        };
        let fits = outcome == Shown::Unknown || outcome == found;
        fits.then(|| {
            if gives_back && found == Shown::Holds {
                self.free()
            } else {
                self.clone()
            }
        })
    }

    fn write(&self, token: i64, outcome: Written) -> Option<State> {
        let holds = self.is_held_with(token);
        let next = State {
            version: self.version + i64::from(holds),
            ..self.clone()
        };
        let fits = match outcome {
            Written::Made(version) => holds && version == next.version,
            Written::Stale => !holds,
            Written::Unknown => true,
        };
        fits.then_some(next)
    }
}

impl Specification for Lock {
    type State = State;
    type Operation = Operation;

    fn init() -> State {
        State::default()
    }

    fn apply(operation: &Operation, state: &State) -> (bool, State) {
        let next = match operation {
            Operation::Acquire { holder, outcome } => state.acquire(holder, outcome),
            Operation::Show {
                token,
                gives_back,
                outcome,
            } => state.show(*token, *gives_back, *outcome),
            Operation::Write { token, outcome } => state.write(*token, *outcome),
            Operation::Get(seen) => {
                let fits = match (&state.holder, seen) {
                    (None, None) => true,
                    (Some((holder, token)), Some((seen, shown))) => {
                        holder == seen && token.is_none_or(|token| token == *shown)
                    }
                    _ => false,
                };
                fits.then(|| state.clone())
            }
            Operation::End { holder } => {
                let is_theirs = state.holder.as_ref().is_some_and(|(held, _)| held == holder);
                Some(if is_theirs { state.free() } else { state.clone() })
            }
            Operation::Nothing => Some(state.clone()),
        };
        match next {
            Some(next) => (true, next),
            None => (false, state.clone()),
        }
    }
}

impl Model for Lock {
    fn forget(operation: &Operation) -> Operation {
        match operation.clone() {
            Operation::Acquire { holder, .. } => Operation::Acquire {
                holder,
                outcome: Acquired::Unknown,
            },
            Operation::Show { token, gives_back, .. } => Operation::Show {
                token,
                gives_back,
                outcome: Shown::Unknown,
            },
            Operation::Write { token, .. } => Operation::Write {
                token,
                outcome: Written::Unknown,
            },
            end @ Operation::End { .. } => end,
            Operation::Get(_) | Operation::Nothing => Operation::Nothing,
        }
    }
}

/// The end by time of a lease that was asked for, or last renewed, at this time.
pub fn end_of_lease(holder: &str, asked: Duration, ttl: Duration) -> Recorded<Operation> {
    Recorded {
        operation: Operation::End {
            holder: holder.to_owned(),
        },
        sent: asked + ttl,
        answered: None,
    }
}
