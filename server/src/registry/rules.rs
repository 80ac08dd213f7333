//! Registrations, and what live sessions have to offer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

pub use super::change::{Change, update};
use super::{Agent, Capability, OFFLINE_KEPT, Offer, SaidStatus};
use crate::error::{Reason, Refusal};
use crate::events::Draft;
use crate::lane::{Decision, World};
use crate::sessions::{self, Life, Session};
use crate::store::row::Json;
use crate::tasks;
use crate::time::Time;

/// What an agent says when it registers.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Unique in the namespace; empty only when a session is resumed.
    pub agent_id: String,
    /// For people.
    pub agent_name: String,
    /// Where others can reach it.
    pub base_url: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// How many tasks it takes at once.
    pub max_concurrent_tasks: i32,
    /// What it can do.
    pub capabilities: Vec<Capability>,
    /// After this long without a heartbeat it is dead.
    pub ttl: Duration,
    /// W3C trace context.
    pub traceparent: String,
}

/// A registration with the session that it stands on.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Registered {
    /// The registration.
    pub agent: Agent,
    /// Its session; the last one it had if it has ended.
    pub session: Session,
    /// Whether an older session goes on.
    pub resumed: bool,
}

/// Says what [`register`] will read.
pub fn want_register(world: &mut World, agent_id: &str, resume: Option<&str>) {
    if !agent_id.is_empty() {
        world.agents.want(&agent_id.to_owned());
    }
    if let Some(session_id) = resume {
        world.sessions.want(&session_id.to_owned());
    }
}

/// Registers an agent. A new session gets the id `session_id`, and an older one of the same agent ends, with all that it held; unless
/// the older one is shown in `resume`: then that goes on, and only its registration is replaced.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED, INVALID_REQUEST of the session to resume.
pub fn register(
    world: &mut World,
    registration: Registration,
    session_id: &str,
    resume: Option<&str>,
) -> Decision<Registered> {
    match resume {
        Some(session_id) => resumed(world, registration, session_id),
        None => registered(world, registration, session_id),
    }
}

fn registered(world: &mut World, registration: Registration, session_id: &str) -> Decision<Registered> {
    let before = world.agents.get(&registration.agent_id)?;
    let incarnation = before.as_ref().map_or(0, |agent| agent.incarnation) + 1;
    let replaced = before.and_then(|agent| agent.session_id.clone());
    if let Some(old) = &replaced {
        sessions::rules::end(world, old, Life::Superseded)?;
    }
    let now = world.now();
    let session = Session {
        session_id: session_id.to_owned(),
        agent_id: registration.agent_id.clone(),
        incarnation,
        life: Life::Live,
        ttl: registration.ttl,
        generation: 0,
        connected: false,
        polling: 0,
        poll_id: None,
        capacity: registration.max_concurrent_tasks,
        in_flight: 0,
        last_assigned_at: Time::default(),
        started_at: now,
        ended_at: None,
        due_at: None,
    };
    let traceparent = registration.traceparent.clone();
    let agent = agent_of(registration, &session, now);
    world.agents.put(agent.clone());
    offer(world, session.clone())?;
    let change = if replaced.is_some() { "REPLACED" } else { "NEW" };
    announce(world, &agent, change, &traceparent);
    settle(world, agent, session.session_id, false)
}

fn resumed(world: &mut World, mut registration: Registration, session_id: &str) -> Decision<Registered> {
    let session = sessions::rules::live(world, session_id)?;
    if registration.agent_id.is_empty() {
        registration.agent_id = session.agent_id.clone();
    }
    let before = world.agents.get(&session.agent_id)?;
    let Some(before) = before.filter(|agent| agent.agent_id == registration.agent_id) else {
        return Err(Refusal::invalid("session_id", "is the session of another agent").into());
    };
    let session = Session {
        ttl: registration.ttl,
        capacity: registration.max_concurrent_tasks,
        ..Session::clone(&session)
    };
    let traceparent = registration.traceparent.clone();
    let agent = agent_of(registration, &session, before.registered_at);
    withdraw(world, &before, |name| !has(&agent, name));
    world.agents.put(agent.clone());
    let session_id = session.session_id.clone();
    offer(world, session)?;
    announce(world, &agent, "RESUMED", &traceparent);
    settle(world, agent, session_id, true)
}

