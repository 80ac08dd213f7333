//! What an agent says of an attempt. Each word carries the attempt's token; that of an attempt that is over changes nothing.

use serde_json::json;

use super::ending::{self, Again};
use super::{event, short};
use crate::error::{Reason, Refusal};
use crate::lane::{Decision, World};
use crate::locks::{self, rules::Guard};
use crate::payload::Payload;
use crate::sessions;
use crate::tasks::{PayloadRole, StoredPayload, Task, TaskError, TaskState};
use crate::time::Time;

/// Who says what about which attempt.
#[derive(Clone, Debug)]
pub struct Word {
    /// The session that it is said under.
    pub session_id: String,
    /// The task.
    pub task_id: String,
    /// The attempt's secret.
    pub attempt_token: String,
}

/// Says what a word will read.
pub fn want_word(world: &mut World, word: &Word) {
    world.sessions.want(&word.session_id);
    world.tasks.want(&word.task_id);
}

fn stale(word: &Word, task: Option<&Task>) -> Refusal {
    Refusal::new(Reason::StaleAttempt, "the attempt is over, or was never this session's")
        .with("task_id", &word.task_id)
        .with("attempt", task.map_or(0, |task| task.attempt))
        .with("state", task.map_or("UNKNOWN", |task| task.state.name()))
}

/// The task that a word is about, if it is the current attempt's and said by who has it.
fn heard(world: &mut World, word: &Word) -> Decision<Task> {
    sessions::rules::live(world, &word.session_id)?;
    let task = world.tasks.get(&word.task_id)?;
    match task {
        Some(task)
            if matches!(task.state, TaskState::Assigned | TaskState::Running)
                && task.session_id.as_ref() == Some(&word.session_id)
                && task.attempt_token == word.attempt_token =>
        {
            Ok((*task).clone())
        }
        task => Err(stale(word, task.as_deref()).into()),
    }
}

/// The attempt is being worked on. Said again it changes nothing.
///
/// # Errors
/// STALE_ATTEMPT, SESSION_ENDED, SESSION_SUPERSEDED.
pub fn accept(world: &mut World, word: &Word) -> Decision<()> {
    let mut task = heard(world, word)?;
    if task.state == TaskState::Assigned {
        run(world, &mut task);
        task.due_at = task.next_due(Time(0), world.retention());
        world.tasks.put(task);
    }
    Ok(())
}

fn run(world: &mut World, task: &mut Task) {
    task.state = TaskState::Running;
    task.accepted_at = Some(world.now());
    world.emit(event("task.accepted", task, json!({})).source(&task.agent_id));
}

/// The attempt is given back: another agent should take the task.
///
/// # Errors
/// STALE_ATTEMPT, SESSION_ENDED, SESSION_SUPERSEDED.
pub fn reject(world: &mut World, word: &Word, cause: &str) -> Decision<()> {
    let task = heard(world, word)?;
    let rejected = event("task.rejected", &task, json!({ "cause": short(cause) }));
    world.emit(rejected.source(&task.agent_id));
    ending::give_back(world, task, cause)
}

/// How far the attempt has come, in millionths, and what the next attempt is to go on from. Implies that it was accepted.
///
/// # Errors
/// STALE_ATTEMPT, SESSION_ENDED, SESSION_SUPERSEDED.
pub fn progress(
    world: &mut World,
    word: &Word,
    progress: i64,
    message: &str,
    checkpoint: Option<Payload>,
) -> Decision<()> {
    let mut task = heard(world, word)?;
    if task.state == TaskState::Assigned {
        run(world, &mut task);
    }
    task.progress = progress;
    task.progress_message = message.to_owned();
    task.progressed_at = Some(world.now());
    task.due_at = task.next_due(Time(0), world.retention());
    let data = json!({
        "progress": progress as f64 / 1e6,
        "progress_message": message,
        "has_checkpoint": checkpoint.is_some(),
    });
    world.emit(event("task.progressed", &task, data).source(&task.agent_id));
    if let Some(payload) = checkpoint {
        world.payloads.put(StoredPayload {
            owner_id: task.task_id.clone(),
            role: PayloadRole::Checkpoint,
            payload,
        });
    }
    world.tasks.put(task);
    Ok(())
}

/// The result. Recorded once; the same attempt may say it again. Implies that the attempt was accepted.
///
/// # Errors
/// STALE_ATTEMPT, STALE_FENCING_TOKEN, SESSION_ENDED, SESSION_SUPERSEDED.
pub fn complete(world: &mut World, word: &Word, result: Option<Payload>, guards: &[Guard]) -> Decision<()> {
    sessions::rules::live(world, &word.session_id)?;
    if let Some(task) = world.tasks.get(&word.task_id)?
        && task.state == TaskState::Completed
        && task.attempt_token == word.attempt_token
    {
        return Ok(());
    }
    let mut task = heard(world, word)?;
    locks::rules::check_guards(world, guards)?;
    if let Some(payload) = result {
        world.payloads.put(StoredPayload {
            owner_id: task.task_id.clone(),
            role: PayloadRole::Result,
            payload,
        });
    }
    task.accepted_at = task.accepted_at.or(Some(world.now()));
    let completed = event("task.completed", &task, json!({})).source(&task.agent_id);
    let (task, holder) = ending::finish(world, task, TaskState::Completed)?;
    world.emit(completed);
    ending::settle(world, &task, holder)
}

/// The attempt failed. Another follows if the retry policy allows it.
///
/// # Errors
/// STALE_ATTEMPT, SESSION_ENDED, SESSION_SUPERSEDED.
pub fn fail(world: &mut World, word: &Word, error: TaskError) -> Decision<()> {
    let task = heard(world, word)?;
    ending::lose(world, task, error, Again::AfterBackoff, TaskState::Failed)
}
