//! Those who use the servers: each a program of its own that can be stopped, continued, killed and started again.

mod counter;
mod events;
mod locker;
mod stream;
mod tasks;
mod unary;
mod work;

use std::sync::MutexGuard;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::sleep;

use super::happens;
use super::ledger::{Claim, Ledger, Space, Verdict};
use super::net::Client;
use crate::machine;

/// How long an actor tries to get something done.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the actors are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Whatever they do, while things go wrong.
    Work,
    /// Nothing new: what was begun comes to its end, and nothing goes wrong any more.
    Finish,
}

/// One of them.
pub struct Actor {
    pub name: String,
    pub namespace: String,
    pub client: Client,
    pub phase: watch::Receiver<Phase>,
    /// What it is called however often it is started: the id of its agent.
    pub role: String,
    ops: u32,
    parts: u32,
}

/// What an actor does from its start to its end.
pub type Role = fn(Actor) -> BoxFuture<'static, ()>;

/// Every role, with its name and how many there are of it at most.
pub const ROLES: &[(&str, usize, Role)] = &[
    ("locker", 4, |actor| Box::pin(locker::run(actor))),
    ("counter", 3, |actor| Box::pin(counter::run(actor))),
    ("publisher", 2, |actor| Box::pin(events::publish(actor))),
    ("subscriber", 3, |actor| Box::pin(events::subscribe(actor))),
    ("unary", 3, |actor| Box::pin(unary::run(actor))),
    ("stream", 4, |actor| Box::pin(stream::run(actor))),
    ("delegator", 3, |actor| Box::pin(tasks::delegate(actor))),
    ("starter", 2, |actor| Box::pin(tasks::start_workflows(actor))),
];

/// What workers can do. Each can some of it.
pub const CAPABILITIES: [&str; 3] = ["cut", "sew", "iron"];

impl Actor {
    /// The `life`th start of an actor.
    pub fn new(role: &str, life: u32, namespace: &str, client: Client, phase: watch::Receiver<Phase>) -> Actor {
        Actor {
            name: format!("{role}:{life}"),
            namespace: namespace.to_owned(),
            client,
            phase,
            role: role.to_owned(),
            ops: 0,
            parts: 0,
        }
    }

    /// A part of it that does something beside it.
    fn another(&mut self) -> Actor {
        self.parts += 1;
        Actor {
            name: format!("{}/{}", self.name, self.parts),
            namespace: self.namespace.clone(),
            client: self.client.clone(),
            phase: self.phase.clone(),
            role: self.role.clone(),
            ops: 0,
            parts: 0,
        }
    }

    /// Whether it is to begin something new.
    fn works(&self) -> bool {
        *self.phase.borrow() == Phase::Work
    }

    /// An id that nobody has used.
    fn op(&mut self) -> String {
        self.ops += 1;
        format!("{}.{}", self.name, self.ops)
    }

    /// Does nothing for a while, at most this many milliseconds.
    async fn rest(&self, most: u64) {
        sleep(millis(1..most)).await;
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.client.net.ledger.lock().expect("no panic under this lock")
    }

    /// Notes something that was done, and holds it against what is committed.
    fn done(&self, what: &'static str, detail: &str, check: impl FnOnce(&mut Space) -> Verdict) {
        let mut ledger = self.ledger();
        let verdict = check(ledger.space(&self.namespace));
        ledger.note(what, || format!("{} {detail}", self.name));
        ledger.judge(&self.name, verdict);
    }

    /// Notes something that was not done.
    fn failed(&self, what: &str, failure: &super::net::Failure) {
        self.ledger().note("refused", || match failure {
            super::net::Failure::Refused(reason, status) => {
                format!("{} {what}: {reason} ({})", self.name, status.message())
            }
            other => format!("{} {what}: {other:?}", self.name),
        });
    }
}

/// What stands of a claim is checked; what was lost is not.
fn standing(space: &Space, cursor: &str, position: i64, check: impl FnOnce(&Space) -> Verdict) -> Verdict {
    match space.log.stands(&Claim { cursor, position })? {
        Some(_) => check(space),
        None => Ok(()),
    }
}

/// A time of this many milliseconds.
fn millis(range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(machine::random_range(range))
}

/// A duration as requests have it.
fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

/// One of some.
fn one_of<T: Copy>(some: &[T]) -> T {
    some[machine::random_range(0..some.len())]
}

/// The workers with this in their names can do everything.
pub const ABLE: &str = "able";

/// Some of the capabilities, at least one; all of them, if the worker is to have them.
fn capabilities(role: &str) -> Vec<drumline_proto::v1::Capability> {
    let sure = one_of(&CAPABILITIES);
    let some = CAPABILITIES
        .iter()
        .filter(|name| **name == sure || role.contains(ABLE) || happens(0.5));
    some.map(|name| drumline_proto::v1::Capability {
        name: (*name).to_owned(),
        ..Default::default()
    })
    .collect()
}
