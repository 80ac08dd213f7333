//! `PollTasks`: work for an agent without a stream, while the call is open.
//!
//! The session says how many tasks its open call takes; the rules give it no more. When the call ends, however it ends, that goes back to
//! none. One call at a time: the end of one is the end of what the session says.

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use tokio::time::{Instant, timeout_at};

use super::convert;
use super::working::assignment_of;
use crate::app::App;
use crate::edge::Context;
use crate::edge::check::Check;
use crate::edge::stream;
use crate::error::{Reason, Refusal};
use crate::lane::{Call, Lanes, Urgency, refusal_of};
use crate::machine;
use crate::sessions::Session;
use crate::tail::{Filter, Pattern};
use crate::tasks::{TaskState, rules};

/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How often the end of a call that was dropped is tried to be noted. After that, what is assigned is not accepted in time.
const CLOSE_TRIES: u32 = 8;

/// Ends the poll of a call that was dropped.
struct Guard {
    lanes: Lanes,
    namespace: Arc<str>,
    session_id: String,
    poll_id: String,
    armed: bool,
}

impl Guard {
    async fn close(
        lanes: &Lanes,
        namespace: &Arc<str>,
        session_id: String,
        poll_id: String,
    ) -> Result<Vec<String>, Refusal> {
        let call = Call::internal(namespace, Urgency::High);
        let wanted = session_id.clone();
        let closed = lanes.run(
            call,
            move |world| world.sessions.want(&wanted),
            move |world| rules::close_poll(world, &session_id, &poll_id),
        );
        Ok(closed.await?.answer)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (lanes, namespace) = (self.lanes.clone(), Arc::clone(&self.namespace));
        let (session_id, poll_id) = (std::mem::take(&mut self.session_id), std::mem::take(&mut self.poll_id));
        machine::spawn_if_running(async move {
            for attempt in 0..CLOSE_TRIES {
                match Guard::close(&lanes, &namespace, session_id.clone(), poll_id.clone()).await {
                    Ok(_) => return,
                    Err(refusal) if refusal.retry_delay().is_some() => {
                        tokio::time::sleep(Duration::from_millis(50) * 2u32.pow(attempt)).await;
                    }
                    Err(refusal) => {
                        tracing::warn!(%refusal, "a poll that its caller left could not be closed");
                        return;
                    }
                }
            }
        });
    }
}

/// Takes what is assigned to the agent, waiting for it.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED, SESSION_REQUIRED, DRAINING.
pub async fn poll_tasks(
    app: &App,
    context: &Context,
    request: v1::PollTasksRequest,
) -> Result<v1::PollTasksResponse, Refusal> {
    let mut check = Check::default();
    let most = check.number("max_tasks", request.max_tasks, 1, 1..=100);
    let wait = check.optional_duration("wait_timeout", request.wait_timeout);
    let wait = wait.unwrap_or_default();
    if wait > MAX_WAIT {
        check.violation("wait_timeout", "must be at most 60 s");
    }
    let session_id = check.session_id(request.session_id);
    check.finish()?;
    let session_id = session_id
        .ok_or_else(|| Refusal::new(Reason::SessionRequired, "only an agent, under its session, can poll"))?;
    let until = Instant::now() + context.patience(wait);

    let mut feed = app.tail.feed(&context.namespace).await?;
    let session = app.store.get::<Session>(&context.namespace, &session_id).await;
    let session = session.map_err(|error| refusal_of(&error))?;
    // Without one the rule refuses: nothing is waited for.
    let filter = Filter {
        types: vec![Pattern::new("task.assigned")],
        target: Some(session.map(|session| session.agent_id).unwrap_or_default()),
        ..Filter::default()
    };
    let mut assigned = feed.subscribe(filter.clone());
    let poll_id = machine::new_id();
    let mut guard = Guard {
        lanes: app.lanes.clone(),
        namespace: Arc::clone(&context.namespace),
        session_id: session_id.clone(),
        poll_id: poll_id.clone(),
        armed: true,
    };
    let mut task_ids;
    loop {
        let waits = Instant::now() < until;
        task_ids = open(app, context, session_id.clone(), poll_id.clone(), most, waits).await?;
        if !task_ids.is_empty() || !waits {
            break;
        }
        let drained = crate::select! {
            next = timeout_at(until, assigned.next()) => {
                if let Ok(None) = next {
                    // Cut off: so much was assigned that it did not keep up, or the feed has ended.
                    feed = app.tail.feed(&context.namespace).await?;
                    assigned = feed.subscribe(filter.clone());
                }
                false
            }
            () = app.draining.cancelled() => true,
        };
        task_ids = Guard::close(&app.lanes, &context.namespace, session_id.clone(), poll_id.clone()).await?;
        if drained && task_ids.is_empty() {
            guard.armed = false;
            return Err(stream::draining(&feed.cursor(feed.position())));
        }
        // Nothing: the wait is over, or what was assigned has been taken away again.
        if !task_ids.is_empty() || Instant::now() >= until {
            break;
        }
    }
    guard.armed = false;
    task_ids.truncate(usize::try_from(most).unwrap_or(1));
    Ok(v1::PollTasksResponse {
        assignments: assignments(app, context, &session_id, task_ids).await?,
    })
}

async fn open(
    app: &App,
    context: &Context,
    session_id: String,
    poll_id: String,
    most: i32,
    waits: bool,
) -> Result<Vec<String>, Refusal> {
    let call = Call {
        deadline: context.deadline,
        ..Call::internal(&context.namespace, Urgency::High)
    };
    let wanted = session_id.clone();
    let opened = app.lanes.run(
        call,
        move |world| world.sessions.want(&wanted),
        move |world| rules::open_poll(world, &session_id, &poll_id, most, waits),
    );
    Ok(opened.await?.answer)
}

/// Those of the tasks that the session still has to answer.
async fn assignments(
    app: &App,
    context: &Context,
    session_id: &str,
    task_ids: Vec<String>,
) -> Result<Vec<v1::TaskAssignment>, Refusal> {
    let mut assignments = Vec::with_capacity(task_ids.len());
    let mut bytes = 0;
    for task_id in task_ids {
        let (head, whole) = convert::read(&app.store, &context.namespace, &task_id).await?;
        let Some(whole) = whole else {
            continue;
        };
        bytes += whole
            .payloads
            .iter()
            .map(|payload| payload.payload.len())
            .sum::<usize>();
        // What does not fit into one message comes with the next call.
        if !assignments.is_empty() && bytes > app.limits.max_message_bytes / 2 {
            break;
        }
        let task = &whole.task;
        if task.state == TaskState::Assigned && task.session_id.as_deref() == Some(session_id) {
            assignments.push(assignment_of(&whole, head.now));
        }
    }
    Ok(assignments)
}
