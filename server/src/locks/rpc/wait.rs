//! A call that wants a lock, from its first word to its answer or its disappearance.
//!
//! It listens for its grant before it asks, so that none is missed. It is answered by its own timer, before its caller's deadline. When it
//! disappears, a job undoes what it began:
//!
//! | it was | without a `request_id` | with one |
//! |---|---|---|
//! | in the queue | leaves at once | keeps its place for two seconds, for the retry |
//! | granted the lock | released in the next commit | lapses after two seconds, unless the retry finds it |
//!
//! Should the server itself die, grants to waiters lapse by the row's timer, and places end with their wait.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::edge::Context;
use crate::error::{Reason, Refusal};
use crate::lane::{Call, Committed, Lanes, Urgency, refusal_of};
use crate::locks::Lock;
use crate::locks::rules::{self, Acquire, Acquired, Left};
use crate::machine::{self, Instant};
use crate::sessions::{self, Session};
use crate::tail::{Delivery, Filter, Pattern, Subscription};
use crate::time::Time;

/// What is kept back of the caller's time for leaving the queue: a commit.
const LEAVE_RESERVE: Duration = Duration::from_millis(100);
/// How often a job that undoes what a vanished call began is tried. After that, timers do.
const ABANDON_TRIES: u32 = 8;

/// A lock that was acquired.
pub(super) struct Granted {
    pub(super) lock: Lock,
    pub(super) queued: Duration,
    pub(super) position: i64,
    pub(super) epoch: i64,
}

/// Acquires a lock, and waits for it if it must and may.
pub(super) async fn acquire(app: &App, context: &Context, call: Call, mut wish: Acquire) -> Result<Granted, Refusal> {
    let started = Instant::now();
    let patience = patience(context, wish.wait);
    let grant = if wish.wait.is_zero() {
        None
    } else {
        // A wait without any time left still joins the queue for a moment, and is told that it was too short.
        wish.wait = patience.max(Duration::from_millis(1));
        let filter = Filter {
            causation: Some(wish.call_id.clone()),
            ..Filter::default()
        };
        Some(app.tail.feed(&context.namespace).await?.subscribe(filter))
    };
    let mut presence = Presence::new(app, context, &wish);
    let outcome = ask(app, call, wish.clone()).await;
    presence.is_settled = matches!(&outcome, Err(refusal) if refusal.reason() != Reason::OutcomeUnknown);
    let committed = outcome?;
    let granted = match (committed.answer, grant) {
        (Acquired::Held(lock), _) => Ok(Granted {
            lock,
            queued: Duration::ZERO,
            position: committed.position,
            epoch: committed.epoch,
        }),
        (Acquired::Queued { agent_id }, Some(grant)) => {
            let waiting = Waiting {
                app,
                context,
                wish: &wish,
                agent_id,
                queued_at: committed.at,
                until: started + wish.wait,
            };
            waiting.wait(grant, &mut presence).await
        }
        (Acquired::Queued { .. }, None) => Err(Refusal::new(Reason::Internal, "a call that may not wait was queued")),
    };
    if granted.is_ok() {
        presence.is_settled = true;
    }
    granted
}

/// How long the call waits: what it asked for, and no longer than its caller does, less what leaving takes.
fn patience(context: &Context, wait: Duration) -> Duration {
    let patience = context.patience(wait + LEAVE_RESERVE);
    patience.saturating_sub(LEAVE_RESERVE).min(wait)
}

async fn ask(app: &App, call: Call, wish: Acquire) -> Result<Committed<Acquired>, Refusal> {
    let read = wish.clone();
    app.lanes
        .run(
            call,
            move |world| rules::want_acquire(world, &read),
            move |world| rules::acquire(world, &wish),
        )
        .await
}

/// A call in the queue.
struct Waiting<'a> {
    app: &'a App,
    context: &'a Context,
    wish: &'a Acquire,
    agent_id: String,
    queued_at: Time,
    until: Instant,
}

