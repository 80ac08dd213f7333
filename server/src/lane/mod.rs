//! The commit hall: every change of a namespace goes through its lane, in batches.
//!
//! A lane takes whatever jobs have arrived, loads what they read, lets them decide one after another on a [`World`], saves what changed
//! in one commit, and answers them. While a commit is under way the next batch gathers; there is no timer that waits for one. A job is
//! what it will read, said before it runs, and a closure that decides and can be run again.
//!
//! Failure: a job that refuses is undone alone. A job that panics is answered INTERNAL alone. A batch that the store refuses is run
//! again job by job, so that only the guilty one fails. A store that is not available fails the batch with UNAVAILABLE: nothing was
//! changed. Lanes start on demand and stop when idle.

mod batch;
mod hall;
mod job;
mod memory;
mod queue;
pub mod store;
mod table;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
mod world;

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::config::Retention;
use crate::error::{Reason, Refusal};
use crate::events::Event;
use crate::locks::Lock;
use crate::machine::{self, HashMap};
use crate::registry::Agent;
use crate::sessions::Session;
use crate::sessions::gap::Gap;
use crate::state::Document;
use crate::store::{Head, Store};
use crate::tail::Tail;
use crate::tasks::{PayloadRole, StoredPayload, Task};
use crate::time::Time;
use crate::workflows::Workflow;

pub use crate::store::TOKEN_COUNTER_BITS;
pub use hall::refusal_of;
pub use job::{Call, Committed, Request};
pub use queue::Urgency;
use queue::{NotTaken, Queue};
pub use table::{Decision, Halt, WorkTable};
pub use world::{TABLES, World};

/// The answer to a request that carried a `request_id`, kept so that a retry gets it again.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRecord {
    /// The method, then the client's id.
    pub method: String,
    /// The client's id.
    pub request_id: String,
    /// What the request said, hashed.
    pub fingerprint: Bytes,
    /// The answer.
    pub answer: Bytes,
    /// The position that it was committed at.
    pub position: i64,
    /// When it was committed.
    pub at: Time,
}

/// An epoch of a namespace's log.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochRecord {
    /// The epoch.
    pub epoch: i64,
    /// The first position that was committed in it.
    pub first_position: i64,
    /// Its first batch.
    pub first_batch: i64,
}

/// A batch that was committed. The store writes it with every save; the newest of a namespace is its head.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRecord {
    /// Its number in the namespace, from 1, without gaps.
    pub batch: i64,
    /// Made by the lane that committed it.
    pub batch_id: String,
    /// How many events it has.
    pub events: i64,
    /// The position of the log's last event after it.
    pub position: i64,
    /// The position of the oldest event that is kept.
    pub first_position: i64,
    /// The epoch that it was committed in.
    pub epoch: i64,
    /// The greatest fencing token that was given out.
    pub last_token: i64,
    /// When it was committed.
    pub at: Time,
    /// When the earliest of the rows that it changed wants to be looked at again.
    pub next_due: Option<Time>,
    /// Which agents and sessions it changed, as [`Changed`] has them.
    pub changed: Option<String>,
}

/// The agents and sessions that a batch changed: what replicas that did not hear of it read again.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Changed {
    /// Ids of agents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Ids of sessions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<String>,
}

/// What a batch changed, as the tail hands it on. The rows spare those who wait a look at the store; a reader that has none
/// (on another replica) reads them there.
#[derive(Debug)]
pub struct Commit {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The head after the batch.
    pub head: Head,
    /// Its events, in order.
    pub events: Vec<Arc<Event>>,
    /// Registrations that changed; nothing for those that are gone. The same for the rest.
    pub agents: HashMap<String, Option<Arc<Agent>>>,
    /// Sessions.
    pub sessions: HashMap<String, Option<Arc<Session>>>,
    /// Locks.
    pub locks: HashMap<String, Option<Arc<Lock>>>,
    /// Documents.
    pub documents: HashMap<String, Option<Arc<Document>>>,
    /// Tasks.
    pub tasks: HashMap<String, Option<Arc<Task>>>,
    /// Payloads.
    pub payloads: HashMap<(String, PayloadRole), Option<Arc<StoredPayload>>>,
    /// Workflows.
    pub workflows: HashMap<String, Option<Arc<Workflow>>>,
    /// When the earliest of the changed rows wants to be looked at again.
    pub next_due: Option<Time>,
    /// Whether it was committed here, by this server's lane.
    pub own: bool,
}

