//! Where a namespace's log is known to here, and what comes next: batches are handed on in the order of their numbers, each once.
//!
//! Batches come from this server's lane, from hints of other servers and from the store, in any order and more than once. What is ahead
//! waits for what is missing. A batch of a newer epoch is only believed when the store was asked: whether the epoch goes on from what was
//! handed on, or history was lost, only the table of epochs tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lane::Commit;

/// How many batches may wait for what is missing. Those beyond come from the store.
const MAX_WAITING: usize = 256;

/// The place in a log up to which batches were handed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The epoch of the last batch.
    pub(super) epoch: i64,
    /// Its number.
    pub(super) batch: i64,
    /// The position of the last event.
    pub(super) position: i64,
}

/// What becomes of a batch that came.
#[derive(Debug)]
pub(super) enum Next {
    /// These are next: this batch, and those that waited for it.
    HandOn(Vec<Arc<Commit>>),
    /// It was handed on before.
    Known,
    /// Something before it is missing.
    Missing,
}

/// The track of a namespace.
#[derive(Debug, Default)]
pub(super) struct Track {
    place: Place,
    waiting: BTreeMap<i64, Arc<Commit>>,
}

impl Track {
    /// A track that goes on after a place.
    pub(super) fn at(place: Place) -> Track {
        Track {
            place,
            waiting: BTreeMap::new(),
        }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Whether something came that what is missing comes before.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes in a batch.
    pub(super) fn take(&mut self, commit: Arc<Commit>) -> Next {
        let head = &commit.head;
        if head.epoch < self.place.epoch || (head.epoch == self.place.epoch && head.batch <= self.place.batch) {
            return Next::Known;
        }
        // Before anything was handed on nothing can be lost.
        let goes_on = head.epoch == self.place.epoch || self.place.batch == 0;
        if !goes_on || head.batch > self.place.batch + 1 {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.insert(head.batch, commit);
            }
            return Next::Missing;
        }
        let mut next = vec![commit];
        self.step(&next[0].head);
        self.drain(&mut next);
        Next::HandOn(next)
    }

    /// Goes on in a newer epoch, of which the store says that it began after the last batch that was handed on. Gives what waited for that.
    pub(super) fn enter(&mut self, epoch: i64) -> Vec<Arc<Commit>> {
        self.place.epoch = self.place.epoch.max(epoch);
        let mut next = Vec::new();
        self.drain(&mut next);
        next
    }

    fn step(&mut self, head: &crate::store::Head) {
        self.place = Place {
            epoch: head.epoch,
            batch: head.batch,
            position: head.position,
        };
    }

    fn drain(&mut self, next: &mut Vec<Arc<Commit>>) {
        while let Some(entry) = self.waiting.first_entry() {
            let head = &entry.get().head;
            let is_known = head.epoch == self.place.epoch && head.batch <= self.place.batch;
            if is_known || head.epoch < self.place.epoch {
                entry.remove();
            } else if head.batch == self.place.batch + 1 && head.epoch == self.place.epoch {
                let commit = entry.remove();
                self.step(&commit.head);
                next.push(commit);
            } else {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Head;
    use crate::time::Time;
    use proptest::prelude::*;

    fn commit(epoch: i64, batch: i64) -> Arc<Commit> {
        let head = Head {
            epoch,
            batch,
            position: batch * 2,
            ..Head::new(Time(0))
        };
        Arc::new(Commit::new("default".into(), &head, Vec::new()))
    }

    fn handed_on(next: Next) -> Vec<i64> {
        match next {
            Next::HandOn(commits) => commits.iter().map(|commit| commit.head.batch).collect(),
            _ => Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn batches_are_handed_on_in_order_and_each_once(
            from in 0..5i64,
            mut order in prop::collection::vec(1..20i64, 0..100),
        ) {
            let mut track = Track::at(Place { epoch: 1, batch: from, position: from * 2 });
            // Whatever came, and how often: in the end everything comes once more, as from the store.
            order.extend(1..20);
            let mut all = Vec::new();
            for batch in order {
                all.extend(handed_on(track.take(commit(1, batch))));
                prop_assert_eq!(track.place().batch, all.last().copied().unwrap_or(from));
            }
            prop_assert_eq!(all, (from + 1..20).collect::<Vec<_>>());
            prop_assert!(!track.is_waiting());
        }
    }

    #[test]
    fn another_epoch_waits_for_the_word_of_the_store() {
        let mut track = Track::at(Place {
            epoch: 1,
            batch: 5,
            position: 10,
        });
        assert!(matches!(track.take(commit(2, 6)), Next::Missing));
        assert!(track.is_waiting());
        let next: Vec<i64> = track.enter(2).iter().map(|commit| commit.head.batch).collect();
        assert_eq!(next, [6]);
        assert!(
            matches!(track.take(commit(1, 7)), Next::Known),
            "what the old epoch says is over"
        );
    }

    #[test]
    fn a_batch_whose_place_a_lost_one_has_taken_is_still_waited_for() {
        let mut track = Track::at(Place {
            epoch: 1,
            batch: 5,
            position: 10,
        });
        assert!(matches!(track.take(commit(2, 6)), Next::Missing));
        assert_eq!(handed_on(track.take(commit(1, 6))), [6], "late, and lost");
        assert!(track.is_waiting(), "the store has to be asked");
    }

    #[test]
    fn a_new_namespace_begins_in_any_epoch() {
        let mut track = Track::default();
        assert_eq!(handed_on(track.take(commit(7, 1))), [1]);
    }
}
