//! The only place where the parts are put together.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::lane::Lanes;
use crate::sessions::beats::Beats;
use crate::store::Store;
use crate::sweep::{Due, Sweep};
use crate::tail::Tail;
use crate::time::Time;

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
    /// What the server accepts.
    pub limits: Limits,
    /// Set when the server is stopping: streams end, health says NOT_SERVING.
    pub draining: CancellationToken,
}

impl App {
    /// Puts a server together over a store and starts what runs beside the calls.
    pub fn start(store: Store, limits: Limits) -> Arc<App> {
        let beats = Beats::new();
        let due = Due::new();
        let observers: Vec<crate::tail::Observer> = vec![beats.observer(), due.observer()];
        let tail = Tail::new(store.clone(), observers);
        let lanes = Lanes::new(store.clone(), tail.clone());
        let draining = CancellationToken::new();
        Sweep::start(due, store.clone(), lanes.clone(), || Time(0), draining.clone());
        Arc::new(App {
            store,
            lanes,
            tail,
            beats,
            limits,
            draining,
        })
    }
}
