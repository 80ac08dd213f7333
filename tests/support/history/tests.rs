//! The checker against histories that are right, histories that are wrong, and a search that tries every order.

use std::time::Duration;

use proptest::prelude::*;
use todc_utils::specifications::Specification;

use super::document::{Document, Operation as OnDocument, Outcome};
use super::lock::{Acquired, Lock, Operation as OnLock, Shown, Written, end_of_lease};
use super::task::{Operation as OnTask, Said, Task};
use super::{Model, Recorded, assert_linearizable, is_linearizable};

/// An operation from a second to another; without the second, it was never answered.
fn at<O>(sent: u64, answered: impl Into<Option<u64>>, operation: O) -> Recorded<O> {
    Recorded {
        operation,
        sent: Duration::from_secs(sent),
        answered: answered.into().map(Duration::from_secs),
    }
}

fn fits<M>(history: &[Recorded<M::Operation>]) -> bool
where
    M: Model,
    M::Operation: Send + 'static,
{
    is_linearizable::<M>("a test", history)
}

fn put(expected: i64, content: u64, outcome: Outcome) -> OnDocument {
    OnDocument::Put {
        expected: Some(expected),
        content: Some(content),
        outcome,
    }
}

fn acquire(holder: &str, outcome: Acquired) -> OnLock {
    OnLock::Acquire {
        holder: holder.to_owned(),
        outcome,
    }
}

fn granted(holder: &str, token: i64) -> OnLock {
    acquire(holder, Acquired::Granted(token))
}

fn release(token: i64, outcome: Shown) -> OnLock {
    OnLock::Show {
        token,
        gives_back: true,
        outcome,
    }
}

fn complete(attempt: i32, result: u64, outcome: Said) -> OnTask {
    OnTask::Say {
        attempt,
        result: Some(result),
        outcome,
    }
}

fn assign(attempt: i32) -> OnTask {
    OnTask::Assign {
        attempt,
        is_certain: true,
    }
}

#[test]
fn a_lost_update_is_found() {
    let first = at(0, 1, put(0, 7, Outcome::Made(1)));
    let both_swap = [
        first.clone(),
        at(2, 5, put(1, 8, Outcome::Made(2))),
        at(3, 4, put(1, 9, Outcome::Made(2))),
    ];
    assert!(!fits::<Document>(&both_swap));
    let one_swaps = [
        first,
        at(2, 5, put(1, 8, Outcome::Conflict(2))),
        at(3, 4, put(1, 9, Outcome::Made(2))),
    ];
    assert!(fits::<Document>(&one_swaps));
}

#[test]
fn a_read_of_what_was_overwritten_is_found() {
    let writes = [
        at(0, 1, put(0, 7, Outcome::Made(1))),
        at(2, 3, put(1, 8, Outcome::Made(2))),
    ];
    let read = |sent, answered| at(sent, answered, OnDocument::Get(Some((1, 7))));
    let [first, second] = writes;
    assert!(!fits::<Document>(&[first.clone(), second.clone(), read(4, 5)]));
    assert!(
        fits::<Document>(&[first, second, read(2, 5)]),
        "it may have been before the write"
    );
}

#[test]
fn a_version_that_is_used_again_is_found() {
    let delete = OnDocument::Put {
        expected: None,
        content: None,
        outcome: Outcome::Made(2),
    };
    let history = |version| {
        [
            at(0, 1, put(0, 7, Outcome::Made(1))),
            at(2, 3, delete.clone()),
            at(4, 5, OnDocument::Get(None)),
            at(6, 7, put(0, 8, Outcome::Made(version))),
        ]
    };
    assert!(fits::<Document>(&history(3)));
    assert!(!fits::<Document>(&history(1)));
}

#[test]
fn what_was_not_answered_may_have_happened_or_not() {
    let unknown = at(0, None, put(0, 7, Outcome::Unknown));
    let read = |seen| at(2, 3, OnDocument::Get(seen));
    assert!(fits::<Document>(&[unknown.clone(), read(None)]));
    assert!(fits::<Document>(&[unknown.clone(), read(Some((1, 7)))]));
    let late = at(4, 5, OnDocument::Get(Some((1, 7))));
    assert!(fits::<Document>(&[unknown.clone(), read(None), late]), "it may be late");
    let gone = at(4, 5, OnDocument::Get(None));
    assert!(
        !fits::<Document>(&[unknown.clone(), read(Some((1, 7))), gone]),
        "but it stays"
    );
    assert!(!fits::<Document>(&[unknown, read(Some((1, 8)))]));
}