fn agent_of(registration: Registration, session: &Session, registered_at: Time) -> Agent {
    Agent {
        agent_id: registration.agent_id,
        agent_name: registration.agent_name,
        base_url: registration.base_url,
        labels: Json(registration.labels),
        capabilities: Json(registration.capabilities),
        max_concurrent_tasks: registration.max_concurrent_tasks,
        said_status: SaidStatus::Active,
        session_id: Some(session.session_id.clone()),
        incarnation: session.incarnation,
        registered_at,
        offline_at: None,
        due_at: None,
    }
}

/// Says in the log that a registration is new or changed.
pub(super) fn announce(world: &mut World, agent: &Agent, change: &str, traceparent: &str) {
    let names: Vec<&str> = agent
        .capabilities
        .iter()
        .map(|capability| capability.name.as_str())
        .collect();
    let data = json!({
        "agent_id": agent.agent_id,
        "incarnation": agent.incarnation,
        "capabilities": names,
        "change": change,
    });
    let draft = Draft::new("agent.registered", &agent.agent_id).source(&agent.agent_id);
    world.emit(draft.data(&data).trace(traceparent));
}

/// Gives the agent work that waits for it, and tells how it and its session are after that.
pub(super) fn settle(world: &mut World, agent: Agent, session_id: String, resumed: bool) -> Decision<Registered> {
    let session = fill(world, &session_id)?;
    Ok(Registered {
        agent,
        session,
        resumed,
    })
}

/// Gives a live session the work that waits for it, if it can take some, and returns it as it is then.
pub fn fill(world: &mut World, session_id: &str) -> Decision<Session> {
    let session = sessions::rules::live(world, session_id)?;
    if let Some(agent) = world.agents.get(&session.agent_id)?
        && load(&agent, &session).is_some()
    {
        tasks::dispatch::fill(world, session_id)?;
    }
    Ok(Session::clone(&*sessions::rules::live(world, session_id)?))
}

/// Brings the offers of a session's agent in step with the session: what it can take, how loaded it is. To be called after every
/// change of a session's load, connection or life, or of the agent's registration. Puts the session's row too.
///
/// Offers that a change of the registration leaves behind, or an end, are withdrawn where that happens.
pub fn offer(world: &mut World, session: Session) -> Decision<()> {
    if session.is_live()
        && let Some(agent) = world.agents.get(&session.agent_id)?
        && agent.session_id.as_ref() == Some(&session.session_id)
    {
        let load = load(&agent, &session);
        for capability in offered(&agent) {
            world.offers.put(Offer {
                capability,
                agent_id: agent.agent_id.clone(),
                session_id: session.session_id.clone(),
                load,
                last_assigned_at: session.last_assigned_at,
                labels: agent.labels.clone(),
            });
        }
    }
    world.sessions.put(session);
    Ok(())
}

/// How loaded an agent is, if it can take another task now: it says so, has a free slot, and there is a way to hand it over.
fn load(agent: &Agent, session: &Session) -> Option<i32> {
    let reachable = session.connected || session.polling > 0;
    let able = agent.said_status == SaidStatus::Active && session.in_flight < session.capacity;
    (session.is_live() && reachable && able).then_some(session.in_flight)
}

/// The names that an agent is offered under: its capabilities', and the empty one.
fn offered(agent: &Agent) -> impl Iterator<Item = String> {
    let names = agent.capabilities.iter().map(|capability| capability.name.clone());
    names.chain([String::new()])
}

