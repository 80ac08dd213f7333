//! One namespace as the tail has it: its track, and its feed if anybody reads.
//!
//! A batch is handed on under one lock: to the observers, then to the feed, in the order of the batches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::feed::Feed;
use super::read::{self, Lost, Page};
use super::track::{Next, Place, Track};
use super::{Observer, Shared};
use crate::error::Refusal;
use crate::lane::{Commit, refusal_of};
use crate::store::StoreError;

/// A namespace.
pub(super) struct Space {
    pub(super) namespace: Arc<str>,
    state: Mutex<State>,
    /// Held by who reads in the store for this namespace.
    reading: tokio::sync::Mutex<()>,
    /// How many have asked for a reading.
    asked: AtomicU64,
    /// How many had asked when the last reading that was finished began.
    served: AtomicU64,
}

#[derive(Default)]
struct State {
    track: Track,
    feed: Option<Arc<Feed>>,
}

/// What reading in the store came to.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// Everything was handed on that was there.
    Done,
    /// There is more.
    More,
}

impl Space {
    pub(super) fn new(namespace: Arc<str>, place: Place) -> Space {
        let state = State {
            track: Track::at(place),
            feed: None,
        };
        Space {
            namespace,
            state: Mutex::new(state),
            reading: tokio::sync::Mutex::default(),
            asked: AtomicU64::new(0),
            served: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Up to where the log was handed on.
    pub(super) fn place(&self) -> Place {
        self.lock().track.place()
    }

    /// Whether something waits for what is missing before it.
    pub(super) fn is_waiting(&self) -> bool {
        self.lock().track.is_waiting()
    }

    /// The feed, if it is open.
    pub(super) fn feed(&self) -> Option<Arc<Feed>> {
        self.lock().feed.clone()
    }

    /// Takes in a batch, and hands on what is next. False if something before it is missing.
    pub(super) fn take(&self, commit: Arc<Commit>, observers: &[Observer]) -> bool {
        let mut state = self.lock();
        match state.track.take(commit) {
            Next::HandOn(commits) => {
                state.hand_on(&commits, observers);
                true
            }
            Next::Known => true,
            Next::Missing => false,
        }
    }

    /// Hands on everything that is committed when this is called. Of many who call at the same time one reads in the store.
    pub(super) async fn catch_up(&self, shared: &Shared) -> Result<(), Refusal> {
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let _reading = self.reading.lock().await;
        if self.served.load(Ordering::Acquire) >= ticket {
            return Ok(());
        }
        let asked = self.asked.load(Ordering::Acquire);
        self.read_all(shared).await.map_err(|error| refusal_of(&error))?;
        self.served.store(asked, Ordering::Release);
        Ok(())
    }

    /// The feed, opened if it is not. Everything that was committed before this is called has been handed on in it.
    pub(super) async fn open(&self, shared: &Shared) -> Result<Arc<Feed>, Refusal> {
        let feed = self.feed();
        if !shared.store.is_shared() {
            // Only this server commits: what it commits is handed on before it is answered.
            if let Some(feed) = feed.filter(|_| !self.is_waiting()) {
                return Ok(feed);
            }
        }
        self.catch_up(shared).await?;
        if let Some(feed) = self.feed() {
            return Ok(feed);
        }
        let _reading = self.reading.lock().await;
        if let Some(feed) = self.feed() {
            return Ok(feed);
        }
        loop {
            let (head, epochs) = read::epochs(&shared.store, &self.namespace)
                .await
                .map_err(|error| refusal_of(&error))?;
            let mut state = self.lock();
            let place = state.track.place();
            if place.batch > head.batch && place.epoch > head.epoch {
                // The first batch of an epoch was handed on meanwhile: what was read does not say where that began.
                continue;
            }
            let feed = Arc::new(Feed::new(Arc::clone(&self.namespace), shared.store.clone()));
            feed.begin(place, &head, epochs, shared.store.epoch());
            state.feed = Some(Arc::clone(&feed));
            return Ok(feed);
        }
    }

    async fn read_all(&self, shared: &Shared) -> Result<(), StoreError> {
        loop {
            let (place, feed) = {
                let state = self.lock();
                (state.track.place(), state.feed.clone())
            };
            let with_events = feed.is_some_and(|feed| feed.has_readers());
            let page = read::page(&shared.store, &self.namespace, place, with_events);
            match shared.asker.heard(page).await? {
                Ok(page) => {
                    if self.take_page(page, with_events, &shared.observers) == Reading::Done {
                        return Ok(());
                    }
                }
                Err(lost) => {
                    tracing::warn!(namespace = %self.namespace, ?place, ?lost, "what was followed does not go on");
                    self.begin_again(&lost);
                    (shared.on_lost)(&self.namespace);
                }
            }
        }
    }

    /// Hands on what was read.
    fn take_page(&self, page: Page, with_events: bool, observers: &[Observer]) -> Reading {
        let mut state = self.lock();
        let reads = state.feed.as_ref().is_some_and(|feed| feed.has_readers());
        if reads && !with_events && !page.commits.is_empty() {
            // Somebody has come meanwhile who wants the events of these batches.
            return Reading::More;
        }
        for commit in page.commits {
            let place = state.track.place();
            if commit.head.epoch > place.epoch {
                if commit.head.batch != place.batch + 1 {
                    // Meanwhile a batch was handed on that this one has taken the place of: that history was lost.
                    return Reading::More;
                }
                let waited = state.track.enter(commit.head.epoch);
                state.hand_on(&waited, observers);
            }
            if let Next::HandOn(commits) = state.track.take(Arc::new(commit)) {
                state.hand_on(&commits, observers);
            }
        }
        if page.is_last { Reading::Done } else { Reading::More }
    }

    /// Gives up what was followed: who reads is cut off, and what comes next is followed from the head.
    fn begin_again(&self, lost: &Lost) {
        let mut state = self.lock();
        if let Some(feed) = state.feed.take() {
            feed.retire(lost);
        }
        state.track = Track::at(lost.head);
    }
}

impl State {
    fn hand_on(&self, commits: &[Arc<Commit>], observers: &[Observer]) {
        for commit in commits {
            for observer in observers {
                observer(commit);
            }
            if let Some(feed) = &self.feed {
                feed.publish(commit);
            }
        }
    }
}