#[test]
fn two_holders_at_once_are_found() {
    let first = at(0, 1, granted("a", 1));
    assert!(!fits::<Lock>(&[first.clone(), at(2, 3, granted("b", 2))]));
    let release = at(1, 4, release(1, Shown::Holds));
    assert!(fits::<Lock>(&[first, release, at(2, 3, granted("b", 2))]));
}

#[test]
fn a_token_that_does_not_rise_is_found() {
    for (token, is_right) in [(5, false), (4, false), (6, true)] {
        let history = [
            at(0, 1, granted("a", 5)),
            at(2, 3, release(5, Shown::Holds)),
            at(4, 5, granted("b", token)),
        ];
        assert_eq!(fits::<Lock>(&history), is_right, "{token}");
    }
}

#[test]
fn a_lease_may_end_by_time_but_not_before() {
    let lease = Duration::from_secs(10);
    let history = |taken| {
        [
            at(1, 2, granted("a", 1)),
            end_of_lease("a", Duration::from_secs(1), lease),
            at(3, taken, granted("b", 2)),
        ]
    };
    assert!(!fits::<Lock>(&history(10)));
    assert!(fits::<Lock>(&history(12)));
}

#[test]
fn a_write_under_a_stale_token_is_found() {
    let write = |token, outcome| OnLock::Write { token, outcome };
    let history = |outcome| {
        [
            at(0, 1, granted("a", 1)),
            at(2, 3, write(1, Written::Made(1))),
            at(4, 5, release(1, Shown::Holds)),
            at(6, 7, granted("b", 2)),
            at(8, 9, write(1, outcome)),
            at(10, 11, write(2, Written::Made(2))),
        ]
    };
    assert!(fits::<Lock>(&history(Written::Stale)));
    assert!(!fits::<Lock>(&history(Written::Made(2))));
    let mut unanswered = history(Written::Unknown).to_vec();
    unanswered[4].answered = None;
    assert!(fits::<Lock>(&unanswered), "what nobody knows of was refused");
}

#[test]
fn a_refusal_without_a_reason_is_found() {
    let held = |by: &str| acquire("b", Acquired::HeldBy(Some(by.to_owned())));
    let by_somebody = at(0, 1, acquire("b", Acquired::HeldBy(None)));
    assert!(!fits::<Lock>(std::slice::from_ref(&by_somebody)));
    assert!(fits::<Lock>(&[at(0, 1, granted("a", 1)), by_somebody]));
    assert!(!fits::<Lock>(&[at(0, 1, held("a"))]));
    assert!(fits::<Lock>(&[
        at(0, None, acquire("a", Acquired::Unknown)),
        at(0, 1, held("a"))
    ]));
    assert!(!fits::<Lock>(&[at(0, 1, granted("a", 1)), at(2, 3, held("c"))]));
    assert!(!fits::<Lock>(&[
        at(0, 1, granted("a", 1)),
        at(2, 3, release(1, Shown::Stale))
    ]));
    assert!(!fits::<Lock>(&[at(0, 1, granted("a", 1)), at(2, 3, OnLock::Get(None))]));
}

#[test]
fn two_results_are_found() {
    let begin = [at(0, 1, OnTask::Delegate), at(0, 2, assign(1)), at(0, 3, assign(2))];
    let with = |more: [Recorded<OnTask>; 2]| [begin.to_vec(), more.to_vec()].concat();
    let late = at(4, 5, complete(1, 7, Said::Recorded));
    let current = at(4, 5, complete(2, 8, Said::Recorded));
    assert!(
        !fits::<Task>(&with([late.clone(), current.clone()])),
        "attempt 1 was over"
    );
    let refused = at(4, 5, complete(1, 7, Said::Stale));
    assert!(fits::<Task>(&with([refused.clone(), current.clone()])));
    assert!(fits::<Task>(&with([current.clone(), current.clone()])), "said twice");
    let read = |result| at(6, 7, OnTask::Get { attempt: 2, result });
    assert!(fits::<Task>(&with([current.clone(), read(Some(8))])));
    assert!(!fits::<Task>(&with([current, read(None)])), "it was recorded");
    let in_time = at(2, 5, complete(1, 7, Said::Recorded));
    assert!(!fits::<Task>(&with([refused, in_time])), "both of attempt 1");
}

