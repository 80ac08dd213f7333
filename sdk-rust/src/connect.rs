//! Making a client: its addresses, its time limits, and the settings of its connections.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::client::Client;
use crate::error::{Error, Result};

/// How long a call may take, retries included, unless it says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
    pub(crate) fn new(url: String) -> Self {
        Self {
            addresses: vec![url],
            namespace: String::new(),
            timeout: CALL_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

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

    /// Makes a client that connects when it is first used. Must be called on a runtime, which its connections then live on.
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
        let Self { namespace, timeout, .. } = self;
        Client::new(endpoints, channels, current, &namespace, timeout)
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
        return Err(Error::config(format!("{url}: only http:// is spoken so far")));
    }
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|error| Error::config(format!("{url}: {error}")))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[tokio::test]
    async fn an_address_may_come_without_its_scheme_but_not_with_another() {
        assert!(Client::builder("127.0.0.1:7400").connect_lazy().is_ok());
        let refused = Client::builder("https://there").connect_lazy().expect_err("no TLS yet");
        assert_eq!(refused.kind(), Kind::Config);
    }
}
