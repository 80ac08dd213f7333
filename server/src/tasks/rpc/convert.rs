//! Tasks between the wire and the house.

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;

use crate::edge::check::Check;
use crate::edge::payload::{self, timestamp};
use crate::error::{Reason, Refusal};
use crate::lane::refusal_of;
use crate::store::row::{Key, Row};
use crate::store::{Head, Store, TablePlan};
use crate::tasks::{PayloadRole, RetryPolicy, StoredPayload, Task, TaskError, TaskState};

/// A task with its payloads, all of one moment.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) task: Arc<Task>,
    pub(super) payloads: Vec<Arc<StoredPayload>>,
}

impl Whole {
    fn payload(&self, role: PayloadRole) -> Option<v1::Payload> {
        let stored = self.payloads.iter().find(|payload| payload.role == role)?;
        Some(payload::to_proto(&stored.payload))
    }

    /// For the wire.
    pub(super) fn to_proto(&self) -> v1::Task {
        v1::Task {
            input: self.payload(PayloadRole::Input),
            checkpoint: self.payload(PayloadRole::Checkpoint),
            result: self.payload(PayloadRole::Result),
            ..to_proto(&self.task)
        }
    }
}

/// Every payload that a task can have.
pub(super) const ROLES: [PayloadRole; 3] = [PayloadRole::Input, PayloadRole::Result, PayloadRole::Checkpoint];

/// Reads a task with its payloads; nothing if there is no such task.
pub(super) async fn read(store: &Store, namespace: &str, task_id: &str) -> Result<(Head, Option<Whole>), Refusal> {
    let payload_keys = ROLES.map(|role| (task_id.to_owned(), role).columns());
    let plan = vec![
        TablePlan {
            table: Task::TABLE,
            keys: vec![task_id.to_owned().columns()],
            selections: Vec::new(),
        },
        TablePlan {
            table: StoredPayload::TABLE,
            keys: payload_keys.to_vec(),
            selections: Vec::new(),
        },
    ];
    let (head, mut rows) = store.read(namespace, plan).await.map_err(|error| refusal_of(&error))?;
    let payloads = rows.pop().unwrap_or_default().by_key;
    let tasks = rows.pop().unwrap_or_default().by_key;
    let Some(columns) = tasks.into_iter().next() else {
        return Ok((head, None));
    };
    let corrupt = |corrupt: crate::store::row::Corrupt| refusal_of(&corrupt.into());
    let task = Arc::new(Task::from_columns(columns).map_err(corrupt)?);
    let payloads = payloads
        .into_iter()
        .map(|columns| StoredPayload::from_columns(columns).map(Arc::new).map_err(corrupt));
    let payloads = payloads.collect::<Result<_, _>>()?;
    Ok((head, Some(Whole { task, payloads })))
}

/// The refusal of a task that is not there.
pub(super) fn not_found(task_id: &str) -> Refusal {
    Refusal::new(Reason::TaskNotFound, "there is no such task").with("task_id", task_id)
}

fn state_to_proto(state: TaskState) -> v1::task::State {
    use v1::task::State;
    match state {
        TaskState::Pending => State::Pending,
        TaskState::Assigned => State::Assigned,
        TaskState::Running => State::Running,
        TaskState::Completed => State::Completed,
        TaskState::Failed => State::Failed,
        TaskState::Cancelled => State::Cancelled,
        TaskState::TimedOut => State::TimedOut,
    }
}

/// The states of a filter.
pub(super) fn states(check: &mut Check, states: &[i32]) -> Vec<TaskState> {
    use v1::task::State;
    if states.len() > 16 {
        check.violation("states", "has more states than there are");
    }
    let states = states.iter().enumerate().filter_map(|(index, state)| {
        let state = match State::try_from(*state) {
            Ok(State::Pending) => TaskState::Pending,
            Ok(State::Assigned) => TaskState::Assigned,
            Ok(State::Running) => TaskState::Running,
            Ok(State::Completed) => TaskState::Completed,
            Ok(State::Failed) => TaskState::Failed,
            Ok(State::Cancelled) => TaskState::Cancelled,
            Ok(State::TimedOut) => TaskState::TimedOut,
            Ok(State::Unspecified) | Err(_) => {
                check.violation(format!("states[{index}]"), "is not a state");
                return None;
            }
        };
        Some(state)
    });
    states.collect()
}

