//! Registrations, and what live sessions have to offer.

use crate::lane::{Decision, World};
use crate::sessions::Session;

/// Brings the offers of a session's agent in step with the session: what it can take, how loaded it is. To be called after every
/// change of a session's load, connection or life, or of the agent's registration. Puts the session's row too.
pub fn offer(world: &mut World, session: Session) -> Decision<()> {
    if let Some(agent) = world.agents.get(&session.agent_id)? {
        let is_open = session.is_live()
            && agent.said_status == super::SaidStatus::Active
            && session.in_flight < session.capacity
            && (session.connected || session.polling > 0);
        let names = agent.capabilities.iter().map(|capability| capability.name.clone());
        for capability in names.chain(std::iter::once(String::new())) {
            world.offers.put(super::Offer {
                capability,
                agent_id: agent.agent_id.clone(),
                session_id: session.session_id.clone(),
                load: is_open.then_some(session.in_flight),
                last_assigned_at: session.last_assigned_at,
                labels: agent.labels.clone(),
            });
        }
    }
    world.sessions.put(session);
    Ok(())
}

/// Looks again at an agent that is due: OFFLINE for as long as it is kept.
pub fn due(world: &mut World, agent_id: &str) -> Decision<()> {
    let _ = (world, agent_id);
    todo!()
}
