//! The locks room against its promises: single stories, and random histories of honest, clumsy and hostile callers.

mod histories;

use std::time::Duration;

use super::*;
use crate::locks::{RETRY_WITHIN, TAKE_WITHIN, Waiter};
use crate::sessions::{Life, Session};
use crate::time::Time;

const START: Time = Time(1_000_000_000);
const TTL: Duration = Duration::from_secs(10);
const RESOURCE: &str = "r";

fn world() -> World {
    World::whole(START, 7)
}

/// A session of an agent of the same name.
fn session(world: &mut World, id: &str, life: Life) {
    world.sessions.put(Session {
        session_id: id.to_owned(),
        agent_id: format!("agent-{id}"),
        incarnation: 1,
        life,
        ttl: Duration::from_secs(3),
        generation: 1,
        connected: true,
        polling: 0,
        capacity: 1,
        in_flight: 0,
        last_assigned_at: START,
        started_at: START,
        ended_at: None,
        due_at: None,
    });
}

/// A task with a running attempt; its token.
fn attempt(world: &mut World, task_id: &str, session_id: &str, state: TaskState) -> String {
    let token = format!("{task_id}#secret");
    let delegated = Task {
        task_id: task_id.to_owned(),
        capability: String::new(),
        target_agent: String::new(),
        requirements: Default::default(),
        excluded: Default::default(),
        priority: 0,
        correlation_id: String::new(),
        parent_task_id: String::new(),
        caller_agent: String::new(),
        timeout: TTL,
        accept_timeout: TTL,
        progress_timeout: None,
        deadline_at: None,
        retry: Default::default(),
        state,
        queue_id: None,
        rank: 0,
        ready_at: START,
        attempt: 3,
        failed_attempts: 0,
        attempt_token: token.clone(),
        agent_id: format!("agent-{session_id}"),
        session_id: Some(session_id.to_owned()),
        assigned_at: None,
        accepted_at: None,
        progressed_at: None,
        progress: 0,
        progress_message: String::new(),
        error: Default::default(),
        workflow_id: None,
        origin: Default::default(),
        created_at: START,
        ended_at: None,
        due_at: None,
        traceparent: String::new(),
    };
    world.tasks.put(delegated);
    token
}

/// A wish of a named holder, without a wait.
fn wish(holder: &str) -> Acquire {
    Acquire {
        call_id: format!("call-{holder}"),
        resource_id: RESOURCE.to_owned(),
        holder_id: holder.to_owned(),
        ttl: TTL,
        ..Acquire::default()
    }
}

fn waiting(holder: &str) -> Acquire {
    Acquire {
        wait: Duration::from_secs(60),
        ..wish(holder)
    }
}

fn of_request(wish: Acquire, request: &str, call: &str) -> Acquire {
    Acquire {
        request_id: request.to_owned(),
        call_id: call.to_owned(),
        ..wish
    }
}

fn get(world: &mut World, wish: &Acquire) -> Lock {
    match world.attempt(|world| acquire(world, wish)).unwrap() {
        Acquired::Held(lock) => lock,
        Acquired::Queued { .. } => panic!("queued"),
    }
}

fn queue(world: &mut World, wish: &Acquire) {
    let acquired = world.attempt(|world| acquire(world, wish)).unwrap();
    assert!(matches!(acquired, Acquired::Queued { .. }));
}

fn refused<T: std::fmt::Debug>(world: &mut World, rule: impl FnOnce(&mut World) -> Decision<T>) -> Reason {
    world.attempt(rule).unwrap_err().reason()
}

fn give_back(world: &mut World, token: i64) -> Result<(), Refusal> {
    let wish = Release {
        resource_id: RESOURCE.to_owned(),
        token,
        ..Release::default()
    };
    world.attempt(|world| release(world, &wish))
}

fn lock(world: &mut World) -> Option<Arc<Lock>> {
    world.attempt(|world| world.locks.get(&RESOURCE.to_owned())).unwrap()
}

