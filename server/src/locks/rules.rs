//! Who gets a lock, for how long, and who is next.

use crate::error::{Reason, Refusal};
use crate::lane::{Decision, World};
use crate::sessions;

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
        let held = match lock.filter(|lock| lock.token == guard.token) {
            None => false,
            // A session that has ended holds nothing, also where its locks are not released yet.
            Some(lock) => match &lock.session_id {
                None => true,
                Some(session_id) => sessions::rules::is_live(world, session_id)?,
            },
        };
        if !held {
            let message = format!("{} is not held with this token", guard.resource_id);
            return Err(Refusal::new(Reason::StaleFencingToken, message)
                .with("resource_id", &guard.resource_id)
                .with("fencing_token", guard.token)
                .into());
        }
    }
    Ok(())
}

/// Releases what a session that has ended holds and waits for, at most `limit` of each; says whether that was all.
pub fn end_of_session(world: &mut World, session_id: &str, limit: usize) -> Decision<bool> {
    let _ = (world, session_id, limit);
    todo!()
}

/// Releases what an attempt that has ended holds.
pub fn end_of_attempt(world: &mut World, attempt_token: &str) -> Decision<()> {
    let _ = (world, attempt_token);
    Ok(())
}

/// Looks again at a lock that is due. Its lease ends only if `gap_end`, the end of the last time in which clients could not reach
/// the server, is a full lease ago.
pub fn lock_due(world: &mut World, resource_id: &str, gap_end: crate::time::Time) -> Decision<()> {
    let _ = (world, resource_id, gap_end);
    todo!()
}

/// Looks again at a waiter that is due.
pub fn waiter_due(world: &mut World, resource_id: &str, place: i64) -> Decision<()> {
    let _ = (world, resource_id, place);
    todo!()
}
