//! Callers at work on all replicas at once, who note what they did and were told; and what must be true of all that in the end.
//!
//! There are callers who take locks and write under them, who swap documents, who publish events, who listen to them, who delegate tasks,
//! and agents that work on those. Most go on until they are answered; some give up soon, so that there are outcomes that nobody knows. They run on
//! threads of their own.

mod agents;
mod caller;
mod listeners;
mod lockers;
mod publishers;
mod report;
mod swappers;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::support::history::{Clock, Recorded, document, lock, task};

pub use listeners::Gap;
pub use report::Report;

/// How long callers may take to do what must be possible.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A lock was granted.
    Lock,
    /// A document was written under a lock.
    Guarded,
    /// A document was written if its version was the expected one.
    Swap,
    /// Events were published.
    Publish,
    /// Events were received.
    Receive,
    /// A task was completed.
    Task,
}

/// Everything that callers do.
pub const EVERYTHING: [Kind; 6] = [
    Kind::Lock,
    Kind::Guarded,
    Kind::Swap,
    Kind::Publish,
    Kind::Receive,
    Kind::Task,
];

/// Something that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Success {
    kind: Kind,
    sent: Duration,
    answered: Duration,
    /// The epoch and the position that it was committed at, for a change.
    place: Option<(i64, i64)>,
}

/// What callers share.
pub struct Shared {
    channels: Vec<Channel>,
    namespace: String,
    clock: Clock,
    /// Set when no new work is to be begun.
    stop: CancellationToken,
    /// Set when all work is done: up to where listeners must hear.
    end: OnceLock<(i64, i64)>,
    successes: Mutex<Vec<Success>>,
    complaints: Mutex<Vec<String>>,
    /// Where each event is that was acknowledged: its epoch and its position.
    published: Mutex<BTreeMap<String, (i64, i64)>>,
}

impl Shared {
    /// Notes that something succeeded.
    fn succeeded(&self, kind: Kind, sent: Duration, answered: Duration, cursor: Option<&str>) {
        let success = Success {
            kind,
            sent,
            answered,
            place: cursor.map(place_of),
        };
        self.successes.lock().expect("no panic").push(success);
    }

    /// Notes what must not be.
    fn complain(&self, complaint: String) {
        self.complaints.lock().expect("no panic").push(complaint);
    }

    fn is_over(&self) -> bool {
        self.stop.is_cancelled()
    }
}

/// The epoch and the position in a cursor.
pub fn place_of(cursor: &str) -> (i64, i64) {
    let (epoch, position) = cursor.split_once('.').expect("an epoch and a position");
    let number = |text| i64::from_str_radix(text, 16).expect("a number");
    (number(epoch), number(position))
}

/// What callers wrote down, by resource, document and task.
#[derive(Default)]
struct Notes {
    locks: BTreeMap<String, Vec<Recorded<lock::Operation>>>,
    documents: BTreeMap<String, Vec<Recorded<document::Operation>>>,
    tasks: BTreeMap<String, Vec<Recorded<task::Operation>>>,
    listened: Vec<listeners::Heard>,
    sessions_lost: usize,
}

impl Notes {
    fn add(&mut self, other: Notes) {
        for (key, history) in other.locks {
            self.locks.entry(key).or_default().extend(history);
        }
        for (key, history) in other.documents {
            self.documents.entry(key).or_default().extend(history);
        }
        for (key, history) in other.tasks {
            self.tasks.entry(key).or_default().extend(history);
        }
        self.listened.extend(other.listened);
        self.sessions_lost += other.sessions_lost;
    }
}

/// Callers at work.
pub struct Load {
    shared: Arc<Shared>,
    /// Those who begin work.
    callers: Vec<tokio::task::JoinHandle<Notes>>,
    /// Those who are needed until it is done.
    helpers: Vec<tokio::task::JoinHandle<Notes>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Load {
    /// Begins to call the replicas at these addresses.
    pub fn start(addresses: &[String], namespace: &str) -> Load {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let inside = runtime.enter();
        let shared = Arc::new(Shared {
            channels: caller::channels(addresses),
            namespace: namespace.to_owned(),
            clock: Clock::start(),
            stop: CancellationToken::new(),
            end: OnceLock::new(),
            successes: Mutex::default(),
            complaints: Mutex::default(),
            published: Mutex::default(),
        });
        let mut load = Load {
            shared,
            callers: Vec::new(),
            helpers: Vec::new(),
            runtime: None,
        };
        for number in 0..6 {
            load.call(lockers::work(load.caller(number)));
            load.call(swappers::work(load.caller(number)));
            load.call(agents::delegate(load.caller(number)));
            load.helpers.push(tokio::spawn(agents::work(load.caller(number))));
        }
        for number in 0..3 {
            load.call(publishers::work(load.caller(number)));
            load.helpers.push(tokio::spawn(listeners::listen(load.caller(number))));
        }
        drop(inside);
        load.runtime = Some(runtime);
        load
    }

    fn caller(&self, number: usize) -> caller::Caller {
        caller::Caller::new(&self.shared, number)
    }

    fn call(&mut self, work: impl Future<Output = Notes> + Send + 'static) {
        self.callers.push(tokio::spawn(work));
    }

    /// How late it is on the callers' clock.
    pub fn now(&self) -> Duration {
        self.shared.clock.now()
    }

    /// Waits until so many more things of each of these kinds were begun and have succeeded; says how long that took.
    pub async fn succeeds(&self, kinds: &[Kind], more: usize) -> Duration {
        let (from, began) = (self.now(), Instant::now());
        for kind in kinds {
            loop {
                let count = self.count(*kind, from, Duration::MAX);
                if count >= more {
                    break;
                }
                assert!(
                    began.elapsed() < PATIENCE,
                    "{count} of {more} times {kind:?} succeeded within {PATIENCE:?}"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        began.elapsed()
    }

    /// How many things of a kind were begun and have succeeded in a time.
    pub fn count(&self, kind: Kind, from: Duration, until: Duration) -> usize {
        let successes = self.shared.successes.lock().expect("no panic");
        let within = successes
            .iter()
            .filter(|one| one.kind == kind && one.sent >= from && one.answered <= until);
        within.count()
    }

    /// Ends the work: what is under way is finished, and listeners hear all that was acknowledged.
    pub async fn end(mut self) -> Report {
        self.shared.stop.cancel();
        let mut notes = Notes::default();
        for work in self.callers.drain(..) {
            notes.add(ended(work).await);
        }
        let last = self
            .shared
            .successes
            .lock()
            .expect("no panic")
            .iter()
            .filter_map(|one| one.place)
            .max();
        self.shared.end.set(last.unwrap_or_default()).expect("the first end");
        for work in self.helpers.drain(..) {
            notes.add(ended(work).await);
        }
        Report::new(&self.shared, notes)
    }
}

async fn ended(work: tokio::task::JoinHandle<Notes>) -> Notes {
    let ended = tokio::time::timeout(2 * PATIENCE, work).await;
    ended.expect("callers end").expect("no panic")
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
