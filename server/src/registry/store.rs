//! The rows of registrations and offers.

use super::{Agent, Capability, Offer, SaidStatus};
use crate::row;
use crate::store::row::{Json, Labels};
use crate::time::Time;

row! {
    Agent: String = "agents" (agent_id: String) {
        agent_name: String,
        base_url: String,
        labels: Labels,
        capabilities: Json<Vec<Capability>>,
        max_concurrent_tasks: i32,
        said_status: SaidStatus,
        session_id: Option<String>,
        incarnation: i64,
        registered_at: Time,
        offline_at: Option<Time>,
        due_at: Option<Time>,
    }
    index BY_DUE = "agents_by_due": () -> (due_at, agent_id);
}

row! {
    Offer: (String, String) = "offers" (capability: String, agent_id: String) {
        session_id: String,
        load: Option<i32>,
        last_assigned_at: Time,
        labels: Labels,
    }
    index OPEN = "offers_open": (capability) -> (load, last_assigned_at, agent_id);
}
