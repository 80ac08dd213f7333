//! The queue of a lock: first in, first out among those who are alive.

use std::time::Duration;

use super::acquire::{Grant, extend};
use super::release::{self, Cause};
use super::{may_act, want_may_act};
use crate::error::{Reason, Refusal};
use crate::lane::{Decision, World};
use crate::locks::{Lock, MAX_QUEUE, RETRY_WITHIN, Waiter};
use crate::sessions;
use crate::store::row::{Row, Value};

/// How many waiters are looked at when a lock is handed over, step by step: nearly always the first one is alive.
pub(super) const STEPS: &[usize] = &[2, 32];
/// The same where many locks are handed over in one job.
pub(super) const ONE_STEP: &[usize] = &[2];

/// How a call's wait ended.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Left {
    /// With the lock, after all.
    Taken(Lock),
    /// Without; this stands in the way.
    Without(Option<Lock>),
}

/// Queues a claim behind all others.
pub(super) fn join(world: &mut World, lock: &Lock, claim: Waiter) -> Decision<()> {
    if lock.queue_length >= MAX_QUEUE {
        let message = format!("{MAX_QUEUE} wait for {} already", lock.resource_id);
        return Err(Refusal::new(Reason::Overloaded, message)
            .retry_after(Duration::from_secs(1))
            .into());
    }
    world.locks.put(Lock {
        queue_length: lock.queue_length + 1,
        next_place: lock.next_place + 1,
        ..lock.clone()
    });
    world.waiters.put(Waiter {
        place: lock.next_place,
        ..claim
    });
    Ok(())
}

/// Says what [`hand_over`] will read first.
pub(super) fn want_next(world: &mut World, resource_id: &str) {
    world
        .waiters
        .want_first(Waiter::BY_RESOURCE, of_resource(resource_id), STEPS[0]);
}

/// Reads who is next for several locks at once, and says that [`hand_over`] will read whether they are alive.
pub(super) fn look_ahead<'a>(world: &mut World, resources: impl Iterator<Item = &'a String> + Clone) -> Decision<()> {
    for resource_id in resources.clone() {
        want_next(world, resource_id);
    }
    for resource_id in resources {
        let waiters = world
            .waiters
            .select(Waiter::BY_RESOURCE, &of_resource(resource_id), ONE_STEP[0])?;
        for waiter in waiters {
            want_may_act(world, &waiter.session_id, &waiter.attempt_token);
        }
    }
    Ok(())
}

/// Gives a lock whose lease has ended to the first waiter who is alive; those before it leave the queue. Where that takes too many
/// steps, nobody holds the lock for now, and the rest follows when its row is due: at once.
pub(super) fn hand_over(world: &mut World, lock: &Lock, cause: Cause, steps: &[usize]) -> Decision<()> {
    let prefix = of_resource(&lock.resource_id);
    let mut queue_length = lock.queue_length;
    for step in steps {
        let waiters = world.waiters.select(Waiter::BY_RESOURCE, &prefix, *step)?;
        for waiter in &waiters {
            want_may_act(world, &waiter.session_id, &waiter.attempt_token);
        }
        for waiter in &waiters {
            let waits = waits_still(world, waiter, lock, cause)?;
            world.waiters.remove(&waiter.key());
            queue_length -= 1;
            if waits {
                let grant = Grant {
                    claim: waiter,
                    queue_length,
                    next_place: lock.next_place,
                    waited: true,
                    traceparent: "",
                };
                grant.to(world);
                return Ok(());
            }
        }
        if waiters.len() < *step {
            world.locks.remove(&lock.resource_id);
            return Ok(());
        }
    }
    let now = world.now();
    world.locks.put(Lock {
        resource_id: lock.resource_id.clone(),
        holder_id: String::new(),
        agent_id: String::new(),
        session_id: None,
        attempt_token: None,
        token: 0,
        ttl: lock.ttl,
        acquired_at: now,
        due_at: now,
        request_id: String::new(),
        call_id: String::new(),
        queue_length,
        next_place: lock.next_place,
        untaken: false,
        correlation_id: String::new(),
    });
    Ok(())
}

