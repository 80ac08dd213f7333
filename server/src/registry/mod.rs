//! Registry: who is there, and what each can do.
//!
//! An agent's row is its registration; its life is a session ([`crate::sessions`]). Discovery is answered from the directory
//! that the tail keeps in memory; dispatch finds agents through [`Offer`] rows, which say what each live session can take now.

mod change;
pub mod rpc;
pub mod rules;
pub mod schema;
pub mod store;

#[cfg(test)]
mod rules_tests;

use std::time::Duration;

use crate::named_enum;
use crate::sessions::Session;
use crate::store::row::{Json, Labels};
use crate::time::Time;

/// How long an OFFLINE agent stays listed, and how long its last incarnation is remembered after it is taken off the list. Not
/// shorter than the rows of its sessions are kept, so that of two sessions of one agent the newer always has the higher incarnation.
pub const OFFLINE_KEPT: Duration = Duration::from_secs(24 * 3_600);

/// What an agent says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum SaidStatus {
    /// Gives it tasks when it has free slots.
    Active,
    /// Gives it none for now.
    Busy,
    /// Gives it none any more.
    Draining,
}

named_enum!(SaidStatus { Active = "ACTIVE", Busy = "BUSY", Draining = "DRAINING" });

/// What an agent can do.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Capability {
    /// Its name.
    pub name: String,
    /// For people and for language models.
    pub description: String,
    /// JSON Schema of the input, as text; empty: anything.
    pub input_schema: String,
    /// JSON Schema of the result, as text.
    pub output_schema: String,
    /// How long it usually takes.
    pub estimated_duration: Option<Duration>,
    /// Free words to find it by.
    pub tags: Vec<String>,
}

/// A registration.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Agent {
    /// Unique in the namespace.
    pub agent_id: String,
    /// For people.
    pub agent_name: String,
    /// Where others can reach it.
    pub base_url: String,
    /// Free labels.
    pub labels: Labels,
    /// What it can do.
    pub capabilities: Json<Vec<Capability>>,
    /// How many tasks it takes at once.
    pub max_concurrent_tasks: i32,
    /// What it says of itself.
    pub said_status: SaidStatus,
    /// Its session while it is there; none when it is OFFLINE.
    pub session_id: Option<String>,
    /// How many times it has registered.
    pub incarnation: i64,
    /// When it registered.
    pub registered_at: Time,
    /// When its session ended, while it is OFFLINE.
    pub offline_at: Option<Time>,
    /// When it is taken off the list, while it is OFFLINE.
    pub due_at: Option<Time>,
}

impl Agent {
    /// Whether others see it. The row of an agent that was taken off the list stays for a while, empty, and remembers the incarnation.
    pub fn is_listed(&self) -> bool {
        self.session_id.is_some() || self.offline_at.is_some()
    }

    /// How many more tasks it would take now, as others see it: none unless it is there and says ACTIVE.
    pub fn free_slots(&self, session: Option<&Session>) -> i32 {
        match (self.said_status, session) {
            (SaidStatus::Active, Some(session)) => (session.capacity - session.in_flight).max(0),
            _ => 0,
        }
    }
}

/// What a live session has to offer under one capability. There is a row for each capability, and one under the empty name for
/// tasks that are for this agent whatever the capability.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// The capability's name; empty for any.
    pub capability: String,
    /// The agent.
    pub agent_id: String,
    /// Its session.
    pub session_id: String,
    /// How many tasks it has, as long as it can take another; none when it cannot: full, busy, draining, not connected.
    pub load: Option<i32>,
    /// When it was last given a task, so that the least recently assigned comes first.
    pub last_assigned_at: Time,
    /// The agent's labels.
    pub labels: Labels,
}
