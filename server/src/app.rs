//! The only place where the parts are put together.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::config::{Defaults, Limits, Policy, Retention};
use crate::lane::Lanes;
use crate::machine;
use crate::sessions::beats::Beats;
use crate::sessions::gap::Gap;
use crate::sessions::pulse::Pulse;
use crate::sessions::watch::Watchman;
use crate::store::{Store, StoreError};
use crate::sweep::{Due, Sweep};
use crate::tail::{OnLost, Tail};

/// A server's parts, as the doors see them.
pub struct App {
    /// The truth.
    pub store: Store,
    /// Where changes are decided.
    pub lanes: Lanes,
    /// Where what happened is heard of.
    pub tail: Tail,
    /// Signs of life.
    pub beats: Beats,
    /// Where signs of life are written, if servers share the store.
    pub pulse: Option<Pulse>,
    /// When signs of life could not be seen.
    pub gap: Gap,
    /// What the server accepts.
    pub limits: Limits,
    /// What holds where a request does not say.
    pub defaults: Defaults,
    /// How long things are kept.
    pub retention: Retention,
    /// Set when the server is stopping: streams end, health says NOT_SERVING.
    pub draining: CancellationToken,
}

impl App {
    /// Puts a server together over a store and a bus, and starts what runs beside the calls.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn start(store: Store, bus: Bus, policy: Policy) -> Result<Arc<App>, StoreError> {
        let Policy {
            limits,
            defaults,
            retention,
        } = policy;
        let beats = Beats::new();
        let due = Due::new(&retention);
        let observers: Vec<crate::tail::Observer> = vec![beats.observer(), due.observer()];
        let draining = CancellationToken::new();
        let (lost, lost_of) = tokio::sync::mpsc::unbounded_channel();
        let on_lost: OnLost = Box::new(move |namespace| drop(lost.send(Arc::clone(namespace))));
        let gap = Gap::new();
        let tail = Tail::start(store.clone(), bus, observers, on_lost, &gap, draining.clone()).await?;
        let lanes = Lanes::new(store.clone(), tail.clone(), gap.clone(), retention);
        let watchman = Watchman {
            store: store.clone(),
            lanes: lanes.clone(),
            beats: beats.clone(),
            gap: gap.clone(),
            asker: gap.asker(),
        };
        let alive = watchman.alive().await?;
        // Up to here nobody could make themselves heard.
        gap.ends();
        Sweep::start(
            due.clone(),
            store.clone(),
            lanes.clone(),
            gap.clone(),
            retention,
            draining.clone(),
        );
        watchman.clone().start(alive, draining.clone());
        let begin_again = begin_again(lost_of, watchman, due);
        let stopping = draining.clone();
        machine::spawn(async move { stopping.run_until_cancelled(begin_again).await });
        let pulse = store
            .is_shared()
            .then(|| Pulse::start(store.clone(), beats.home().to_owned(), &gap));
        Ok(Arc::new(App {
            store,
            lanes,
            tail,
            beats,
            pulse,
            gap,
            limits,
            defaults,
            retention,
            draining,
        }))
    }
}

/// Reads again what is known of a namespace whose history was lost.
async fn begin_again(mut lost: tokio::sync::mpsc::UnboundedReceiver<Arc<str>>, watchman: Watchman, due: Due) {
    while let Some(namespace) = lost.recv().await {
        due.now(&namespace);
        watchman.begin_again(&namespace).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::machine::simulated;
    use crate::store::simulated::Database;

    #[tokio::test(start_paused = true)]
    async fn the_gap_of_a_start_ends_when_the_store_has_answered() {
        let _machine = simulated::Simulated::new(1);
        let database = Database::new(true);
        let store = Store::Simulated(database.connect());
        database.freeze();
        let thaws = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            database.thaw();
        };
        let (app, _) = tokio::join!(App::start(store, Bus::Local, Policy::default()), thaws);
        let app = app.expect("the store is there in the end");
        assert!(app.gap.end().elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_was_silent_while_nobody_called_was_silent() {
        let _machine = simulated::Simulated::new(1);
        let database = Database::new(true);
        let store = Store::Simulated(database.connect());
        let app = App::start(store, Bus::Local, Policy::default()).await;
        let app = app.expect("the store is there");
        let (short, long) = (Duration::from_millis(900), Duration::from_millis(2_500));
        tokio::time::sleep(long).await;
        let began = app.gap.end();
        database.freeze();
        tokio::time::sleep(short).await;
        database.thaw();
        tokio::time::sleep(short).await;
        assert_eq!(app.gap.end(), began, "no gap, and nothing that looks like one");
        database.freeze();
        tokio::time::sleep(long).await;
        assert_eq!(app.gap.end(), tokio::time::Instant::now(), "it goes on");
        let thawed = tokio::time::Instant::now();
        database.thaw();
        tokio::time::sleep(short).await;
        assert_eq!(app.gap.end(), thawed);
    }
}
