//! The working side: what an agent says of its attempts, and what it is told of a new one.

use std::sync::Arc;

use drumline_proto::v1;

use super::convert;
use super::cursor_of;
use crate::app::App;
use crate::edge::Context;
use crate::edge::check::Check;
use crate::edge::payload::{self, guards};
use crate::error::{Reason, Refusal};
use crate::lane::{Call, Commit, Committed, Decision, Urgency, World};
use crate::locks;
use crate::tail::Whole;
use crate::tasks::rules::{self, Word};
use crate::tasks::{Task, TaskState};
use crate::time::Time;

/// How many bytes an attempt's token may have: a task's id and what makes it unguessable.
const MAX_TOKEN: usize = 512;

fn word(check: &mut Check, session_id: String, task_id: &str, attempt_token: &str) -> Result<Word, Refusal> {
    let Some(session_id) = check.session_id(session_id) else {
        let message = "only an agent, under its session, can say this";
        return Err(Refusal::new(Reason::SessionRequired, message));
    };
    if attempt_token.is_empty() {
        check.violation("attempt_token", "must not be empty");
    }
    Ok(Word {
        session_id,
        task_id: check.id("task_id", task_id),
        attempt_token: check.text("attempt_token", attempt_token, MAX_TOKEN),
    })
}

/// Runs what an agent says of its attempt.
async fn say<D>(app: &App, call: Call, word: Word, mut decide: D) -> Result<Committed<()>, Refusal>
where
    D: FnMut(&mut World, &Word) -> Decision<()> + Send + 'static,
{
    let wanted = word.clone();
    let reads = move |world: &mut World| rules::want_word(world, &wanted);
    app.lanes.run(call, reads, move |world| decide(world, &word)).await
}

/// The attempt is being worked on.
///
/// # Errors
/// STALE_ATTEMPT, SESSION_ENDED, SESSION_SUPERSEDED, SESSION_REQUIRED.
pub async fn accept_task(
    app: &App,
    context: &Context,
    request: v1::AcceptTaskRequest,
) -> Result<v1::AcceptTaskResponse, Refusal> {
    let call = context.call("AcceptTask", &request.request_id, &request, Urgency::High);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    let word = word(&mut check, request.session_id, &request.task_id, &request.attempt_token)?;
    check.finish()?;
    let committed = say(app, call, word, rules::accept).await?;
    Ok(v1::AcceptTaskResponse {
        position: committed.position,
        cursor: cursor_of(&committed),
    })
}

/// The attempt is given back.
///
/// # Errors
/// STALE_ATTEMPT, SESSION_ENDED, SESSION_SUPERSEDED, SESSION_REQUIRED.
pub async fn reject_task(
    app: &App,
    context: &Context,
    request: v1::RejectTaskRequest,
) -> Result<v1::RejectTaskResponse, Refusal> {
    let call = context.call("RejectTask", &request.request_id, &request, Urgency::High);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    let cause = check.text("cause", &request.cause, 1_024);
    let word = word(&mut check, request.session_id, &request.task_id, &request.attempt_token)?;
    check.finish()?;
    let committed = say(app, call, word, move |world, word| rules::reject(world, word, &cause)).await?;
    Ok(v1::RejectTaskResponse {
        position: committed.position,
        cursor: cursor_of(&committed),
    })
}

/// How far the attempt has come.
///
/// # Errors
/// STALE_ATTEMPT, SESSION_ENDED, SESSION_SUPERSEDED, SESSION_REQUIRED, PAYLOAD_TOO_LARGE.
pub async fn report_progress(
    app: &App,
    context: &Context,
    request: v1::ReportProgressRequest,
) -> Result<v1::ReportProgressResponse, Refusal> {
    let call = context.call("ReportProgress", &request.request_id, &request, Urgency::High);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    if !(0.0..=1.0).contains(&request.progress) {
        check.violation("progress", "must be from 0 to 1");
    }
    let progress = (request.progress * 1e6) as i64;
    let message = check.text("progress_message", &request.progress_message, 1_024);
    let checkpoint = check.take(payload::from_proto("checkpoint", request.checkpoint, &app.limits));
    let checkpoint = checkpoint.flatten();
    let word = word(&mut check, request.session_id, &request.task_id, &request.attempt_token)?;
    check.finish()?;
    let decide =
        move |world: &mut World, word: &Word| rules::progress(world, word, progress, &message, checkpoint.clone());
    let committed = say(app, call, word, decide).await?;
    Ok(v1::ReportProgressResponse {
        position: committed.position,
        cursor: cursor_of(&committed),
    })
}

