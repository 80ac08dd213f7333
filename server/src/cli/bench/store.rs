//! No server: what the store itself can do, measured beside the server's figures in the same run. How fast the disk syncs, how many
//! commits of one row the database makes for one caller and for many, and how many rows it takes in commits of 10, 100 and 1,000.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::Status;

use super::args::Args;
use super::load::{Done, Length, Plan, Workload, drive};
use super::report::{Part, Report};
use super::tally::Checked;
use crate::cli::Failure;
use crate::config::{Backend, Surroundings};
use crate::store::StoreError;
use crate::store::raw::{Disk, Raw, Session};

/// How many rows a commit has, where rows are measured.
const BULKS: [usize; 3] = [10, 100, 1_000];

/// Measures the disk, commits and rows one after another, each for its part of the time.
pub async fn run(args: &Args) -> Result<Report, Failure> {
    let raw = Arc::new(open(args).await?);
    let mut measurements = vec![("commit".to_owned(), 1, args.callers)];
    measurements.push(("commit_alone".to_owned(), 1, 1));
    measurements.extend(BULKS.map(|rows| (format!("rows_by_{rows}"), rows, 1)));
    let parts = u32::try_from(measurements.len() + 1).unwrap_or(u32::MAX);

    let mut measured = Vec::new();
    let inserted = Arc::new(AtomicU64::new(0));
    for (name, rows, callers) in measurements {
        let insert = Insert {
            rows,
            inserted: Arc::clone(&inserted),
        };
        let plan = share(args, callers, parts);
        let outcome = drive(insert, &plan, std::slice::from_ref(&raw)).await?;
        measured.push(Part::new(name, &plan, outcome));
    }
    let plan = share(args, 1, parts);
    let disk = raw.disk().map_err(failed)?;
    let place = disk.place().to_owned();
    let outcome = drive(Fsync, &plan, &[std::sync::Mutex::new(Some(disk))]).await?;
    measured.push(Part::new("fsync", &plan, outcome));

    let mut report = Report::of_many(args.name(), measured);
    report.fact("database", raw.settings());
    report.fact("fsync_of", place);
    Ok(report)
}

async fn open(args: &Args) -> Result<Raw, Failure> {
    let backend = match &args.database_url {
        Some(url) => Backend::of_url(url).map_err(|problem| Failure::usage(format!("--database-url: {problem}")))?,
        None => Backend::usual(&Surroundings::of_this_process()).unwrap_or(Backend::Ephemeral),
    };
    let raw = match backend {
        Backend::Sqlite(directory) => Raw::sqlite(&directory, args.payload_bytes),
        Backend::Postgres(url) => Raw::postgres(url.expose(), args.payload_bytes).await,
        Backend::Ephemeral => {
            return Err(Failure::usage(
                "give --database-url: what is not kept needs no measuring",
            ));
        }
    };
    raw.map_err(failed)
}

/// The part of the time that one of several measurements has.
fn share(args: &Args, callers: usize, parts: u32) -> Plan {
    let mut plan = Plan { callers, ..args.plan() };
    if let Length::Time { warm_up, duration } = &mut plan.length {
        *duration = (*duration / parts).max(Duration::from_millis(1));
        *warm_up /= parts;
    }
    plan
}

fn failed(error: StoreError) -> Failure {
    Failure::message(error.to_string())
}

fn refused(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// Rows, so many a commit.
struct Insert {
    rows: usize,
    /// How many rows were committed, by this and by those before it.
    inserted: Arc<AtomicU64>,
}

impl Workload for Insert {
    type Target = Arc<Raw>;
    type Caller = Session;

    async fn caller(&self, _index: usize, raw: &Arc<Raw>) -> Result<Session, Status> {
        raw.session().await.map_err(refused)
    }

    async fn operate(&self, session: &mut Session, _intended: Instant) -> Result<Done, Status> {
        session.insert(self.rows).await.map_err(refused)?;
        let ops = self.rows as u64;
        self.inserted.fetch_add(ops, Ordering::Relaxed);
        Ok(Done { calls: 1, ops })
    }

    async fn check(self, _sessions: Vec<Session>, raw: &Arc<Raw>) -> Checked {
        let inserted = self.inserted.load(Ordering::Relaxed);
        let problem = match raw.rows().await {
            Ok(found) if u64::try_from(found) == Ok(inserted) => None,
            Ok(found) => Some(format!("there are {found} rows after {inserted} were committed")),
            Err(error) => Some(format!("the rows cannot be counted: {error}")),
        };
        Checked::new(
            "as many rows are there as were committed",
            problem.into_iter().collect(),
        )
    }
}

/// One page after another, each synced.
struct Fsync;

impl Workload for Fsync {
    type Target = std::sync::Mutex<Option<Disk>>;
    type Caller = Disk;

    async fn caller(&self, _index: usize, disk: &Self::Target) -> Result<Disk, Status> {
        let disk = disk.lock().ok().and_then(|mut disk| disk.take());
        disk.ok_or_else(|| Status::internal("one file has one caller"))
    }

    async fn operate(&self, disk: &mut Disk, _intended: Instant) -> Result<Done, Status> {
        tokio::task::block_in_place(|| disk.sync()).map_err(refused)?;
        Ok(Done { calls: 1, ops: 1 })
    }

    async fn check(self, _disks: Vec<Disk>, _disk: &Self::Target) -> Checked {
        Checked::default()
    }
}
