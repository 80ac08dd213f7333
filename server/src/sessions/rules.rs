//! Who is alive, and what ends with a session.

use std::sync::Arc;

use serde_json::json;

use super::{ENDED_KEPT, Life, RELEASED_AT_ONCE, Session};
use crate::error::{Reason, Refusal};
use crate::events::Draft;
use crate::lane::{Decision, World};
use crate::{locks, registry, tasks};

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
        None => Err(unknown().into()),
    }
}

/// The refusal of a session that never was, or is not remembered.
pub(super) fn unknown() -> Refusal {
    Refusal::new(Reason::SessionEnded, "there is no such session").with("cause", "UNKNOWN")
}

/// The refusal of a session that has ended.
pub fn ended(session: &Session) -> Refusal {
    ended_as(session.life, &session.agent_id)
}

/// The refusal of a session of this agent that has ended in this way.
pub(super) fn ended_as(life: Life, agent_id: &str) -> Refusal {
    match life {
        Life::Superseded => Refusal::new(
            Reason::SessionSuperseded,
            "another registration of this agent took its place",
        )
        .with("agent_id", agent_id),
        life => Refusal::new(Reason::SessionEnded, "the session has ended").with("cause", life.name()),
    }
}

/// Says what [`caller`] will read.
pub fn want_caller(world: &mut World, session_id: &Option<String>) {
    if let Some(session_id) = session_id {
        world.sessions.want(session_id);
    }
}

/// Says what ending a session, or any change of it, will read beside its row.
pub fn want_agent(world: &mut World, session_id: &str, agent_id: &str) {
    world.sessions.want(&session_id.to_owned());
    world.agents.want(&agent_id.to_owned());
}

/// Ends a session: one commit that nobody acts under it after. What it held is released at once, up to a bound; the rest follows when the
/// session is due ([`due`]). A session that has ended stays as it ended.
pub fn end(world: &mut World, session_id: &str, life: Life) -> Decision<()> {
    let session = world.sessions.get(&session_id.to_owned())?;
    let Some(session) = session.filter(|session| session.is_live()) else {
        return Ok(());
    };
    let now = world.now();
    let ended = Session {
        life,
        connected: false,
        polling: 0,
        ended_at: Some(now),
        due_at: Some(now),
        ..Session::clone(&session)
    };
    registry::rules::take_off(world, &ended, life)?;
    world.sessions.put(ended);
    world.beats.remove(&session.session_id);
    let event_type = match life {
        Life::Expired => Some("agent.expired"),
        Life::Deregistered => Some("agent.deregistered"),
        // The registration that took its place says so.
        Life::Superseded | Life::Live => None,
    };
    if let Some(event_type) = event_type {
        let data = json!({ "agent_id": session.agent_id, "incarnation": session.incarnation });
        world.emit(
            Draft::new(event_type, &session.agent_id)
                .source(&session.agent_id)
                .data(&data),
        );
    }
    release(world, session_id)?;
    Ok(())
}

/// Releases some of what a session that has ended held, and says when to look at it again. Tells whether that was all.
fn release(world: &mut World, session_id: &str) -> Decision<bool> {
    let locks_done = locks::rules::end_of_session(world, session_id, RELEASED_AT_ONCE)?;
    let tasks_done = tasks::rules::end_of_session(world, session_id, RELEASED_AT_ONCE)?;
    if let Some(session) = world.sessions.get(&session_id.to_owned())?
        && let Some(ended_at) = session.ended_at
    {
        let due_at = if locks_done && tasks_done {
            ended_at + ENDED_KEPT
        } else {
            world.now()
        };
        world.sessions.put(Session {
            due_at: Some(due_at),
            ..Session::clone(&session)
        });
    }
    Ok(locks_done && tasks_done)
}

/// Looks again at a session that is due: releases more of what it held, or deletes its row once it is old.
pub fn due(world: &mut World, session_id: &str) -> Decision<()> {
    let key = session_id.to_owned();
    let now = world.now();
    let session = world.sessions.get(&key)?;
    let Some(session) = session.filter(|session| session.due_at.is_some_and(|due_at| due_at <= now)) else {
        return Ok(());
    };
    let released = release(world, session_id)?;
    if released && session.ended_at.is_some_and(|ended_at| ended_at + ENDED_KEPT <= now) {
        world.sessions.remove(&key);
    }
    Ok(())
}

/// Opens a stream of a session: its generation goes up, so that what an older stream says or suffers does not count any more. Gives
/// the agent the work that waits for it.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED.
pub fn connect(world: &mut World, session_id: &str) -> Decision<Session> {
    let session = live(world, session_id)?;
    let connected = Session {
        generation: session.generation + 1,
        connected: true,
        ..Session::clone(&session)
    };
    registry::rules::offer(world, connected)?;
    registry::rules::fill(world, session_id)
}

/// Notes that the stream of this generation broke: the session is given nothing more. A stream that was opened since does not suffer.
pub fn disconnect(world: &mut World, session_id: &str, generation: i64) -> Decision<()> {
    if let Some(session) = world.sessions.get(&session_id.to_owned())?
        && session.is_live()
        && session.generation == generation
        && session.connected
    {
        registry::rules::offer(
            world,
            Session {
                connected: false,
                ..Session::clone(&session)
            },
        )?;
    }
    Ok(())
}

/// Notes after a start of the server that a session has neither stream nor poll: both were the old process's. `generation` is what was
/// read at the start; a session that came back since is left alone.
pub fn forget_calls(world: &mut World, session_id: &str, generation: i64) -> Decision<()> {
    if let Some(session) = world.sessions.get(&session_id.to_owned())?
        && session.is_live()
        && session.generation == generation
        && (session.connected || session.polling > 0)
    {
        registry::rules::offer(
            world,
            Session {
                connected: false,
                polling: 0,
                ..Session::clone(&session)
            },
        )?;
    }
    Ok(())
}

/// Ends a session whose stream of this generation broke, unless another has been opened since. Says whether it did.
pub fn end_if_broken(world: &mut World, session_id: &str, generation: i64) -> Decision<bool> {
    match world.sessions.get(&session_id.to_owned())? {
        Some(session) if session.is_live() && session.generation == generation && !session.connected => {
            end(world, session_id, Life::Expired)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
