//! The client: where the server is, what is sent with every call, and how calls are tried again.
//!
//! A call is tried again while its error is retryable ([`Error::is_retryable`]) and its deadline has not
//! passed, after a jittered wait, at the next address if there are several. What is sent is the very same request with the very
//! same `request_id`, so that a change is made once however often it was sent.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::backoff::Backoff;
use crate::connect::ClientBuilder;
use crate::error::{Error, Kind, Result};
use crate::session::SessionScope;
use crate::stubs::Stubs;
use crate::{events, locks, registry, state, tasks, workflows};

/// A client of a Drumline server. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    scope: Scope,
}

#[derive(Debug)]
struct Inner {
    endpoints: Vec<Endpoint>,
    channels: Vec<Channel>,
    /// The address that is in use: the others are turned to when it fails.
    current: AtomicUsize,
}

/// What every call of a client carries.
#[derive(Clone, Debug)]
struct Scope {
    namespace: Arc<str>,
    timeout: Duration,
    session: Option<SessionScope>,
    traceparent: Option<Arc<str>>,
}

/// An answer, and when the request that brought it was sent.
pub(crate) struct Answer<R> {
    pub(crate) message: R,
    /// When the first try was sent.
    pub(crate) first_sent: Instant,
    /// How many tries it took.
    pub(crate) tries: u32,
}

