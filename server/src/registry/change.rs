//! Changes of a registration by its own agent.

use std::collections::BTreeMap;

use serde_json::json;

use super::rules::{Registered, announce, has, offer, settle, withdraw};
use super::{Agent, Capability, SaidStatus};
use crate::error::Refusal;
use crate::events::Draft;
use crate::lane::{Decision, World};
use crate::sessions::{self, Session};
use crate::store::row::Json;

/// What an agent changes of its registration; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// See [`Agent::agent_name`].
    pub agent_name: Option<String>,
    /// See [`Agent::base_url`].
    pub base_url: Option<String>,
    /// See [`Agent::labels`].
    pub labels: Option<BTreeMap<String, String>>,
    /// See [`Agent::max_concurrent_tasks`].
    pub max_concurrent_tasks: Option<i32>,
    /// See [`Agent::capabilities`].
    pub capabilities: Option<Vec<Capability>>,
    /// See [`Agent::said_status`].
    pub status: Option<SaidStatus>,
}

/// Changes the registration of a session's agent. What it can take from now on it is given at once; what it has it keeps, also where it
/// is more than it would take now.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED; INVALID_REQUEST if `agent_id` is given and is not the session's.
pub fn update(
    world: &mut World,
    session_id: &str,
    agent_id: &str,
    change: Change,
    traceparent: &str,
) -> Decision<Registered> {
    let session = sessions::rules::live(world, session_id)?;
    if !agent_id.is_empty() && agent_id != session.agent_id {
        return Err(Refusal::invalid("agent.agent_id", "is not the session's agent").into());
    }
    let before = world.agents.get(&session.agent_id)?;
    let Some(before) = before else {
        return Err(super::rules::not_found(&session.agent_id).into());
    };
    let agent = changed(Agent::clone(&before), change);
    withdraw(world, &before, |name| !has(&agent, name));
    world.agents.put(agent.clone());
    let session = Session {
        capacity: agent.max_concurrent_tasks,
        ..Session::clone(&session)
    };
    let session_id = session.session_id.clone();
    offer(world, session)?;
    let unsaid = Agent {
        said_status: before.said_status,
        ..agent.clone()
    };
    if unsaid != *before {
        announce(world, &agent, "UPDATED", traceparent);
    }
    if agent.said_status != before.said_status {
        let data = json!({
            "agent_id": agent.agent_id,
            "incarnation": agent.incarnation,
            "status": agent.said_status.name(),
            "previous_status": before.said_status.name(),
        });
        let draft = Draft::new("agent.status_change", &agent.agent_id).source(&agent.agent_id);
        world.emit(draft.data(&data).trace(traceparent));
    }
    settle(world, agent, session_id, true)
}

fn changed(mut agent: Agent, change: Change) -> Agent {
    if let Some(agent_name) = change.agent_name {
        agent.agent_name = agent_name;
    }
    if let Some(base_url) = change.base_url {
        agent.base_url = base_url;
    }
    if let Some(labels) = change.labels {
        agent.labels = Json(labels);
    }
    if let Some(max_concurrent_tasks) = change.max_concurrent_tasks {
        agent.max_concurrent_tasks = max_concurrent_tasks;
    }
    if let Some(capabilities) = change.capabilities {
        agent.capabilities = Json(capabilities);
    }
    if let Some(status) = change.status {
        agent.said_status = status;
    }
    agent
}
