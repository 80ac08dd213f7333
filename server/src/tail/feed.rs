//! The feed of one namespace: its readers, found by what an event is about, and where the log is.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::directory::Directory;
use super::filter::{FanKey, Filter, keys_of};
use super::read::Lost;
use super::recent::{Recent, Whole};
use super::track::Place;
use super::{Cursor, out_of_range};
use crate::error::{Reason, Refusal};
use crate::events::Event;
use crate::lane::{Commit, EpochRecord};
use crate::machine::{HashMap, HashSet};
use crate::store::{Head, Store};

/// How many events a reader may be behind before it is cut off.
const READER_BUFFER: usize = 4_096;

/// An event on its way to a reader, with the commit that made it if that was here.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: Arc<Event>,
    /// What else its batch changed: a hint that spares a look at the store.
    pub commit: Option<Arc<Commit>>,
}

/// The feed of one namespace.
pub struct Feed {
    namespace: Arc<str>,
    store: Store,
    state: Mutex<State>,
    position: watch::Sender<i64>,
    directory: tokio::sync::OnceCell<()>,
    agents: Mutex<Directory>,
}

#[derive(Default)]
struct State {
    position: i64,
    first_position: i64,
    epoch: i64,
    epochs: Vec<EpochRecord>,
    next_reader: u64,
    /// Why it ended, if it has.
    retired: Option<Refusal>,
    readers: HashMap<u64, Reader>,
    by_key: HashMap<FanKey, Vec<u64>>,
    recent: Recent,
}

struct Reader {
    filter: Filter,
    after: i64,
    sender: mpsc::Sender<Delivery>,
}