/// A task for the wire, without its payloads.
pub(super) fn to_proto(task: &Task) -> v1::Task {
    let origin = task.origin.0.as_ref();
    let waits = task.state == TaskState::Pending && task.queue_id.is_none();
    v1::Task {
        task_id: task.task_id.clone(),
        capability: task.capability.clone(),
        target_agent: task.target_agent.clone(),
        input: None,
        correlation_id: task.correlation_id.clone(),
        priority: task.priority,
        timeout: Some(payload::duration(task.timeout)),
        deadline: task.deadline_at.map(timestamp),
        retry_policy: Some(retry_to_proto(&task.retry)),
        label_requirements: task.requirements.0.clone(),
        parent_task_id: task.parent_task_id.clone(),
        state: state_to_proto(task.state) as i32,
        attempt: task.attempt,
        agent_id: task.agent_id.clone(),
        caller_agent: task.caller_agent.clone(),
        progress: task.progress as f64 / 1e6,
        progress_message: task.progress_message.clone(),
        checkpoint: None,
        result: None,
        error: task.error.0.as_ref().map(|error| v1::TaskError {
            kind: error.kind.clone(),
            message: error.message.clone(),
            permanent: error.permanent,
        }),
        workflow_id: task.workflow_id.clone().unwrap_or_default(),
        step_id: origin.map(|origin| origin.step_id.clone()).unwrap_or_default(),
        item_key: origin.map(|origin| origin.item_key.clone()).unwrap_or_default(),
        create_time: Some(timestamp(task.created_at)),
        assign_time: task.assigned_at.map(timestamp),
        accept_time: task.accepted_at.map(timestamp),
        end_time: task.ended_at.map(timestamp),
        ready_time: waits.then(|| timestamp(task.ready_at)),
        failed_attempts: task.failed_attempts,
        accept_timeout: Some(payload::duration(task.accept_timeout)),
        progress_timeout: task.progress_timeout.map(payload::duration),
        traceparent: task.traceparent.clone(),
    }
}

fn retry_to_proto(retry: &RetryPolicy) -> v1::RetryPolicy {
    v1::RetryPolicy {
        max_attempts: retry.max_attempts,
        initial_backoff: Some(payload::duration(retry.initial_backoff)),
        max_backoff: Some(payload::duration(retry.max_backoff)),
        backoff_multiplier: retry.multiplier,
        non_retryable_error_kinds: retry.non_retryable.clone(),
    }
}

/// A retry policy from the wire; absent fields have their defaults.
pub fn retry_from_proto(check: &mut Check, field: &str, retry: Option<v1::RetryPolicy>) -> RetryPolicy {
    let usual = RetryPolicy::default();
    let Some(retry) = retry else {
        return usual;
    };
    let name = |part: &str| format!("{field}.{part}");
    let longest = Duration::from_secs(30 * 86_400);
    let mut backoff = |part: &str, value, usual: Duration| match check.optional_duration(name(part), value) {
        Some(backoff) if backoff > longest => {
            check.violation(name(part), "must be at most 30 days");
            usual
        }
        backoff => backoff.unwrap_or(usual),
    };
    let initial_backoff = backoff("initial_backoff", retry.initial_backoff, usual.initial_backoff);
    let max_backoff = backoff("max_backoff", retry.max_backoff, usual.max_backoff);
    let multiplier = match retry.backoff_multiplier {
        0.0 => usual.multiplier,
        multiplier if (1.0..=1_000.0).contains(&multiplier) => multiplier,
        _ => {
            check.violation(name("backoff_multiplier"), "must be from 1 to 1000");
            usual.multiplier
        }
    };
    if retry.non_retryable_error_kinds.len() > 64 {
        check.violation(name("non_retryable_error_kinds"), "has more than 64 kinds");
    }
    let kinds = retry.non_retryable_error_kinds.iter().take(64).enumerate();
    let non_retryable = kinds
        .map(|(index, kind)| check.id(name(&format!("non_retryable_error_kinds[{index}]")), kind))
        .collect();
    RetryPolicy {
        max_attempts: check.number(name("max_attempts"), retry.max_attempts, usual.max_attempts, 1..=1_000),
        initial_backoff,
        max_backoff,
        multiplier,
        non_retryable,
    }
}

/// An error from the wire.
pub(super) fn error_from_proto(check: &mut Check, error: Option<v1::TaskError>) -> TaskError {
    let error = error.unwrap_or_default();
    let kind = check.optional_id("error.kind", &error.kind);
    TaskError {
        kind: if kind.is_empty() { "error".to_owned() } else { kind },
        message: check.text("error.message", &error.message, 16 << 10),
        permanent: error.permanent,
    }
}