fn later(world: &mut World, by: Duration) {
    let now = world.now() + by;
    world.set_now(now);
}

fn due(world: &mut World) {
    world.attempt(|world| lock_due(world, RESOURCE, Time(0))).unwrap();
}

fn types(world: &World) -> Vec<String> {
    world.events().iter().map(|event| event.event_type.clone()).collect()
}

fn guard(token: i64) -> Vec<Guard> {
    vec![Guard {
        resource_id: RESOURCE.to_owned(),
        token,
    }]
}

#[test]
fn a_second_holder_is_refused_with_what_stands_in_its_way() {
    let world = &mut world();
    get(world, &wish("a"));
    let refusal = world.attempt(|world| acquire(world, &wish("a"))).unwrap_err();
    assert_eq!(refusal.reason(), Reason::LockHeld);
    let keys: Vec<_> = refusal.metadata().iter().map(|(key, _)| *key).collect();
    assert_eq!(
        keys,
        ["resource_id", "holder_id", "agent_id", "expire_time", "queue_length"]
    );
    assert_eq!(refusal.metadata()[3].1, (START + TTL).rfc3339());
}

#[test]
fn a_release_hands_over_in_the_same_step_and_the_grant_lapses_unless_it_is_taken() {
    let world = &mut world();
    let first = get(world, &wish("a"));
    queue(world, &waiting("b"));
    queue(world, &waiting("c"));
    give_back(world, first.token).unwrap();
    let granted = lock(world).unwrap();
    assert_eq!(
        (granted.holder_id.as_str(), granted.untaken, granted.queue_length),
        ("b", true, 1)
    );
    assert!(granted.token > first.token);
    assert_eq!(
        types(world),
        ["resource.locked", "resource.unlocked", "resource.locked"]
    );
    assert_eq!(world.events()[2].causation_id, "call-b");

    later(world, TAKE_WITHIN);
    due(world);
    let granted = lock(world).unwrap();
    assert_eq!(granted.holder_id, "c");
    later(world, TAKE_WITHIN / 2);
    let taken = world
        .attempt(|world| take(world, &None, RESOURCE, "call-c"))
        .unwrap()
        .unwrap();
    assert_eq!((taken.untaken, taken.due_at), (false, world.now() + TTL));
    let gone = world.attempt(|world| take(world, &None, RESOURCE, "call-b")).unwrap();
    assert_eq!(gone, None);
}

#[test]
fn the_same_request_is_the_same_lease_with_a_new_expiry() {
    let world = &mut world();
    let first = get(world, &of_request(wish("a"), "q", "1"));
    later(world, Duration::from_secs(5));
    let again = get(world, &of_request(wish("a"), "q", "2"));
    assert_eq!(
        (again.token, again.due_at),
        (first.token, START + Duration::from_secs(15))
    );
    assert_eq!(world.events().len(), 1);

    assert_eq!(
        refused(world, |world| acquire(world, &of_request(wish("b"), "q", "3"))),
        Reason::RequestIdReused
    );
    give_back(world, first.token).unwrap();
    assert_eq!(
        refused(world, |world| acquire(world, &of_request(wish("a"), "q", "4"))),
        Reason::LeaseEnded
    );
    let other = Acquire {
        resource_id: "other".to_owned(),
        ..of_request(wish("a"), "q", "5")
    };
    assert_eq!(refused(world, |world| acquire(world, &other)), Reason::RequestIdReused);
}

#[test]
fn a_request_that_was_forgotten_is_known_by_its_lock() {
    let world = &mut world();
    let first = get(world, &of_request(wish("a"), "q", "1"));
    world.requests.remove(&("AcquireLock".to_owned(), "q".to_owned()));
    assert_eq!(get(world, &of_request(wish("a"), "q", "2")).token, first.token);
}

