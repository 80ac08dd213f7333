//! Faults of a team's servers: two replicas on a Postgres and a Redis of the test's own, callers at work on both, and a fault in the middle.
//!
//! Each test asserts that the fault happened, that enough succeeded before it, after it and, where that is possible, during it, and that
//! what the callers were told can be explained by one server that never failed ([`load::Report`]). One test runs at a time: they load the
//! machine. They need Postgres' programs and Redis, which `scripts/test` finds or installs.

mod agents;
mod disk;
mod load;
mod old_primary;
mod postgres;
mod promotion;
mod redis;
mod servers;
mod stalls;
mod unanswered;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

use crate::support::keeper::{Kept, Place};
use crate::support::postgres::{self as postgres_server, Postgres};
use crate::support::redis::Redis;
use crate::support::server::{binary, lasting_address};
use load::{EVERYTHING, Kind, Load};

/// How much must succeed of everything before a fault, and after it.
const ENOUGH: usize = 20;
/// How long a replica may take to start.
const START: Duration = Duration::from_secs(30);

static TURN: Mutex<()> = Mutex::const_new(());

/// What a test has before there are replicas.
struct Props {
    postgres: Postgres,
    redis: Redis,
    turn: MutexGuard<'static, ()>,
}

impl Props {
    /// Waits for the test's turn, and starts a Postgres and a Redis; nothing if there are none here.
    async fn get() -> Option<Props> {
        if postgres_server::programs().is_none() {
            eprintln!("DRUMLINE_TEST_PG_BINDIR is not set: nothing is tried");
            return None;
        }
        Some(Props::with(TURN.lock().await, Postgres::start().await).await)
    }

    async fn with(turn: MutexGuard<'static, ()>, postgres: Postgres) -> Props {
        Props {
            postgres,
            redis: Redis::start().await,
            turn,
        }
    }

    /// Where replicas find them.
    fn urls(&self) -> Urls {
        Urls {
            database: self.postgres.url(),
            redis: Some(format!("redis://{}", self.redis.address())),
        }
    }

    /// Starts replicas, each with its own way to Postgres and Redis.
    async fn play(self, urls: &[Urls]) -> Scene {
        let place = Place::new();
        let mut replicas = Vec::new();
        for (number, urls) in urls.iter().enumerate() {
            let log = place.path().join(format!("replica-{number}"));
            replicas.push(Replica::start(urls.clone(), log).await);
        }
        Scene {
            namespace: format!("faults-{}", uuid::Uuid::new_v4().simple()),
            replicas,
            postgres: self.postgres,
            redis: self.redis,
            place,
            _turn: self.turn,
        }
    }
}

/// The way of one replica to Postgres and Redis.
#[derive(Clone)]
struct Urls {
    database: String,
    redis: Option<String>,
}

/// Everything that a test may do harm to.
struct Scene {
    replicas: Vec<Replica>,
    postgres: Postgres,
    redis: Redis,
    namespace: String,
    place: Place,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// Two replicas on one Postgres and one Redis; nothing if there are none here.
    async fn begin() -> Option<Scene> {
        let props = Props::get().await?;
        let urls = [props.urls(), props.urls()];
        Some(props.play(&urls).await)
    }

    fn addresses(&self) -> Vec<String> {
        self.replicas.iter().map(|replica| replica.url()).collect()
    }

    /// Callers at work on both replicas, of whom enough has succeeded already.
    async fn load(&self) -> Load {
        let load = Load::start(&self.addresses(), &self.namespace);
        load.succeeds(&EVERYTHING, ENOUGH).await;
        load
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (number, replica) in self.replicas.iter().enumerate() {
                eprintln!("replica {number} said last:\n{}", tail(&replica.process.printed()));
            }
            eprintln!("Postgres said last:\n{}", tail(&self.postgres.printed()));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A server of the team.
struct Replica {
    process: Kept,
    address: String,
    urls: Urls,
    log: PathBuf,
}

impl Replica {
    async fn start(urls: Urls, log: PathBuf) -> Replica {
        Replica::start_at(lasting_address(), urls, log).await
    }

    async fn start_at(address: String, urls: Urls, log: PathBuf) -> Replica {
        let mut command = [
            binary(),
            "serve",
            "--listen",
            &address,
            "--database-url",
            &urls.database,
        ]
        .map(str::to_owned)
        .to_vec();
        if let Some(redis) = &urls.redis {
            command.extend(["--redis-url".to_owned(), redis.clone()]);
        }
        let before = std::fs::metadata(&log).map_or(0, |log| log.len());
        let replica = Replica {
            process: Kept::start(&command, &log),
            address,
            urls,
            log,
        };
        let began = Instant::now();
        let listens = || {
            replica
                .process
                .printed()
                .get(before as usize..)
                .is_some_and(|text| text.contains("listening on"))
        };
        while !listens() {
            let goes_on = replica.process.runs() && began.elapsed() < START;
            assert!(goes_on, "a replica does not start: {}", replica.process.printed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        replica
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills it with -9.
    fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again on the same address.
    async fn start_again(&mut self) {
        assert!(!self.process.runs());
        *self = Replica::start_at(self.address.clone(), self.urls.clone(), self.log.clone()).await;
    }
}

/// How long the long faults last.
fn long() -> Duration {
    match std::env::var_os("DRUMLINE_TEST_LONG") {
        Some(_) => Duration::from_secs(30),
        None => Duration::from_secs(4),
    }
}
