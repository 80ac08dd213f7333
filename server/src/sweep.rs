//! Timers: what is due is looked at again, in bounded jobs, and nothing is done while nothing is due.

use tokio_util::sync::CancellationToken;

use crate::lane::Lanes;
use crate::sessions::beats::Beats;
use crate::store::Store;
use crate::tail::Observer;

/// The timers of a server, before they run.
pub struct Sweep;

/// Hears of what becomes due.
pub struct Due;

impl Due {
    /// What keeps the timers in step with what is committed.
    pub fn observer(&self) -> Observer {
        Box::new(|_commit| {})
    }
}

impl Sweep {
    /// Timers, and what tells them of commits.
    pub fn new() -> (Sweep, Due) {
        (Sweep, Due)
    }

    /// Starts them.
    pub fn start(self, _store: Store, _lanes: Lanes, _beats: Beats, _draining: CancellationToken) {}
}
