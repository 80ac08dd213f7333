//! What callers did and were told, and what must be true of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::listeners::{Heard, HeardEvent};
use super::publishers::TYPE;
use super::{EVERYTHING, Gap, Kind, Notes, Shared, Success, place_of};
use crate::support::history::document::Document;
use crate::support::history::lock::{Acquired, Lock, Operation as OnLock};
use crate::support::history::task::{Operation, Task};
use crate::support::history::{Recorded, assert_linearizable};

/// The end of a run.
pub struct Report {
    notes: Notes,
    successes: Vec<Success>,
    complaints: Vec<String>,
    published: BTreeMap<String, (i64, i64)>,
}

impl Report {
    /// What the callers noted, and what they shared.
    pub(super) fn new(shared: &Shared, notes: Notes) -> Report {
        let report = Report {
            notes,
            successes: shared.successes.lock().expect("no panic").clone(),
            complaints: shared.complaints.lock().expect("no panic").clone(),
            published: shared.published.lock().expect("no panic").clone(),
        };
        for kind in EVERYTHING {
            let count = report.successes.iter().filter(|one| one.kind == kind).count();
            let (begin, silence) = report.longest_silence(kind);
            eprintln!("{kind:?}: {count}, longest silence {silence:.2?} from {begin:.2?} on");
        }
        report
    }