#[test]
fn a_token_shown_extends_the_lease_and_a_stale_one_is_refused_everywhere() {
    let world = &mut world();
    let first = get(world, &wish("a"));
    later(world, Duration::from_secs(5));
    let shown = Acquire {
        token: Some(first.token),
        ..wish("a")
    };
    assert_eq!(get(world, &shown).due_at, world.now() + TTL);
    give_back(world, first.token).unwrap();
    let renewal = Renewal {
        resource_id: RESOURCE.to_owned(),
        token: first.token,
        ..Renewal::default()
    };
    assert_eq!(refused(world, |world| renew(world, &renewal)), Reason::LockNotFound);
    assert_eq!(
        refused(world, |world| acquire(world, &shown)),
        Reason::StaleFencingToken
    );
    let second = get(world, &wish("b"));
    assert_eq!(
        refused(world, |world| renew(world, &renewal)),
        Reason::StaleFencingToken
    );
    assert_eq!(
        refused(world, |world| acquire(world, &shown)),
        Reason::StaleFencingToken
    );
    assert_eq!(
        give_back(world, first.token).unwrap_err().reason(),
        Reason::StaleFencingToken
    );
    let stale = guard(first.token);
    assert_eq!(
        refused(world, |world| check_guards(world, &stale)),
        Reason::StaleFencingToken
    );
    world
        .attempt(|world| check_guards(world, &guard(second.token)))
        .unwrap();
}

#[test]
fn a_retry_keeps_its_place_in_the_queue() {
    let world = &mut world();
    let first = get(world, &wish("a"));
    queue(world, &of_request(waiting("b"), "q", "1"));
    queue(world, &waiting("c"));
    world.attempt(|world| abandon(world, RESOURCE, "1")).unwrap();
    later(world, RETRY_WITHIN / 2);
    queue(world, &of_request(waiting("b"), "q", "2"));
    later(world, RETRY_WITHIN * 2);
    give_back(world, first.token).unwrap();
    assert_eq!(lock(world).unwrap().call_id, "2");
    let late = world.attempt(|world| take(world, &None, RESOURCE, "1")).unwrap();
    assert_eq!(late, None, "the older call waits in vain");
}

#[test]
fn a_place_that_nobody_comes_back_for_is_given_up() {
    let world = &mut world();
    get(world, &wish("a"));
    queue(world, &of_request(waiting("b"), "q", "1"));
    world.attempt(|world| abandon(world, RESOURCE, "1")).unwrap();
    later(world, RETRY_WITHIN);
    world.attempt(|world| waiter_due(world, RESOURCE, 1)).unwrap();
    assert_eq!(lock(world).unwrap().queue_length, 0);
    queue(world, &waiting("c"));
    world.attempt(|world| abandon(world, RESOURCE, "call-c")).unwrap();
    assert_eq!(
        lock(world).unwrap().queue_length,
        0,
        "without a request it leaves at once"
    );
}

#[test]
fn a_lock_granted_to_a_call_that_is_gone_is_released() {
    let world = &mut world();
    get(world, &wish("a"));
    world.attempt(|world| abandon(world, RESOURCE, "call-a")).unwrap();
    assert_eq!(lock(world), None);

    get(world, &of_request(wish("a"), "q", "1"));
    world.attempt(|world| abandon(world, RESOURCE, "1")).unwrap();
    later(world, RETRY_WITHIN / 2);
    let again = get(world, &of_request(wish("a"), "q", "2"));
    assert_eq!(again.due_at, world.now() + TTL);
    world.attempt(|world| abandon(world, RESOURCE, "2")).unwrap();
    later(world, RETRY_WITHIN);
    due(world);
    assert_eq!(lock(world), None);
    assert_eq!(
        refused(world, |world| acquire(world, &of_request(wish("a"), "q", "3"))),
        Reason::LeaseEnded
    );
}