impl Feed {
    pub(super) fn new(namespace: Arc<str>, store: Store) -> Feed {
        Feed {
            namespace,
            store,
            state: Mutex::default(),
            position: watch::Sender::new(0),
            directory: tokio::sync::OnceCell::new(),
            agents: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Says where the log is when the feed is opened: after `place`. The epoch is that of the next commit.
    pub(super) fn begin(&self, place: Place, head: &Head, epochs: Vec<EpochRecord>, epoch: i64) {
        let mut state = self.lock();
        state.position = place.position;
        state.first_position = head.first_position;
        state.epoch = head.epoch.max(epoch);
        for record in epochs {
            match state.epochs.iter_mut().find(|known| known.epoch == record.epoch) {
                // The commit that came in between need not be the first of its epoch.
                Some(known) => known.first_position = known.first_position.min(record.first_position),
                None => state.epochs.push(record),
            }
        }
        state.epochs.sort_by_key(|record| record.epoch);
        self.position.send_replace(state.position);
    }

    /// Whether anybody reads it.
    pub(super) fn has_readers(&self) -> bool {
        !self.lock().readers.is_empty()
    }

    /// Whether anybody wants to know at once of what happens.
    pub(super) fn is_watched(&self) -> bool {
        let agents = self.agents.lock().expect("no panic under this lock").is_open();
        agents || self.position.receiver_count() > 0 || self.has_readers()
    }

    /// Ends it: who reads is cut off, and finds out why here.
    pub(super) fn retire(&self, lost: &Lost) {
        {
            let mut state = self.lock();
            state.retired = Some(state.ended_by(lost));
            state.readers.clear();
            state.by_key.clear();
        }
        self.agents.lock().expect("no panic under this lock").retire();
    }

    /// Why it ended, if it has: nothing more comes, and what is read from it is over.
    pub fn retired(&self) -> Option<Refusal> {
        self.lock().retired.clone()
    }

    /// Hands a commit's events to those who want them.
    pub(super) fn publish(&self, commit: &Arc<Commit>) {
        {
            let mut agents = self.agents.lock().expect("no panic under this lock");
            if agents.is_open() {
                agents.apply(commit);
            }
        }
        let mut state = self.lock();
        state.note(commit);
        state.recent.apply(commit);
        let mut cut_off = HashSet::default();
        // Where nobody reads, nobody is looked for.
        let events = if state.readers.is_empty() {
            &[][..]
        } else {
            &commit.events[..]
        };
        for event in events {
            for key in keys_of(event) {
                for id in state.by_key.get(&key).into_iter().flatten() {
                    let reader = &state.readers[id];
                    // Who missed an event gets none after it, even if there is room again.
                    if event.position <= reader.after || cut_off.contains(id) || !reader.filter.matches(event) {
                        continue;
                    }
                    let delivery = Delivery {
                        event: Arc::clone(event),
                        commit: Some(Arc::clone(commit)),
                    };
                    if reader.sender.try_send(delivery).is_err() {
                        cut_off.insert(*id);
                    }
                }
            }
        }
        for id in cut_off {
            state.remove(id);
        }
        self.position.send_replace(state.position);
    }

    /// Reads from now on: every event after the position that the subscription names.
    pub fn subscribe(self: &Arc<Self>, filter: Filter) -> Subscription {
        let (sender, receiver) = mpsc::channel(READER_BUFFER);
        let mut state = self.lock();
        let id = state.next_reader;
        state.next_reader += 1;
        if state.retired.is_some() {
            // Without its sender the receiver has ended.
            let after = state.position;
            return Subscription {
                receiver,
                after,
                id,
                feed: Arc::downgrade(self),
            };
        }
        for key in filter.fan_keys() {
            let readers = state.by_key.entry(key).or_default();
            if readers.last() != Some(&id) {
                readers.push(id);
            }
        }
        let after = state.position;
        state.readers.insert(id, Reader { filter, after, sender });
        Subscription {
            receiver,
            after,
            id,
            feed: Arc::downgrade(self),
        }
    }

    /// The position of the last event that readers were handed.
    pub fn position(&self) -> i64 {
        self.lock().position
    }

    /// A cursor at a position of this log.
    pub fn cursor(&self, position: i64) -> String {
        Cursor {
            epoch: self.lock().epoch,
            position,
        }
        .encode()
    }

    /// A task as it is at the feed's position, and that position; nothing if it is not known here.
    pub fn task(&self, task_id: &str) -> Option<(i64, Whole)> {
        let state = self.lock();
        Some((state.position, state.recent.get(task_id)?))
    }

    /// Follows the position.
    pub fn watch_position(&self) -> watch::Receiver<i64> {
        self.position.subscribe()
    }

    /// Checks that what a cursor saw did happen, and returns its position.
    ///
    /// # Errors
    /// CURSOR_OUT_OF_RANGE: ahead of the log, or from an epoch whose end was lost.
    pub fn check_history(&self, cursor: Cursor) -> Result<i64, Refusal> {
        let state = self.lock();
        let earliest = state.earliest();
        let next_epoch = state.epochs.iter().find(|record| record.epoch > cursor.epoch);
        if next_epoch.is_some_and(|record| cursor.position >= record.first_position) {
            let message = "the cursor is from an epoch whose end was lost: what it saw may not have happened";
            return Err(out_of_range("LOST", message, earliest, state.position));
        }
        // Of an epoch in which nothing was committed yet only the store knows.
        let epoch = state.epoch.max(self.store.epoch());
        if cursor.epoch > epoch || cursor.position > state.position {
            return Err(out_of_range(
                "AHEAD",
                "the cursor is ahead of the log",
                earliest,
                state.position,
            ));
        }
        Ok(cursor.position)
    }

    /// Checks that every event after a cursor can be served, and returns its position.
    ///
    /// # Errors
    /// CURSOR_OUT_OF_RANGE: expired, ahead of the log, or from an epoch whose end was lost.
    pub fn check(&self, cursor: Cursor) -> Result<i64, Refusal> {
        let position = self.check_history(cursor)?;
        self.check_kept(position)?;
        Ok(position)
    }

    /// Checks that every event after a position is kept.
    ///
    /// # Errors
    /// CURSOR_OUT_OF_RANGE.
    pub fn check_kept(&self, position: i64) -> Result<(), Refusal> {
        let state = self.lock();
        let earliest = state.earliest();
        if position < earliest.position {
            return Err(out_of_range(
                "EXPIRED",
                "events after the cursor are no longer kept",
                earliest,
                state.position,
            ));
        }
        Ok(())
    }

    /// The position before the oldest event that is kept.
    pub fn beginning(&self) -> i64 {
        self.lock().first_position - 1
    }

    /// The epoch that is current.
    pub fn epoch(&self) -> i64 {
        self.lock().epoch
    }

    /// Looks at the directory of agents, which is read from the store the first time.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE; why the feed ended, if it has.
    pub async fn directory<T>(&self, look: impl FnOnce(&mut Directory) -> T) -> Result<T, Refusal> {
        if let Some(refusal) = self.retired() {
            return Err(refusal);
        }
        self.directory
            .get_or_try_init(|| async {
                self.agents.lock().expect("no panic under this lock").open();
                let snapshot = super::directory::read(&self.store, &self.namespace).await?;
                self.agents.lock().expect("no panic under this lock").begin(snapshot);
                Ok::<(), Refusal>(())
            })
            .await?;
        Ok(look(&mut self.agents.lock().expect("no panic under this lock")))
    }
}

impl State {
    /// A cursor at the beginning of what is kept.
    fn earliest(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            position: self.first_position - 1,
        }
    }

    fn ended_by(&self, lost: &Lost) -> Refusal {
        let earliest = self.earliest();
        if lost.history {
            let message = "the end of the epoch was lost: what was seen may not have happened";
            return out_of_range("LOST", message, earliest, lost.head.position);
        }
        Refusal::new(
            Reason::SlowConsumer,
            "the server fell behind the log; begin again from the cursor",
        )
        .with(
            "cursor",
            Cursor {
                epoch: self.epoch,
                position: self.position,
            }
            .encode(),
        )
        .retry_after(Duration::from_millis(100))
    }

    fn note(&mut self, commit: &Commit) {
        // Batches come in order, some of them without their events: this one begins where the last one ended.
        let first_position = self.position + 1;
        self.position = self.position.max(commit.head.position);
        self.first_position = self.first_position.max(commit.head.first_position);
        self.epoch = self.epoch.max(commit.head.epoch);
        let epoch = commit.head.epoch;
        if self.epochs.last().is_none_or(|last| last.epoch < epoch) {
            self.epochs.push(EpochRecord {
                epoch,
                first_position,
                first_batch: commit.head.batch,
            });
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(reader) = self.readers.remove(&id) else {
            return;
        };
        for key in reader.filter.fan_keys() {
            if let Some(readers) = self.by_key.get_mut(&key) {
                readers.retain(|reader| *reader != id);
                if readers.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
    }
}

/// A reader's end of the feed.
pub struct Subscription {
    receiver: mpsc::Receiver<Delivery>,
    /// Every wanted event after this position comes.
    pub after: i64,
    id: u64,
    feed: Weak<Feed>,
}

impl Subscription {
    /// The next event; nothing once the reader was cut off because it did not keep up.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.receiver.recv().await
    }

    /// The next event if it is there already.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.receiver.try_recv().ok()
    }

    /// Whether the reader was cut off because it did not keep up; what it was sent before can still be read.
    pub fn is_cut_off(&self) -> bool {
        self.receiver.is_closed()
    }

    /// Whether the reader has seen all that the feed has handed out: nothing is waiting, and nothing was missed.
    pub fn is_up_to_date(&self) -> bool {
        self.receiver.is_empty() && !self.receiver.is_closed()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(feed) = self.feed.upgrade() {
            feed.lock().remove(self.id);
        }
    }
}