    /// The longest time in which nothing of a kind succeeded, and when it began.
    pub fn longest_silence(&self, kind: Kind) -> (Duration, Duration) {
        let mut times: Vec<Duration> = self.of(kind).map(|one| one.answered).collect();
        times.sort_unstable();
        let silences = times.windows(2).map(|pair| (pair[0], pair[1] - pair[0]));
        silences.max_by_key(|(_, silence)| *silence).unwrap_or_default()
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Success> {
        self.successes.iter().filter(move |one| one.kind == kind)
    }

    /// Where a listener was told that it could not go on.
    pub fn gaps(&self) -> Vec<&Gap> {
        self.notes.listened.iter().flat_map(|heard| &heard.gaps).collect()
    }

    /// How many sessions of agents have ended, though the agents were there all the time.
    pub fn sessions_lost(&self) -> usize {
        self.notes.sessions_lost
    }

    /// The epochs in which something was committed.
    pub fn epochs(&self) -> BTreeSet<i64> {
        let places = self.successes.iter().filter_map(|one| one.place);
        places.map(|(epoch, _)| epoch).collect()
    }

    /// Fails unless all is as if there had been no fault, but for the time that it took.
    pub fn assert_all_is_well(&self) {
        self.assert_no_complaint();
        self.assert_linearizable();
        self.assert_order();
        assert!(self.gaps().is_empty(), "cursors were refused: {:?}", self.gaps());
        self.assert_heard();
    }

    /// Fails if a call was refused that could not be, or a server has a defect.
    pub fn assert_no_complaint(&self) {
        let first = &self.complaints[..self.complaints.len().min(10)];
        assert!(first.is_empty(), "{} complaints: {first:#?}", self.complaints.len());
    }

    /// Fails unless the histories of all locks, documents and tasks can be explained.
    pub fn assert_linearizable(&self) {
        for (resource, history) in &self.notes.locks {
            assert_linearizable::<Lock>(resource, history);
        }
        for (document, history) in &self.notes.documents {
            assert_linearizable::<Document>(document, history);
        }
        for (task, history) in &self.notes.tasks {
            assert_linearizable::<Task>(task, &with_unseen_attempts(history));
        }
    }

    /// Fails unless what was answered before something else was sent has the earlier place in the log, whatever it was.
    pub fn assert_order(&self) {
        let mut changes: Vec<&Success> = self.successes.iter().filter(|one| one.place.is_some()).collect();
        changes.sort_by_key(|one| one.sent);
        let mut by_answer = changes.clone();
        by_answer.sort_by_key(|one| one.answered);
        let (mut before, mut last): (_, Option<&Success>) = (by_answer.into_iter().peekable(), None);
        for change in changes {
            while let Some(earlier) = before.next_if(|earlier| earlier.answered < change.sent) {
                last = last.max_by_place(earlier);
            }
            let Some(last) = last else { continue };
            // A lock that is held already is extended, which has no place of its own.
            let is_after = change.place > last.place || (change.kind == Kind::Lock && change.place == last.place);
            assert!(is_after, "{change:?} was sent after the answer of {last:?}");
        }
    }

    /// Fails unless every listener heard every event that was acknowledged, once, in order, at its place; and one heard every position.
    pub fn assert_heard(&self) {
        for heard in &self.notes.listened {
            assert_in_order(heard, &heard.events);
            assert_heard_by(heard, &self.published);
        }
    }

    /// Fails unless each listener was told that what it had heard last was lost, if it was, heard nothing before that twice, and then heard
    /// everything that was kept: all that was acknowledged in `epoch`, which began at this position, or before that position. Gives how
    /// many events had been acknowledged that were not kept.
    pub fn assert_heard_but_for_the_lost(&self, epoch: i64, first_position: i64) -> usize {
        let is_kept = |place: (i64, i64)| place.0 == epoch || place.1 < first_position;
        let mut kept = self.published.clone();
        kept.retain(|_, place| is_kept(*place));
        for heard in &self.notes.listened {
            let lost_begin = heard.events.iter().position(|event| !is_kept(event.place));
            let gap = heard.gaps.first();
            assert_eq!(
                gap.is_some(),
                lost_begin.is_some(),
                "told that something was lost: {gap:?}"
            );
            let Some(gap) = gap else {
                assert_in_order(heard, &heard.events);
                assert_heard_by(heard, &kept);
                continue;
            };
            assert_eq!(
                (gap.problem.as_str(), heard.gaps.len()),
                ("LOST", 1),
                "{:?}",
                heard.gaps
            );
            assert!(!is_kept(place_of(&gap.cursor)), "{gap:?} was kept");
            let (before, after) = heard.events.split_at(gap.after);
            assert_in_order(heard, before);
            assert_in_order(heard, after);
            assert!(
                after.iter().all(|event| is_kept(event.place)),
                "what was lost is not heard again"
            );
            // Whoever begins again at the earliest position hears everything.
            let again = Heard {
                events: after.to_vec(),
                ..heard.clone()
            };
            assert_heard_by(&again, &kept);
        }
        self.published.len() - kept.len()
    }

    /// Fails unless a token that was granted before another was asked for is the lower one, on every resource.
    pub fn assert_tokens_rise(&self) {
        for (resource, history) in &self.notes.locks {
            let grants = history.iter().filter_map(|one| match &one.operation {
                OnLock::Acquire {
                    outcome: Acquired::Granted(token),
                    ..
                } => Some((one.sent, one.answered?, *token)),
                _ => None,
            });
            let grants: Vec<(Duration, Duration, i64)> = grants.collect();
            let tokens: BTreeSet<i64> = grants.iter().map(|grant| grant.2).collect();
            assert_eq!(tokens.len(), grants.len(), "a token of {resource} was granted twice");
            for (_, answered, token) in &grants {
                let later = grants.iter().filter(|(sent, ..)| sent > answered);
                let lowest = later.map(|grant| grant.2).min();
                assert!(
                    lowest.is_none_or(|lowest| lowest > *token),
                    "{resource}: {lowest:?} after {token}"
                );
            }
        }
    }

    /// The complaints that do not say this.
    pub fn complaints_without(&self, text: &str) -> Vec<&String> {
        self.complaints
            .iter()
            .filter(|complaint| !complaint.contains(text))
            .collect()
    }
}

fn assert_in_order(heard: &Heard, events: &[HeardEvent]) {
    for pair in events.windows(2) {
        let (one, next) = (pair[0].place, pair[1].place);
        assert!(next > one, "{next:?} came after {one:?}");
        assert!(!heard.hears_all || next.1 == one.1 + 1, "{next:?} came after {one:?}");
    }
}

fn assert_heard_by(heard: &Heard, published: &BTreeMap<String, (i64, i64)>) {
    let said: Vec<_> = heard.events.iter().filter(|event| event.event_type == TYPE).collect();
    let places: BTreeMap<&str, (i64, i64)> = said
        .iter()
        .map(|event| (event.event_id.as_str(), event.place))
        .collect();
    assert_eq!(places.len(), said.len(), "an event was heard twice");
    for (event_id, place) in published {
        // A cursor that is given out later has the epoch of then.
        let at = places.get(event_id.as_str());
        assert!(
            at.is_some_and(|at| at.1 == place.1 && at.0 >= place.0),
            "{event_id}, which was acknowledged at {place:?}, was heard at {at:?}"
        );
    }
}

trait Latest<'a> {
    fn max_by_place(self, other: &'a Success) -> Option<&'a Success>;
}

impl<'a> Latest<'a> for Option<&'a Success> {
    fn max_by_place(self, other: &'a Success) -> Option<&'a Success> {
        match self {
            Some(one) if one.place >= other.place => Some(one),
            _ => Some(other),
        }
    }
}

/// A task's history with the attempts that no agent was told of.
fn with_unseen_attempts(history: &[Recorded<Operation>]) -> Vec<Recorded<Operation>> {
    let number = |one: &Recorded<Operation>| match one.operation {
        Operation::Get { attempt, .. } | Operation::Assign { attempt, .. } => Some(attempt),
        _ => None,
    };
    let last = history.iter().filter_map(number).max().unwrap_or(0);
    let seen = |attempt| {
        let is_it = |one: &Recorded<Operation>| matches!(one.operation, Operation::Assign { attempt: seen, .. } if seen == attempt);
        history.iter().any(is_it)
    };
    let unseen = (1..=last).filter(|attempt| !seen(*attempt)).map(|attempt| Recorded {
        operation: Operation::Assign {
            attempt,
            is_certain: false,
        },
        sent: Duration::ZERO,
        answered: None,
    });
    history.iter().cloned().chain(unseen).collect()
}
