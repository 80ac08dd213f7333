//! `drumline serve`: a server, until it is told to stop.
//!
//! It prints where it listens, where its data is and what to try next. SIGTERM or SIGINT drains it: health says NOT_SERVING, streams end
//! with a status that can be retried and their cursor, calls under way are finished, then it exits. A second signal ends it at once.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{files, signals};
use crate::app::App;
use crate::bus::Bus;
use crate::config::{Backend, Limits};
use crate::edge::server;
use crate::store::{Postgres, Sqlite, Store, StoreError};

/// How long calls under way are waited for when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What `drumline serve` can be told.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Keep the data in this directory (by default under the user's data home)
    #[arg(long, env = "DRUMLINE_DATA_DIR", value_name = "DIR", conflicts_with_all = ["ephemeral", "database_url"])]
    data_dir: Option<PathBuf>,
    /// Keep the data only until the server stops
    #[arg(long, conflicts_with = "database_url")]
    ephemeral: bool,
    /// Keep the data in this database: sqlite:DIR or postgres://…
    #[arg(long, env = "DRUMLINE_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Tell the other servers over the same database through this Redis what was committed: redis://…, rediss://…, redis-sentinel://…
    /// or redis-cluster://…
    #[arg(long, env = "DRUMLINE_REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: Option<String>,
    /// Listen on this address
    #[arg(long, env = "DRUMLINE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// Listen on an address that others can reach, though there is no authentication yet
    #[arg(long)]
    insecure: bool,
    /// Stop when standard input ends: for who starts a server for itself, and may be killed
    #[arg(long, hide = true)]
    lifeline: bool,
}

/// Why the server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It would be open to everybody.
    #[error(
        "{0} can be reached from other machines, and there is no authentication yet: listen on a loopback address, or add --insecure"
    )]
    Exposed(SocketAddr),
    /// What it was told makes no sense.
    #[error("{0}")]
    Config(String),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The transport failed.
    #[error("the server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// When it cannot start, or its transport fails.
pub async fn run(args: ServeArgs) -> Result<(), ServeError> {
    if !args.listen.ip().is_loopback() && !args.insecure {
        return Err(ServeError::Exposed(args.listen));
    }
    let backend = Backend::choose(args.data_dir, args.ephemeral, args.database_url).map_err(ServeError::Config)?;
    // Every connection is an open file.
    files::allow_many();
    let (store, place) = open(&backend).await?;
    let bus = match &args.redis_url {
        Some(url) if store.is_shared() => {
            Bus::redis(url, store.id()).map_err(|error| ServeError::Config(error.to_string()))?
        }
        Some(_) => {
            return Err(ServeError::Config(
                "--redis-url is for servers that share a Postgres database".into(),
            ));
        }
        None => Bus::Local,
    };
    let app = App::start(store, bus, Limits::default()).await?;
    let listener = server::listen(args.listen).map_err(|error| ServeError::Listen(args.listen, error))?;
    let address = listener
        .local_addr()
        .map_err(|error| ServeError::Listen(args.listen, error))?;
    announce(address, &place);

    let stopping = Arc::clone(&app);
    tokio::spawn(async move {
        tokio::select! {
            () = server::termination() => {}
            () = signals::end_of_input(), if args.lifeline => {}
        }
        tracing::info!("stopping");
        stopping.draining.cancel();
        tokio::select! {
            () = server::termination() => tracing::warn!("stopped at once"),
            () = tokio::time::sleep(DRAIN_TIMEOUT) => tracing::warn!("calls were still under way"),
        }
        std::process::exit(0);
    });
    server::serve(app, listener).await?;
    Ok(())
}

async fn open(backend: &Backend) -> Result<(Store, String), StoreError> {
    match backend {
        Backend::Ephemeral => Ok((
            Store::Sqlite(Sqlite::open_ephemeral()?),
            "nowhere: it is gone when the server stops".into(),
        )),
        Backend::Sqlite(directory) => Ok((Store::Sqlite(Sqlite::open(directory)?), directory.display().to_string())),
        Backend::Postgres(url) => Ok((Store::Postgres(Postgres::connect(url).await?), "in Postgres".into())),
    }
}

/// Says where the server is. Whoever reads it may have gone already.
fn announce(address: SocketAddr, place: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(
        out,
        "drumline {} is listening on http://{address}",
        env!("CARGO_PKG_VERSION")
    );
    let _ = writeln!(out, "  data    {place}");
    let _ = writeln!(out, "  look    drumline agents list --server http://{address}");
    let _ = writeln!(
        out,
        "  join    drumline agent exec --server http://{address} --capability echo -- cat"
    );
    let _ = writeln!(
        out,
        "  ask     drumline tasks delegate echo --server http://{address} --input '{{\"hello\":\"world\"}}' --wait"
    );
    let _ = out.flush();
}
