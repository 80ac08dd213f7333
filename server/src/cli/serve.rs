//! `drumline serve`: a server, until it is told to stop.
//!
//! It prints where it listens, where its data is and what to try next. SIGTERM or SIGINT drains it: health says NOT_SERVING, streams end
//! with a status that can be retried and their cursor, calls under way are finished, then it exits. A second signal ends it at once.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{Failure, files, signals};
use crate::app::App;
use crate::bus::{Bus, BusError};
use crate::config::{ALL, Backend, Config, Flags, Reading};
use crate::edge::server;
use crate::store::{Postgres, Sqlite, Store, StoreError};

/// How long calls under way are waited for when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What `drumline serve` can be told.
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    flags: Flags<ALL>,
    /// Stop when standard input ends: for who starts a server for itself, and may be killed
    #[arg(long, hide = true)]
    lifeline: bool,
}

impl ServeArgs {
    /// Reads the settings.
    ///
    /// # Errors
    /// With all that is wrong.
    pub fn read(&self) -> Result<Reading, Failure> {
        super::config::read(&self.flags)
    }
}

/// Why the server did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bus cannot be made.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// When it cannot start, or its transport fails.
pub async fn run(args: ServeArgs, reading: Reading) -> Result<(), ServeError> {
    for warning in &reading.warnings {
        tracing::warn!("{warning}");
    }
    let config = reading.config;
    // Every connection is an open file.
    files::allow_many();
    let store = open(&config).await?;
    // Tasks that have not ended hold the store too, so it is not closed by going out of scope.
    let outcome = over(store.clone(), config, args.lifeline).await;
    store.discard();
    outcome
}

/// Runs a server over a store.
async fn over(store: Store, config: Config, lifeline: bool) -> Result<(), ServeError> {
    let bus = match &config.redis_url {
        Some(url) => Bus::redis(url.expose(), store.id())?,
        None => Bus::Local,
    };
    let app = App::start(store, bus, config.policy).await?;
    let listener = server::listen(config.listen).map_err(|error| ServeError::Listen(config.listen, error))?;
    let address = listener
        .local_addr()
        .map_err(|error| ServeError::Listen(config.listen, error))?;
    announce(address, &config.backend);

    let stopping = Arc::clone(&app);
    tokio::spawn(async move {
        tokio::select! {
            () = server::termination() => {}
            () = signals::end_of_input(), if lifeline => {}
        }
        tracing::info!("stopping");
        stopping.draining.cancel();
        tokio::select! {
            () = server::termination() => tracing::warn!("stopped at once"),
            () = tokio::time::sleep(DRAIN_TIMEOUT) => tracing::warn!("calls were still under way"),
        }
        stopping.store.discard();
        std::process::exit(0);
    });
    server::serve(app, listener, config.max_connection_age).await;
    Ok(())
}

async fn open(config: &Config) -> Result<Store, StoreError> {
    match &config.backend {
        Backend::Ephemeral => Ok(Store::Sqlite(Sqlite::open_ephemeral()?)),
        Backend::Sqlite(directory) => Ok(Store::Sqlite(Sqlite::open_with(directory, config.migrating)?)),
        Backend::Postgres(url) => Ok(Store::Postgres(
            Postgres::connect_with(url.expose(), config.migrating).await?,
        )),
    }
}

/// Says where the server is. Whoever reads it may have gone already.
fn announce(address: SocketAddr, place: &Backend) {
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