/// Whether a waiter is to have the lock when it comes. One whose session or attempt is just what ended the lease is not, also if
/// its row does not say so yet.
fn waits_still(world: &mut World, waiter: &Waiter, ended: &Lock, cause: Cause) -> Decision<bool> {
    let ends_too = match cause {
        Cause::SessionEnded => waiter.session_id == ended.session_id,
        Cause::AttemptEnded => waiter.attempt_token == ended.attempt_token,
        _ => false,
    };
    Ok(!ends_too && waiter.due_at > world.now() && may_act(world, &waiter.session_id, &waiter.attempt_token)?)
}

/// Takes a waiter out of its queue.
pub(super) fn remove(world: &mut World, waiter: &Waiter) -> Decision<()> {
    if let Some(lock) = world.locks.get(&waiter.resource_id)? {
        world.locks.put(Lock {
            queue_length: lock.queue_length - 1,
            ..(*lock).clone()
        });
    }
    world.waiters.remove(&waiter.key());
    Ok(())
}

/// Takes the grant that a waiting call has heard of: its lease begins now. Nothing if the grant has lapsed, or a later call with the
/// same request has it.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED.
pub fn take(
    world: &mut World,
    session_id: &Option<String>,
    resource_id: &str,
    call_id: &str,
) -> Decision<Option<Lock>> {
    sessions::rules::caller(world, session_id)?;
    match granted(world, resource_id, call_id)? {
        Some(lock) => {
            let ttl = lock.ttl;
            Ok(Some(extend(world, &lock, ttl)))
        }
        None => Ok(None),
    }
}

/// Ends a call's wait: it takes what it was granted meanwhile, or leaves the queue.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED.
pub fn leave(world: &mut World, session_id: &Option<String>, resource_id: &str, call_id: &str) -> Decision<Left> {
    if let Some(lock) = take(world, session_id, resource_id, call_id)? {
        return Ok(Left::Taken(lock));
    }
    if let Some(waiter) = waiter_of(world, call_id)? {
        remove(world, &waiter)?;
    }
    let lock = world.locks.get(&resource_id.to_owned())?;
    Ok(Left::Without(lock.map(|lock| (*lock).clone())))
}

/// Ends what a call began that has gone without an answer. With a `request_id` its place, or its grant, is kept a moment for the
/// retry; without one nobody could ever ask for it again.
pub fn abandon(world: &mut World, resource_id: &str, call_id: &str) -> Decision<()> {
    let until = world.now() + RETRY_WITHIN;
    if let Some(lock) = granted(world, resource_id, call_id)? {
        if lock.request_id.is_empty() {
            return release::end(world, &lock, Cause::CallerGone, "", STEPS);
        }
        world.locks.put(Lock {
            untaken: true,
            due_at: lock.due_at.min(until),
            ..lock
        });
    } else if let Some(waiter) = waiter_of(world, call_id)? {
        if waiter.request_id.is_empty() {
            return remove(world, &waiter);
        }
        world.waiters.put(Waiter {
            due_at: waiter.due_at.min(until),
            ..waiter
        });
    }
    Ok(())
}

/// Looks again at a waiter that is due: its wait is over, or its call has gone and not come back.
pub fn waiter_due(world: &mut World, resource_id: &str, place: i64) -> Decision<()> {
    match world.waiters.get(&(resource_id.to_owned(), place))? {
        Some(waiter) if waiter.due_at <= world.now() => remove(world, &waiter),
        _ => Ok(()),
    }
}

/// The lock that a call was granted.
fn granted(world: &mut World, resource_id: &str, call_id: &str) -> Decision<Option<Lock>> {
    let lock = world.locks.get(&resource_id.to_owned())?;
    Ok(lock
        .filter(|lock| lock.is_held() && lock.call_id == call_id)
        .map(|lock| (*lock).clone()))
}

/// The place of a call in the queue.
fn waiter_of(world: &mut World, call_id: &str) -> Decision<Option<Waiter>> {
    let prefix = [Value::Text(call_id.to_owned())];
    let waiters = world.waiters.select(Waiter::BY_CALL, &prefix, 1)?;
    Ok(waiters.first().map(|waiter| (**waiter).clone()))
}

fn of_resource(resource_id: &str) -> Vec<Value> {
    vec![Value::Text(resource_id.to_owned())]
}
