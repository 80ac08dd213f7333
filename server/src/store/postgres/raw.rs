//! Postgres without the store: a table of its own, connections without the store's settings, statements that commit by themselves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, Error, Statement};

use super::connection::{Target, said};
use crate::store::StoreError;
use crate::store::raw::Disk;

/// A table of its own.
pub struct Raw {
    target: Target,
    client: Client,
    name: String,
    next: Arc<AtomicI64>,
    text: Arc<str>,
    settings: String,
    /// Where the server has its data, if it says so and is on this machine.
    data: Option<String>,
}

/// One who writes.
pub struct RawSession {
    client: Client,
    one: Statement,
    many: Statement,
    next: Arc<AtomicI64>,
    text: Arc<str>,
}

impl Raw {
    pub(in crate::store) async fn open(url: &str, text_bytes: usize) -> Result<Raw, StoreError> {
        let target = super::target(url)?;
        let client = connect(&target).await?;
        let settings = settings(&client).await.map_err(failed)?;
        let data = if is_here(&target.config) {
            data(&client).await
        } else {
            None
        };
        let name = format!("drumline_bench_{}", uuid::Uuid::new_v4().simple());
        let create = format!("CREATE TABLE {name} (id bigint PRIMARY KEY, text text NOT NULL)");
        client.batch_execute(&create).await.map_err(failed)?;
        Ok(Raw {
            target,
            client,
            name,
            next: Arc::new(AtomicI64::new(1)),
            text: "x".repeat(text_bytes).into(),
            settings,
            data,
        })
    }

    pub(in crate::store) async fn session(&self) -> Result<RawSession, StoreError> {
        let client = connect(&self.target).await?;
        let one = format!("INSERT INTO {} (id, text) VALUES ($1, $2)", self.name);
        let many = format!(
            "INSERT INTO {} (id, text) SELECT * FROM UNNEST($1::bigint[], $2::text[])",
            self.name
        );
        Ok(RawSession {
            one: client.prepare(&one).await.map_err(failed)?,
            many: client.prepare(&many).await.map_err(failed)?,
            client,
            next: Arc::clone(&self.next),
            text: Arc::clone(&self.text),
        })
    }

    pub(in crate::store) async fn rows(&self) -> Result<i64, StoreError> {
        let count = format!("SELECT count(*) FROM {}", self.name);
        let row = self.client.query_one(&count, &[]).await.map_err(failed)?;
        Ok(row.get(0))
    }

    pub(in crate::store) fn settings(&self) -> &str {
        &self.settings
    }

    pub(in crate::store) fn disk(&self) -> Result<Disk, StoreError> {
        let beside = self.data.as_ref().and_then(|data| {
            let log = Path::new(data).join("pg_wal").canonicalize();
            let log = log
                .ok()
                .and_then(|log| Disk::beside(&log, "on the disk of Postgres's log").ok());
            log.or_else(|| Disk::beside(Path::new(data), "on the disk of Postgres's data").ok())
        });
        let here =
            || Disk::at(&std::env::temp_dir(), "which may not be on Postgres's disk").map_err(StoreError::unavailable);
        beside.map_or_else(here, Ok)
    }
}

impl Drop for Raw {
    /// Removes the table, also when the measurement was given up: on a thread of its own, which is waited for.
    fn drop(&mut self) {
        let (target, name) = (self.target.clone(), self.name.clone());
        let remove = async move {
            let client = connect(&target).await?;
            let remove = format!("SET lock_timeout = '10s'; DROP TABLE IF EXISTS {name}");
            client.batch_execute(&remove).await.map_err(failed)
        };
        let removing = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(StoreError::unavailable)?.block_on(remove)
        });
        let removed = removing
            .join()
            .unwrap_or_else(|_| Err(StoreError::unavailable("it failed")));
        if let Err(error) = removed {
            tracing::warn!(%error, table = self.name, "a table that was measured with is still there");
        }
    }
}

impl RawSession {
    pub(in crate::store) async fn insert(&mut self, rows: usize) -> Result<(), StoreError> {
        let count = i64::try_from(rows).unwrap_or(i64::MAX);
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let text: &str = &self.text;
        let inserted = if rows == 1 {
            self.client.execute(&self.one, &[&first, &text]).await
        } else {
            let ids: Vec<i64> = (first..first + count).collect();
            self.client.execute(&self.many, &[&ids, &vec![text; rows]]).await
        };
        inserted.map(|_rows| ()).map_err(failed)
    }
}

async fn connect(target: &Target) -> Result<Client, StoreError> {
    let connecting = tokio::time::timeout(Duration::from_secs(10), target.config.connect(target.tls.clone()));
    let (client, connection) = connecting
        .await
        .map_err(|_elapsed| StoreError::unavailable("the database did not answer in time"))?
        .map_err(failed)?;
    // It ends with its client.
    tokio::spawn(connection);
    Ok(client)
}

async fn settings(client: &Client) -> Result<String, Error> {
    let read = "SELECT 'PostgreSQL ' || current_setting('server_version') || ', ' || \
        string_agg(name || '=' || current_setting(name), ' ' ORDER BY name) FROM pg_settings WHERE name IN \
        ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method', 'shared_buffers', 'synchronous_standby_names')";
    Ok(client.query_one(read, &[]).await?.get(0))
}

/// Where the server has its data. Not everybody is told.
async fn data(client: &Client) -> Option<String> {
    let row = client.query_one("SHOW data_directory", &[]).await.ok()?;
    row.try_get(0).ok()
}

/// Whether the server is on this machine, as far as its address tells.
fn is_here(config: &Config) -> bool {
    let is_local = |host: &Host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
        Host::Unix(_) => true,
    };
    config.get_hosts().iter().all(is_local)
}

fn failed(error: Error) -> StoreError {
    StoreError::unavailable(said(&error))
}
