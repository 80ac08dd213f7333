//! Tasks: work that one agent hands to another, and that survives the death of either.
//!
//! Assignment is a rule, not a race: in the commit in which a task becomes ready or a slot becomes free, the rule picks the agent and
//! writes the attempt. Every word about an attempt carries its token; a stale one is refused. Tasks that the very same agents could take
//! wait in one [`Queue`] (capability, target, requirements, exclusions), so a task that nobody can take hides no other.
//!
//! ```text
//!            assign             accept             complete
//!  PENDING ─────────▶ ASSIGNED ────────▶ RUNNING ───────────▶ COMPLETED
//!     ▲                  │ rejected, not accepted,  │ failed, timed out, agent lost
//!     └──────────────────┴──────────────────────────┴──▶ FAILED | TIMED_OUT   after the last attempt
//!                                           any ──────▶ CANCELLED
//! ```

pub mod dispatch;
pub mod rpc;
pub mod rules;
pub mod store;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::named_enum;
use crate::payload::Payload;
use crate::store::row::{Json, Labels};
use crate::time::Time;

/// How long one attempt may take, unless the task says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// How long an agent may take to accept, unless the task says otherwise.
pub const DEFAULT_ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest and the longest time that an attempt may be given.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(1);
pub const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 86_400);

/// How many agents a task remembers not to go to (again). Beyond that the first is forgotten.
pub const MAX_EXCLUDED: usize = 256;

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum TaskState {
    /// Waits for an agent, a delay or a backoff.
    Pending,
    /// Given to an agent that has not accepted it yet.
    Assigned,
    /// Accepted.
    Running,
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed,
    /// Ended by a caller, or with its workflow.
    Cancelled,
    /// Ended by its deadline, or by timeouts.
    TimedOut,
}

named_enum!(TaskState {
    Pending = "PENDING",
    Assigned = "ASSIGNED",
    Running = "RUNNING",
    Completed = "COMPLETED",
    Failed = "FAILED",
    Cancelled = "CANCELLED",
    TimedOut = "TIMED_OUT",
});

impl TaskState {
    /// Whether nothing more happens to it.
    pub fn is_ended(self) -> bool {
        matches!(
            self,
            TaskState::Completed | TaskState::Failed | TaskState::Cancelled | TaskState::TimedOut
        )
    }
}

/// When to try again.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct RetryPolicy {
    /// How many attempts may fail, be lost or time out before the task does.
    pub max_attempts: i32,
    /// The wait before the second attempt after a failure.
    pub initial_backoff: Duration,
    /// The longest wait.
    pub max_backoff: Duration,
    /// By how much the wait grows.
    pub multiplier: f64,
    /// Error kinds after which the task fails at once.
    pub non_retryable: Vec<String>,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            max_attempts: 5,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            multiplier: 2.0,
            non_retryable: Vec::new(),
        }
    }
}

/// What went wrong with an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TaskError {
    /// A short word that programs can tell apart.
    pub kind: String,
    /// A sentence for people.
    pub message: String,
    /// Whether to try again is pointless.
    pub permanent: bool,
}

/// The step of a workflow that a task is for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// The workflow.
    pub workflow_id: String,
    /// The step.
    pub step_id: String,
    /// The step's place in the definition.
    pub number: i64,
    /// The place of the item.
    pub index: i64,
    /// Its key.
    pub item_key: String,
}

