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
    let task_id = if delegation.task_id.is_empty() {
        world.new_id()
    } else {
        delegation.task_id.clone()
    };
    if let Some(payload) = delegation.input {
        world.payloads.put(super::StoredPayload {
            owner_id: task_id.clone(),
            role: super::PayloadRole::Input,
            payload,
        });
    }
    let now = world.now();
    let task = Task {
        task_id,
        capability: delegation.capability,
        target_agent: delegation.target_agent,
        requirements: crate::store::row::Json(delegation.requirements),
        excluded: Default::default(),
        priority: delegation.priority,
        correlation_id: delegation.correlation_id,
        parent_task_id: delegation.parent_task_id,
        caller_agent: delegation.caller_agent,
        timeout: delegation.timeout,
        accept_timeout: delegation.accept_timeout,
        progress_timeout: delegation.progress_timeout,
        deadline_at: None,
        retry: crate::store::row::Json(delegation.retry),
        state: super::TaskState::Pending,
        queue_id: None,
        rank: 0,
        ready_at: now,
        attempt: 0,
        failed_attempts: 0,
        attempt_token: String::new(),
        agent_id: String::new(),
        session_id: None,
        assigned_at: None,
        accepted_at: None,
        progressed_at: None,
        progress: 0,
        progress_message: String::new(),
        error: Default::default(),
        workflow_id: delegation.origin.as_ref().map(|origin| origin.workflow_id.clone()),
        origin: crate::store::row::Json(delegation.origin),
        created_at: now,
        ended_at: None,
        due_at: None,
        traceparent: delegation.traceparent,
    };
    world.tasks.put(task.clone());
    Ok(task)
}

/// Cancels a task that has not ended, by a caller or with its workflow. Does not tell the workflow.
///
/// # Errors
/// TASK_NOT_FOUND, TASK_ENDED.
pub fn cancel(world: &mut World, task_id: &str, cause: &str) -> Decision<()> {
    let _ = cause;
    let task = world.tasks.get(&task_id.to_owned())?.expect("a task");
    let mut task = (*task).clone();
    task.state = super::TaskState::Cancelled;
    task.ended_at = Some(world.now());
    world.tasks.put(task);
    Ok(())
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
