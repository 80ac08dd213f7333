//! Who gets a lock, for how long, and who is next.
//!
//! ```text
//!              acquire                        release, expiry, end of its session or attempt
//!   (nobody) ───────────▶ HELD ◀─── taken ─── UNTAKEN ◀──────── the first who waits and is alive
//!       ▲                  │  ▲                  │  lapses: to the next
//!       └──────────────────┘  └── renewed        └──▶ …
//!          nobody waits
//! ```
//! What a session or an attempt that has ended still holds in a row counts for nothing: its tokens are refused from the commit of its
//! end on, and the rows follow in bounded jobs.

mod acquire;
mod queue;
mod release;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::Lock;
use crate::error::{Reason, Refusal};
use crate::lane::{Decision, World};
use crate::sessions;
use crate::tasks::{Task, TaskState};

pub use acquire::{Acquire, Acquired, acquire, want_acquire};
pub use queue::{Left, abandon, leave, take, waiter_due};
pub use release::{
    Release, Renewal, begin_attempt, end_of_attempt, end_of_session, lock_due, release, renew, want_release,
};

/// Proof that its bearer holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The locked resource.
    pub resource_id: String,
    /// The token of the grant.
    pub token: i64,
}

/// Says what [`check_guards`] will read.
pub fn want_guards(world: &mut World, guards: &[Guard]) {
    for guard in guards {
        world.locks.want(&guard.resource_id);
    }
}

/// Refuses unless every guard is the current holder's, and that holder may still act.
///
/// # Errors
/// STALE_FENCING_TOKEN.
pub fn check_guards(world: &mut World, guards: &[Guard]) -> Decision<()> {
    for guard in guards {
        let lock = world.locks.get(&guard.resource_id)?;
        let held = match lock.filter(|lock| lock.is_held() && lock.token == guard.token) {
            None => false,
            Some(lock) => may_act(world, &lock.session_id, &lock.attempt_token)?,
        };
        if !held {
            return Err(stale(&guard.resource_id, guard.token).into());
        }
    }
    Ok(())
}

/// Whether a holder or a waiter is alive: what a session or an attempt that has ended holds counts for nothing, also where it is not
/// released yet.
fn may_act(world: &mut World, session_id: &Option<String>, attempt_token: &Option<String>) -> Decision<bool> {
    if let Some(session_id) = session_id
        && !sessions::rules::is_live(world, session_id)?
    {
        return Ok(false);
    }
    match attempt_token {
        None => Ok(true),
        Some(token) => {
            let task = task_of_attempt(world, token)?;
            Ok(task.is_some_and(|task| is_current(&task, token, session_id)))
        }
    }
}

/// Says what [`may_act`] will read.
fn want_may_act(world: &mut World, session_id: &Option<String>, attempt_token: &Option<String>) {
    sessions::rules::want_caller(world, session_id);
    if let Some(task_id) = attempt_token.as_deref().and_then(task_id_of_attempt) {
        world.tasks.want(&task_id.to_owned());
    }
}

/// The task that an attempt's token names: it begins with the task's id, and a `#`.
fn task_id_of_attempt(token: &str) -> Option<&str> {
    token.rsplit_once('#').map(|(task_id, _)| task_id)
}

fn task_of_attempt(world: &mut World, token: &str) -> Decision<Option<Arc<Task>>> {
    match task_id_of_attempt(token) {
        Some(task_id) => world.tasks.get(&task_id.to_owned()),
        None => Ok(None),
    }
}

/// Whether the token is that of the task's current attempt, and the attempt the session's.
fn is_current(task: &Task, token: &str, session_id: &Option<String>) -> bool {
    task.attempt_token == token
        && task.session_id == *session_id
        && matches!(task.state, TaskState::Assigned | TaskState::Running)
}

/// The lock, if the caller shows the token of its current lease; nothing if nobody holds it.
///
/// # Errors
/// STALE_FENCING_TOKEN; SESSION_ENDED, SESSION_SUPERSEDED for a caller whose session is over.
fn held(world: &mut World, session_id: &Option<String>, resource_id: &str, token: i64) -> Decision<Option<Arc<Lock>>> {
    sessions::rules::caller(world, session_id)?;
    let lock = world.locks.get(&resource_id.to_owned())?;
    let Some(lock) = lock.filter(|lock| lock.is_held()) else {
        return Ok(None);
    };
    // Tokens are no secrets. A lease that is bound to a session is not for another session to touch.
    let of_another = session_id.is_some() && lock.session_id.is_some() && *session_id != lock.session_id;
    if lock.token != token || of_another || !may_act(world, &lock.session_id, &lock.attempt_token)? {
        return Err(stale(resource_id, token).into());
    }
    Ok(Some(lock))
}

fn stale(resource_id: &str, token: i64) -> Refusal {
    let message = format!("{resource_id} is not held with this token");
    Refusal::new(Reason::StaleFencingToken, message)
        .with("resource_id", resource_id)
        .with("fencing_token", token)
}

/// The refusal of a resource that nobody holds.
pub fn not_found(resource_id: &str) -> Refusal {
    Refusal::new(Reason::LockNotFound, format!("nobody holds {resource_id}")).with("resource_id", resource_id)
}

/// The refusal of a caller in whose way another stands: LOCK_HELD, or LOCK_WAIT_TIMEOUT with the same metadata. What it says of the holder
/// is left out where there is none.
pub fn in_the_way(reason: Reason, resource_id: &str, lock: Option<&Lock>) -> Refusal {
    let (holder, message) = match lock {
        Some(lock) if lock.is_held() => (Some(lock), format!("{resource_id} is held by {}", lock.holder_id)),
        Some(_) => (None, format!("{resource_id} is being handed over")),
        None => (None, format!("{resource_id} is free again")),
    };
    let refusal = Refusal::new(reason, message)
        .with("resource_id", resource_id)
        .with("queue_length", lock.map_or(0, |lock| lock.queue_length));
    match holder {
        None => refusal,
        Some(lock) => refusal
            .with("holder_id", &lock.holder_id)
            .with("agent_id", &lock.agent_id)
            .with("expire_time", lock.expires_at().rfc3339()),
    }
}