/// A task. Its input, result and checkpoint are [`StoredPayload`]s.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Task {
    /// Unique in the namespace.
    pub task_id: String,
    /// What it needs; empty if it is for one agent whatever the capability.
    pub capability: String,
    /// The one agent that it is for; empty for any.
    pub target_agent: String,
    /// Labels that the agent must have.
    pub requirements: Labels,
    /// Agents that shall not have it (again), in order.
    pub excluded: Json<Vec<String>>,
    /// Higher goes first.
    pub priority: i32,
    /// Links events of one undertaking.
    pub correlation_id: String,
    /// The task that it is part of.
    pub parent_task_id: String,
    /// Who delegated it.
    pub caller_agent: String,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long an agent may take to accept.
    pub accept_timeout: Duration,
    /// How long an accepted attempt may say nothing.
    pub progress_timeout: Option<Duration>,
    /// When it ends whatever happens.
    pub deadline_at: Option<Time>,
    /// When to try again.
    pub retry: Json<RetryPolicy>,
    /// Where it is.
    pub state: TaskState,
    /// The queue that it waits in, while it is PENDING and ready.
    pub queue_id: Option<String>,
    /// Its place in the queue: the negated priority, then `ready_at`, then its id.
    pub rank: i32,
    /// When it became, or becomes, ready.
    pub ready_at: Time,
    /// The number of the current or last attempt.
    pub attempt: i32,
    /// How many attempts failed, were lost or timed out.
    pub failed_attempts: i32,
    /// The secret of the current or last attempt.
    pub attempt_token: String,
    /// Who has it, or had it last.
    pub agent_id: String,
    /// The session that has it; none when nobody does.
    pub session_id: Option<String>,
    /// When it was last assigned.
    pub assigned_at: Option<Time>,
    /// When it was last accepted.
    pub accepted_at: Option<Time>,
    /// When its agent last said how far it has come.
    pub progressed_at: Option<Time>,
    /// How far it has come, in millionths.
    pub progress: i64,
    /// What its agent said of that.
    pub progress_message: String,
    /// What went wrong last.
    pub error: Json<Option<TaskError>>,
    /// The workflow that it is part of.
    pub workflow_id: Option<String>,
    /// Where in the workflow.
    pub origin: Json<Option<Origin>>,
    /// When it was delegated.
    pub created_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// When it is to be looked at again: the earliest of its timeouts, its delay or its deletion.
    pub due_at: Option<Time>,
    /// W3C trace context.
    pub traceparent: String,
}

/// What a stored payload is of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PayloadRole {
    /// The input of a task or a workflow.
    Input,
    /// The result of a task or a workflow.
    Result,
    /// What the next attempt goes on from.
    Checkpoint,
}

named_enum!(PayloadRole { Input = "input", Result = "result", Checkpoint = "checkpoint" });

/// A payload of a task (or workflow), beside its row, so that a transition does not write it again.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPayload {
    /// The task's or workflow's id.
    pub owner_id: String,
    /// What it is of it.
    pub role: PayloadRole,
    /// The payload.
    pub payload: Payload,
}

/// A look for takers of a queue's tasks that was too long for one job. One of the waiting tasks is due for it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Look {
    /// The task that is due for it.
    pub task_id: String,
    /// Offers up to this agent, in the order of their names, were looked at; none: the look has not begun.
    pub after: Option<String>,
    /// Whether the queues behind this one are to be looked at then.
    pub onward: bool,
}

/// A queue in which at least one task waits. All of its tasks can be taken by the very same agents. It knows its first task, so
/// that a free agent finds the best of all tasks by looking at queues alone, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Made from the rest.
    pub queue_id: String,
    /// The capability; empty for any.
    pub capability: String,
    /// The one agent that its tasks are for; none for any.
    pub target_agent: Option<String>,
    /// Set where the tasks are for any agent: what free agents look for.
    pub open_capability: Option<String>,
    /// Labels that the agent must have.
    pub requirements: Json<BTreeMap<String, String>>,
    /// Agents that shall not have its tasks.
    pub excluded: Json<Vec<String>>,
    /// How many tasks wait.
    pub waiting: i64,
    /// The rank of the first.
    pub first_rank: i32,
    /// Since when the first has been ready.
    pub first_ready_at: Time,
    /// The first.
    pub first_task_id: String,
    /// A look for takers that goes on.
    pub look: Json<Option<Look>>,
}
