//! Watches over agents: those that match as they are, then each change.
//!
//! What changed is collected as a set of agents, so a client that reads slowly gets each agent's latest state, and nothing is kept for it
//! beyond that set.

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use futures::Stream;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::discover::{Wanted, look};
use super::view;
use crate::app::App;
use crate::edge::Context;
use crate::edge::check::Check;
use crate::edge::stream::{self, End, Outlet};
use crate::error::Refusal;
use crate::machine::HashSet;
use crate::tail::Feed;

struct Watcher {
    app: Arc<App>,
    namespace: Arc<str>,
    feed: Arc<Feed>,
    wanted: Wanted,
    outlet: Outlet<v1::WatchAgentsResponse>,
    interval: Duration,
    /// The agents that the client knows of.
    known: HashSet<String>,
    /// What it has seen.
    position: i64,
}

/// The stream of a watcher.
///
/// # Errors
/// INVALID_REQUEST.
pub(super) async fn watch(
    app: Arc<App>,
    context: Context,
    request: v1::WatchAgentsRequest,
) -> Result<impl Stream<Item = Result<v1::WatchAgentsResponse, Status>>, Refusal> {
    let mut check = Check::default();
    let wanted = Wanted::new(&mut check, request.filter);
    let interval = check.duration(
        "progress_interval",
        request.progress_interval,
        Duration::from_secs(15),
        Duration::from_secs(1)..=Duration::from_secs(3_600),
    );
    check.finish()?;
    let feed = app.tail.feed(&context.namespace).await?;
    let (leaving, namespace) = (context.leaving(&app), context.namespace);
    Ok(stream::spawn(leaving, move |outlet| {
        Watcher {
            app,
            namespace,
            feed,
            wanted,
            outlet,
            interval,
            known: HashSet::default(),
            position: 0,
        }
        .run()
    }))
}

impl Watcher {
    async fn run(mut self) -> Result<(), End> {
        // First the changes, then the snapshot: nothing falls between.
        let (mut changes, position) = self
            .feed
            .directory(|directory| (directory.watch(), directory.position()))
            .await?;
        self.position = position;
        self.send_all().await?;
        self.send_progress(true).await?;
        let leaving = self.outlet.leaving.clone();
        let mut progress_at = Instant::now() + self.interval;
        loop {
            crate::select! {
                () = changes.changed() => {
                    // Everything up to the position before is among the changes; it is seen with the last of them.
                    let position = self.feed.directory(|directory| directory.position()).await?;
                    let changed = changes.take();
                    let last = changed.len() - 1;
                    for (number, agent_id) in changed.iter().enumerate() {
                        if number == last {
                            self.position = position;
                        }
                        self.send(agent_id).await?;
                    }
                    progress_at = Instant::now() + self.interval;
                }
                () = sleep_until(progress_at) => {
                    // Changes up to here were sent: what is committed changes the directory first.
                    let position = self.feed.directory(|directory| directory.position()).await?;
                    if changes.is_empty() {
                        self.position = position;
                    }
                    self.send_progress(false).await?;
                    progress_at = Instant::now() + self.interval;
                }
                () = leaving.cancelled() => {
                    return Err(stream::draining(&self.feed.cursor(self.position)).into());
                }
            }
        }
    }

    async fn send_all(&mut self) -> Result<(), End> {
        let mut after = None;
        loop {
            let found = self
                .feed
                .directory(|directory| look(directory, &self.wanted, after.as_ref(), usize::MAX))
                .await?;
            for entry in found.entries {
                if self.known.insert(entry.agent.agent_id.clone()) {
                    let agent = view::seen(&self.app, &self.namespace, &entry.agent, entry.session.as_deref());
                    self.send_agent(agent, false).await?;
                }
            }
            match found.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Sends an agent as it is now, or that it is no longer wanted.
    async fn send(&mut self, agent_id: &str) -> Result<(), End> {
        let entry = self
            .feed
            .directory(|directory| directory.get(agent_id).cloned())
            .await?;
        let agent = entry
            .as_ref()
            .map(|entry| view::seen(&self.app, &self.namespace, &entry.agent, entry.session.as_deref()));
        if entry.is_some_and(|entry| self.wanted.matches(&entry)) {
            self.known.insert(agent_id.to_owned());
            self.send_agent(agent.unwrap_or_default(), false).await?;
        } else if self.known.remove(agent_id) {
            let gone = v1::Agent {
                agent_id: agent_id.to_owned(),
                status: v1::agent::Status::Offline as i32,
                ..v1::Agent::default()
            };
            self.send_agent(agent.unwrap_or(gone), true).await?;
        }
        Ok(())
    }

    async fn send_agent(&mut self, agent: v1::Agent, removed: bool) -> Result<(), End> {
        let message = v1::WatchAgentsResponse {
            agent: Some(agent),
            removed,
            caught_up: false,
            position: self.position,
            cursor: self.feed.cursor(self.position),
        };
        Ok(self.outlet.send(message).await?)
    }

    async fn send_progress(&mut self, caught_up: bool) -> Result<(), End> {
        let message = v1::WatchAgentsResponse {
            agent: None,
            removed: false,
            caught_up,
            position: self.position,
            cursor: self.feed.cursor(self.position),
        };
        Ok(self.outlet.send(message).await?)
    }
}
