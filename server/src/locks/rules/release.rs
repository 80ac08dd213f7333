//! How a lease goes on and how it ends: renewed; released, expired, or ended with its session, its attempt or its caller.

use std::time::Duration;

use super::acquire::{event, extend};
use super::queue::{self, ONE_STEP, STEPS};
use super::{held, is_current, may_act, not_found, task_of_attempt};
use crate::lane::{Decision, World};
use crate::locks::{Lock, Waiter};
use crate::sessions;
use crate::store::row::Value;
use crate::time::Time;

/// How many locks of an attempt end in one job.
const ATTEMPT_STEP: usize = 64;

/// Why a lease ended, as its event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its holder gave it back.
    Released,
    /// Its time was over.
    Expired,
    /// Its session ended.
    SessionEnded,
    /// Its attempt ended.
    AttemptEnded,
    /// The call that it was granted to was cancelled.
    CallerGone,
    /// The waiter that it was granted to did not take it.
    Untaken,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Cause::Released => "RELEASED",
            Cause::Expired => "EXPIRED",
            Cause::SessionEnded => "SESSION_ENDED",
            Cause::AttemptEnded => "ATTEMPT_ENDED",
            Cause::CallerGone => "CALLER_GONE",
            Cause::Untaken => "UNTAKEN",
        }
    }
}

/// A wish to extend a lease.
#[derive(Clone, Debug, Default)]
pub struct Renewal {
    /// The session that the caller acts under.
    pub session_id: Option<String>,
    /// The resource.
    pub resource_id: String,
    /// The token of the grant.
    pub token: i64,
    /// The new length; the lease's own if none.
    pub ttl: Option<Duration>,
}

/// A wish to give a lock back.
#[derive(Clone, Debug, Default)]
pub struct Release {
    /// The session that the caller acts under.
    pub session_id: Option<String>,
    /// The resource.
    pub resource_id: String,
    /// The token of the grant.
    pub token: i64,
    /// W3C trace context.
    pub traceparent: String,
}

/// Says what [`release`] will read.
pub fn want_release(world: &mut World, wish: &Release) {
    world.locks.want(&wish.resource_id);
    sessions::rules::want_caller(world, &wish.session_id);
    queue::want_next(world, &wish.resource_id);
}

/// Extends a lease.
///
/// # Errors
/// LOCK_NOT_FOUND, STALE_FENCING_TOKEN, SESSION_ENDED, SESSION_SUPERSEDED.
pub fn renew(world: &mut World, wish: &Renewal) -> Decision<Lock> {
    let lock = held(world, &wish.session_id, &wish.resource_id, wish.token)?;
    let lock = lock.ok_or_else(|| not_found(&wish.resource_id))?;
    Ok(extend(world, &lock, wish.ttl.unwrap_or(lock.ttl)))
}

/// Gives a lock back; the next in the queue has it at once.
///
/// # Errors
/// LOCK_NOT_FOUND, STALE_FENCING_TOKEN, SESSION_ENDED, SESSION_SUPERSEDED.
pub fn release(world: &mut World, wish: &Release) -> Decision<()> {
    let lock = held(world, &wish.session_id, &wish.resource_id, wish.token)?;
    let lock = lock.ok_or_else(|| not_found(&wish.resource_id))?;
    end(world, &lock, Cause::Released, &wish.traceparent, STEPS)
}

/// Ends a lease and hands the lock over. Only a lease that ran out is news to its holder, who is told.
pub(super) fn end(world: &mut World, lock: &Lock, cause: Cause, traceparent: &str, steps: &[usize]) -> Decision<()> {
    let draft = match cause {
        Cause::Expired => event("resource.expired", lock, None).target(&lock.agent_id),
        cause => event("resource.unlocked", lock, Some(cause.name())).source(&lock.agent_id),
    };
    world.emit(draft.trace(traceparent));
    queue::hand_over(world, lock, cause, steps)
}

/// Releases what a session that has ended holds and waits for, at most `limit` of each; says whether that was all.
pub fn end_of_session(world: &mut World, session_id: &str, limit: usize) -> Decision<bool> {
    let of_session = [Value::Text(session_id.to_owned())];
    world.locks.want_first(Lock::BY_SESSION, of_session.to_vec(), limit);
    let waiters = world.waiters.select(Waiter::BY_SESSION, &of_session, limit)?;
    let locks = world.locks.select(Lock::BY_SESSION, &of_session, limit)?;
    for waiter in &waiters {
        world.locks.want(&waiter.resource_id);
    }
    queue::look_ahead(world, locks.iter().map(|lock| &lock.resource_id))?;
    for waiter in &waiters {
        queue::remove(world, waiter)?;
    }
    // Selected again: the removals changed the queues' lengths.
    for lock in world.locks.select(Lock::BY_SESSION, &of_session, limit)? {
        end(world, &lock, Cause::SessionEnded, "", ONE_STEP)?;
    }
    Ok(waiters.len() < limit && locks.len() < limit)
}

/// An attempt begins: it holds nothing.
pub fn begin_attempt(world: &mut World, attempt_token: &str) {
    let of_attempt = vec![Value::Text(attempt_token.to_owned())];
    world.locks.know_empty(Lock::BY_ATTEMPT, of_attempt);
}

/// Releases what an attempt that has ended holds. Where that is very much, the rest follows when one of the locks is due: at once.
pub fn end_of_attempt(world: &mut World, attempt_token: &str) -> Decision<()> {
    let of_attempt = [Value::Text(attempt_token.to_owned())];
    let locks = world.locks.select(Lock::BY_ATTEMPT, &of_attempt, ATTEMPT_STEP + 1)?;
    queue::look_ahead(world, locks.iter().take(ATTEMPT_STEP).map(|lock| &lock.resource_id))?;
    for lock in locks.iter().take(ATTEMPT_STEP) {
        end(world, lock, Cause::AttemptEnded, "", ONE_STEP)?;
    }
    if let Some(next) = locks.get(ATTEMPT_STEP) {
        let due_at = world.now();
        world.locks.put(Lock {
            due_at,
            ..(**next).clone()
        });
    }
    Ok(())
}

/// Looks again at a lock that is due. Its lease ends only if `gap_end`, the end of the last time in which clients could not reach
/// the server, is a full lease ago.
pub fn lock_due(world: &mut World, resource_id: &str, gap_end: Time) -> Decision<()> {
    let lock = world.locks.get(&resource_id.to_owned())?;
    let Some(lock) = lock.filter(|lock| lock.due_at <= world.now()) else {
        return Ok(());
    };
    if !lock.is_held() {
        return queue::hand_over(world, &lock, Cause::Expired, STEPS);
    }
    if let Some(token) = &lock.attempt_token
        && !attempt_is_current(world, token, &lock.session_id)?
    {
        return end_of_attempt(world, token);
    }
    if !may_act(world, &lock.session_id, &None)? {
        return end(world, &lock, Cause::SessionEnded, "", STEPS);
    }
    if lock.untaken {
        return end(world, &lock, Cause::Untaken, "", STEPS);
    }
    let earliest = gap_end + lock.ttl;
    if earliest > world.now() {
        world.locks.put(Lock {
            due_at: earliest,
            ..(*lock).clone()
        });
        return Ok(());
    }
    end(world, &lock, Cause::Expired, "", STEPS)
}

fn attempt_is_current(world: &mut World, token: &str, session_id: &Option<String>) -> Decision<bool> {
    let task = task_of_attempt(world, token)?;
    Ok(task.is_some_and(|task| is_current(&task, token, session_id)))
}
