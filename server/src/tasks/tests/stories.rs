//! What each rule says, told in small.

use std::time::Duration;

use super::fleet::{Fleet, delegation, failure, labels};
use crate::error::Reason;
use crate::payload::Payload;
use crate::sessions::Life;
use crate::tasks::rules::{self, Delegation, Word};
use crate::tasks::{PayloadRole, TaskError, TaskState};

const SECOND: Duration = Duration::from_secs(1);

fn one_agent() -> Fleet {
    let mut fleet = Fleet::new();
    fleet.join("a", &["lint"], labels(&[]), 1);
    fleet
}

#[test]
fn a_task_is_assigned_accepted_and_completed_once() {
    let mut fleet = one_agent();
    let task = fleet.delegate(delegation("t", "lint")).unwrap();
    assert_eq!(
        (task.state, task.attempt, task.agent_id.as_str()),
        (TaskState::Assigned, 1, "a")
    );
    let word = fleet.word("t");
    fleet.accept(&word).unwrap();
    fleet.accept(&word).unwrap();
    assert_eq!(fleet.task("t").state, TaskState::Running);
    fleet.complete(&word, 1).unwrap();
    fleet.complete(&word, 2).unwrap();
    let payloads = fleet.world.payloads.known();
    let result = payloads
        .iter()
        .find(|payload| payload.role == PayloadRole::Result)
        .unwrap();
    assert_eq!(result.payload, Payload::of_json(&1.into()));
    let types: Vec<String> = fleet.events().into_iter().map(|(event_type, _)| event_type).collect();
    assert_eq!(
        types,
        ["task.delegated", "task.assigned", "task.accepted", "task.completed"]
    );
    fleet.check();
}

#[test]
fn a_completion_frees_the_slot_for_the_next() {
    let mut fleet = one_agent();
    for id in ["t1", "t2", "t3"] {
        fleet.delegate(delegation(id, "lint")).unwrap();
    }
    for id in ["t1", "t2", "t3"] {
        let word = fleet.word(id);
        fleet.complete(&word, 1).unwrap();
    }
    assert!(
        fleet
            .world
            .tasks
            .known()
            .iter()
            .all(|task| task.state == TaskState::Completed)
    );
}

#[test]
fn the_least_loaded_agent_comes_first_then_the_least_recently_assigned() {
    let mut fleet = Fleet::new();
    fleet.join("a", &["lint"], labels(&[]), 5);
    fleet.join("b", &["lint"], labels(&[]), 5);
    let mut agents = Vec::new();
    for number in 0..4 {
        fleet.pass(SECOND);
        agents.push(
            fleet
                .delegate(delegation(&format!("t{number}"), "lint"))
                .unwrap()
                .agent_id,
        );
    }
    assert_eq!(agents, ["a", "b", "a", "b"]);
}

#[test]
fn a_rejected_task_goes_to_another_and_does_not_count() {
    let mut fleet = Fleet::new();
    fleet.join("a", &["lint"], labels(&[]), 1);
    fleet.join("b", &["lint"], labels(&[]), 1);
    let mut wanted = delegation("t", "lint");
    wanted.retry.max_attempts = 1;
    fleet.delegate(wanted).unwrap();
    let word = fleet.word("t");
    fleet.reject(&word).unwrap();
    assert_eq!(fleet.task("t").agent_id, "b");
    let word = fleet.word("t");
    fleet.reject(&word).unwrap();
    let task = fleet.task("t");
    assert_eq!((task.state, task.failed_attempts), (TaskState::Pending, 0));
    // Those who said no are not asked again; whoever is new is.
    fleet.join("c", &["lint"], labels(&[]), 1);
    assert_eq!(fleet.task("t").agent_id, "c");
    fleet.check();
}

#[test]
fn a_task_for_one_agent_that_rejects_it_fails() {
    let mut fleet = one_agent();
    let wanted = Delegation {
        target_agent: "a".to_owned(),
        ..delegation("t", "")
    };
    fleet.delegate(wanted).unwrap();
    let word = fleet.word("t");
    fleet.reject(&word).unwrap();
    let task = fleet.task("t");
    assert_eq!(task.state, TaskState::Failed);
    assert_eq!(task.error.0.as_ref().unwrap().kind, "rejected");
}

#[test]
fn a_task_for_an_agent_waits_for_it_and_for_its_capability() {
    let mut fleet = one_agent();
    let wanted = Delegation {
        target_agent: "b".to_owned(),
        ..delegation("t", "write")
    };
    fleet.delegate(wanted).unwrap();
    fleet.join("b", &["lint"], labels(&[]), 1);
    assert_eq!(fleet.task("t").state, TaskState::Pending);
    fleet.join("b", &["lint", "write"], labels(&[]), 1);
    assert_eq!(fleet.task("t").agent_id, "b");
}

