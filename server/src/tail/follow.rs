//! Following what other servers commit: hints as they come, and the store where hints are missing.
//!
//! A namespace in which a batch is missing is read in the store; while hints come, what is missing is mostly on its way, so it is waited
//! for a moment. Beside that the store is asked regularly what its newest batches are: that finds what no hint told of.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::space::Space;
use super::track::Place;
use crate::bus::Heard;
use crate::machine::{self, HashMap, Instant};
use crate::store::{Newest, StoreError};

/// How often the store is asked for what is new while someone waits, or while it does not answer.
const POLL: Duration = Duration::from_millis(250);
/// How often while nobody does: timers and deaths that another server left behind are found then, and that the store is silent.
const SLOW_POLL: Duration = Duration::from_secs(1);
/// The least time from one look to the next, however often something may have been missed: who can publish on the bus's channel can say so
/// without end.
const BREATH: Duration = Duration::from_millis(25);
/// How long a missing batch is waited for before it is read, while hints come.
const GRACE: Duration = Duration::from_millis(3);

/// Finds out where each namespace is now: what is committed later is followed from there.
pub(super) async fn begin(shared: &Shared) -> Result<(), StoreError> {
    let heads = shared.store.heads().await?;
    let own_epoch = if shared.store.is_shared() {
        0
    } else {
        shared.store.epoch()
    };
    let mut spaces = shared.spaces.lock().expect("no panic under this lock");
    for newest in heads {
        let place = Place {
            // Nobody else has written to a store that is this server's alone: the epoch that began with its opening goes on from here.
            epoch: newest.epoch.max(own_epoch),
            batch: newest.batch,
            position: newest.position,
        };
        let namespace: Arc<str> = newest.namespace.into();
        spaces.insert(Arc::clone(&namespace), Arc::new(Space::new(namespace, place)));
    }
    Ok(())
}

/// Follows until the server stops.
pub(super) async fn run(
    shared: Weak<Shared>,
    mut missing: mpsc::UnboundedReceiver<Arc<str>>,
    draining: CancellationToken,
) {
    let (mut hints, is_shared) = match shared.upgrade() {
        Some(shared) => (shared.bus.listen(), shared.store.is_shared()),
        None => return,
    };
    let mut hears = true;
    let mut polls = Polls::new(Instant::now());
    loop {
        crate::select! {
            heard = hints.recv(), if hears => {
                let Some(shared) = shared.upgrade() else { return };
                match heard {
                    Some(Heard::Hint(hint)) => {
                        shared.store.heard_of(hint.head.epoch);
                        match hint.commit {
                            Some(commit) => shared.take(commit),
                            None => shared.told(&hint.namespace, hint.head.batch, hint.head.epoch),
                        }
                    }
                    Some(Heard::Interrupted) => polls.hurry(Instant::now()),
                    None => hears = false,
                }
            }
            namespace = missing.recv() => {
                let (Some(shared), Some(namespace)) = (shared.upgrade(), namespace) else { return };
                machine::spawn(async move { shared.fetch(&namespace).await });
            }
            () = tokio::time::sleep_until(polls.next), if is_shared => {
                let Some(shared) = shared.upgrade() else { return };
                let is_watched = shared.is_watched();
                let is_answered = shared.poll().await;
                let pause = if is_answered && !is_watched { SLOW_POLL } else { POLL };
                polls.done(Instant::now(), pause);
            }
            () = draining.cancelled() => return,
        }
    }
}

/// When the store is asked what is new.
struct Polls {
    next: Instant,
    /// Not before this.
    rested: Instant,
}

impl Polls {
    fn new(now: Instant) -> Polls {
        Polls { next: now, rested: now }
    }

    /// Something may have been missed: at once, unless that was just now.
    fn hurry(&mut self, now: Instant) {
        self.next = self.next.min(self.rested.max(now));
    }

    fn done(&mut self, now: Instant, pause: Duration) {
        (self.next, self.rested) = (now + pause, now + BREATH);
    }
}

impl Shared {
    /// Notes that there is a batch in a namespace.
    fn told(self: &Arc<Self>, namespace: &Arc<str>, batch: i64, epoch: i64) {
        let place = self.space(namespace).place();
        if batch > place.batch || epoch > place.epoch {
            let (shared, namespace) = (Arc::clone(self), Arc::clone(namespace));
            machine::spawn(async move { shared.read(&namespace).await });
        }
    }

    /// Reads what is missing, if it does not come by itself.
    async fn fetch(&self, namespace: &Arc<str>) {
        if self.store.is_shared() && self.bus.is_connected() {
            tokio::time::sleep(GRACE).await;
        }
        if self.space(namespace).is_waiting() {
            self.read(namespace).await;
        }
    }

    /// Reads what is new in a namespace. Says whether it was answered.
    async fn read(&self, namespace: &Arc<str>) -> bool {
        let read = self.space(namespace).catch_up(self).await;
        if let Err(refusal) = &read {
            // The next poll finds it again.
            tracing::debug!(%namespace, %refusal, "what is new could not be read");
        }
        read.is_ok()
    }

    /// Asks the store what is new. Says whether it was answered.
    async fn poll(self: &Arc<Self>) -> bool {
        let heads = match self.asker.heard(self.store.heads()).await {
            Ok(heads) => heads,
            Err(error) => {
                tracing::debug!(%error, "the newest batches could not be read");
                return false;
            }
        };
        let behind = heads.into_iter().filter_map(|newest| self.behind(&newest));
        let reads = behind.map(|namespace| async move { self.read(&namespace).await });
        futures::future::join_all(reads).await.into_iter().all(|read| read)
    }

    /// The namespace, if its newest batch is not what was handed on last.
    fn behind(&self, newest: &Newest) -> Option<Arc<str>> {
        let namespace: Arc<str> = newest.namespace.as_str().into();
        let place = self.space(&namespace).place();
        (newest.batch != place.batch || newest.epoch > place.epoch).then_some(namespace)
    }

    fn is_watched(&self) -> bool {
        let spaces: HashMap<_, _> = self.spaces.lock().expect("no panic under this lock").clone();
        spaces
            .values()
            .any(|space| space.feed().is_some_and(|feed| feed.is_watched()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_missed_is_looked_for_at_once_and_not_without_end() {
        let start = Instant::now();
        let mut polls = Polls::new(start);
        polls.done(start, SLOW_POLL);
        let (mut looks, tick) = (Vec::new(), Duration::from_millis(1));
        // After a while of quiet somebody says a thousand times in a second that something was missed.
        for millis in 100..1_100 {
            let now = start + tick * millis;
            polls.hurry(now);
            if polls.next <= now {
                looks.push(millis);
                polls.done(now, POLL);
            }
        }
        assert_eq!(looks[..3], [100, 125, 150]);
        assert_eq!(looks.len(), 40);
        assert_eq!(polls.next, start + tick * 1_100, "and once more for what was said last");
    }
}
