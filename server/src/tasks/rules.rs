//! What happens to a task: delegated, accepted, rejected, progressed, completed, failed, cancelled, timed out, lost.
//!
//! What an agent says of its attempt is in [`word`], how attempts and tasks end in [`ending`], what time does to them in [`due`].

mod due;
mod ending;
mod poll;
mod word;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::{Origin, PayloadRole, RetryPolicy, StoredPayload, Task, TaskState, dispatch};
use crate::error::{Reason, Refusal};
use crate::events::Draft;
use crate::lane::{Decision, World};
use crate::payload::Payload;
use crate::store::row::Json;
use crate::time::Time;
pub use due::due;
pub use ending::{cancel, cancel_by_caller, end_of_session};
pub use poll::{close_poll, open_poll};
pub use word::{Word, accept, complete, fail, progress, reject, want_word};

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
    let now = world.now();
    let task_id = if delegation.task_id.is_empty() {
        world.new_id()
    } else {
        let task_id = delegation.task_id.clone();
        if world.tasks.get(&task_id)?.is_some() {
            let refusal = Refusal::new(Reason::TaskExists, "a task with this id was delegated before");
            return Err(refusal.with("task_id", task_id).into());
        }
        task_id
    };
    if let Some(payload) = delegation.input.clone() {
        world.payloads.put(StoredPayload {
            owner_id: task_id.clone(),
            role: PayloadRole::Input,
            payload,
        });
    }
    let is_ready = delegation.delay.is_zero();
    let mut task = make(task_id, delegation, now);
    world.emit(event("task.delegated", &task, json!({})).source(&task.caller_agent));
    if is_ready {
        dispatch::place(world, task)
    } else {
        task.due_at = task.next_due(Time(0), world.retention());
        world.tasks.put(task.clone());
        Ok(task)
    }
}

/// A new task, which waits.
fn make(task_id: String, delegation: Delegation, now: Time) -> Task {
    let correlation_id = match delegation.correlation_id {
        id if id.is_empty() => task_id.clone(),
        id => id,
    };
    Task {
        task_id,
        capability: delegation.capability,
        target_agent: delegation.target_agent,
        requirements: Json(delegation.requirements),
        excluded: Json(Vec::new()),
        priority: delegation.priority,
        correlation_id,
        parent_task_id: delegation.parent_task_id,
        caller_agent: delegation.caller_agent,
        timeout: delegation.timeout,
        accept_timeout: delegation.accept_timeout,
        progress_timeout: delegation.progress_timeout,
        deadline_at: delegation.deadline.map(|deadline| now + deadline),
        retry: Json(delegation.retry),
        state: TaskState::Pending,
        queue_id: None,
        rank: delegation.priority.checked_neg().unwrap_or(i32::MAX),
        ready_at: now + delegation.delay,
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
        error: Json(None),
        workflow_id: delegation.origin.as_ref().map(|origin| origin.workflow_id.clone()),
        origin: Json(delegation.origin),
        created_at: now,
        ended_at: None,
        due_at: None,
        traceparent: delegation.traceparent,
    }
}

/// A server-made event about a task, with what every such event says. Never an attempt's token, nor a session.
pub(super) fn event(event_type: &str, task: &Task, more: serde_json::Value) -> Draft {
    let mut data = json!({ "task_id": task.task_id, "attempt": task.attempt, "capability": task.capability });
    if let Some(data) = data.as_object_mut() {
        if !task.agent_id.is_empty() {
            data.insert("agent_id".to_owned(), task.agent_id.clone().into());
        }
        if let Some(origin) = &task.origin.0 {
            data.insert("workflow_id".to_owned(), origin.workflow_id.clone().into());
            data.insert("step_id".to_owned(), origin.step_id.clone().into());
            data.insert("item_key".to_owned(), origin.item_key.clone().into());
        }
        if let serde_json::Value::Object(more) = more {
            data.extend(more);
        }
    }
    let mut draft = Draft::new(event_type, &task.task_id)
        .data(&data)
        .correlation(&task.correlation_id)
        .trace(&task.traceparent);
    draft.priority = task.priority;
    draft
}

/// Text for an event: events are small.
pub(super) fn short(text: &str) -> &str {
    const MOST: usize = 1_024;
    let end = (0..=MOST.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}