/// The result.
///
/// # Errors
/// STALE_ATTEMPT, STALE_FENCING_TOKEN, SESSION_ENDED, SESSION_SUPERSEDED, SESSION_REQUIRED, PAYLOAD_TOO_LARGE.
pub async fn complete_task(
    app: &App,
    context: &Context,
    request: v1::CompleteTaskRequest,
) -> Result<v1::CompleteTaskResponse, Refusal> {
    let call = context.call("CompleteTask", &request.request_id, &request, Urgency::High);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    let result = check.take(payload::from_proto("result", request.result, &app.limits));
    let result = result.flatten();
    let guards = guards(&mut check, request.guards);
    let word = word(&mut check, request.session_id, &request.task_id, &request.attempt_token)?;
    check.finish()?;
    let (wanted, held) = (word.clone(), guards.clone());
    let reads = move |world: &mut World| {
        rules::want_word(world, &wanted);
        locks::rules::want_guards(world, &held);
    };
    let decide = move |world: &mut World| rules::complete(world, &word, result.clone(), &guards);
    let committed = app.lanes.run(call, reads, decide).await?;
    Ok(v1::CompleteTaskResponse {
        position: committed.position,
        cursor: cursor_of(&committed),
    })
}

/// The attempt failed.
///
/// # Errors
/// STALE_ATTEMPT, SESSION_ENDED, SESSION_SUPERSEDED, SESSION_REQUIRED.
pub async fn fail_task(
    app: &App,
    context: &Context,
    request: v1::FailTaskRequest,
) -> Result<v1::FailTaskResponse, Refusal> {
    let call = context.call("FailTask", &request.request_id, &request, Urgency::High);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    let error = convert::error_from_proto(&mut check, request.error);
    let word = word(&mut check, request.session_id, &request.task_id, &request.attempt_token)?;
    check.finish()?;
    let decide = move |world: &mut World, word: &Word| rules::fail(world, word, error.clone());
    let committed = say(app, call, word, decide).await?;
    Ok(v1::FailTaskResponse {
        position: committed.position,
        cursor: cursor_of(&committed),
    })
}

/// What an agent is sent of a task that is assigned to it: with its input, and what an earlier attempt left. `task` is as it was
/// committed, by `commit` if that was here; nothing if nobody has the task then.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn assignment(
    app: &App,
    namespace: &Arc<str>,
    task: Arc<Task>,
    commit: Option<&Commit>,
) -> Result<Option<v1::TaskAssignment>, Refusal> {
    if !is_current(&task) {
        return Ok(None);
    }
    // Delegated and assigned in one commit: all that there is of it is in there.
    if let Some(commit) = commit
        && let Some(whole) = Whole::made_by(&task, commit)
    {
        return Ok(Some(assignment_of(&whole, commit.head.now)));
    }
    let (head, whole) = convert::read(&app.store, namespace, &task.task_id).await?;
    // It may have moved on since.
    let whole = whole.filter(|whole| is_current(&whole.task) && whole.task.attempt_token == task.attempt_token);
    Ok(whole.map(|whole| assignment_of(&whole, head.now)))
}

fn is_current(task: &Task) -> bool {
    matches!(task.state, TaskState::Assigned | TaskState::Running) && task.session_id.is_some()
}

/// An assignment for the wire.
pub(super) fn assignment_of(whole: &Whole, now: Time) -> v1::TaskAssignment {
    let task = &whole.task;
    let expires_at = task.expires_at();
    v1::TaskAssignment {
        task: Some(convert::whole_to_proto(whole)),
        attempt: task.attempt,
        attempt_token: task.attempt_token.clone(),
        expire_time: expires_at.map(payload::timestamp),
        expires_in: expires_at.map(|at| payload::duration(at.since(now))),
    }
}
