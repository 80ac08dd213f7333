//! What callers ask for, ask for again, and no longer wait for.

use super::*;

#[test]
fn a_second_holder_is_refused_with_what_stands_in_its_way() {
    let world = &mut world();
    get(world, &wish("a"));
    let refusal = world.attempt(|world| acquire(world, &wish("a"))).unwrap_err();
    assert_eq!(refusal.reason(), Reason::LockHeld);
    assert_eq!(
        said(&refusal),
        ["resource_id", "queue_length", "holder_id", "agent_id", "expire_time"]
    );
    assert_eq!(refusal.metadata()[4].1, (START + TTL).rfc3339());
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
