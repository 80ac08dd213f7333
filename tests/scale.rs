//! Many at once, in a short form of what `docs/performance.md` measures: agents on streams, and callers that wait for one lock.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use drumline_proto::v1;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

use crate::support::server::{self, Composition, Server};
use crate::support::wait::soon;
use crate::support::{Stage, duration, on_every_composition};

/// How many agents.
const AGENTS: u64 = 1_000;
/// What an agent may cost a server without optimisations, whose futures are larger, and whose allocator keeps what a thousand registrations
/// at once have needed: about twice of what was measured. The limit for a release, 100 KiB, is measured with ten times as many.
const KIB_AN_AGENT: f64 = 200.0;
/// How long a thousand may take to come.
const PATIENCE: Duration = Duration::from_secs(240);
/// How many callers wait for a lock.
const WAITERS: usize = 1_000;
/// How many of them join at once; of two that did, either may be first.
const ALIKE: usize = 50;
/// How many of them get it; then the others give up.
const RELEASES: usize = 200;
/// Longer than all of them take.
const LONG: Duration = Duration::from_secs(600);

/// A server of its own, whose memory nobody else uses.
fn start(composition: Composition) -> Server {
    let listen = ["--listen", "127.0.0.1:0"];
    if composition == Composition::Sqlite {
        return Server::with(&[&listen[..], &["--ephemeral"]].concat());
    }
    let (database, redis) = (server::new_database(), std::env::var("DRUMLINE_TEST_REDIS"));
    let redis = redis.expect("a Redis for tests");
    Server::with(&[&listen[..], &["--database-url", &database, "--redis-url", &redis]].concat())
}

#[tokio::test]
async fn a_thousand_agents_live_and_the_work_of_those_that_die_is_soon_in_other_hands() {
    for composition in [Composition::Sqlite, Composition::PostgresRedis] {
        if !server::compositions().contains(&composition) {
            continue;
        }
        let server = start(composition);
        let (callers, pid) = (AGENTS.to_string(), server.pid().to_string());
        let mut command = Command::new(server::binary());
        command
            .args(["bench", "agents", "--duration", "8s", "--ttl", "5s", "-o", "json"])
            .args(["--callers", &callers, "--server-pid", &pid, "--server", &server.address])
            .env_remove("DRUMLINE_SESSION_ID")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let done = tokio::time::timeout(PATIENCE, command.output()).await;
        let done = done.expect("the bench ends").expect("it runs");
        let out = String::from_utf8_lossy(&done.stdout);
        let found: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
        eprintln!("on {composition:?}: {found}");
        // That nobody else died, and how soon tasks must be in other hands, is for the bench to say.
        assert_eq!(found["problems"], Value::Array(Vec::new()), "{found}");
        assert_eq!(done.status.code(), Some(0));
        let number = |name: &str| found[name].as_f64().unwrap_or_else(|| panic!("no {name} in {found}"));
        assert_eq!(found["connections"], AGENTS, "{found}");
        assert!(number("alive_at_least") >= AGENTS as f64 - 2.0, "{found}");
        assert!(number("moved_after_kill_ms") < 5_000.0, "{found}");
        // Everybody says something three times in a TTL; who is late here and there is not dead.
        assert!(number("ops") > 2.0 * AGENTS as f64, "{found}");
        assert!(number("server_kib_an_agent") < KIB_AN_AGENT, "{found}");
    }
}

/// The one number that a query gives.
async fn number(database: &tokio_postgres::Client, query: &str) -> i64 {
    database.query_one(query, &[]).await.expect("an answer").get(0)
}