impl Commit {
    /// A commit of another server that has changed no rows yet.
    pub(crate) fn new(namespace: Arc<str>, head: &Head, events: Vec<Arc<Event>>) -> Commit {
        Commit {
            namespace,
            head: head.clone(),
            events,
            agents: HashMap::default(),
            sessions: HashMap::default(),
            locks: HashMap::default(),
            documents: HashMap::default(),
            tasks: HashMap::default(),
            payloads: HashMap::default(),
            workflows: HashMap::default(),
            next_due: None,
            own: false,
        }
    }
}

/// The lanes of a server, one for each namespace in which something is being changed. Cheap to clone.
#[derive(Clone)]
pub struct Lanes {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    tail: Tail,
    gap: Gap,
    retention: Retention,
    queues: Mutex<HashMap<Arc<str>, Arc<Queue>>>,
}

impl Lanes {
    /// Lanes over a store; what they commit goes to the tail, and a store that is silent for too long is a gap.
    pub fn new(store: Store, tail: Tail, gap: Gap, retention: Retention) -> Lanes {
        Lanes {
            shared: Arc::new(Shared {
                store,
                tail,
                gap,
                retention,
                queues: Mutex::new(HashMap::default()),
            }),
        }
    }

    /// Runs a job in the lane of the call's namespace, and returns what it decided once that is committed.
    ///
    /// `reads` says what the job will read; what it leaves out costs a round trip. `decide` may run several times, each time on
    /// a world without the traces of the time before. Dropping the future before the batch is taken cancels the job.
    ///
    /// # Errors
    /// What `decide` refuses with; OVERLOADED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, OUTCOME_UNKNOWN, INTERNAL, REQUEST_ID_REUSED.
    pub async fn run<T, D>(
        &self,
        call: Call,
        reads: impl Fn(&mut World) + Send + 'static,
        decide: D,
    ) -> Result<Committed<T>, Refusal>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
        D: FnMut(&mut World) -> Decision<T> + Send + 'static,
    {
        let (mut job, answer) = job::make(&call, reads, decide);
        loop {
            match self.queue(&call.namespace).push(job, call.urgency) {
                Ok(()) => break,
                Err(NotTaken::Closed(again)) => job = again,
                Err(NotTaken::Full) => {
                    return Err(
                        Refusal::new(Reason::Overloaded, "the namespace has more to do than it takes on")
                            .retry_after(std::time::Duration::from_millis(100)),
                    );
                }
            }
        }
        answer
            .await
            .unwrap_or_else(|_| Err(Refusal::new(Reason::Internal, "the job was dropped")))
    }

    /// The queue of a namespace, with a lane behind it.
    fn queue(&self, namespace: &Arc<str>) -> Arc<Queue> {
        let mut queues = self.shared.queues.lock().expect("no panic under this lock");
        if let Some(queue) = queues.get(namespace)
            && queue.join()
        {
            return Arc::clone(queue);
        }
        let queue = Arc::new(Queue::new());
        queues.insert(Arc::clone(namespace), Arc::clone(&queue));
        let hall = hall::Hall::new(
            Arc::clone(namespace),
            self.shared.store.clone(),
            self.shared.tail.clone(),
            &self.shared.gap,
            Arc::clone(&queue),
            self.shared.retention,
        );
        machine::spawn(hall.run());
        queue
    }
}