pub(super) fn has(agent: &Agent, name: &str) -> bool {
    name.is_empty() || agent.capabilities.iter().any(|capability| capability.name == name)
}

/// Removes the offers of an agent under the names that `which` picks.
pub(super) fn withdraw(world: &mut World, agent: &Agent, which: impl Fn(&str) -> bool) {
    for name in offered(agent).filter(|name| which(name)) {
        world.offers.remove(&(name, agent.agent_id.clone()));
    }
}

/// Takes an agent off the offers because its session has ended; after a goodbye off the list too. Nothing if the agent has
/// another session by now.
pub(crate) fn take_off(world: &mut World, session: &Session, life: Life) -> Decision<()> {
    let Some(agent) = world.agents.get(&session.agent_id)? else {
        return Ok(());
    };
    if agent.session_id.as_ref() != Some(&session.session_id) {
        return Ok(());
    }
    withdraw(world, &agent, |_| true);
    if life == Life::Deregistered {
        unlist(world, &agent);
    } else {
        let now = world.now();
        world.agents.put(Agent {
            session_id: None,
            offline_at: Some(now),
            due_at: Some(now + OFFLINE_KEPT),
            ..Agent::clone(&agent)
        });
    }
    Ok(())
}

/// Takes an agent off the list. What stays for a while is only its incarnation.
fn unlist(world: &mut World, agent: &Agent) {
    let due_at = world.now() + OFFLINE_KEPT;
    world.agents.put(Agent {
        agent_id: agent.agent_id.clone(),
        agent_name: String::new(),
        base_url: String::new(),
        labels: Json::default(),
        capabilities: Json::default(),
        max_concurrent_tasks: 0,
        said_status: SaidStatus::Active,
        session_id: None,
        incarnation: agent.incarnation,
        registered_at: agent.registered_at,
        offline_at: None,
        due_at: Some(due_at),
    });
}

/// Takes an agent off the list: under its session, which ends, or without one if it is OFFLINE. `agent_id` may be empty where the
/// session is given.
///
/// # Errors
/// AGENT_NOT_FOUND, SESSION_ENDED, SESSION_SUPERSEDED; SESSION_REQUIRED if the agent is there and no session is given;
/// INVALID_REQUEST if the session is another agent's.
pub fn deregister(world: &mut World, session_id: Option<&str>, agent_id: &str) -> Decision<()> {
    if let Some(session_id) = session_id {
        let session = sessions::rules::live(world, session_id)?;
        if !agent_id.is_empty() && session.agent_id != agent_id {
            return Err(Refusal::invalid("session_id", "is the session of another agent").into());
        }
        return sessions::rules::end(world, session_id, Life::Deregistered);
    }
    let agent = world.agents.get(&agent_id.to_owned())?;
    let Some(agent) = agent.filter(|agent| agent.is_listed()) else {
        return Err(not_found(agent_id).into());
    };
    if agent.session_id.is_some() {
        let message = "the agent is there: only under its own session can it be taken off the list";
        return Err(Refusal::new(Reason::SessionRequired, message).into());
    }
    unlist(world, &agent);
    let data = json!({ "agent_id": agent.agent_id, "incarnation": agent.incarnation });
    world.emit(Draft::new("agent.deregistered", &agent.agent_id).data(&data));
    Ok(())
}

/// The refusal of an agent that is not there.
pub(crate) fn not_found(agent_id: &str) -> Refusal {
    Refusal::new(Reason::AgentNotFound, format!("there is no agent {agent_id}")).with("agent_id", agent_id)
}

/// Looks again at an agent that is due: OFFLINE for as long as it is kept.
pub fn due(world: &mut World, agent_id: &str) -> Decision<()> {
    let agent_id = agent_id.to_owned();
    if let Some(agent) = world.agents.get(&agent_id)?
        && agent.session_id.is_none()
        && agent.due_at.is_some_and(|due_at| due_at <= world.now())
    {
        world.agents.remove(&agent_id);
    }
    Ok(())
}
