//! Watching a workflow, as it is, then as it changes, until it has ended; and waiting for that alone.
//!
//! A watcher is a reader of whatever happens in the workflow's undertaking, its tasks included. It listens first and reads then, so it
//! misses nothing. It sends what the store says, so changes that follow one another quickly are one, and one that falls behind has only
//! fewer of them.

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use futures::Stream;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::view::{self, Outline};
use super::{cursor, not_found};
use crate::app::App;
use crate::edge::Context;
use crate::edge::stream::{self, End, Outlet};
use crate::error::{Reason, Refusal};
use crate::lane::refusal_of;
use crate::tail::{Feed, Filter, Pattern};
use crate::workflows::{Workflow, WorkflowState};

/// How long changes gather before they are read.
const GATHERING: Duration = Duration::from_millis(50);

struct Watch {
    app: Arc<App>,
    namespace: Arc<str>,
    workflow_id: String,
    feed: Arc<Feed>,
    outlet: Outlet<v1::WatchWorkflowResponse>,
    sent: Option<v1::Workflow>,
    cursor: String,
}

/// The stream of a watcher.
///
/// # Errors
/// WORKFLOW_NOT_FOUND.
pub(super) async fn watch(
    app: Arc<App>,
    leaving: CancellationToken,
    namespace: Arc<str>,
    workflow_id: String,
) -> Result<impl Stream<Item = Result<v1::WatchWorkflowResponse, Status>>, Refusal> {
    let feed = app.tail.feed(&namespace).await?;
    let known = view::outline(&app, &namespace, &workflow_id).await?;
    let known = known.ok_or_else(|| not_found(&workflow_id))?;
    let correlation_id = known.workflow.correlation_id;
    Ok(stream::spawn(leaving, move |outlet| {
        Watch {
            cursor: cursor(known.head.epoch, known.head.position),
            app,
            namespace,
            workflow_id,
            feed,
            outlet,
            sent: None,
        }
        .run(correlation_id)
    }))
}

impl Watch {
    async fn run(mut self, correlation_id: String) -> Result<(), End> {
        loop {
            let mut events = self.feed.subscribe(Filter {
                correlation: Some(correlation_id.clone()),
                ..Filter::default()
            });
            loop {
                if self.send_news().await? {
                    return Ok(());
                }
                crate::select! {
                    event = events.next() => match event {
                        Some(event) => {
                            let is_own_end = event.event.subject == self.workflow_id
                                && event.event.event_type.starts_with("workflow.")
                                && event.event.event_type != "workflow.checkpoint";
                            if !is_own_end {
                                tokio::time::sleep(GATHERING).await;
                            }
                            while events.try_next().is_some() {}
                        }
                        // Cut off: it did not keep up, and listens anew before it reads.
                        None => match self.feed.retired() {
                            Some(refusal) => return Err(refusal.into()),
                            None => break,
                        },
                    },
                    () = self.outlet.leaving.cancelled() => return Err(stream::draining(&self.cursor).into()),
                }
            }
        }
    }

    /// Sends the workflow if it is another than was sent last; says whether it has ended.
    async fn send_news(&mut self) -> Result<bool, End> {
        let outline = view::outline(&self.app, &self.namespace, &self.workflow_id).await?;
        let Outline {
            head,
            workflow,
            has_ended,
        } = outline.ok_or_else(|| not_found(&self.workflow_id))?;
        self.cursor = cursor(head.epoch, head.position);
        let is_news = self.sent.as_ref() != Some(&workflow);
        if !is_news && !has_ended {
            return Ok(false);
        }
        let message = v1::WatchWorkflowResponse {
            workflow: Some(match has_ended {
                true => view::filled(&self.app, &self.namespace, workflow.clone()).await?,
                false => workflow.clone(),
            }),
            cursor: self.cursor.clone(),
        };
        self.sent = Some(workflow);
        self.outlet.send(message).await?;
        Ok(has_ended)
    }
}

/// Waits until a workflow has ended, or the time is over. Listens before it looks, so that it misses no end.
pub(super) async fn await_end(
    app: &App,
    context: &Context,
    workflow_id: &String,
    until: Instant,
) -> Result<(), Refusal> {
    let ends = ["workflow.completed", "workflow.failed", "workflow.cancelled"];
    loop {
        let feed = app.tail.feed(&context.namespace).await?;
        let mut events = feed.subscribe(Filter {
            types: ends.into_iter().map(Pattern::new).collect(),
            subject: Some(workflow_id.clone()),
            ..Filter::default()
        });
        let row = app.store.get::<Workflow>(&context.namespace, workflow_id).await;
        let row = row.map_err(|error| refusal_of(&error))?;
        let workflow = row.ok_or_else(|| not_found(workflow_id))?;
        if workflow.state != WorkflowState::Running {
            return Ok(());
        }
        crate::select! {
            ended = timeout_at(until, events.next()) => match ended {
                Ok(Some(_)) | Err(_) => return Ok(()),
                // Cut off: it listens and looks again.
                Ok(None) => {}
            },
            () = app.draining.cancelled() => {
                return Err(Refusal::new(Reason::Draining, "the server is stopping").retry_after(Duration::from_millis(200)));
            }
        }
    }
}