#[test]
fn a_failure_waits_longer_each_time_and_then_is_final() {
    let mut fleet = one_agent();
    let mut wanted = delegation("t", "lint");
    wanted.retry.max_attempts = 3;
    fleet.delegate(wanted).unwrap();
    for wait in [100, 200] {
        let word = fleet.word("t");
        fleet.fail(&word, &failure("crash")).unwrap();
        let task = fleet.task("t");
        assert_eq!(task.state, TaskState::Pending);
        assert_eq!(task.ready_at.since(fleet.world.now()), Duration::from_millis(wait));
        fleet.pass(Duration::from_millis(wait));
        assert_eq!(fleet.task("t").state, TaskState::Assigned);
    }
    let word = fleet.word("t");
    fleet.fail(&word, &failure("crash")).unwrap();
    let task = fleet.task("t");
    assert_eq!(
        (task.state, task.failed_attempts, task.attempt),
        (TaskState::Failed, 3, 3)
    );
}

#[test]
fn a_permanent_failure_and_a_kind_that_is_not_retried_are_final() {
    let mut fleet = one_agent();
    let mut wanted = delegation("t1", "lint");
    wanted.retry.non_retryable = vec!["invalid_input".to_owned()];
    fleet.delegate(wanted).unwrap();
    let word = fleet.word("t1");
    fleet.fail(&word, &failure("invalid_input")).unwrap();
    assert_eq!(fleet.task("t1").state, TaskState::Failed);
    fleet.delegate(delegation("t2", "lint")).unwrap();
    let word = fleet.word("t2");
    fleet
        .fail(
            &word,
            &TaskError {
                permanent: true,
                ..failure("crash")
            },
        )
        .unwrap();
    assert_eq!(fleet.task("t2").state, TaskState::Failed);
}

#[test]
fn what_a_dead_agent_had_is_in_other_hands_in_the_same_commit() {
    let mut fleet = Fleet::new();
    let dead = fleet.join("a", &["lint"], labels(&[]), 3);
    for id in ["t1", "t2", "t3"] {
        fleet.delegate(delegation(id, "lint")).unwrap();
    }
    let word = fleet.word("t1");
    fleet.join("b", &["lint"], labels(&[]), 3);
    fleet.end(&dead, Life::Expired);
    for id in ["t1", "t2", "t3"] {
        let task = fleet.task(id);
        assert_eq!(
            (task.agent_id.as_str(), task.attempt, task.failed_attempts),
            ("b", 2, 1)
        );
    }
    assert_eq!(fleet.complete(&word, 1).unwrap_err().reason(), Reason::SessionEnded);
    fleet.check();
}

#[test]
fn who_does_not_accept_in_time_loses_the_task_to_another() {
    let mut fleet = Fleet::new();
    fleet.join("a", &["lint"], labels(&[]), 5);
    fleet.delegate(delegation("t", "lint")).unwrap();
    let late = fleet.word("t");
    fleet.join("b", &["lint"], labels(&[]), 1);
    fleet.pass(SECOND * 10);
    assert_eq!(fleet.task("t").agent_id, "b");
    assert_eq!(fleet.accept(&late).unwrap_err().reason(), Reason::StaleAttempt);
    let told = fleet
        .world
        .events()
        .iter()
        .find(|event| event.event_type == "task.reassigned");
    assert_eq!(told.unwrap().target_agent, "a");
}

#[test]
fn where_nobody_accepts_in_time_the_last_has_the_task_again() {
    let mut fleet = Fleet::new();
    for agent_id in ["a", "b"] {
        fleet.join(agent_id, &["lint"], labels(&[]), 1);
    }
    fleet.delegate(delegation("t", "lint")).unwrap();
    for attempt in 1..=3 {
        assert_eq!(
            (fleet.task("t").state, fleet.task("t").attempt),
            (TaskState::Assigned, attempt)
        );
        fleet.pass(SECOND * 10);
    }
    fleet.check();
}

#[test]
fn the_only_agent_may_try_again_until_the_attempts_are_used_up() {
    let mut fleet = one_agent();
    let mut wanted = delegation("t", "lint");
    wanted.retry.max_attempts = 2;
    fleet.delegate(wanted).unwrap();
    fleet.pass(SECOND * 10);
    assert_eq!((fleet.task("t").agent_id.as_str(), fleet.task("t").attempt), ("a", 2));
    fleet.pass(SECOND * 10);
    assert_eq!(fleet.task("t").state, TaskState::TimedOut);
    fleet.check();
}