#[test]
fn a_cancelled_renewal_does_not_end_a_lease_that_was_answered() {
    let world = &mut world();
    get(world, &of_request(wish("a"), "q", "1"));
    get(world, &of_request(wish("a"), "q", "2"));
    for call in ["1", "2"] {
        world.attempt(|world| abandon(world, RESOURCE, call)).unwrap();
    }
    assert!(!lock(world).unwrap().untaken);
}

#[test]
fn a_call_that_is_granted_as_its_wait_ends_has_the_lock() {
    let world = &mut world();
    let first = get(world, &wish("a"));
    queue(world, &waiting("b"));
    queue(world, &waiting("c"));
    let left = world.attempt(|world| leave(world, &None, RESOURCE, "call-c")).unwrap();
    assert!(matches!(left, Left::Without(Some(lock)) if lock.holder_id == "a" && lock.queue_length == 1));
    give_back(world, first.token).unwrap();
    let left = world.attempt(|world| leave(world, &None, RESOURCE, "call-b")).unwrap();
    assert!(matches!(left, Left::Taken(lock) if lock.holder_id == "b" && lock.queue_length == 0));
}

#[test]
fn a_lease_does_not_end_before_its_holder_could_reach_the_server_for_its_length() {
    let world = &mut world();
    get(world, &wish("a"));
    let gap_end = START + TTL;
    later(world, TTL + Duration::from_secs(1));
    world.attempt(|world| lock_due(world, RESOURCE, gap_end)).unwrap();
    assert_eq!(lock(world).unwrap().due_at, gap_end + TTL);
    later(world, TTL);
    world.attempt(|world| lock_due(world, RESOURCE, gap_end)).unwrap();
    assert_eq!(lock(world), None);
    assert_eq!(types(world), ["resource.locked", "resource.expired"]);
}

#[test]
fn an_expired_lock_is_told_to_the_agent_that_held_it() {
    let world = &mut world();
    session(world, "s", Life::Live);
    let held = get(
        world,
        &Acquire {
            session_id: Some("s".to_owned()),
            ..wish("a")
        },
    );
    later(world, TTL);
    due(world);
    let expired = &world.events()[1];
    assert_eq!(
        (expired.event_type.as_str(), expired.target_agent.as_str()),
        ("resource.expired", "agent-s")
    );
    let data = expired.payload.as_ref().unwrap().json().unwrap();
    assert_eq!(data["fencing_token"].as_i64(), Some(held.token));
}

#[test]
fn nobody_acts_under_a_dead_session() {
    let world = &mut world();
    session(world, "s", Life::Live);
    session(world, "t", Life::Live);
    let of = |session: &str, wish: Acquire| Acquire {
        session_id: Some(session.to_owned()),
        ..wish
    };
    let held = get(world, &of("s", wish("a")));
    queue(world, &of("s", waiting("b")));
    queue(world, &of("t", waiting("c")));
    let of_another = Release {
        session_id: Some("t".to_owned()),
        resource_id: RESOURCE.to_owned(),
        token: held.token,
        ..Release::default()
    };
    assert_eq!(
        refused(world, |world| release(world, &of_another)),
        Reason::StaleFencingToken
    );
    session(world, "s", Life::Superseded);
    assert_eq!(
        refused(world, |world| check_guards(world, &guard(held.token))),
        Reason::StaleFencingToken
    );
    assert_eq!(
        give_back(world, held.token).unwrap_err().reason(),
        Reason::StaleFencingToken
    );
    assert_eq!(
        refused(world, |world| acquire(world, &of("s", wish("a")))),
        Reason::SessionSuperseded
    );
    assert_eq!(refused(world, |world| acquire(world, &wish("d"))), Reason::LockHeld);
    assert!(world.attempt(|world| end_of_session(world, "s", 10)).unwrap());
    let now = lock(world).unwrap();
    assert_eq!((now.holder_id.as_str(), now.queue_length), ("c", 0));
    assert_eq!(world.waiters.known().len(), 0);
}

