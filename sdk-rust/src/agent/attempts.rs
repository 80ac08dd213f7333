//! Which attempts this agent has, so that none is begun twice. Pure bookkeeping.
//!
//! After a resume the server sends again what was assigned and not answered, which may be running here, or be finished with
//! its answer still under way.

use std::collections::{HashMap, VecDeque};

/// How many finished attempts are remembered.
const REMEMBERED: usize = 4_096;

/// One attempt at a task, for all time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AttemptKey {
    pub(crate) task_id: String,
    pub(crate) attempt: i32,
}

/// The attempts of an agent: those that it has, and those that it had.
#[derive(Debug)]
pub(crate) struct Attempts<T> {
    present: HashMap<AttemptKey, T>,
    past: VecDeque<AttemptKey>,
}

impl<T> Attempts<T> {
    pub(crate) fn new() -> Self {
        Self {
            present: HashMap::new(),
            past: VecDeque::new(),
        }
    }

    /// Whether an attempt is here or was.
    pub(crate) fn knows(&self, key: &AttemptKey) -> bool {
        self.present.contains_key(key) || self.past.contains(key)
    }

    /// An attempt begins.
    pub(crate) fn begin(&mut self, key: AttemptKey, attempt: T) {
        self.present.insert(key, attempt);
    }

    /// An attempt that is here.
    pub(crate) fn get(&self, key: &AttemptKey) -> Option<&T> {
        self.present.get(key)
    }

    /// All that are here.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.present.values()
    }

    /// An attempt is over, and its outcome answered.
    pub(crate) fn end(&mut self, key: AttemptKey) {
        if self.present.remove(&key).is_some() {
            if self.past.len() == REMEMBERED {
                self.past.pop_front();
            }
            self.past.push_back(key);
        }
    }

    /// Whether none is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.present.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(attempt: i32) -> AttemptKey {
        AttemptKey {
            task_id: "t".into(),
            attempt,
        }
    }

    #[test]
    fn an_attempt_is_known_while_it_runs_and_after() {
        let mut attempts = Attempts::new();
        assert!(!attempts.knows(&key(1)));
        attempts.begin(key(1), ());
        assert!(attempts.knows(&key(1)));
        attempts.end(key(1));
        assert!(attempts.knows(&key(1)) && attempts.is_empty());
        assert!(!attempts.knows(&key(2)), "the next attempt at the same task is another");
    }

    #[test]
    fn memory_is_bounded() {
        let mut attempts = Attempts::new();
        for number in 0..5_000 {
            attempts.begin(key(number), ());
            attempts.end(key(number));
        }
        assert_eq!(attempts.past.len(), REMEMBERED);
        assert!(attempts.knows(&key(4_999)));
    }
}
