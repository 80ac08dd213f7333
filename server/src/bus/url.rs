//! Where Redis is, as a URL says it. What may be secret in it is in no message.

use std::fmt;
use std::sync::Arc;

use fred::types::RespVersion;
use fred::types::config::{Config, Server, ServerConfig, TlsConnector};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

const SCHEMES: [&str; 3] = ["redis", "redis-sentinel", "redis-cluster"];
const FILES: [&str; 3] = ["sslrootcert", "sslcert", "sslkey"];
const SENTINEL: [&str; 3] = ["sentinelServiceName", "sentinelUsername", "sentinelPassword"];
const NODE: &str = "node";

/// What is wrong with a URL of Redis: a sentence that says what is allowed. It shows nothing of the URL but names of files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BusError(String);

impl BusError {
    fn new(problem: impl Into<String>) -> BusError {
        BusError(problem.into())
    }
}

/// Checks a URL of Redis, and reads the files that it names. Nothing is connected to.
///
/// | | |
/// |---|---|
/// | one server | `redis://[[USER]:PASSWORD@]HOST[:6379][/DATABASE]` |
/// | a primary that sentinels know | `redis-sentinel://[[USER]:PASSWORD@]HOST[:26379][/DATABASE]?sentinelServiceName=NAME[&node=HOST:PORT]…` |
/// | a cluster | `redis-cluster://[[USER]:PASSWORD@]HOST[:6379][?node=HOST:PORT]…` |
///
/// With TLS `rediss` takes the place of `redis`: `sslrootcert=FILE` names the certificates to trust, in PEM, instead of the system's;
/// `sslcert=FILE` and `sslkey=FILE` are the client's own. `sentinelUsername` and `sentinelPassword` are for the sentinels, where they want
/// some. Name every sentinel: others are not looked for. What is published on one node of a cluster is heard on all, so a bus is connected
/// to any of those that are named: name several. Special characters are percent-encoded.
///
/// Redis is 6.0 or later. A user needs `+publish`, `+subscribe` and the channels `&drumline:*`.
///
/// # Errors
/// What is wrong with it, without its secrets.
pub fn check_url(url: &str) -> Result<(), BusError> {
    parse(url).map(|_| ())
}

/// Where to connect to.
pub(super) struct Place {
    config: Config,
    /// The nodes of a cluster: one of them is connected to.
    nodes: Vec<Server>,
}

impl Place {
    /// What the next attempt goes to.
    pub(super) fn config(&self) -> Config {
        let mut config = self.config.clone();
        if !self.nodes.is_empty() {
            let server = self.nodes[crate::machine::random_range(0..self.nodes.len())].clone();
            config.server = ServerConfig::Centralized { server };
        }
        config
    }
}

impl fmt::Display for Place {
    /// As logs have it: hosts and ports.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let servers = self.config.server.hosts().into_iter();
        let servers: Vec<String> = servers
            .map(|server| format!("{}:{}", server.host, server.port))
            .collect();
        f.write_str(&servers.join(", "))
    }
}

/// What a URL says.
pub(super) fn parse(url: &str) -> Result<Place, BusError> {
    let url = Url::parse(url).map_err(|error| BusError::new(format!("it is not a URL: {error}")))?;
    let (scheme, tls) = scheme_of(&url)?;
    check_parts(&url, scheme, tls)?;
    // The client would look for the system's certificates by itself: it is told of TLS afterwards.
    let plain = format!("{scheme}{}", &url.as_str()[url.scheme().len()..]);
    let mut config = match scheme {
        "redis" => Config::from_url_centralized(&plain),
        "redis-sentinel" => Config::from_url_sentinel(&plain),
        _ => Config::from_url_clustered(&plain),
    }
    // What the client says of it may quote it.
    .map_err(|_| {
        BusError::new("a database is a number from 0 to 255 after the host, `node` is HOST:PORT, and `%` begins two hexadecimal digits")
    })?;
    if config.username.is_some() && config.password.is_none() {
        return Err(BusError::new(
            "a user needs a password: USER:PASSWORD@HOST, or :PASSWORD@HOST for the default user",
        ));
    }
    if tls {
        config.tls = Some(TlsConnector::from(tls_of(&url)?).into());
    }
    config.version = RespVersion::RESP3;
    config.fail_fast = true;
    let nodes = match &config.server {
        ServerConfig::Clustered { hosts, .. } => hosts.clone(),
        _ => Vec::new(),
    };
    Ok(Place { config, nodes })
}

