//! The only place where the parts are put together.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::{Defaults, Limits, Policy, Retention};
use crate::lane::Lanes;
use crate::sessions::beats::Beats;
use crate::sessions::gap::Gap;
use crate::sessions::watch::Watchman;
use crate::store::Store;
use crate::sweep::{Due, Sweep};
use crate::tail::Tail;

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
    /// Puts a server together over a store and starts what runs beside the calls.
    pub fn start(store: Store, policy: Policy) -> Arc<App> {
        let Policy {
            limits,
            defaults,
            retention,
        } = policy;
        let beats = Beats::new();
        let gap = Gap::new();
        let due = Due::new(&retention);
        let observers: Vec<crate::tail::Observer> = vec![beats.observer(), due.observer()];
        let tail = Tail::new(store.clone(), observers);
        let lanes = Lanes::new(store.clone(), tail.clone(), gap.clone(), retention);
        let draining = CancellationToken::new();
        let sweep = Sweep {
            due,
            store: store.clone(),
            lanes: lanes.clone(),
            gap: gap.clone(),
            retention,
        };
        sweep.start(draining.clone());
        let watchman = Watchman {
            store: store.clone(),
            lanes: lanes.clone(),
            beats: beats.clone(),
            gap: gap.clone(),
        };
        watchman.start(draining.clone());
        Arc::new(App {
            store,
            lanes,
            tail,
            beats,
            gap,
            limits,
            defaults,
            retention,
            draining,
        })
    }
}
