//! The tail: follows the log of each namespace and hands what happened to whoever waits for it.
//!
//! Subscribers, watchers, waiting callers and session streams are readers of the same feed. A feed is opened when the first reader
//! comes; what commits before that is not looked at. A reader that has to begin earlier catches up from the store and then goes over
//! to the feed, at a position that both agree on, so it misses nothing and sees nothing twice.
//!
//! Failure: a reader that does not keep up is cut off, never waited for and never buffered without limit.

mod directory;
mod feed;
mod filter;

use std::sync::{Arc, Mutex};

use crate::error::{Reason, Refusal};
use crate::lane::{Commit, EpochRecord, refusal_of};
use crate::machine::HashMap;
use crate::store::{Selection, Store};
pub use directory::{Directory, Entry, Place, Watch};
pub use feed::{Delivery, Feed, Subscription};
pub use filter::{Filter, Pattern};

/// What is told of every commit before any reader is, synchronously: it must be quick and must not wait.
pub type Observer = Box<dyn Fn(&Arc<Commit>) + Send + Sync>;

/// The feeds of a server. Cheap to clone.
#[derive(Clone)]
pub struct Tail {
    shared: Arc<Shared>,
}

/// A feed that is opened once, by whoever comes first.
type Opening = Arc<tokio::sync::OnceCell<Arc<Feed>>>;

struct Shared {
    store: Store,
    observers: Vec<Observer>,
    feeds: Mutex<HashMap<Arc<str>, Opening>>,
    open: Mutex<HashMap<Arc<str>, Arc<Feed>>>,
}

impl Tail {
    /// A tail over a store.
    pub fn new(store: Store, observers: Vec<Observer>) -> Tail {
        let shared = Shared {
            store,
            observers,
            feeds: Mutex::default(),
            open: Mutex::default(),
        };
        Tail {
            shared: Arc::new(shared),
        }
    }

    /// The feed of a namespace, opened if it is not.
    pub async fn feed(&self, namespace: &Arc<str>) -> Result<Arc<Feed>, Refusal> {
        let cell = {
            let mut feeds = self.shared.feeds.lock().expect("no panic under this lock");
            Arc::clone(feeds.entry(Arc::clone(namespace)).or_default())
        };
        cell.get_or_try_init(|| self.open_feed(namespace)).await.cloned()
    }

    /// Opens a feed: first it hears of commits, then it reads where the log is.
    async fn open_feed(&self, namespace: &Arc<str>) -> Result<Arc<Feed>, Refusal> {
        let feed = {
            let mut open = self.shared.open.lock().expect("no panic under this lock");
            let feed = open.entry(Arc::clone(namespace));
            Arc::clone(feed.or_insert_with(|| Arc::new(Feed::new(Arc::clone(namespace), self.shared.store.clone()))))
        };
        let selection = Selection {
            index: EpochRecord::PRIMARY,
            prefix: Vec::new(),
            after: None,
            limit: 10_000,
            backwards: false,
        };
        let (head, epochs) = self
            .shared
            .store
            .select(namespace, selection)
            .await
            .map_err(|error| refusal_of(&error))?;
        feed.begin(&head, epochs, self.shared.store.epoch());
        Ok(feed)
    }

    /// Hands on what a lane has committed. Commits of one namespace come in order.
    pub fn publish(&self, commit: Arc<Commit>) {
        for observer in &self.shared.observers {
            observer(&commit);
        }
        let feed = self
            .shared
            .open
            .lock()
            .expect("no panic under this lock")
            .get(&commit.namespace)
            .cloned();
        if let Some(feed) = feed {
            feed.publish(&commit);
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
