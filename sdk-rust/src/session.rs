//! What a client that acts under a session knows of it, shared by its clones.
//!
//! The server decides when a session is over; the agent runtime learns of it (or, by its own clock, assumes it) and
//! fires [`SessionScope::over`]. Lock guards that were taken under the session listen here, so that a lease
//! that the server took away is known at once and not at the next renewal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// One session, as those who act under it see it.
#[derive(Clone, Debug)]
pub(crate) struct SessionScope {
    id: Arc<str>,
    /// Fired when the session is over.
    over: CancellationToken,
    leases: Arc<Mutex<HashMap<(String, i64), CancellationToken>>>,
}

impl SessionScope {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            over: CancellationToken::new(),
            leases: Arc::default(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// Begins to listen for the loss of a lease; also fired when the session is over.
    pub(crate) fn watch_lease(&self, resource: &str, token: i64) -> CancellationToken {
        let lost = self.over.child_token();
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.insert((resource.to_owned(), token), lost.clone());
        lost
    }

    /// Stops to listen.
    pub(crate) fn forget_lease(&self, resource: &str, token: i64) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.remove(&(resource.to_owned(), token));
    }

    /// The server says that a lease is lost.
    pub(crate) fn lease_lost(&self, resource: &str, token: i64) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lost) = leases.remove(&(resource.to_owned(), token)) {
            lost.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_reaches_the_one_lease_and_the_end_of_the_session_all() {
        let session = SessionScope::new("s");
        let first = session.watch_lease("a", 1);
        let second = session.watch_lease("a", 2);
        session.lease_lost("a", 1);
        assert!(first.is_cancelled() && !second.is_cancelled());
        session.over().cancel();
        assert!(second.is_cancelled());
    }
}
