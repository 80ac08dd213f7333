//! Making a client: its addresses, its time limits, and the settings of its connections.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::addresses::{Address, Addresses, place};
use crate::client::Client;
use crate::error::{Error, Result, innermost};

/// How long a call may take, retries included, unless it says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What an only address is given: there is no other to turn to.
const ALONE: Patience = Patience {
    connect: Duration::from_secs(5),
    silence: Duration::from_secs(15),
};
/// What each of several addresses is given.
const AMONG_OTHERS: Patience = Patience {
    connect: Duration::from_secs(2),
    silence: Duration::from_secs(5),
};

/// How long an address is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    connect: Duration,
    silence: Duration,
}

/// Makes a [`Client`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    addresses: Vec<String>,
    namespace: String,
    timeout: Duration,
    connect_timeout: Option<Duration>,
    silence_timeout: Option<Duration>,
}

impl ClientBuilder {
    pub(crate) fn new(url: &str) -> Self {
        let empty = Self {
            addresses: Vec::new(),
            namespace: String::new(),
            timeout: CALL_TIMEOUT,
            connect_timeout: None,
            silence_timeout: None,
        };
        empty.address(url)
    }

    /// Adds an address, or several separated by commas. All are replicas of one server: any of them is used, another when that fails.
    pub fn address(mut self, url: impl AsRef<str>) -> Self {
        for url in url.as_ref().split(',').map(str::trim).filter(|url| !url.is_empty()) {
            let url = with_scheme(url);
            if !self.addresses.contains(&url) {
                self.addresses.push(url);
            }
        }
        self
    }

    /// Adds a list of addresses.
    pub fn addresses(self, urls: impl IntoIterator<Item: AsRef<str>>) -> Self {
        urls.into_iter().fold(self, Self::address)
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

    /// How long one connection may take to be made; if it is not set, 5 s, and 2 s where there are several addresses.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// How long a connection may be silent, its pings unanswered, before it is given up: 15 s if it is not set, 5 s where there are several
    /// addresses. A call may take longer, if its server is alive.
    pub fn silence_timeout(mut self, timeout: Duration) -> Self {
        self.silence_timeout = Some(timeout);
        self
    }

    /// Connects to the first address that answers, beginning with any of them.
    pub async fn connect(self) -> Result<Client> {
        let endpoints = self.endpoints()?;
        let first = rand::random_range(0..endpoints.len());
        let mut failed = Vec::new();
        for index in (first..endpoints.len()).chain(0..first) {
            let endpoint = &endpoints[index];
            match endpoint.connect().await {
                Ok(channel) => return Ok(self.client(endpoints, index, Some(channel))),
                Err(error) => failed.push(format!("{}: {}", place(endpoint), innermost(&error))),
            }
        }
        Err(Error::unreachable(format!("cannot connect to {}", failed.join("; "))))
    }

    /// Makes a client that connects when it is first used. Must be called on a runtime, which its connections then live on.
    pub fn connect_lazy(self) -> Result<Client> {
        let endpoints = self.endpoints()?;
        let first = rand::random_range(0..endpoints.len());
        Ok(self.client(endpoints, first, None))
    }

    /// At least one, or an error.
    fn endpoints(&self) -> Result<Vec<Endpoint>> {
        let usual = if self.addresses.len() > 1 { AMONG_OTHERS } else { ALONE };
        let patience = Patience {
            connect: self.connect_timeout.unwrap_or(usual.connect),
            silence: self.silence_timeout.unwrap_or(usual.silence),
        };
        if self.addresses.is_empty() {
            return Err(Error::config("no address was given"));
        }
        self.addresses.iter().map(|url| endpoint(url, patience)).collect()
    }

    fn client(self, endpoints: Vec<Endpoint>, current: usize, made: Option<Channel>) -> Client {
        let lazy = |endpoint: Endpoint| Address {
            channel: endpoint.connect_lazy(),
            endpoint,
        };
        let mut all: Vec<Address> = endpoints.into_iter().map(lazy).collect();
        if let Some(channel) = made {
            all[current].channel = channel;
        }
        Client::new(Addresses::new(all, current), &self.namespace, self.timeout)
    }
}

fn with_scheme(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    }
}

fn endpoint(url: &str, patience: Patience) -> Result<Endpoint> {
    if !url.starts_with("http://") {
        return Err(Error::config(format!("{url}: only http:// is spoken so far")));
    }
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| Error::config(format!("{url}: {error}")))?;
    let agent = concat!("drumline-rust/", env!("CARGO_PKG_VERSION"));
    let endpoint = endpoint
        .user_agent(agent)
        .map_err(|error| Error::config(error.to_string()))?;
    Ok(endpoint
        .connect_timeout(patience.connect)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        // A ping goes out where nothing has come for half the time; the other half is for its answer.
        .http2_keep_alive_interval(patience.silence / 2)
        .keep_alive_timeout(patience.silence / 2)
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

    #[test]
    fn several_addresses_come_in_one_text_or_one_by_one_and_count_once() {
        let builder = Client::builder("a:1, http://b:2/,,").address("http://a:1");
        let builder = builder.addresses(["c:3", "d:4,c:3"]);
        assert_eq!(
            builder.addresses,
            ["http://a:1", "http://b:2", "http://c:3", "http://d:4"]
        );
        let none = Client::builder(" , ").connect_lazy().expect_err("no address");
        assert_eq!(none.kind(), Kind::Config);
    }

    #[tokio::test]
    async fn where_nobody_is_there_every_address_is_named_and_nothing_was_sent() {
        let builder = Client::builder("127.0.0.1:1,127.0.0.1:2");
        let error = builder.connect().await.expect_err("nobody is there");
        assert_eq!(error.kind(), Kind::Transport);
        assert!(!error.is_indeterminate());
        for place in ["http://127.0.0.1:1: ", "http://127.0.0.1:2: "] {
            assert!(error.message().contains(place), "{error}");
        }
    }

    #[tokio::test]
    async fn clients_spread_over_the_addresses() {
        let mut first = [0; 2];
        for _ in 0..100 {
            let client = Client::builder("a:1,b:2").connect_lazy().expect("a client");
            first[client.addresses().current()] += 1;
        }
        assert!(first.iter().all(|&count| count > 0), "{first:?}");
    }
}
