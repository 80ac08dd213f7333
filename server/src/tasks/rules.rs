//! What happens to a task: delegated, accepted, rejected, progressed, completed, failed, cancelled, timed out, lost.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Origin, RetryPolicy, Task};
use crate::lane::{Decision, World};
use crate::payload::Payload;
use crate::time::Time;

/// A task to be delegated.
#[derive(Clone, Debug, Default)]
pub struct Delegation {
    /// Its id; empty: one is made.
    pub task_id: String,
    /// What it needs; may be empty if there is a target.
    pub capability: String,
    /// The one agent that it is for; may be empty if there is a capability.
    pub target_agent: String,
    /// What it is to work on.
    pub input: Option<Payload>,
    /// Links events of one undertaking; empty: its id.
    pub correlation_id: String,
    /// Higher goes first.
    pub priority: i32,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long an agent may take to accept.
    pub accept_timeout: Duration,
    /// How long an accepted attempt may say nothing.
    pub progress_timeout: Option<Duration>,
    /// How long all of it may take.
    pub deadline: Option<Duration>,
    /// How long to wait before the first attempt.
    pub delay: Duration,
    /// When to try again.
    pub retry: RetryPolicy,
    /// Labels that the agent must have.
    pub requirements: BTreeMap<String, String>,
    /// The task that it is part of.
    pub parent_task_id: String,
    /// Who delegates it.
    pub caller_agent: String,
    /// The step of a workflow that it is for.
    pub origin: Option<Origin>,
    /// W3C trace context.
    pub traceparent: String,
}

/// Delegates a task; if an agent is free it is assigned at once.
///
/// # Errors
/// TASK_EXISTS.
pub fn delegate(world: &mut World, delegation: Delegation) -> Decision<Task> {
    let _ = (world, delegation);
    todo!()
}

/// Cancels a task that has not ended, by a caller or with its workflow. Does not tell the workflow.
///
/// # Errors
/// TASK_NOT_FOUND, TASK_ENDED.
pub fn cancel(world: &mut World, task_id: &str, cause: &str) -> Decision<()> {
    let _ = (world, task_id, cause);
    todo!()
}

/// Puts the tasks of a session that has ended into other hands, at most `limit`; says whether that was all.
pub fn end_of_session(world: &mut World, session_id: &str, limit: usize) -> Decision<bool> {
    let _ = (world, session_id, limit);
    todo!()
}

/// Looks again at a task that is due: delay or backoff over, not accepted, timed out, deadline, old enough to be deleted. Timeouts of
/// attempts end them only if `gap_end`, the end of the last time in which clients could not reach the server, is at least that long ago.
pub fn due(world: &mut World, task_id: &str, gap_end: Time) -> Decision<()> {
    let _ = (world, task_id, gap_end);
    todo!()
}
