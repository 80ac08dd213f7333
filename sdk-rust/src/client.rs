//! The client: where the server is, what is sent with every call, and how calls are tried again.
//!
//! A call is tried again while its error is retryable ([`Error::is_retryable`]) and its deadline has not
//! passed: at another address at once, if the error speaks against the one that was used, else after a jittered wait. What is sent is
//! the very same request with the very same `request_id`, so that a change is made once however often it was sent and
//! wherever; what has no `request_id` changes nothing, or as a heartbeat does no harm twice.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::{Request, Response, Status, Streaming};

use crate::addresses::Addresses;
use crate::connect::ClientBuilder;
use crate::error::{Error, Kind, Result};
use crate::retry::{Tried, Tries};
use crate::session::SessionScope;
use crate::stream::Opened;
use crate::stubs::Stubs;
use crate::{events, locks, registry, state, tasks, workflows};

/// A client of a Drumline server. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    addresses: Addresses,
    scope: Scope,
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
    /// Connects to the server at a URL, such as `http://127.0.0.1:7400`, or to any of its replicas: `http://a:7400,http://b:7400`.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// Begins to make a client, with one address, or several separated by commas.
    pub fn builder(url: impl AsRef<str>) -> ClientBuilder {
        ClientBuilder::new(url.as_ref())
    }

    pub(crate) fn new(addresses: Addresses, namespace: &str, timeout: Duration) -> Self {
        let scope = Scope {
            namespace: namespace.into(),
            timeout,
            session: None,
            traceparent: None,
        };
        Self { addresses, scope }
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

    /// The generated stubs, on the connection that is in use. They add nothing: no namespace, no `request_id`, no retries, no other
    /// address.
    pub fn stubs(&self) -> Stubs {
        self.stubs_at(self.addresses.current())
    }

    /// The same client in another namespace, without its session.
    #[must_use]
    pub fn with_namespace(&self, namespace: &str) -> Self {
        let scope = Scope {
            namespace: namespace.into(),
            session: None,
            ..self.scope.clone()
        };
        let addresses = self.addresses.clone();
        Self { addresses, scope }
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
        let addresses = self.addresses.clone();
        Self { addresses, scope }
    }

    /// The same client, sending a W3C trace context with every call.
    #[must_use]
    pub fn with_traceparent(&self, traceparent: &str) -> Self {
        let scope = Scope {
            traceparent: Some(traceparent.into()),
            ..self.scope.clone()
        };
        let addresses = self.addresses.clone();
        Self { addresses, scope }
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
        let addresses = self.addresses.clone();
        Self { addresses, scope }
    }

    pub(crate) fn session(&self) -> Option<&SessionScope> {
        self.scope.session.as_ref()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.scope.timeout
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
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
        let mut waits = Tries::new(Duration::from_millis(50), Duration::from_secs(2));
        let (mut tried, mut unknown, mut tries) = (Tried::default(), false, 0);
        loop {
            let left = budget.saturating_sub(first_sent.elapsed());
            if left.is_zero() {
                return Err(tried.tell(&self.addresses, Error::deadline()).after_unknown(unknown));
            }
            let index = self.addresses.current();
            tries += 1;
            let error = match self.once(index, left, request.clone(), &send).await {
                Ok(message) => {
                    return Ok(Answer {
                        message,
                        first_sent,
                        tries,
                    });
                }
                Err(error) => error,
            };
            tried.note(index, &error);
            if !error.is_retryable() {
                // What an earlier try set going may still come about after this refusal.
                return Err(tried.tell(&self.addresses, error).after_unknown(unknown));
            }
            unknown |= error.is_indeterminate();
            let wait = waits.wait(&self.addresses, &error);
            if first_sent.elapsed() + wait >= budget {
                return Err(tried.tell(&self.addresses, error).after_unknown(unknown));
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
        let index = self.addresses.current();
        let result = self.once(index, budget, request, &send).await;
        result.map_err(|error| error.at(&self.addresses.get(index).place()))
    }

    async fn once<Q, R, F, Fut>(&self, index: usize, left: Duration, request: Q, send: &F) -> Result<R>
    where
        F: Fn(Stubs, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let began = Instant::now();
        let mut request = self.request(request);
        request.set_timeout(left);
        let result = match tokio::time::timeout(left, send(self.stubs_at(index), request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => match Error::from(status) {
                // The transport keeps the same time.
                error if error.kind() == Kind::Transport && began.elapsed() >= left => Err(Error::deadline()),
                error => Err(error),
            },
            Err(_elapsed) => Err(Error::deadline()),
        };
        self.addresses.note(index, began, result.as_ref().err());
        result
    }

    /// Opens a stream once. Trying again is the business of who reads it, since only it knows where to go on.
    pub(crate) async fn open<Q, M, F, Fut>(&self, request: Q, send: F) -> Result<Opened<M>>
    where
        F: FnOnce(Stubs, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<Streaming<M>>, Status>>,
    {
        let (index, began) = (self.addresses.current(), Instant::now());
        let opening = send(self.stubs_at(index), self.request(request));
        let result = match tokio::time::timeout(self.scope.timeout, opening).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::from(status)),
            Err(_elapsed) => Err(Error::transport("the stream was not opened in time")),
        };
        self.addresses.note(index, began, result.as_ref().err());
        let stream = result.map_err(|error| error.at(&self.addresses.get(index).place()))?;
        Ok(Opened::new(stream, self.addresses.clone(), index))
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(trace) = self.scope.traceparent.as_ref().and_then(|trace| trace.parse().ok()) {
            request.metadata_mut().insert("traceparent", trace);
        }
        request
    }

    fn stubs_at(&self, index: usize) -> Stubs {
        Stubs::new(self.addresses.get(index).channel.clone())
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
    async fn nobody_there_is_a_transport_error_within_the_deadline() {
        let builder = Client::builder("127.0.0.1:1").timeout(Duration::from_millis(300));
        let client = builder.connect_lazy().expect("a client");
        let begun = Instant::now();
        let error = client.state().get::<()>("x").await.expect_err("nobody is there");
        assert!(matches!(error.kind(), Kind::Transport | Kind::Deadline), "{error:?}");
        assert!(error.message().contains("http://127.0.0.1:1: "), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
