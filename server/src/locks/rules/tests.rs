//! The locks room against its promises: single stories, and random histories of honest, clumsy and hostile callers.

mod ends;
mod histories;
mod requests;

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
        poll_id: None,
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

/// What a refusal has metadata of.
fn said(refusal: &Refusal) -> Vec<&'static str> {
    refusal.metadata().iter().map(|(key, _)| *key).collect()
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
