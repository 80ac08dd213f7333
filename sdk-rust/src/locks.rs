//! Locks: asking for one, and looking at those that are held. What is got is a [`LockGuard`].

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use drumline_proto::v1 as pb;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::client::{Client, request_id};
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::stream::paged;
use crate::time;

pub use crate::lock_guard::LockGuard;

/// `LockService`.
#[derive(Clone, Debug)]
pub struct Locks {
    client: Client,
}

impl Locks {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Asks for the lock on a resource. Await it, or say more first; without a session it needs a holder.
    pub fn acquire(&self, resource_id: &str) -> Acquire {
        let request = pb::AcquireLockRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            resource_id: resource_id.into(),
            ..Default::default()
        };
        Acquire {
            client: self.client.clone(),
            request,
            wait: Duration::ZERO,
        }
    }

    /// Asks for the lock on a resource and leaves the lease to the caller: no guard renews it or gives it back. The request's
    /// namespace, session and `request_id` are filled in.
    pub async fn acquire_unguarded(&self, request: pb::AcquireLockRequest) -> Result<pb::Lock> {
        let budget = time::from_proto(request.wait_timeout) + self.client.timeout();
        let request = pb::AcquireLockRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            ..request
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.locks().acquire_lock(request).await };
        let answer = self.client.call_within(budget, request, send).await?;
        Ok(answer.message.lock.unwrap_or_default())
    }

    /// Gives back a lock that no guard gives back.
    pub async fn release(&self, resource_id: &str, fencing_token: i64) -> Result<pb::ReleaseLockResponse> {
        let request = pb::ReleaseLockRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            resource_id: resource_id.into(),
            fencing_token,
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.locks().release_lock(request).await };
        self.client.call(request, send).await
    }

    /// The lock on a resource; an error with reason `LockNotFound` if nobody holds it.
    pub async fn get(&self, resource_id: &str) -> Result<pb::Lock> {
        let namespace = self.client.namespace();
        let request = pb::GetLockRequest {
            namespace,
            resource_id: resource_id.into(),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.locks().get_lock(request).await };
        Ok(self.client.call(request, send).await?.lock.unwrap_or_default())
    }

    /// The locks that are held on resources that begin so, page by page as they are asked for.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<pb::Lock>> {
        let (client, prefix) = (self.client.clone(), prefix.to_owned());
        Box::pin(paged(move |page_token| {
            let client = client.clone();
            let request = pb::ListLocksRequest {
                namespace: client.namespace(),
                prefix: prefix.clone(),
                page_token,
                ..Default::default()
            };
            async move {
                let response = client
                    .call(request, |stubs, request| async move {
                        stubs.locks().list_locks(request).await
                    })
                    .await?;
                Ok((response.locks, response.next_page_token))
            }
        }))
    }
}

/// A lock that has not been asked for yet.
#[derive(Clone, Debug)]
#[must_use = "a lock is not asked for until this is awaited"]
pub struct Acquire {
    client: Client,
    request: pb::AcquireLockRequest,
    wait: Duration,
}

impl Acquire {
    /// How long the lease lasts without a renewal: 1 s to 24 h; 300 s if it is not set. The guard renews it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl = Some(time::to_proto(ttl));
        self
    }

    /// How long to wait in the queue, at most 10 min; not at all if it is not set.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.request.wait_timeout = Some(time::to_proto(wait));
        self.wait = wait;
        self
    }

    /// Who holds it, within the session. By default the attempt, or this request.
    pub fn holder_id(mut self, holder_id: impl Into<String>) -> Self {
        self.request.holder_id = holder_id.into();
        self
    }

    /// The attempt that the lock is for: it ends with it.
    pub fn attempt_token(mut self, token: impl Into<String>) -> Self {
        self.request.attempt_token = token.into();
        self
    }

    /// Links the lock's events to others.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.request.correlation_id = id.into();
        self
    }

    /// Asks for it. Dropping the future leaves the queue.
    pub async fn send(self) -> Result<LockGuard> {
        let budget = self.wait + self.client.timeout();
        let send = |stubs: crate::Stubs, request| async move { stubs.locks().acquire_lock(request).await };
        let answer = self.client.call_within(budget, self.request, send).await?;
        let lock = answer.message.lock.unwrap_or_default();
        let ttl = time::from_proto(lock.ttl);
        let queued = time::from_proto(answer.message.queued);
        // After a retry it is not known which try was granted: count from the first, which is the safe side…
        let lease = Lease::granted(answer.first_sent, queued, ttl);
        let guard = LockGuard::new(self.client, lock, lease);
        // …and renew at once, which says it exactly.
        if answer.tries > 1 || !lease.is_usable(Instant::now()) {
            guard.renew_once(ttl / 3).await.or_else(|error| {
                let unanswered = error.is_indeterminate() || error.is_retryable();
                if guard.is_held() && unanswered {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
        }
        if guard.is_held() {
            Ok(guard)
        } else {
            Err(Error::lost("the lease was over when it came"))
        }
    }
}

impl IntoFuture for Acquire {
    type Output = Result<LockGuard>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