#[tokio::test]
async fn a_thousand_agents_come_back_to_their_sessions_when_their_server_was_killed() {
    if !server::compositions().contains(&Composition::PostgresRedis) {
        return;
    }
    let (database, redis) = (server::new_database(), std::env::var("DRUMLINE_TEST_REDIS"));
    let (listen, redis) = (server::lasting_address(), redis.expect("a Redis for tests"));
    let arguments = ["--listen", &listen, "--database-url", &database, "--redis-url", &redis];
    let server = Server::with(&arguments);
    let mut command = Command::new(server::binary());
    command
        .args(["bench", "agents", "--duration", "1h", "--ttl", "10s", "--callers"])
        .args([&AGENTS.to_string(), "--server", &server.address])
        .env_remove("DRUMLINE_SESSION_ID")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut agents = command.spawn().expect("it runs");
    let mut said = BufReader::new(agents.stderr.take().expect("a pipe")).lines();
    let gathered = async {
        while let Some(line) = said.next_line().await.expect("UTF-8") {
            if line.contains("agents are there") {
                return;
            }
        }
        panic!("the bench ended");
    };
    // A machine that is busy with much else is slow to start a thousand.
    tokio::time::timeout(PATIENCE, gathered).await.expect("they come");

    server.kill();
    let server = Server::with(&arguments);
    let began = Instant::now();
    let (database, connection) = tokio_postgres::connect(&database, tokio_postgres::NoTls)
        .await
        .expect("it answers");
    tokio::spawn(connection);
    let back = "SELECT count(*) FROM sessions WHERE life = 'LIVE' AND connected = 1 AND generation > 1";
    while number(&database, back).await < AGENTS as i64 {
        assert!(began.elapsed() < PATIENCE, "not all are back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("{AGENTS} agents were back after {:.2?}", began.elapsed());
    let sessions = number(&database, "SELECT count(*) FROM sessions").await;
    assert_eq!(sessions, AGENTS as i64, "each has the session that it had");
    drop((agents, server));
}

fn wish(stage: &Stage, holder: &str) -> v1::AcquireLockRequest {
    v1::AcquireLockRequest {
        namespace: stage.ns(),
        resource_id: "narrow".into(),
        holder_id: holder.into(),
        ttl: duration(LONG),
        wait_timeout: duration(LONG),
        ..Default::default()
    }
}

async fn acquire(stage: &Stage, holder: &str) -> Result<i64, Status> {
    let answer = stage.locks().acquire_lock(wish(stage, holder)).await?.into_inner();
    Ok(answer.lock.expect("a lock").fencing_token)
}

async fn release(stage: &Stage, token: i64) {
    let request = v1::ReleaseLockRequest {
        namespace: stage.ns(),
        resource_id: "narrow".into(),
        fencing_token: token,
        ..Default::default()
    };
    stage.locks().release_lock(request).await.expect("it is the holder's");
}

/// Waits until so many are in the queue.
async fn queue_is(stage: &Stage, length: usize) {
    let request = v1::GetLockRequest {
        namespace: stage.ns(),
        resource_id: "narrow".into(),
    };
    let looks = async {
        loop {
            let answer = stage.locks().get_lock(request.clone()).await.expect("it is held");
            let lock = answer.into_inner().lock.expect("a lock");
            if lock.queue_length == i32::try_from(length).expect("few") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon("the queue", looks).await;
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Callers that wait for the lock, which somebody holds.
struct Queue {
    waiting: JoinSet<()>,
    answers: mpsc::UnboundedReceiver<(usize, Result<i64, Status>)>,
    /// The holder's.
    token: i64,
}

impl Queue {
    /// Takes the lock, and lets so many wait for it; they join in groups, one after the other.
    async fn begin(stage: &Stage, waiters: usize) -> Queue {
        let token = acquire(stage, "the first").await.expect("nobody has it");
        let (answered, answers) = mpsc::unbounded_channel();
        let mut waiting = JoinSet::new();
        for waiter in 0..waiters {
            let (stage, answered) = (stage.clone(), answered.clone());
            let waits = stage.clone();
            waiting.spawn(async move {
                let token = acquire(&waits, &format!("waiter-{waiter}")).await;
                let _over = answered.send((waiter, token));
            });
            if (waiter + 1) % ALIKE == 0 {
                queue_is(&stage, waiter + 1).await;
            }
        }
        queue_is(stage, waiters).await;
        Queue {
            waiting,
            answers,
            token,
        }
    }

    /// Gives the lock back so many times; each time one of those who came first gets it, and nobody else is answered. Tells how long each took.
    async fn release(&mut self, stage: &Stage, times: usize) -> Vec<Duration> {
        let (mut took, mut had_it) = (Vec::with_capacity(times), HashSet::new());
        for expected in 0..times {
            assert!(
                self.answers.try_recv().is_err(),
                "somebody was answered before a release"
            );
            let began = Instant::now();
            release(stage, self.token).await;
            let (waiter, answer) = soon("an answer", self.answers.recv()).await.expect("they wait");
            took.push(began.elapsed());
            assert_eq!(waiter / ALIKE, expected / ALIKE, "{waiter} in the place of {expected}");
            assert!(had_it.insert(waiter), "{waiter} got it twice");
            let token = answer.expect("the lock");
            assert!(token > self.token, "{token} after {}", self.token);
            self.token = token;
        }
        took
    }
}

#[tokio::test]
async fn each_release_wakes_one_of_the_first_of_a_thousand_waiters_and_nobody_else() {
    on_every_composition(|stage| async move {
        let few = ALIKE;
        let mut queue = Queue::begin(&stage, few).await;
        let mut with_few = queue.release(&stage, few).await;
        release(&stage, queue.token).await;

        let began = Instant::now();
        let mut queue = Queue::begin(&stage, WAITERS).await;
        let joined = began.elapsed();
        let mut with_many = queue.release(&stage, RELEASES).await;
        let (few, many) = (median(&mut with_few), median(&mut with_many));
        eprintln!("{WAITERS} joined within {joined:?}; a hand-over took {many:?}, and {few:?} where {ALIKE} waited");
        // Ten times as much would be each of them looked at.
        assert!(many < 4 * few + Duration::from_millis(10), "{many:?}, {few:?}");

        // Those who give up all at once are no longer in the way, and the holder is none the worse.
        queue.waiting.shutdown().await;
        queue_is(&stage, 0).await;
        release(&stage, queue.token).await;
        assert!(acquire(&stage, "the last").await.is_ok());
    })
    .await;
}
