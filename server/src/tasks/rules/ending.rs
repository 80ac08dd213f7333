//! How attempts end, and tasks.
//!
//! Order matters: the slot that becomes free is filled from the queues first, and only then the task of the attempt that ended looks
//! for an agent, and its workflow goes on. So whoever is found free then has no better task waiting.

use std::time::Duration;

use serde_json::json;

use super::{event, short};
use crate::error::{Reason, Refusal};
use crate::lane::{Decision, World};
use crate::store::row::{Json, Value};
use crate::tasks::{MAX_EXCLUDED, RetryPolicy, Task, TaskError, TaskState, dispatch};
use crate::time::Time;
use crate::{locks, workflows};

/// When the next attempt may begin, and who hears that this one is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Its agent said so itself: after the backoff.
    AfterBackoff,
    /// After the backoff; the agent is told to stop.
    AfterBackoffElsewhere,
    /// At once; the agent is told to stop.
    AtOnce,
}

/// Ends a task: nothing more happens to it. Returns it with the session that had it. To be followed by [`settle`].
pub(super) fn finish(world: &mut World, task: Task, state: TaskState) -> Decision<(Task, Option<String>)> {
    let mut task = dispatch::leave(world, task)?;
    let holder = task.session_id.take();
    task.state = state;
    task.ended_at = Some(world.now());
    task.due_at = task.next_due(Time(0), world.retention());
    world.tasks.put(task.clone());
    if holder.is_some() {
        locks::rules::end_of_attempt(world, &task.attempt_token)?;
    }
    Ok((task, holder))
}

/// What follows from a task's end: its slot is filled, its workflow goes on.
pub(super) fn settle(world: &mut World, task: &Task, holder: Option<String>) -> Decision<()> {
    if let Some(session_id) = holder {
        dispatch::release(world, &session_id)?;
    }
    if task.workflow_id.is_some() {
        workflows::rules::task_ended(world, task)?;
    }
    Ok(())
}

/// Ends the current attempt badly. Another follows, or the task ends: `last` says as what.
pub(super) fn lose(world: &mut World, mut task: Task, error: TaskError, again: Again, last: TaskState) -> Decision<()> {
    task.failed_attempts += 1;
    let may_try = may_try_again(&task.retry, task.failed_attempts, &error);
    let mut data = json!({ "error_kind": error.kind, "error_message": short(&error.message) });
    task.error = Json(Some(error));
    if !may_try {
        let target = told(&task, again, last);
        let (task, holder) = finish(world, task, last)?;
        let event_type = if last == TaskState::TimedOut {
            "task.timed_out"
        } else {
            "task.failed"
        };
        let source = if again == Again::AfterBackoff {
            task.agent_id.as_str()
        } else {
            ""
        };
        world.emit(event(event_type, &task, data).source(source).target(target));
        return settle(world, &task, holder);
    }
    let wait = match again {
        Again::AtOnce => Duration::ZERO,
        Again::AfterBackoff | Again::AfterBackoffElsewhere => backoff(&task.retry, task.failed_attempts),
    };
    data["from_agent"] = task.agent_id.clone().into();
    data["backoff_ms"] = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).into();
    let target = told(&task, again, TaskState::Pending);
    world.emit(event("task.reassigned", &task, data).target(target));
    try_again(world, task, wait)
}

/// The agent that has to stop working, if it does not know.
fn told(task: &Task, again: Again, next: TaskState) -> String {
    if again == Again::AfterBackoff || next == TaskState::Failed {
        return String::new();
    }
    task.agent_id.clone()
}

/// Takes the task off its agent; the next attempt begins after a wait.
fn try_again(world: &mut World, mut task: Task, wait: Duration) -> Decision<()> {
    let holder = task.session_id.take();
    task.state = TaskState::Pending;
    task.ready_at = world.now() + wait;
    task.due_at = task.next_due(Time(0), world.retention());
    world.tasks.put(task.clone());
    locks::rules::end_of_attempt(world, &task.attempt_token)?;
    if let Some(session_id) = holder {
        dispatch::release(world, &session_id)?;
    }
    if wait.is_zero() {
        dispatch::place(world, task)?;
    }
    Ok(())
}