#[test]
fn attempts_time_out_and_the_deadline_ends_it_all() {
    let mut fleet = one_agent();
    let wanted = Delegation {
        timeout: SECOND * 60,
        progress_timeout: Some(SECOND * 20),
        deadline: Some(SECOND * 70),
        ..delegation("t", "lint")
    };
    fleet.delegate(wanted).unwrap();
    let word = fleet.word("t");
    fleet.accept(&word).unwrap();
    fleet.pass(SECOND * 15);
    fleet
        .world
        .attempt(|world| rules::progress(world, &word, 1, "on it", None))
        .unwrap();
    fleet.pass(SECOND * 15);
    assert_eq!(fleet.task("t").state, TaskState::Running);
    fleet.pass(SECOND * 5);
    let task = fleet.task("t");
    assert_eq!(
        (task.state, task.error.0.as_ref().unwrap().kind.as_str()),
        (TaskState::Pending, "progress_timeout")
    );
    fleet.pass(SECOND * 35);
    let task = fleet.task("t");
    assert_eq!(
        (task.state, task.error.0.as_ref().unwrap().kind.as_str()),
        (TaskState::TimedOut, "deadline")
    );
    fleet.check();
}

#[test]
fn after_a_gap_an_attempt_has_its_full_time_again() {
    let mut fleet = one_agent();
    fleet.delegate(delegation("t", "lint")).unwrap();
    fleet.gap_end = fleet.world.now() + SECOND * 60;
    fleet.pass(SECOND * 65);
    assert_eq!(fleet.task("t").attempt, 1);
    fleet.pass(SECOND * 5);
    assert_eq!(fleet.task("t").attempt, 2);
}

#[test]
fn a_delayed_task_waits_and_takes_nobodys_slot() {
    let mut fleet = one_agent();
    let wanted = Delegation {
        delay: SECOND * 5,
        ..delegation("late", "lint")
    };
    assert_eq!(fleet.delegate(wanted).unwrap().state, TaskState::Pending);
    fleet.pass(SECOND * 4);
    fleet.check();
    assert_eq!(fleet.task("late").state, TaskState::Pending);
    fleet.pass(SECOND);
    assert_eq!(fleet.task("late").state, TaskState::Assigned);
}

#[test]
fn a_cancelled_task_tells_its_agent_and_frees_the_slot() {
    let mut fleet = one_agent();
    fleet.delegate(delegation("t1", "lint")).unwrap();
    fleet.delegate(delegation("t2", "lint")).unwrap();
    let word = fleet.word("t1");
    fleet.cancel("t1").unwrap();
    assert_eq!(fleet.task("t2").state, TaskState::Assigned);
    assert_eq!(fleet.complete(&word, 1).unwrap_err().reason(), Reason::StaleAttempt);
    assert_eq!(fleet.cancel("t1").unwrap_err().reason(), Reason::TaskEnded);
    assert_eq!(fleet.cancel("none").unwrap_err().reason(), Reason::TaskNotFound);
    let told = fleet
        .world
        .events()
        .iter()
        .find(|event| event.event_type == "task.cancelled");
    assert_eq!(told.unwrap().target_agent, "a");
}

#[test]
fn progress_and_checkpoint_are_handed_to_the_next_attempt() {
    let mut fleet = one_agent();
    fleet.delegate(delegation("t", "lint")).unwrap();
    let word = fleet.word("t");
    let checkpoint = Payload::of_json(&7.into());
    let said = fleet
        .world
        .attempt(|world| rules::progress(world, &word, 250_000, "a quarter", Some(checkpoint.clone())));
    said.unwrap();
    assert_eq!(fleet.task("t").state, TaskState::Running);
    fleet.fail(&word, &failure("crash")).unwrap();
    fleet.pass(SECOND);
    let task = fleet.task("t");
    assert_eq!(
        (task.attempt, task.progress, task.progress_message.as_str()),
        (2, 250_000, "a quarter")
    );
    let payloads = fleet.world.payloads.known();
    let kept = payloads
        .iter()
        .find(|payload| payload.role == PayloadRole::Checkpoint)
        .unwrap();
    assert_eq!(kept.payload, checkpoint);
}

#[test]
fn a_word_about_a_task_that_is_not_there_is_stale() {
    let mut fleet = one_agent();
    let word = Word {
        session_id: fleet.session_of("a").unwrap(),
        task_id: "none".to_owned(),
        attempt_token: "none#1".to_owned(),
    };
    assert_eq!(fleet.accept(&word).unwrap_err().reason(), Reason::StaleAttempt);
}