impl Waiting<'_> {
    async fn wait(&self, mut grant: Subscription, presence: &mut Presence) -> Result<Granted, Refusal> {
        let mut ends = self.ends_of_sessions().await?;
        let timeout = tokio::time::sleep_until(self.until);
        tokio::pin!(timeout);
        loop {
            crate::select! {
                biased;
                // An end of the feed is no grant, but a reason to look.
                _ = grant.next() => break,
                Some(_) = next_of(&mut ends) => {
                    if let Some(refusal) = self.end_of_session().await? {
                        presence.is_settled = true;
                        return Err(refusal);
                    }
                }
                () = self.app.draining.cancelled() => {
                    presence.leave_now().await;
                    let refusal = Refusal::new(Reason::Draining, "the server is stopping");
                    return Err(refusal.retry_after(Duration::from_millis(500)));
                }
                () = &mut timeout => break,
            }
        }
        let left = self.leave().await?;
        match left.answer {
            Left::Taken(lock) => Ok(Granted {
                lock,
                // From when the request was in the queue, which is after it was sent: the lease began when it was taken.
                queued: left.at.since(self.queued_at),
                position: left.position,
                epoch: left.epoch,
            }),
            Left::Without(lock) => {
                presence.is_settled = true;
                let reason = Reason::LockWaitTimeout;
                Err(rules::in_the_way(reason, &self.wish.resource_id, lock.as_ref()))
            }
        }
    }

    /// The events that may end the session of the caller, if it has one. One that came while the call joined the queue is missed: its
    /// timer then tells it.
    async fn ends_of_sessions(&self) -> Result<Option<Subscription>, Refusal> {
        if self.wish.session_id.is_none() {
            return Ok(None);
        }
        let types = ["agent.expired", "agent.deregistered", "agent.registered"];
        let filter = Filter {
            types: types.map(Pattern::new).to_vec(),
            subject: Some(self.agent_id.clone()),
            ..Filter::default()
        };
        Ok(Some(
            self.app.tail.feed(&self.context.namespace).await?.subscribe(filter),
        ))
    }

    /// Why the caller's session may not act any more, if so. Its place in the queue ends with it.
    async fn end_of_session(&self) -> Result<Option<Refusal>, Refusal> {
        let Some(session_id) = &self.wish.session_id else {
            return Ok(None);
        };
        let session = self.app.store.get::<Session>(&self.context.namespace, session_id).await;
        let session = session.map_err(|error| refusal_of(&error))?;
        Ok(match session {
            Some(session) if session.is_live() => None,
            Some(session) => Some(sessions::rules::ended(&session)),
            None => Some(Refusal::new(Reason::SessionEnded, "there is no such session").with("cause", "UNKNOWN")),
        })
    }

    /// Takes the grant, or leaves the queue without.
    async fn leave(&self) -> Result<Committed<Left>, Refusal> {
        let call = Call::internal(&self.context.namespace, Urgency::High);
        let wish = self.wish.clone();
        let (session_id, resource_id) = (wish.session_id.clone(), wish.resource_id.clone());
        self.app
            .lanes
            .run(
                call,
                move |world| {
                    world.locks.want(&resource_id);
                    sessions::rules::want_caller(world, &session_id);
                },
                move |world| rules::leave(world, &wish.session_id, &wish.resource_id, &wish.call_id),
            )
            .await
    }
}

async fn next_of(subscription: &mut Option<Subscription>) -> Option<Delivery> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => None,
    }
}

/// That a call is there. Dropped before the call is settled, it undoes what the call began.
pub(super) struct Presence {
    lanes: Lanes,
    namespace: Arc<str>,
    resource_id: String,
    call_id: String,
    /// Whether nothing is left to undo.
    is_settled: bool,
}

impl Presence {
    fn new(app: &App, context: &Context, wish: &Acquire) -> Presence {
        Presence {
            lanes: app.lanes.clone(),
            namespace: Arc::clone(&context.namespace),
            resource_id: wish.resource_id.clone(),
            call_id: wish.call_id.clone(),
            is_settled: false,
        }
    }

    /// Undoes what the call began while it is still there.
    async fn leave_now(&mut self) {
        if self.abandon().await.is_ok() {
            self.is_settled = true;
        }
    }

    fn abandon(&self) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let lanes = self.lanes.clone();
        let call = Call::internal(&self.namespace, Urgency::High);
        let (resource_id, call_id) = (self.resource_id.clone(), self.call_id.clone());
        let read = resource_id.clone();
        async move {
            let abandoned = lanes.run(
                call,
                move |world| world.locks.want(&read),
                move |world| rules::abandon(world, &resource_id, &call_id),
            );
            abandoned.await.map(|_| ())
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let presence = Presence {
            lanes: self.lanes.clone(),
            namespace: Arc::clone(&self.namespace),
            resource_id: std::mem::take(&mut self.resource_id),
            call_id: std::mem::take(&mut self.call_id),
            is_settled: true,
        };
        machine::spawn_if_running(async move {
            for attempt in 0..ABANDON_TRIES {
                match presence.abandon().await {
                    Ok(()) => return,
                    Err(refusal) if refusal.retry_delay().is_some() => {
                        tokio::time::sleep(Duration::from_millis(50) * 2u32.pow(attempt)).await;
                    }
                    Err(refusal) => {
                        tracing::warn!(%refusal, resource = %presence.resource_id, "a vanished call's lock was not given back");
                        return;
                    }
                }
            }
        });
    }
}
