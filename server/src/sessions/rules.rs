//! Who is alive, and what ends with a session.

use std::sync::Arc;

use super::{Life, Session};
use crate::error::{Reason, Refusal};
use crate::lane::{Decision, World};

/// Whether a session may act.
pub fn is_live(world: &mut World, session_id: &str) -> Decision<bool> {
    Ok(world
        .sessions
        .get(&session_id.to_owned())?
        .is_some_and(|session| session.is_live()))
}

/// The session that a caller acts under, if it says that it acts under one.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED.
pub fn caller(world: &mut World, session_id: &Option<String>) -> Decision<Option<Arc<Session>>> {
    session_id
        .as_ref()
        .map(|session_id| live(world, session_id))
        .transpose()
}

/// A session that may act.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED.
pub fn live(world: &mut World, session_id: &str) -> Decision<Arc<Session>> {
    match world.sessions.get(&session_id.to_owned())? {
        Some(session) if session.is_live() => Ok(session),
        Some(session) => Err(ended(&session).into()),
        None => Err(Refusal::new(Reason::SessionEnded, "there is no such session")
            .with("cause", "UNKNOWN")
            .into()),
    }
}

/// The refusal of a session that has ended.
pub fn ended(session: &Session) -> Refusal {
    match session.life {
        Life::Superseded => Refusal::new(
            Reason::SessionSuperseded,
            "another registration of this agent took its place",
        )
        .with("agent_id", &session.agent_id),
        life => Refusal::new(Reason::SessionEnded, "the session has ended").with("cause", life.name()),
    }
}

/// Says what [`caller`] will read.
pub fn want_caller(world: &mut World, session_id: &Option<String>) {
    if let Some(session_id) = session_id {
        world.sessions.want(session_id);
    }
}

/// Ends a session: one commit that nobody acts under it after. What it held is released at once, up to a bound; the rest follows when the
/// session is due ([`due`]).
pub fn end(world: &mut World, session_id: &str, life: Life) -> Decision<()> {
    let _ = (world, session_id, life);
    todo!()
}

/// Looks again at a session that is due: releases more of what it held, or deletes its row once it is old.
pub fn due(world: &mut World, session_id: &str) -> Decision<()> {
    let _ = (world, session_id);
    todo!()
}
