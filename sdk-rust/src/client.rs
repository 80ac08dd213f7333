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
use crate::error::{Error, Kind, Result};
use crate::session::SessionScope;
use crate::stubs::Stubs;
use crate::{events, locks, registry, state, tasks, workflows};

/// How long a call may take, retries included, unless it says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Makes a [`Client`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    addresses: Vec<String>,
    namespace: String,
    timeout: Duration,
    connect_timeout: Duration,
}

impl ClientBuilder {
    /// Adds an address to turn to when those before it cannot be reached.
    pub fn address(mut self, url: impl Into<String>) -> Self {
        self.addresses.push(url.into());
        self
    }

    /// The namespace of every call; `default` if it is not set.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// How long a call may take, its retries included; 30 s if it is not set. A wait that is asked for comes on top.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long one connection may take to be made; 5 s if it is not set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Connects to the first address that answers.
    pub async fn connect(self) -> Result<Client> {
        let endpoints = self.endpoints()?;
        let mut failed = None;
        for (index, endpoint) in endpoints.iter().enumerate() {
            match endpoint.connect().await {
                Ok(channel) => return Ok(self.client(endpoints.clone(), Some((index, channel)))),
                Err(error) => failed = Some((endpoint.uri().clone(), error)),
            }
        }
        Err(match failed {
            Some((uri, error)) => {
                let source: &dyn std::error::Error = &error;
                Error::transport(format!("cannot connect to {uri}: {}", innermost(source)))
            }
            None => Error::config("no address was given"),
        })
    }

    /// Makes a client that connects when it is first used.
    pub fn connect_lazy(self) -> Result<Client> {
        let endpoints = self.endpoints()?;
        if endpoints.is_empty() {
            return Err(Error::config("no address was given"));
        }
        Ok(self.client(endpoints, None))
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>> {
        self.addresses
            .iter()
            .map(|url| endpoint(url, self.connect_timeout))
            .collect()
    }

    fn client(self, endpoints: Vec<Endpoint>, made: Option<(usize, Channel)>) -> Client {
        let mut channels: Vec<Channel> = endpoints.iter().map(Endpoint::connect_lazy).collect();
        let mut current = 0;
        if let Some((index, channel)) = made {
            channels[index] = channel;
            current = index;
        }
        let inner = Inner {
            endpoints,
            channels,
            current: AtomicUsize::new(current),
        };
        let scope = Scope {
            namespace: self.namespace.into(),
            timeout: self.timeout,
            session: None,
            traceparent: None,
        };
        Client {
            inner: Arc::new(inner),
            scope,
        }
    }
}

/// The cause at the bottom of an error, which is the one that says something.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn endpoint(url: &str, connect_timeout: Duration) -> Result<Endpoint> {
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    if !url.starts_with("http://") {
        return Err(Error::config(format!(
            "{url}: only http:// is spoken so far"
        )));
    }
    let endpoint = Endpoint::from_shared(url.clone())
        .map_err(|error| Error::config(format!("{url}: {error}")))?;
    let agent = concat!("drumline-rust/", env!("CARGO_PKG_VERSION"));
    let endpoint = endpoint
        .user_agent(agent)
        .map_err(|error| Error::config(error.to_string()))?;
    Ok(endpoint
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20))
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
        ClientBuilder {
            addresses: vec![url.into()],
            namespace: String::new(),
            timeout: CALL_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
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
    pub(crate) async fn call_within<Q, R, F, Fut>(
        &self,
        budget: Duration,
        request: Q,
        send: F,
    ) -> Result<Answer<R>>
    where
        Q: Clone,
        F: Fn(Stubs, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let first_sent = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
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
            self.turn_from(index, &error);
            let wait = backoff.next_after(error.retry_after());
            if first_sent.elapsed() + wait >= budget {
                return Err(error);
            }
            tracing::debug!(%error, ?wait, "a call is tried again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends a request once, within `budget`, for who tries again in a way of its own.
    pub(crate) async fn call_once<Q, R, F, Fut>(
        &self,
        budget: Duration,
        request: Q,
        send: F,
    ) -> Result<R>
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

    async fn once<Q, R, F, Fut>(
        &self,
        index: usize,
        left: Duration,
        request: Q,
        send: &F,
    ) -> Result<R>
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
        if let Some(trace) = self
            .scope
            .traceparent
            .as_ref()
            .and_then(|trace| trace.parse().ok())
        {
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
    async fn an_address_may_come_without_its_scheme_but_not_with_another() {
        assert!(Client::builder("127.0.0.1:7400").connect_lazy().is_ok());
        let refused = Client::builder("https://there")
            .connect_lazy()
            .expect_err("no TLS yet");
        assert_eq!(refused.kind(), Kind::Config);
    }

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
        let error = client
            .state()
            .get::<()>("x")
            .await
            .expect_err("nobody is there");
        assert!(
            matches!(error.kind(), Kind::Transport | Kind::Deadline),
            "{error:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
