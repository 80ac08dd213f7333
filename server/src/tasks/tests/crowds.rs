//! Many tasks, many agents, many that do not fit: what one job cannot do, others finish. And agents that poll.

use std::time::Duration;

use super::fleet::{Fleet, delegation, labels};
use crate::tasks::rules::{self, Delegation};
use crate::tasks::{MAX_EXCLUDED, TaskState};

#[test]
fn an_agent_without_a_stream_is_given_work_only_while_it_polls() {
    let mut fleet = Fleet::new();
    let session_id = fleet.join("a", &["lint"], labels(&[]), 5);
    let mut session = (*fleet.session(&session_id)).clone();
    session.connected = false;
    fleet
        .world
        .attempt(|world| crate::registry::rules::offer(world, session.clone()))
        .unwrap();
    for id in ["t1", "t2", "t3"] {
        assert_eq!(
            fleet.delegate(delegation(id, "lint")).unwrap().state,
            TaskState::Pending
        );
    }
    let poll = |fleet: &mut Fleet, most| {
        fleet
            .world
            .attempt(|world| rules::open_poll(world, &session_id, "call", most, true))
    };
    assert_eq!(poll(&mut fleet, 2).unwrap(), ["t1", "t2"]);
    assert_eq!(fleet.session(&session_id).polling, 0);
    // What is not answered is given again; there is room for one more.
    assert_eq!(poll(&mut fleet, 3).unwrap(), ["t1", "t2", "t3"]);
    for id in ["t1", "t2", "t3"] {
        let word = fleet.word(id);
        fleet.complete(&word, 1).unwrap();
    }
    assert!(poll(&mut fleet, 1).unwrap().is_empty());
    assert_eq!(
        fleet.delegate(delegation("t4", "lint")).unwrap().state,
        TaskState::Assigned
    );
    assert_eq!(
        fleet.delegate(delegation("t5", "lint")).unwrap().state,
        TaskState::Pending
    );
    let closed = fleet
        .world
        .attempt(|world| rules::close_poll(world, &session_id, "call"))
        .unwrap();
    assert_eq!(closed, ["t4"]);
    fleet.check();
}

#[test]
fn the_end_of_an_older_poll_does_not_end_a_newer_one() {
    let mut fleet = Fleet::new();
    let session_id = fleet.join("worker", &["lint"], labels(&[]), 3);
    let mut session = (*fleet.session(&session_id)).clone();
    session.connected = false;
    fleet
        .world
        .attempt(|world| crate::registry::rules::offer(world, session.clone()))
        .unwrap();
    // Its connection to one server breaks, it polls at another, and then the first server notices.
    for call in ["first", "second"] {
        let open = fleet
            .world
            .attempt(|world| rules::open_poll(world, &session_id, call, 2, true));
        assert!(open.unwrap().is_empty());
    }
    let close = |fleet: &mut Fleet, call| {
        fleet
            .world
            .attempt(|world| rules::close_poll(world, &session_id, call))
            .unwrap()
    };
    assert!(close(&mut fleet, "first").is_empty());
    assert_eq!(fleet.session(&session_id).polling, 2);
    assert!(close(&mut fleet, "second").is_empty());
    assert_eq!(fleet.session(&session_id).polling, 0);
}

#[test]
fn a_task_that_nobody_can_take_hides_no_other() {
    let mut fleet = Fleet::new();
    for number in 0..50 {
        let wanted = Delegation {
            requirements: labels(&[("machine", &format!("m{number}"))]),
            priority: 9,
            ..delegation(&format!("odd-{number:02}"), "lint")
        };
        fleet.delegate(wanted).unwrap();
    }
    fleet.delegate(delegation("plain", "lint")).unwrap();
    fleet.join("a", &["lint"], labels(&[("machine", "other")]), 1);
    fleet.settle();
    assert_eq!(fleet.task("plain").agent_id, "a");
    fleet.join("b", &["lint"], labels(&[("machine", "m49")]), 1);
    fleet.settle();
    assert_eq!(fleet.task("odd-49").agent_id, "b");
    fleet.check();
}

#[test]
fn the_one_agent_that_fits_is_found_behind_fifty_that_do_not() {
    let mut fleet = Fleet::new();
    for number in 0..50 {
        fleet.join(&format!("a{number:02}"), &["lint"], labels(&[]), 1);
    }
    fleet.join("b", &["lint"], labels(&[("gpu", "yes")]), 1);
    let wanted = Delegation {
        requirements: labels(&[("gpu", "yes")]),
        ..delegation("t", "lint")
    };
    fleet.delegate(wanted).unwrap();
    fleet.settle();
    assert_eq!(fleet.task("t").agent_id, "b");
    fleet.check();
}

#[test]
fn more_slots_than_one_job_fills_do_not_stay_idle() {
    let mut fleet = Fleet::new();
    for number in 0..40 {
        fleet
            .delegate(delegation(&format!("t{number:02}"), ["lint", "test"][number % 2]))
            .unwrap();
    }
    let session_id = fleet.join("a", &["lint", "test"], labels(&[]), 30);
    fleet.settle();
    assert_eq!(fleet.session(&session_id).in_flight, 30);
    fleet.check();
}

#[test]
fn a_fleet_that_only_rejects_is_asked_more_and_more_slowly() {
    let mut fleet = Fleet::new();
    fleet.delegate(delegation("t", "lint")).unwrap();
    let mut rejected = 0;
    for number in 0..300 {
        fleet.join(&format!("agent-{number}"), &["lint"], labels(&[]), 1);
        if fleet.task("t").session_id.is_some() {
            let word = fleet.word("t");
            fleet.reject(&word).unwrap();
            rejected += 1;
        }
    }
    assert_eq!(rejected, MAX_EXCLUDED + 1);
    assert_eq!(fleet.task("t").excluded.len(), MAX_EXCLUDED);
    fleet.pass(Duration::from_secs(30));
    assert!(fleet.task("t").session_id.is_some());
}
