//! A lock that is held: it renews itself, and tells its holder before the lease is over.
//!
//! The server is authoritative over who holds the lock; the guard is what its holder may assume. It renews at a third of the
//! lease, at whichever replica answers. A renewal that fails for want of an answer is tried again, at another address at once
//! and after waits that fit into what is left, until the margin before the lease's end; only
//! then, or when the server says that the lease is over, is the lock lost. From that moment [`LockGuard::lost`] is
//! ready and [`LockGuard::is_held`] false, while the server does not yet give the lock to another.
//!
//! `is_held` looks at the clock, so it is right even where the task that renews did not get to run. What must be
//! safe even so carries [`LockGuard::guard`], which the server checks in the same transaction.

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use drumline_proto::v1 as pb;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, request_id};
use crate::error::{Error, Kind, Result};
use crate::lease::Lease;
use crate::retry::Tries;
use crate::time;

/// A lock that is held. Dropping it gives the lock back in the background; [`LockGuard::release`] waits for that.
#[derive(Debug)]
#[must_use = "the lock is given back when the guard is dropped"]
pub struct LockGuard {
    held: Arc<Held>,
    renewer: JoinHandle<()>,
    runtime: Handle,
    released: bool,
}

/// What the guard and the task that renews share.
#[derive(Debug)]
struct Held {
    client: Client,
    resource: String,
    holder: String,
    token: i64,
    lease: Mutex<Lease>,
    lost: CancellationToken,
    cause: OnceLock<Error>,
}

impl LockGuard {
    /// Begins to renew. Must be called on a runtime, as it is by the call that acquired the lock.
    pub(crate) fn new(client: Client, lock: pb::Lock, lease: Lease) -> Self {
        let lost = match client.session() {
            Some(session) => session.watch_lease(&lock.resource_id, lock.fencing_token),
            None => CancellationToken::new(),
        };
        let held = Arc::new(Held {
            client,
            resource: lock.resource_id,
            holder: lock.holder_id,
            token: lock.fencing_token,
            lease: Mutex::new(lease),
            lost,
            cause: OnceLock::new(),
        });
        let renewer = tokio::spawn(keep(held.clone()));
        Self {
            held,
            renewer,
            runtime: Handle::current(),
            released: false,
        }
    }

    /// What is locked.
    pub fn resource_id(&self) -> &str {
        &self.held.resource
    }

    /// Who holds it.
    pub fn holder_id(&self) -> &str {
        &self.held.holder
    }

    /// The fencing token: show it to whatever the lock protects.
    pub fn token(&self) -> i64 {
        self.held.token
    }

    /// The proof that goes with a guarded write: the server refuses the write unless the lock is held then.
    pub fn guard(&self) -> pb::Guard {
        pb::Guard {
            resource_id: self.held.resource.clone(),
            fencing_token: self.held.token,
        }
    }

    /// Whether the holder may still act, by this process's clock.
    pub fn is_held(&self) -> bool {
        !self.held.lost.is_cancelled() && self.held.lease().is_usable(Instant::now())
    }

    /// How long the holder may act if no renewal succeeds any more.
    pub fn remaining(&self) -> Duration {
        if self.held.lost.is_cancelled() {
            return Duration::ZERO;
        }
        self.held.lease().remaining(Instant::now())
    }

    /// Waits until the lock is lost, which is told before another can have it; says why.
    pub async fn lost(&self) -> Error {
        self.held.lost.cancelled().await;
        self.held.why()
    }

    /// Fires when the lock is lost.
    pub fn lost_token(&self) -> CancellationToken {
        self.held.lost.child_token()
    }

    /// Runs a future for as long as the lock is held: if it is lost, the future is dropped and the reason returned.
    pub async fn protect<F: Future>(&self, work: F) -> Result<F::Output> {
        tokio::select! {
            biased;
            error = self.lost() => Err(error),
            output = work => Ok(output),
        }
    }

    /// Gives the lock back, and waits for that. An error if it was lost before.
    pub async fn release(mut self) -> Result<()> {
        if self.held.lost.is_cancelled() {
            return Err(self.held.why());
        }
        self.released = true;
        self.renewer.abort();
        self.held.forget();
        self.held.release().await
    }

    pub(crate) async fn renew_once(&self, budget: Duration) -> Result<()> {
        self.held.renew(budget).await
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.renewer.abort();
        self.held.forget();
        if self.released || self.held.is_over_for_good() {
            return;
        }
        // Also where it is only lost by our own clock: the server may hold it for us for long yet.
        let held = self.held.clone();
        self.runtime.spawn(async move {
            if let Err(error) = held.release().await {
                tracing::debug!(%error, resource = held.resource, "a dropped lock was not given back");
            }
        });
    }
}

impl Held {
    fn lease(&self) -> Lease {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, cause: Error) {
        tracing::warn!(resource = self.resource, token = self.token, %cause, "a lock is lost");
        // Only the first cause is told; a second one changes nothing.
        let _first = self.cause.set(cause);
        self.lost.cancel();
        self.forget();
    }

    fn why(&self) -> Error {
        let told = || Error::lost(format!("the lock on {} was taken away", self.resource));
        self.cause.get().cloned().unwrap_or_else(told)
    }

    /// Whether the server itself said that the lease is over.
    fn is_over_for_good(&self) -> bool {
        self.cause.get().is_some_and(|cause| cause.kind() == Kind::Refused)
    }

    fn forget(&self) {
        if let Some(session) = self.client.session() {
            session.forget_lease(&self.resource, self.token);
        }
    }

    /// One try of a renewal. Each is a request of its own, since a repeated answer would carry the older lease.
    async fn renew(&self, budget: Duration) -> Result<()> {
        let request = pb::RenewLockRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            resource_id: self.resource.clone(),
            fencing_token: self.token,
            ttl: None,
        };
        let sent = Instant::now();
        let send = |stubs: crate::Stubs, request| async move { stubs.locks().renew_lock(request).await };
        let response = self.client.call_once(budget, request, send).await?;
        let ttl = response.lock.and_then(|lock| lock.ttl);
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let ttl = ttl.map_or(lease.ttl(), |ttl| time::from_proto(Some(ttl)));
        lease.renewed(sent, ttl);
        Ok(())
    }

    async fn release(&self) -> Result<()> {
        let released = self.client.locks().release(&self.resource, self.token).await;
        released.map(|_| ())
    }
}

/// Renews until the lock is lost; the guard ends it when it is given back.
async fn keep(held: Arc<Held>) {
    let mut tries = Tries::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut next = held.lease().renew_at();
    loop {
        let end = held.lease().usable_until();
        tokio::select! {
            biased;
            () = held.lost.cancelled() => return,
            () = sleep_until(end.into()) => {
                return held.lose(Error::lost("the lease could not be renewed in time"));
            }
            () = sleep_until(next.into()) => {}
        }
        let budget = held.lease().renewal_timeout(Instant::now());
        let renewed = tokio::select! {
            biased;
            () = held.lost.cancelled() => return,
            renewed = held.renew(budget) => renewed,
        };
        match renewed {
            Ok(()) => {
                tries.reset();
                next = held.lease().renew_at();
            }
            Err(error) if error.is_lease_over() || error.is_session_over() => {
                return held.lose(error);
            }
            Err(error) => {
                tracing::debug!(%error, resource = held.resource, "a renewal failed");
                let now = Instant::now();
                let wait = tries.wait(held.client.addresses(), &error);
                next = now + wait.min(held.lease().renewal_timeout(now));
            }
        }
    }
}
