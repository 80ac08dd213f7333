//! The tail: follows the log of each namespace and hands what happened to whoever waits for it.
//!
//! Subscribers, watchers, waiting callers and session streams are readers of the same feed. A feed is opened when the first reader
//! comes; what commits before that is not looked at. A reader that has to begin earlier catches up from the store and then goes over
//! to the feed, at a position that both agree on, so it misses nothing and sees nothing twice.
//!
//! ```text
//!  own lane ──┐
//!  bus: hints ├──▶ space: track ──in order, each once──▶ observers, feed
//!  store ─────┘           │ something is missing, or a poll finds that there is more
//!         ▲───────────────┘
//! ```
//!
//! Where servers share a store, everything that any of them commits comes here: as a hint on the bus, or, when a hint is missing, from the
//! store, which is asked what there is at most every 250 ms while someone waits.
//!
//! Failure: a reader that does not keep up is cut off, never waited for and never buffered without limit. Where the log does not go on
//! from what was handed on (a standby without the last commits was promoted) the feed is retired: its readers are told that what they saw
//! may not have happened, and everything is read anew.

mod directory;
mod feed;
mod filter;
mod follow;
mod read;
mod recent;
mod space;
#[cfg(test)]
mod tests;
mod track;

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::error::{Reason, Refusal};
use crate::lane::Commit;
use crate::machine::{self, HashMap};
use crate::sessions::gap::{Asker, Gap};
use crate::store::{Store, StoreError};
pub use directory::{Directory, Entry, Place, Watch};
pub use feed::{Delivery, Feed, Subscription};
pub use filter::{Filter, Pattern};
pub use recent::Whole;
use space::Space;

/// What is told of every commit before any reader is, synchronously: it must be quick and must not wait.
pub type Observer = Box<dyn Fn(&Arc<Commit>) + Send + Sync>;
/// What is told of a namespace of which nothing that was handed on need hold any more.
pub type OnLost = Box<dyn Fn(&Arc<str>) + Send + Sync>;

/// The feeds of a server. Cheap to clone.
#[derive(Clone)]
pub struct Tail {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    bus: Bus,
    observers: Vec<Observer>,
    on_lost: OnLost,
    /// Who asks the store what others have committed. That is asked regularly, so a silence of the store is noticed here if nowhere else.
    asker: Asker,
    spaces: Mutex<HashMap<Arc<str>, Arc<Space>>>,
    /// Namespaces in which something is missing.
    missing: mpsc::UnboundedSender<Arc<str>>,
}

impl Tail {
    /// A tail over a store, which follows what other servers commit until this one stops.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn start(
        store: Store,
        bus: Bus,
        observers: Vec<Observer>,
        on_lost: OnLost,
        gap: &Gap,
        draining: CancellationToken,
    ) -> Result<Tail, StoreError> {
        let (missing, wanted) = mpsc::unbounded_channel();
        let tail = Tail {
            shared: Arc::new(Shared {
                store,
                bus,
                observers,
                on_lost,
                asker: gap.asker(),
                spaces: Mutex::default(),
                missing,
            }),
        };
        follow::begin(&tail.shared).await?;
        machine::spawn(follow::run(Arc::downgrade(&tail.shared), wanted, draining));
        Ok(tail)
    }

    /// A tail of a test: the store's only one.
    #[cfg(test)]
    pub async fn alone(store: Store) -> Tail {
        let (gap, stopping) = (Gap::new(), CancellationToken::new());
        let tail = Tail::start(store, Bus::Local, Vec::new(), Box::new(|_| {}), &gap, stopping);
        tail.await.expect("a store that can be read")
    }

    /// The feed of a namespace. It has handed on what was committed before this is called, by any server.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn feed(&self, namespace: &Arc<str>) -> Result<Arc<Feed>, Refusal> {
        self.shared.space(namespace).open(&self.shared).await
    }

    /// The feed of a namespace as it is, if it is open: it may be behind what other servers have committed.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn feed_as_it_is(&self, namespace: &Arc<str>) -> Result<Arc<Feed>, Refusal> {
        let space = self.shared.space(namespace);
        match space.feed() {
            Some(feed) => Ok(feed),
            None => space.open(&self.shared).await,
        }
    }

    /// Hands on what a lane has committed, and tells the other servers. Commits of one namespace come in order.
    pub fn publish(&self, commit: Arc<Commit>) {
        self.shared.bus.publish(&commit);
        self.shared.take(commit);
    }
}

impl Shared {
    fn space(&self, namespace: &Arc<str>) -> Arc<Space> {
        let mut spaces = self.spaces.lock().expect("no panic under this lock");
        // One that is not known is new: everything in it is still to come.
        let space = spaces
            .entry(Arc::clone(namespace))
            .or_insert_with(|| Arc::new(Space::new(Arc::clone(namespace), track::Place::default())));
        Arc::clone(space)
    }

    fn take(&self, commit: Arc<Commit>) {
        let namespace = Arc::clone(&commit.namespace);
        if !self.space(&namespace).take(commit, &self.observers) {
            // Nobody follows any more when the server has stopped.
            let _ = self.missing.send(namespace);
        }
    }
}

/// A place in a namespace's log, as clients carry it around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The epoch that it was given out in.
    pub epoch: i64,
    /// Everything up to here was seen.
    pub position: i64,
}

impl Cursor {
    /// As clients have it: opaque.
    pub fn encode(self) -> String {
        format!("{:x}.{:x}", self.epoch, self.position)
    }

    /// The inverse of [`Cursor::encode`].
    ///
    /// # Errors
    /// INVALID_REQUEST that names the field.
    pub fn decode(text: &str, field: &str) -> Result<Cursor, Refusal> {
        let decode = || {
            let (epoch, position) = text.split_once('.')?;
            let number = |text: &str| i64::from_str_radix(text, 16).ok().filter(|number| *number >= 0);
            Some(Cursor {
                epoch: number(epoch)?,
                position: number(position)?,
            })
        };
        decode().ok_or_else(|| Refusal::invalid(field, "is not a cursor that this server gave out"))
    }
}

/// The refusal of a cursor that cannot be served from.
pub(crate) fn out_of_range(problem: &'static str, message: &str, earliest: Cursor, latest: i64) -> Refusal {
    Refusal::new(Reason::CursorOutOfRange, message)
        .with("problem", problem)
        .with("earliest_position", earliest.position + 1)
        .with("latest_position", latest)
        .with("earliest_cursor", earliest.encode())
}