impl Client {
    /// Connects to the server at a URL, such as `http://127.0.0.1:7400`.
    pub async fn connect(url: impl Into<String>) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// Begins to make a client, with the first address.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url.into())
    }

    /// A client over these connections, the one at `current` first.
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        channels: Vec<Channel>,
        current: usize,
        namespace: &str,
        timeout: Duration,
    ) -> Self {
        let current = AtomicUsize::new(current);
        let inner = Inner {
            endpoints,
            channels,
            current,
        };
        let scope = Scope {
            namespace: namespace.into(),
            timeout,
            session: None,
            traceparent: None,
        };
        Self {
            inner: Arc::new(inner),
            scope,
        }
    }

    /// The log of the namespace, and what agents tell each other through it.
    pub fn events(&self) -> events::Events {
        events::Events::new(self.clone())
    }

    /// Versioned documents that agents share.
    pub fn state(&self) -> state::States {
        state::States::new(self.clone())
    }

    /// Leases on resources.
    pub fn locks(&self) -> locks::Locks {
        locks::Locks::new(self.clone())
    }

    /// Work that is handed to others.
    pub fn tasks(&self) -> tasks::Tasks {
        tasks::Tasks::new(self.clone())
    }

    /// Graphs of tasks.
    pub fn workflows(&self) -> workflows::Workflows {
        workflows::Workflows::new(self.clone())
    }

    /// Who is there, and what each can do.
    pub fn registry(&self) -> registry::Registry {
        registry::Registry::new(self.clone())
    }

    /// The generated stubs, on the connection that is in use. They add nothing: no namespace, no `request_id`, no retries.
    pub fn stubs(&self) -> Stubs {
        Stubs::new(self.inner.channels[self.index()].clone())
    }

    /// The same client in another namespace, without its session.
    #[must_use]
    pub fn with_namespace(&self, namespace: &str) -> Self {
        let scope = Scope {
            namespace: namespace.into(),
            session: None,
            ..self.scope.clone()
        };
        Self {
            inner: self.inner.clone(),
            scope,
        }
    }

    /// The same client, acting under a session: every change that it makes is refused once the session is over.
    #[must_use]
    pub fn with_session(&self, session_id: &str) -> Self {
        self.with_scope(SessionScope::new(session_id))
    }

    /// The same client with another time limit of its calls.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let scope = Scope {
            timeout,
            ..self.scope.clone()
        };
        Self {
            inner: self.inner.clone(),
            scope,
        }
    }

    /// The same client, sending a W3C trace context with every call.
    #[must_use]
    pub fn with_traceparent(&self, traceparent: &str) -> Self {
        let scope = Scope {
            traceparent: Some(traceparent.into()),
            ..self.scope.clone()
        };
        Self {
            inner: self.inner.clone(),
            scope,
        }
    }

    /// The namespace of its calls; empty is `default`.
    pub fn namespace(&self) -> String {
        self.scope.namespace.to_string()
    }

    /// The session that it acts under; empty if none.
    pub fn session_id(&self) -> String {
        self.scope
            .session
            .as_ref()
            .map(|session| session.id().to_owned())
            .unwrap_or_default()
    }

    pub(crate) fn with_scope(&self, session: SessionScope) -> Self {
        let scope = Scope {
            session: Some(session),
            ..self.scope.clone()
        };
        Self {
            inner: self.inner.clone(),
            scope,
        }
    }

    pub(crate) fn session(&self) -> Option<&SessionScope> {
        self.scope.session.as_ref()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.scope.timeout
    }

    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.inner.endpoints
    }

    /// Sends one request until it is answered for good, within the client's time limit.
    pub(crate) async fn call<Q, R, F, Fut>(&self, request: Q, send: F) -> Result<R>
    where
        Q: Clone,
        F: Fn(Stubs, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let answer = self.call_within(self.scope.timeout, request, send).await?;
        Ok(answer.message)
    }

    /// Sends one request until it is answered for good, within `budget`.
    pub(crate) async fn call_within<Q, R, F, Fut>(&self, budget: Duration, request: Q, send: F) -> Result<Answer<R>>
    where
        Q: Clone,
        F: Fn(Stubs, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let first_sent = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut unknown = false;
        loop {
            let left = budget.saturating_sub(first_sent.elapsed());
            if left.is_zero() {
                return Err(Error::deadline());
            }
            let index = self.index();
            let error = match self.once(index, left, request.clone(), &send).await {
                Ok(message) => {
                    return Ok(Answer {
                        message,
                        first_sent,
                        tries: backoff.tries() + 1,
                    });
                }
                Err(error) => error,
            };
            if !error.is_retryable() {
                return Err(error);
            }
            unknown |= error.is_indeterminate();
            self.turn_from(index, &error);
            let wait = backoff.wait_after(error.retry_after());
            if first_sent.elapsed() + wait >= budget {
                return Err(error.after_unknown(unknown));
            }
            tracing::debug!(%error, ?wait, "a call is tried again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends a request once, within `budget`, for who tries again in a way of its own.
    pub(crate) async fn call_once<Q, R, F, Fut>(&self, budget: Duration, request: Q, send: F) -> Result<R>
    where
        F: Fn(Stubs, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let index = self.index();
        let result = self.once(index, budget, request, &send).await;
        if let Err(error) = &result {
            self.turn_from(index, error);
        }
        result
    }

    async fn once<Q, R, F, Fut>(&self, index: usize, left: Duration, request: Q, send: &F) -> Result<R>
    where
        F: Fn(Stubs, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let mut request = self.request(request);
        request.set_timeout(left);
        let stubs = Stubs::new(self.inner.channels[index].clone());
        match tokio::time::timeout(left, send(stubs, request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(status.into()),
            Err(_elapsed) => Err(Error::deadline()),
        }
    }

    /// Opens a stream once. Trying again is the business of who reads it, since only it knows where to go on.
    pub(crate) async fn open<Q, R, F, Fut>(&self, request: Q, send: F) -> Result<R>
    where
        F: FnOnce(Stubs, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let index = self.index();
        let stubs = Stubs::new(self.inner.channels[index].clone());
        let opened = tokio::time::timeout(self.scope.timeout, send(stubs, self.request(request)));
        let result = match opened.await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => Error::from(status),
            Err(_elapsed) => Error::transport("the stream was not opened in time"),
        };
        self.turn_from(index, &result);
        Err(result)
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(trace) = self.scope.traceparent.as_ref().and_then(|trace| trace.parse().ok()) {
            request.metadata_mut().insert("traceparent", trace);
        }
        request
    }

    fn index(&self) -> usize {
        self.inner.current.load(Ordering::Relaxed)
    }

    /// Turns to the next address if this one could not be reached or is going away.
    fn turn_from(&self, index: usize, error: &Error) {
        if error.kind() == Kind::Transport || error.code() == tonic::Code::Unavailable {
            let next = (index + 1) % self.inner.channels.len();
            let (relaxed, current) = (Ordering::Relaxed, &self.inner.current);
            // Who loses this race finds that another has turned already.
            let _turned = current.compare_exchange(index, next, relaxed, relaxed);
        }
    }
}

/// A new `request_id`: kept over the retries of one change.
pub(crate) fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_address_is_left_once_however_many_calls_failed_on_it() {
        let builder = Client::builder("127.0.0.1:1").address("127.0.0.1:2");
        let client = builder.connect_lazy().expect("a client");
        client.turn_from(0, &Error::transport("gone"));
        client.turn_from(0, &Error::transport("gone"));
        assert_eq!(client.index(), 1);
    }

    #[tokio::test]
    async fn nobody_there_is_a_transport_error_within_the_deadline() {
        let builder = Client::builder("127.0.0.1:1").timeout(Duration::from_millis(300));
        let client = builder.connect_lazy().expect("a client");
        let begun = Instant::now();
        let error = client.state().get::<()>("x").await.expect_err("nobody is there");
        assert!(matches!(error.kind(), Kind::Transport | Kind::Deadline), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