#[test]
fn an_attempt_that_is_over_says_nothing_more() {
    let begin = [
        at(0, 1, OnTask::Delegate),
        at(0, 2, assign(1)),
        at(0, None, OnTask::End { attempt: 1 }),
    ];
    let refused = at(3, 4, complete(1, 7, Said::Stale));
    assert!(fits::<Task>(&[begin.to_vec(), vec![refused.clone()]].concat()));
    assert!(!fits::<Task>(&[begin[..2].to_vec(), vec![refused.clone()]].concat()));
    let late = at(5, 6, complete(1, 7, Said::Recorded));
    assert!(!fits::<Task>(&[begin.to_vec(), vec![refused, late]].concat()));
    let failed = OnTask::Say {
        attempt: 1,
        result: None,
        outcome: Said::Recorded,
    };
    let next = [
        at(3, 4, failed),
        at(0, 5, assign(2)),
        at(6, 7, complete(2, 8, Said::Recorded)),
    ];
    assert!(fits::<Task>(&[begin.to_vec(), next.to_vec()].concat()));
}

#[test]
fn a_task_that_is_assigned_after_its_end_is_found() {
    let done = [
        at(0, 1, OnTask::Delegate),
        at(0, 2, assign(1)),
        at(2, 3, complete(1, 7, Said::Recorded)),
    ];
    let again = at(4, 5, assign(2));
    assert!(fits::<Task>(&done));
    assert!(!fits::<Task>(&[done.to_vec(), vec![again]].concat()));
}

#[test]
#[should_panic(expected = "the 3 of 4 answers")]
fn a_finding_ends_with_the_answer_that_cannot_be() {
    let history = [
        at(0, 1, put(0, 7, Outcome::Made(1))),
        at(2, 3, put(1, 8, Outcome::Made(2))),
        at(4, 5, OnDocument::Get(Some((1, 7)))),
        at(6, 7, OnDocument::Get(Some((2, 8)))),
    ];
    assert_linearizable::<Document>("a document", &history);
}

#[test]
fn a_long_history_of_many_callers_is_decided() {
    // Eight callers at once, each of whose writes overlaps with those of all others; some are never answered.
    let mut history = Vec::new();
    for version in 1..=400_u64 {
        let expected = i64::try_from(version).expect("few") - 1;
        history.push(at(
            version,
            version + 3,
            put(expected, version, Outcome::Made(expected + 1)),
        ));
        history.push(at(
            version,
            version + 3,
            put(expected, 1_000, Outcome::Conflict(expected + 1)),
        ));
        if version % 40 == 0 {
            history.push(at(version, None, put(-1, version, Outcome::Unknown)));
        }
    }
    assert!(fits::<Document>(&history));
    history.push(at(500, 501, OnDocument::Get(Some((399, 399)))));
    assert!(!fits::<Document>(&history));
}

/// Whether some order explains the history, by trying all.
fn by_trying<S: Specification>(state: &S::State, left: &[Recorded<S::Operation>]) -> bool {
    if left.iter().all(|one| one.answered.is_none()) {
        return true;
    }
    (0..left.len()).any(|next| {
        // It cannot be the next if another was answered before it was sent.
        let too_late = left
            .iter()
            .any(|other| other.answered.is_some_and(|answered| answered < left[next].sent));
        let (fits, after) = S::apply(&left[next].operation, state);
        let mut rest = left.to_vec();
        rest.remove(next);
        !too_late && fits && by_trying::<S>(&after, &rest)
    })
}

fn any_put() -> impl Strategy<Value = OnDocument> {
    let outcome = prop_oneof![
        3 => (1..4_i64).prop_map(Outcome::Made),
        1 => (0..3_i64).prop_map(Outcome::Conflict),
        1 => Just(Outcome::Unknown),
    ];
    (prop::option::of(0..3_i64), 0..2_u64, outcome).prop_map(|(expected, content, outcome)| OnDocument::Put {
        expected,
        content: Some(content),
        outcome,
    })
}

fn any_operation() -> impl Strategy<Value = OnDocument> {
    prop_oneof![
        any_put(),
        prop::option::of((1..3_i64, 0..2_u64)).prop_map(OnDocument::Get)
    ]
}

proptest! {
    #[test]
    fn the_search_finds_what_trying_every_order_finds(
        operations in prop::collection::vec((any_operation(), 0..12_u64, 0..6_u64), 1..6),
    ) {
        let history: Vec<_> = operations
            .into_iter()
            .map(|(operation, sent, length)| {
                let unanswered = matches!(operation, OnDocument::Put { outcome: Outcome::Unknown, .. });
                at(sent, (!unanswered).then_some(sent + length), operation)
            })
            .collect();
        let expected = by_trying::<Document>(&Document::init(), &history);
        prop_assert_eq!(fits::<Document>(&history), expected);
    }
}
