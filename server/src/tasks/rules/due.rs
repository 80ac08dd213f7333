//! What time does to a task.

use std::sync::Arc;

use serde_json::json;

use super::ending::{self, Again};
use super::event;
use crate::lane::{Decision, World};
use crate::store::row::Json;
use crate::tasks::timers::Timeout;
use crate::tasks::{PayloadRole, Task, TaskError, TaskState, dispatch};
use crate::time::Time;

/// Looks again at a task that is due: delay or backoff over, not accepted, timed out, deadline, old enough to be deleted. Timeouts of
/// attempts end them only if `gap_end`, the end of the last time in which clients could not reach the server, is at least that long ago.
pub fn due(world: &mut World, task_id: &str, gap_end: Time) -> Decision<()> {
    let now = world.now();
    let Some(task) = world.tasks.get(&task_id.to_owned())? else {
        return Ok(());
    };
    if task.due_at.is_none_or(|due_at| due_at > now) {
        return Ok(());
    }
    if task.state.is_ended() {
        let due_at = task.next_due(gap_end, world.retention());
        if due_at.is_some_and(|due_at| due_at > now) {
            // It is kept for longer than when it ended.
            let task = (*task).clone();
            world.tasks.put(Task { due_at, ..task });
        } else {
            delete(world, &task.task_id);
        }
        return Ok(());
    }
    if task.deadline_at.is_some_and(|deadline| deadline <= now) {
        return miss_deadline(world, &task);
    }
    if task.queue_id.is_some() {
        return dispatch::look(world, &task);
    }
    if task.state == TaskState::Pending && task.ready_at <= now {
        return dispatch::place(world, (*task).clone()).map(drop);
    }
    match task.attempt_end(gap_end) {
        Some((end, timeout)) if end <= now => time_out(world, (*task).clone(), timeout),
        _ => {
            let mut task = (*task).clone();
            task.due_at = task.next_due(gap_end, world.retention());
            world.tasks.put(task);
            Ok(())
        }
    }
}

fn delete(world: &mut World, task_id: &str) {
    for role in [PayloadRole::Input, PayloadRole::Result, PayloadRole::Checkpoint] {
        world.payloads.remove(&(task_id.to_owned(), role));
    }
    world.tasks.remove(&task_id.to_owned());
}

fn miss_deadline(world: &mut World, task: &Arc<Task>) -> Decision<()> {
    let mut task = (**task).clone();
    task.error = Json(Some(TaskError {
        kind: "deadline".to_owned(),
        message: "the task did not end before its deadline".to_owned(),
        permanent: true,
    }));
    let (task, holder) = ending::finish(world, task, TaskState::TimedOut)?;
    let target = holder.as_ref().map_or("", |_| task.agent_id.as_str());
    world.emit(event("task.timed_out", &task, json!({ "error_kind": "deadline" })).target(target));
    ending::settle(world, &task, holder)
}

fn time_out(world: &mut World, mut task: Task, timeout: Timeout) -> Decision<()> {
    let error = TaskError {
        kind: timeout.kind().to_owned(),
        message: timeout.message().to_owned(),
        permanent: false,
    };
    let again = match timeout {
        Timeout::Accept => {
            put_at_the_end(world, &mut task)?;
            Again::AtOnce
        }
        Timeout::Attempt | Timeout::Progress => Again::AfterBackoffElsewhere,
    };
    ending::lose(world, task, error, again, TaskState::TimedOut)
}

/// An agent that does not answer shall not have the task again, as long as there is another that could.
fn put_at_the_end(world: &mut World, task: &mut Task) -> Decision<()> {
    if task.target_agent.is_empty() {
        let mut without = task.clone();
        ending::exclude(&mut without);
        if dispatch::another_could(world, &without)? {
            *task = without;
        }
    }
    Ok(())
}
