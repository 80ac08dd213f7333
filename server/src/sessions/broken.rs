//! What follows when a stream breaks: nothing more is assigned to its agent at once, and after a short grace it counts as dead, unless
//! it has come back with a newer stream.
//!
//! A stream that broke in a gap, or that was last heard of before one, says nothing of its agent: then the agent has a full TTL from the
//! end of the gap.

use std::sync::Arc;
use std::time::Duration;

use super::rules;
use crate::app::App;
use crate::error::Refusal;
use crate::lane::{Call, Urgency};
use crate::machine::Instant;

/// How long to wait before a job that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// A stream that broke.
#[derive(Clone)]
pub(super) struct Broken {
    pub namespace: Arc<str>,
    pub session_id: String,
    pub agent_id: String,
    pub generation: i64,
    pub ttl: Duration,
    /// When it broke.
    pub at: Instant,
}

impl Broken {
    /// Sees it through, unless the server stops before.
    pub(super) async fn run(self, app: &App) {
        let stopping = app.draining.clone();
        stopping.run_until_cancelled(self.see_through(app)).await;
    }

    /// Takes the agent off the offers and leaves the rest to its TTL, unless the server stops before.
    pub(super) async fn withdraw(self, app: &App) {
        let stopping = app.draining.clone();
        stopping.run_until_cancelled(self.off_the_offers(app)).await;
    }

    async fn off_the_offers(&self, app: &App) {
        while self.disconnect(app).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn see_through(&self, app: &App) {
        self.off_the_offers(app).await;
        while let Some(due) = self.due(app) {
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
                continue;
            }
            match self.end(app).await {
                Ok(true) => return,
                // Another gap: later.
                Ok(false) => {}
                Err(_) => {
                    app.beats.pardon(&self.namespace, &self.session_id);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// When the agent counts as dead; nothing if its session has ended already.
    fn due(&self, app: &App) -> Option<Instant> {
        let last = app.beats.last(&self.namespace, &self.session_id)?;
        Some(due(self.at + app.limits.reconnect_grace, last, app.gap.end(), self.ttl))
    }

    /// Takes the agent off the offers.
    pub(super) async fn disconnect(&self, app: &App) -> Result<(), Refusal> {
        let (wanted, broken) = (self.clone(), self.clone());
        let call = Call::internal(&self.namespace, Urgency::High);
        let wants = move |world: &mut crate::lane::World| {
            rules::want_agent(world, &wanted.session_id, &wanted.agent_id);
        };
        let run = app.lanes.run(call, wants, move |world| {
            rules::disconnect(world, &broken.session_id, broken.generation)
        });
        run.await.map(|_| ())
    }

    /// Ends the session, if it is still due when the lane comes to it and no newer stream was opened; says whether that is settled.
    async fn end(&self, app: &App) -> Result<bool, Refusal> {
        let (wanted, broken) = (self.clone(), self.clone());
        let (beats, gap, grace) = (app.beats.clone(), app.gap.clone(), app.limits.reconnect_grace);
        let call = Call::internal(&self.namespace, Urgency::High);
        let wants = move |world: &mut crate::lane::World| {
            rules::want_agent(world, &wanted.session_id, &wanted.agent_id);
        };
        let decide = move |world: &mut crate::lane::World| {
            let Some(last) = beats.last(&broken.namespace, &broken.session_id) else {
                return Ok(true);
            };
            if due(broken.at + grace, last, gap.end(), broken.ttl) > Instant::now() {
                return Ok(false);
            }
            if rules::end_if_broken(world, &broken.session_id, broken.generation)? {
                beats.condemn_broken(&broken.namespace, &broken.session_id);
            }
            Ok(true)
        };
        app.lanes
            .run(call, wants, decide)
            .await
            .map(|committed| committed.answer)
    }
}

/// When an agent whose stream broke counts as dead.
fn due(grace_over: Instant, last: Instant, gap_end: Instant, ttl: Duration) -> Instant {
    if last > gap_end {
        grace_over
    } else {
        grace_over.max(gap_end + ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(1);
    const TTL: Duration = Duration::from_secs(3);

    #[test]
    fn an_agent_that_was_heard_of_since_the_last_gap_has_the_grace() {
        let gap_end = Instant::now();
        let last = gap_end + Duration::from_millis(10);
        let broke = last + Duration::from_millis(10);
        assert_eq!(due(broke + GRACE, last, gap_end, TTL), broke + GRACE);
    }

    #[test]
    fn an_agent_that_was_not_has_a_full_ttl_from_its_end() {
        let last = Instant::now();
        let gap_end = last + Duration::from_secs(30);
        assert_eq!(due(gap_end + GRACE, last, gap_end, TTL), gap_end + TTL);
        let late = gap_end + TTL;
        assert_eq!(
            due(late + GRACE, last, gap_end, TTL),
            late + GRACE,
            "the grace is the least"
        );
    }
}
