//! How leases end and locks are handed over.

use super::*;

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
        let refusal = world.attempt(|world| acquire(world, &wish("x"))).unwrap_err();
        assert_eq!(refusal.reason(), Reason::LockHeld);
        assert_eq!(said(&refusal), ["resource_id", "queue_length"], "nobody holds it");
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
fn a_wait_in_vain_tells_who_holds_it_then_or_that_nobody_does() {
    let world = &mut world();
    let first = get(world, &wish("a"));
    let told = |lock: Option<Arc<Lock>>| in_the_way(Reason::LockWaitTimeout, RESOURCE, lock.as_deref());
    let of_holder = ["holder_id", "agent_id", "expire_time"];
    assert_eq!(said(&told(lock(world)))[2..], of_holder);
    give_back(world, first.token).unwrap();
    assert_eq!(said(&told(lock(world))), ["resource_id", "queue_length"]);
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