#[test]
fn what_a_session_held_is_released_in_bounded_steps() {
    let world = &mut world();
    session(world, "s", Life::Live);
    for number in 0..25 {
        let wish = Acquire {
            resource_id: format!("r{number}"),
            session_id: Some("s".to_owned()),
            ..wish("a")
        };
        get(world, &wish);
    }
    session(world, "s", Life::Expired);
    let mut steps = 1;
    while !world.attempt(|world| end_of_session(world, "s", 10)).unwrap() {
        steps += 1;
    }
    assert_eq!((steps, world.locks.known().len()), (3, 0));
}

#[test]
fn an_attempts_locks_end_with_it_and_only_its_own_session_may_name_it() {
    let world = &mut world();
    session(world, "s", Life::Live);
    session(world, "t", Life::Live);
    let token = attempt(world, "job#1", "s", TaskState::Running);
    let of = |session: &str, wish: Acquire| Acquire {
        session_id: Some(session.to_owned()),
        attempt_token: Some(token.clone()),
        holder_id: String::new(),
        ..wish
    };
    assert_eq!(
        refused(world, |world| acquire(world, &of("t", wish("")))),
        Reason::StaleAttempt
    );
    let mut without = of("s", wish(""));
    without.session_id = None;
    assert_eq!(
        refused(world, |world| acquire(world, &without)),
        Reason::SessionRequired
    );

    for number in 0..100 {
        let wish = Acquire {
            resource_id: format!("r{number}"),
            ..of("s", wish(""))
        };
        assert_eq!(get(world, &wish).holder_id, "job#1/3");
    }
    let held = get(world, &of("s", wish("")));
    queue(world, &of("s", waiting("")));
    attempt(world, "job#1", "s", TaskState::Failed);
    assert_eq!(
        refused(world, |world| check_guards(world, &guard(held.token))),
        Reason::StaleFencingToken
    );
    world.attempt(|world| end_of_attempt(world, &token)).unwrap();
    while let Some(next) = world.locks.known().iter().find(|lock| lock.due_at <= world.now()) {
        world
            .attempt(|world| lock_due(world, &next.resource_id, Time(0)))
            .unwrap();
    }
    assert_eq!((world.locks.known().len(), world.waiters.known().len()), (0, 0));
}

#[test]
fn a_queue_of_a_thousand_dead_is_cleared_in_bounded_steps() {
    let world = &mut world();
    session(world, "s", Life::Live);
    let first = get(world, &wish("a"));
    for number in 0..1_000 {
        let wish = Acquire {
            session_id: Some("s".to_owned()),
            ..waiting(&format!("w{number}"))
        };
        queue(world, &wish);
    }
    queue(world, &waiting("last"));
    session(world, "s", Life::Expired);
    give_back(world, first.token).unwrap();
    let mut steps = 1;
    while !lock(world).unwrap().is_held() {
        let vacant = lock(world).unwrap();
        assert!(vacant.due_at <= world.now());
        assert_eq!(refused(world, |world| acquire(world, &wish("x"))), Reason::LockHeld);
        assert_eq!(
            refused(world, |world| check_guards(world, &guard(0))),
            Reason::StaleFencingToken
        );
        due(world);
        steps += 1;
    }
    assert!((20..=40).contains(&steps), "{steps} steps");
    assert_eq!(lock(world).unwrap().holder_id, "last");
}

#[test]
fn a_release_wakes_one_of_a_thousand() {
    let world = &mut world();
    let mut token = get(world, &wish("a")).token;
    for number in 0..1_000 {
        queue(world, &waiting(&format!("w{number}")));
    }
    for number in 0..1_000 {
        let before = world.events().len();
        give_back(world, token).unwrap();
        let woken: Vec<_> = world.events()[before..]
            .iter()
            .filter(|event| !event.causation_id.is_empty())
            .collect();
        assert_eq!(woken.len(), 1);
        assert_eq!(woken[0].causation_id, format!("call-w{number}"));
        token = lock(world).unwrap().token;
    }
}
