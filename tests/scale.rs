//! Many at once, in a short form of what `docs/performance.md` measures: agents on streams, and callers that wait for one lock.

use std::process::Stdio;
use std::time::{Duration, Instant};

use drumline_proto::v1;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::mpsc;
use tonic::Status;

use crate::support::server::{self, Composition, Server};
use crate::support::wait::soon;
use crate::support::{Stage, duration, on_every_composition};

/// How many agents.
const AGENTS: u64 = 1_000;
/// What an agent may cost a server without optimisations, whose futures are larger, and whose allocator keeps what a thousand registrations
/// at once have needed: about twice of what was measured. The limit for a release, 100 KiB, is measured with ten times as many.
const KIB_AN_AGENT: f64 = 200.0;
/// How many callers wait for a lock.
const WAITERS: usize = 1_000;
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
        let done = tokio::time::timeout(Duration::from_secs(120), command.output()).await;
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

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test]
async fn each_release_wakes_the_first_of_a_thousand_waiters_and_nobody_else() {
    on_every_composition(|stage| async move {
        let mut token = acquire(&stage, "the first").await.expect("nobody has it");
        let began = Instant::now();
        let (answered, mut answers) = mpsc::unbounded_channel();
        for waiter in 0..WAITERS {
            let (stage, answered) = (stage.clone(), answered.clone());
            let waiting = stage.clone();
            tokio::spawn(async move {
                let token = acquire(&waiting, &format!("waiter-{waiter}")).await;
                let _over = answered.send((waiter, token));
            });
            // One after the other, so that it is known who came first.
            queue_is(&stage, waiter + 1).await;
        }
        let joined = began.elapsed();
        let mut took = Vec::with_capacity(WAITERS);
        for expected in 0..WAITERS {
            assert!(answers.try_recv().is_err(), "somebody was answered before a release");
            let began = Instant::now();
            release(&stage, token).await;
            let (waiter, answer) = soon("an answer", answers.recv()).await.expect("they wait");
            took.push(began.elapsed());
            assert_eq!(waiter, expected);
            let next = answer.expect("the lock");
            assert!(next > token, "{next} after {token}");
            token = next;
        }
        release(&stage, token).await;
        assert!(answers.try_recv().is_err());
        let (full, empty) = (median(took[..200].to_vec()), median(took[WAITERS - 200..].to_vec()));
        eprintln!("{WAITERS} joined in {joined:?}; a hand-over took {full:?} with a full queue and {empty:?} with an empty one");
        // It does not depend on how many wait.
        assert!(full < 3 * empty + Duration::from_millis(5), "{full:?}, {empty:?}");
    })
    .await;
}
