//! Waiting for a task, and watching one. Both listen first and read then, so they miss nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use futures::Stream;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::convert::{self, ROLES, Whole};
use crate::app::App;
use crate::edge::Context;
use crate::edge::check::Check;
use crate::edge::stream::{self, End, Outlet};
use crate::error::{Reason, Refusal};
use crate::tail::{Delivery, Feed, Filter};
use crate::tasks::Task;

/// How long to wait for a task unless it is said.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// The task when it has ended, or as it is when the wait is over.
///
/// # Errors
/// TASK_NOT_FOUND, DRAINING.
pub async fn await_task(
    app: &App,
    context: &Context,
    request: v1::AwaitTaskRequest,
) -> Result<v1::AwaitTaskResponse, Refusal> {
    let mut check = Check::default();
    let task_id = check.id("task_id", &request.task_id);
    let range = Duration::from_nanos(1)..=MAX_WAIT;
    let wait = check.duration("wait_timeout", request.wait_timeout, DEFAULT_WAIT, range);
    check.finish()?;
    let until = Instant::now() + context.patience(wait);
    loop {
        // The feed may be behind what other servers have committed: what it has not handed on yet is in the row, or still comes.
        let feed = app.tail.feed_as_it_is(&context.namespace).await?;
        let mut changes = feed.subscribe(Filter::about("task.**", &task_id));
        let (head, whole) = convert::read(&app.store, &context.namespace, &task_id).await?;
        let mut whole = whole.ok_or_else(|| convert::not_found(&task_id))?;
        if whole.task.state.is_ended() || Instant::now() >= until {
            return Ok(answer(&whole));
        }
        loop {
            crate::select! {
                // Listening ends where the wait does, where it was cut off, and where the task may have ended.
                change = timeout_at(until, changes.next()) => match change {
                    Ok(Some(change)) if change.event.position <= head.position => {}
                    Ok(Some(change)) => match hint(&change, &task_id, &whole) {
                        Some((_, next)) if next.task.state.is_ended() => return Ok(answer(&next)),
                        Some((_, next)) => whole = next,
                        None => break,
                    },
                    _ => break,
                },
                () = app.draining.cancelled() => return Err(stream::draining(&feed.cursor(feed.position()))),
            }
        }
    }
}

fn answer(whole: &Whole) -> v1::AwaitTaskResponse {
    v1::AwaitTaskResponse {
        task: Some(whole.to_proto()),
    }
}

struct Watch {
    app: Arc<App>,
    namespace: Arc<str>,
    task_id: String,
    feed: Arc<Feed>,
    outlet: Outlet<v1::WatchTaskResponse>,
}

/// The task as it is, then each change, until it has ended.
///
/// # Errors
/// TASK_NOT_FOUND; later SLOW_CONSUMER, DRAINING.
pub async fn watch_task(
    app: Arc<App>,
    context: &Context,
    request: v1::WatchTaskRequest,
) -> Result<impl Stream<Item = Result<v1::WatchTaskResponse, Status>> + use<>, Refusal> {
    let mut check = Check::default();
    let task_id = check.id("task_id", &request.task_id);
    check.finish()?;
    let namespace = Arc::clone(&context.namespace);
    let feed = app.tail.feed(&namespace).await?;
    Ok(stream::spawn(context.leaving(&app), move |outlet| {
        Watch {
            app,
            namespace,
            task_id,
            feed,
            outlet,
        }
        .run()
    }))
}

impl Watch {
    async fn run(self) -> Result<(), End> {
        let mut changes = self.feed.subscribe(Filter::about("task.**", &self.task_id));
        let (mut seen, mut whole) = self.read().await?;
        self.send(&whole).await?;
        while !whole.task.state.is_ended() {
            let change = crate::select! {
                change = changes.next() => change,
                () = self.outlet.leaving.cancelled() => {
                    return Err(stream::draining(&self.feed.cursor(seen)).into());
                }
            };
            let Some(change) = change else {
                if let Some(refusal) = self.feed.retired() {
                    return Err(refusal.into());
                }
                let refusal = Refusal::new(Reason::SlowConsumer, "the watcher did not keep up");
                return Err(refusal.with("cursor", self.feed.cursor(seen)).into());
            };
            if change.event.position <= seen {
                continue;
            }
            // One commit may say several things of a task: it is sent once.
            let before = whole.clone();
            match hint(&change, &self.task_id, &whole) {
                Some((position, next)) => (seen, whole) = (position, next),
                None => (seen, whole) = self.read().await?,
            }
            if whole.task != before.task || whole.payloads.len() != before.payloads.len() {
                self.send(&whole).await?;
            }
        }
        Ok(())
    }

    async fn read(&self) -> Result<(i64, Whole), Refusal> {
        let (head, whole) = convert::read(&self.app.store, &self.namespace, &self.task_id).await?;
        let whole = whole.ok_or_else(|| convert::not_found(&self.task_id))?;
        Ok((head.position, whole))
    }

    async fn send(&self, whole: &Whole) -> Result<(), End> {
        let task = Some(whole.to_proto());
        Ok(self.outlet.send(v1::WatchTaskResponse { task }).await?)
    }
}

/// The task as an event's commit left it, with the commit's last position, if the commit was made here.
fn hint(change: &Delivery, task_id: &str, before: &Whole) -> Option<(i64, Whole)> {
    let commit = change.commit.as_ref()?;
    let task: Arc<Task> = commit.tasks.get(task_id)?.clone()?;
    let mut payloads: HashMap<_, _> = before
        .payloads
        .iter()
        .map(|payload| (payload.role, Arc::clone(payload)))
        .collect();
    for role in ROLES {
        if let Some(Some(payload)) = commit.payloads.get(&(task_id.to_owned(), role)) {
            payloads.insert(role, Arc::clone(payload));
        }
    }
    let payloads = payloads.into_values().collect();
    Some((commit.head.position, Whole { task, payloads }))
}
