//! Watching documents: as they are, then as they change.
//!
//! The watcher listens first and reads then, so it misses nothing. A change is sent as the document is by then; the changes that this
//! skips over are those that came before it. A watcher that falls behind reads the documents again instead of every change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1::{State, WatchStateResponse};
use futures::Stream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Document;
use super::rpc::{before_prefix, to_proto};
use crate::app::App;
use crate::edge::stream::{self, End, Outlet};
use crate::error::Refusal;
use crate::lane::refusal_of;
use crate::store::Selection;
use crate::store::row::Value;
use crate::tail::{Cursor, Delivery, Feed, Filter, Pattern};

/// What is watched.
#[derive(Clone, Debug)]
pub enum Target {
    /// One document.
    Document(String),
    /// Every document whose id begins with this.
    Prefix(String),
}

struct Watch {
    app: Arc<App>,
    namespace: Arc<str>,
    target: Target,
    feed: Arc<Feed>,
    outlet: Outlet<WatchStateResponse>,
    interval: Duration,
    /// Everything up to here was sent.
    position: i64,
}

/// The stream of a watcher.
///
/// # Errors
/// CURSOR_OUT_OF_RANGE for a cursor ahead of the log or from an epoch whose end was lost.
pub async fn watch(
    app: Arc<App>,
    leaving: CancellationToken,
    namespace: Arc<str>,
    target: Target,
    cursor: Option<Cursor>,
    interval: Duration,
) -> Result<impl Stream<Item = Result<WatchStateResponse, Status>>, Refusal> {
    let feed = app.tail.feed(&namespace).await?;
    let position = cursor
        .map(|cursor| feed.check_history(cursor))
        .transpose()?
        .unwrap_or(0);
    Ok(stream::spawn(leaving, move |outlet| {
        Watch {
            app,
            namespace,
            target,
            feed,
            outlet,
            interval,
            position,
        }
        .run()
    }))
}

impl Watch {
    async fn run(mut self) -> Result<(), End> {
        loop {
            let filter = match &self.target {
                Target::Document(id) => Filter::about("state.changed", id),
                Target::Prefix(prefix) => Filter {
                    types: vec![Pattern::new("state.changed")],
                    subject_prefix: prefix.clone(),
                    ..Filter::default()
                },
            };
            let mut changes = self.feed.subscribe(filter);
            let ahead = self.send_snapshot(changes.after).await?;
            self.position = self.position.max(changes.after);
            self.send_progress(true).await?;
            let mut progress_at = Instant::now() + self.interval;
            loop {
                crate::select! {
                    change = changes.next() => match change {
                        Some(change) => self.send_change(&change, &ahead).await?,
                        // Cut off: it did not keep up. The documents are read again.
                        None => match self.feed.retired() {
                            Some(refusal) => return Err(refusal.into()),
                            None => break,
                        },
                    },
                    () = sleep_until(progress_at) => {
                        let position = self.feed.position();
                        if changes.is_up_to_date() {
                            self.position = self.position.max(position);
                        }
                        self.send_progress(false).await?;
                        progress_at = Instant::now() + self.interval;
                    }
                    () = self.outlet.leaving.cancelled() => {
                        return Err(stream::draining(&self.feed.cursor(self.position)).into());
                    }
                }
            }
        }
    }

    /// Sends what changed after the watcher's position, and returns those documents that changed after `listening`: their events
    /// are yet to come.
    async fn send_snapshot(&mut self, listening: i64) -> Result<HashMap<String, i64>, End> {
        let mut ahead = HashMap::new();
        let mut after = match &self.target {
            Target::Document(id) => {
                let document = self.app.store.get::<Document>(&self.namespace, id).await;
                if let Some(document) = document.map_err(|error| refusal_of(&error))? {
                    self.send_if_new(&document, listening, &mut ahead).await?;
                }
                return Ok(ahead);
            }
            Target::Prefix(prefix) => before_prefix(prefix),
        };
        let Target::Prefix(prefix) = self.target.clone() else {
            return Ok(ahead);
        };
        loop {
            let selection = Selection {
                index: Document::PRIMARY,
                prefix: Vec::new(),
                after,
                limit: 100,
                backwards: false,
            };
            let page = self.app.store.select::<Document>(&self.namespace, selection).await;
            let (_, documents) = page.map_err(|error| refusal_of(&error))?;
            let Some(last) = documents.last().filter(|_| documents.len() == 100) else {
                for document in documents
                    .iter()
                    .filter(|document| document.state_id.starts_with(&prefix))
                {
                    self.send_if_new(document, listening, &mut ahead).await?;
                }
                return Ok(ahead);
            };
            after = Some(vec![Value::Text(last.state_id.clone())]);
            let past_the_prefix = !last.state_id.starts_with(&prefix) && last.state_id > prefix;
            for document in documents
                .iter()
                .filter(|document| document.state_id.starts_with(&prefix))
            {
                self.send_if_new(document, listening, &mut ahead).await?;
            }
            if past_the_prefix {
                return Ok(ahead);
            }
        }
    }

    async fn send_if_new(
        &self,
        document: &Document,
        listening: i64,
        ahead: &mut HashMap<String, i64>,
    ) -> Result<(), End> {
        if document.position > listening {
            ahead.insert(document.state_id.clone(), document.position);
        }
        // A watcher that begins with a snapshot has no use for what was deleted before it.
        let news = document.position > self.position && (self.position > 0 || document.payload.is_some());
        if news {
            self.send(to_proto(document), self.position).await
        } else {
            Ok(())
        }
    }

    async fn send_change(&mut self, change: &Delivery, ahead: &HashMap<String, i64>) -> Result<(), End> {
        let position = change.event.position;
        let id = &change.event.subject;
        self.position = self.position.max(position);
        if ahead.get(id).is_some_and(|sent| *sent >= position) {
            return Ok(());
        }
        let hint = change
            .commit
            .as_ref()
            .and_then(|commit| commit.documents.get(id))
            .cloned()
            .flatten();
        let document = match hint {
            Some(document) => Some(document),
            None => {
                let row = self.app.store.get::<Document>(&self.namespace, id).await;
                row.map_err(|error| refusal_of(&error))?.map(Arc::new)
            }
        };
        match document {
            // A later change is on its way, and will be sent then.
            Some(document) if document.position == position => self.send(to_proto(&document), position).await,
            _ => Ok(()),
        }
    }

    async fn send(&self, state: State, position: i64) -> Result<(), End> {
        let cursor = self.feed.cursor(position);
        let message = WatchStateResponse {
            state: Some(state),
            cursor,
            position,
            caught_up: false,
        };
        Ok(self.outlet.send(message).await?)
    }

    async fn send_progress(&self, caught_up: bool) -> Result<(), End> {
        let cursor = self.feed.cursor(self.position);
        let message = WatchStateResponse {
            state: None,
            cursor,
            position: self.position,
            caught_up,
        };
        Ok(self.outlet.send(message).await?)
    }
}
