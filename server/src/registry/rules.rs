//! Registrations, and what live sessions have to offer.

use crate::lane::{Decision, World};
use crate::sessions::Session;

/// Brings the offers of a session's agent in step with the session: what it can take, how loaded it is. To be called after every
/// change of a session's load, connection or life, or of the agent's registration. Puts the session's row too.
pub fn offer(world: &mut World, session: Session) -> Decision<()> {
    let _ = (world, session);
    todo!()
}

/// Looks again at an agent that is due: OFFLINE for as long as it is kept.
pub fn due(world: &mut World, agent_id: &str) -> Decision<()> {
    let _ = (world, agent_id);
    todo!()
}
