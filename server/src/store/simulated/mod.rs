//! A store for simulations: a database in memory that several servers share, which is slow, fails, stops, crashes and is replaced by a
//! standby that did not hear of the last commits.
//!
//! It keeps the promises of the seam and no more: the head of a namespace is locked by one transaction at a time, in the order in which
//! they came; a transaction sees what was committed before each of its reads; a save is there whole or not at all; "not available" means
//! that nothing was changed, and "unknown" can mean anything. What goes on in the database goes on whether or not the process that asked
//! for it still runs, as it does on the other side of a network.

mod memory;
mod server;
mod transaction;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub use memory::Memory;
use server::Server;
pub use server::{Failover, Watcher};
use tokio::sync::mpsc;

use super::step::{self, Step, ask};
use super::{Head, Newest, Plan, Rows, Save, StoreError};
use crate::machine::simulated::Switch;

/// What the weather is like between the servers and the database, and in it. Chances are of 1.
#[derive(Clone, Debug)]
pub struct Weather {
    /// How long a message takes, one way.
    pub latency: Range<Duration>,
    /// That a request is not delivered.
    pub lost: f64,
    /// That a transaction is ended when it asks for more.
    pub ended: f64,
    /// That a commit is not answered. Whether it was made, and whether that is found out later, is chance too.
    pub unanswered: f64,
}

impl Weather {
    /// Everything arrives at once.
    pub fn calm() -> Weather {
        Weather {
            latency: Duration::ZERO..Duration::ZERO,
            lost: 0.0,
            ended: 0.0,
            unanswered: 0.0,
        }
    }
}

/// The database, as those see it who simulate.
#[derive(Clone)]
pub struct Database {
    server: Arc<Server>,
}

/// A server's way to the database. Cheap to clone.
#[derive(Clone)]
pub struct Simulated {
    server: Arc<Server>,
    link: Arc<Link>,
}

/// The network between one server and the database.
struct Link {
    /// The epoch that the database told last.
    epoch: AtomicI64,
    /// Whether nothing gets through.
    cut: Switch<bool>,
}

/// An open transaction. Dropped, it is rolled back.
pub struct Transaction {
    steps: mpsc::Sender<Step>,
}

impl Database {
    /// An empty database, of servers that share it or of one that has it for itself.
    pub fn new(shared: bool) -> Database {
        Database {
            server: Arc::new(Server::new(shared)),
        }
    }

    /// A server connects for the first time.
    pub fn connect(&self) -> Simulated {
        Simulated {
            server: Arc::clone(&self.server),
            link: Arc::new(Link {
                epoch: AtomicI64::new(self.server.open()),
                cut: Switch::new(false),
            }),
        }
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.server.state().weather = weather;
    }

    /// Watches what is committed.
    pub fn watch(&self, watcher: Box<dyn Watcher>) {
        self.server.state().watcher = Some(watcher);
    }

    /// Looks at what is committed.
    pub fn look<T>(&self, look: impl FnOnce(&Memory) -> T) -> T {
        look(&self.server.state().memory)
    }

    /// It does not answer for a while (SIGSTOP, a full disk, a lost network); what it was told it does later.
    pub fn freeze(&self) {
        self.server.freeze();
    }

    /// It goes on. Tells how long it did not answer.
    pub fn thaw(&self) -> Duration {
        self.server.thaw()
    }

    /// It crashes: transactions are rolled back, connections are lost. It is there again at once, or when it is thawed.
    pub fn crash(&self) {
        self.server.crash();
    }

    /// A standby takes its place that has not heard of the last `lost` commits.
    pub fn fail_over(&self, lost: usize) {
        self.server.fail_over(lost);
    }
}

impl Simulated {
    /// Cuts a server off from the database, or joins them again.
    pub fn set_cut(&self, cut: bool) {
        self.link.cut.change(|was| *was = cut);
    }

    pub(super) async fn begin(&self, namespace: &str, plan: Plan) -> Result<(Transaction, Head, Rows), StoreError> {
        let (server, link, namespace) = (Arc::clone(&self.server), Arc::clone(&self.link), namespace.to_owned());
        let opened = ask(|reply| {
            tokio::spawn(transaction::serve(server, link, namespace, plan, reply));
            true
        });
        let (steps, head, rows) = opened.await.unwrap_or_else(|| Err(gone()))?;
        Ok((Transaction { steps }, head, rows))
    }

    pub(super) async fn read(&self, namespace: &str, plan: Plan) -> Result<(Head, Rows), StoreError> {
        let namespace = namespace.to_owned();
        let read = move |server: &Server| {
            let state = server.state();
            let rows = state.memory.read(&namespace, &plan);
            (state.memory.head(&namespace, server::now()), rows)
        };
        self.ask(read).await
    }

    pub(super) async fn namespaces(&self) -> Result<Vec<String>, StoreError> {
        self.ask(|server| server.state().memory.namespaces()).await
    }

    pub(super) async fn heads(&self) -> Result<Vec<Newest>, StoreError> {
        self.ask(|server| server.state().memory.heads()).await
    }

    pub(super) async fn beat(&self, beats: &[(Arc<str>, String)], home: &str) -> Result<Vec<bool>, StoreError> {
        if !self.is_shared() {
            return Ok(vec![true; beats.len()]);
        }
        let (beats, home) = (beats.to_vec(), home.to_owned());
        self.ask(move |server| server.beat(&beats, &home)).await
    }

    pub(super) fn epoch(&self) -> i64 {
        self.link.epoch.load(Ordering::Acquire)
    }

    pub(super) fn is_shared(&self) -> bool {
        self.server.shared
    }

    /// Asks the database for something that it does at once; nobody who stops listening stops it.
    async fn ask<T: Send + 'static>(&self, work: impl FnOnce(&Server) -> T + Send + 'static) -> Result<T, StoreError> {
        let (server, link) = (Arc::clone(&self.server), Arc::clone(&self.link));
        let asked = tokio::spawn(async move {
            let answer = async {
                server.deliver(&link).await?;
                let answer = work(&server);
                server.travel().await;
                Ok(answer)
            };
            let answer = tokio::time::timeout(server::PATIENCE, answer).await;
            answer.unwrap_or_else(|_| Err(silent()))
        });
        asked.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Transaction {
    pub(super) async fn load(&mut self, plan: Plan) -> Result<Rows, StoreError> {
        step::load(plan, |step| self.steps.try_send(step).is_ok()).await
    }

    pub(super) async fn commit(self, save: Save) -> Result<(), StoreError> {
        step::commit(save, |step| self.steps.try_send(step).is_ok()).await
    }
}

fn gone() -> StoreError {
    StoreError::unavailable("the connection to the database was lost")
}

fn silent() -> StoreError {
    StoreError::unavailable("the database did not answer in time")
}