fn scheme_of(url: &Url) -> Result<(&'static str, bool), BusError> {
    let plain = |scheme: &str| SCHEMES.into_iter().find(|known| *known == scheme);
    let scheme = url.scheme();
    let secured = scheme
        .strip_prefix("rediss")
        .and_then(|rest| plain(&format!("redis{rest}")));
    plain(scheme)
        .map(|scheme| (scheme, false))
        .or(secured.map(|scheme| (scheme, true)))
        .ok_or_else(|| {
            BusError::new(
                "it begins with redis://, redis-sentinel:// or redis-cluster://, or with rediss://, rediss-sentinel:// or \
                 rediss-cluster:// for TLS",
            )
        })
}

fn check_parts(url: &Url, scheme: &str, tls: bool) -> Result<(), BusError> {
    if url.host_str().is_none_or(str::is_empty) {
        return Err(BusError::new("the host is missing"));
    }
    let (sentinel, cluster) = (scheme == "redis-sentinel", scheme == "redis-cluster");
    if cluster && !matches!(url.path(), "" | "/") {
        return Err(BusError::new("a cluster has no databases: nothing may follow the host"));
    }
    if url.fragment().is_some() {
        return Err(BusError::new(
            "`#` has no meaning in it: write %23 for one in a password",
        ));
    }
    for (name, value) in url.query_pairs() {
        let is_known = FILES.contains(&&*name) && tls
            || SENTINEL.contains(&&*name) && sentinel
            || name == NODE && (sentinel || cluster);
        if !is_known {
            return Err(BusError::new(
                "it has a parameter that is not known: `node` is for sentinels and clusters, `sentinelServiceName`, `sentinelUsername` \
                 and `sentinelPassword` are for sentinels, `sslrootcert`, `sslcert` and `sslkey` are for TLS",
            ));
        }
        if value.is_empty() {
            return Err(BusError::new(format!("`{name}` is empty")));
        }
    }
    if sentinel && parameter(url, SENTINEL[0]).is_none() {
        return Err(BusError::new(
            "`sentinelServiceName` is missing: the name that the sentinels know the primary by",
        ));
    }
    Ok(())
}

fn parameter(url: &Url, name: &str) -> Option<String> {
    let mut pairs = url.query_pairs();
    pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
}

/// TLS as the URL wants it. The provider of cryptography is named here, not taken from the process.
fn tls_of(url: &Url) -> Result<rustls::ClientConfig, BusError> {
    let [root, certificate, key] = FILES.map(|name| parameter(url, name));
    let mut roots = rustls::RootCertStore::empty();
    match root {
        Some(file) => {
            for certificate in certificates(&file)? {
                let added = roots.add(certificate);
                added.map_err(|error| BusError::new(format!("sslrootcert: {file}: {error}")))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(BusError::new(
            "no certificates to trust were found: name a file with `sslrootcert`",
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BusError::new(error.to_string()))?
        .with_root_certificates(roots);
    match (certificate, key) {
        (None, None) => Ok(config.with_no_client_auth()),
        (Some(certificate), Some(file)) => {
            let key = PrivateKeyDer::from_pem_file(&file)
                .map_err(|error| BusError::new(format!("sslkey: {file}: {error}")))?;
            config
                .with_client_auth_cert(certificates(&certificate)?, key)
                .map_err(|error| BusError::new(format!("sslcert and sslkey: {error}")))
        }
        _ => Err(BusError::new("`sslcert` and `sslkey` go together")),
    }
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, BusError> {
    let wrong = |problem: String| BusError::new(format!("{file}: {problem}"));
    let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("holds no certificate in PEM".to_owned()));
    }
    Ok(certificates)
}