/// The current attempt is given back by its agent, which shall not have the task again.
pub(super) fn give_back(world: &mut World, mut task: Task, cause: &str) -> Decision<()> {
    if !task.target_agent.is_empty() {
        // Nobody else may have it.
        task.error = Json(Some(TaskError {
            kind: "rejected".to_owned(),
            message: format!("the one agent that it is for rejected it: {cause}"),
            permanent: true,
        }));
        let (task, holder) = finish(world, task, TaskState::Failed)?;
        world.emit(event("task.failed", &task, json!({ "error_kind": "rejected" })));
        return settle(world, &task, holder);
    }
    // A fleet that does nothing but reject must not spin.
    let wait = match exclude(&mut task) {
        true => Duration::ZERO,
        false => task.retry.max_backoff.max(Duration::from_secs(1)),
    };
    try_again(world, task, wait)
}

/// Notes that the task shall not go to its agent again; says whether there was room for it without forgetting another.
pub(super) fn exclude(task: &mut Task) -> bool {
    let agent_id = task.agent_id.clone();
    task.excluded.retain(|excluded| *excluded != agent_id);
    task.excluded.push(agent_id);
    let has_room = task.excluded.len() <= MAX_EXCLUDED;
    if !has_room {
        task.excluded.remove(0);
    }
    has_room
}

fn may_try_again(retry: &RetryPolicy, failed_attempts: i32, error: &TaskError) -> bool {
    !error.permanent && !retry.non_retryable.contains(&error.kind) && failed_attempts < retry.max_attempts
}

/// The wait after so many failed attempts.
fn backoff(retry: &RetryPolicy, failed_attempts: i32) -> Duration {
    let growth = retry.multiplier.max(1.0).powi(failed_attempts.saturating_sub(1));
    let seconds = retry.initial_backoff.as_secs_f64() * growth;
    Duration::try_from_secs_f64(seconds).map_or(retry.max_backoff, |wait| wait.min(retry.max_backoff))
}

/// Cancels a task that has not ended, by a caller or with its workflow. Does not tell the workflow.
///
/// # Errors
/// TASK_NOT_FOUND, TASK_ENDED.
pub fn cancel(world: &mut World, task_id: &str, cause: &str) -> Decision<()> {
    let (_, holder) = end_cancelled(world, task_id, cause)?;
    match holder {
        Some(session_id) => dispatch::release(world, &session_id),
        None => Ok(()),
    }
}

/// The same by a caller: the workflow, if it is part of one, goes on without it.
///
/// # Errors
/// TASK_NOT_FOUND, TASK_ENDED.
pub fn cancel_by_caller(world: &mut World, task_id: &str, cause: &str) -> Decision<()> {
    let (task, holder) = end_cancelled(world, task_id, cause)?;
    settle(world, &task, holder)
}

fn end_cancelled(world: &mut World, task_id: &str, cause: &str) -> Decision<(Task, Option<String>)> {
    let Some(task) = world.tasks.get(&task_id.to_owned())? else {
        let refusal = Refusal::new(Reason::TaskNotFound, "there is no such task");
        return Err(refusal.with("task_id", task_id).into());
    };
    if task.state.is_ended() {
        let refusal = Refusal::new(Reason::TaskEnded, "the task has ended");
        let refusal = refusal.with("task_id", task_id).with("state", task.state.name());
        return Err(refusal.into());
    }
    let (task, holder) = finish(world, (*task).clone(), TaskState::Cancelled)?;
    let cancelled = event("task.cancelled", &task, json!({ "cause": short(cause) }));
    let target = holder.as_ref().map_or("", |_| task.agent_id.as_str());
    world.emit(cancelled.target(target));
    Ok((task, holder))
}

/// Puts the tasks of a session that has ended into other hands, at most `limit`; says whether that was all.
pub fn end_of_session(world: &mut World, session_id: &str, limit: usize) -> Decision<bool> {
    let prefix = [Value::Text(session_id.to_owned())];
    let mut tasks = world.tasks.select(Task::BY_SESSION, &prefix, limit + 1)?;
    let is_all = tasks.len() <= limit;
    tasks.truncate(limit);
    for task in tasks {
        // An earlier one of these may have ended it with their workflow.
        let Some(task) = world.tasks.get(&task.task_id)? else {
            continue;
        };
        if task.session_id.as_deref() == Some(session_id) {
            let error = TaskError {
                kind: "agent_lost".to_owned(),
                message: format!("the session of agent {} ended", task.agent_id),
                permanent: false,
            };
            lose(world, (*task).clone(), error, Again::AtOnce, TaskState::Failed)?;
        }
    }
    Ok(is_all)
}
