//! Callers that leave while they wait, handlers that want the same lock, and a connection of which only one end knows that it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::task::State;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::{Play, delegate, find_agent, find_task, is_offline};
use crate::common::assert_well;
use crate::support::agent::{Line, registration};
use crate::support::wait::{soon, until};
use crate::support::{Stage, duration};

const LONG: Duration = Duration::from_secs(60);

async fn queue_length(stage: &Stage) -> i32 {
    let request = v1::GetLockRequest {
        namespace: stage.ns(),
        resource_id: "resource".into(),
    };
    let lock = stage.locks().get_lock(request).await.expect("a lock").into_inner();
    lock.lock.expect("a lock").queue_length
}

async fn pollers(stage: &Stage, count: usize) -> Vec<String> {
    let mut sessions = Vec::new();
    for number in 0..count {
        let request = v1::RegisterAgentRequest {
            session_ttl: duration(LONG),
            max_concurrent_tasks: 50,
            ..registration(stage, &format!("poller-{number}"))
        };
        let registered = stage.registry().register_agent(request).await.expect("registered");
        sessions.push(registered.into_inner().session_id);
    }
    sessions
}

/// A call that waits, of one of three kinds; gives whether it was answered.
async fn wait_somehow(stage: Stage, number: usize, sessions: Arc<Vec<String>>) -> bool {
    let (namespace, wait_timeout) = (stage.ns(), duration(LONG));
    match number % 3 {
        0 => {
            let request = v1::AcquireLockRequest {
                namespace,
                resource_id: "resource".into(),
                holder_id: format!("holder-{number}"),
                wait_timeout,
                ..Default::default()
            };
            stage.locks().acquire_lock(request).await.is_ok()
        }
        1 => {
            let request = v1::AwaitTaskRequest {
                namespace,
                task_id: "nobodys".into(),
                wait_timeout,
            };
            stage.tasks().await_task(request).await.is_ok()
        }
        _ => {
            let request = v1::PollTasksRequest {
                namespace,
                session_id: sessions[number % sessions.len()].clone(),
                max_tasks: 1,
                wait_timeout,
            };
            stage.tasks().poll_tasks(request).await.is_ok()
        }
    }
}

#[tokio::test]
async fn a_storm_of_callers_that_leave_while_they_wait_leaves_nothing_behind() {
    const CALLS: usize = 300;
    let play = Play::begin().await;
    let stage = &play.stage;
    let held = v1::AcquireLockRequest {
        namespace: stage.ns(),
        resource_id: "resource".into(),
        holder_id: "test".into(),
        ttl: duration(5 * LONG),
        ..Default::default()
    };
    stage.locks().acquire_lock(held).await.expect("the lock");
    let other = v1::DelegateTaskRequest {
        namespace: stage.ns(),
        task_id: "nobodys".into(),
        capability: "other".into(),
        ..Default::default()
    };
    stage.tasks().delegate_task(other).await.expect("delegated");
    let sessions = Arc::new(pollers(stage, 10).await);

    let calls: Vec<_> = (0..CALLS)
        .map(|number| {
            let call = wait_somehow(stage.clone(), number, Arc::clone(&sessions));
            // Some leave on their way, most while they wait.
            let patience = Duration::from_millis(number as u64 * 7_919 % 3_000);
            tokio::spawn(async move { tokio::time::timeout(patience, call).await.is_ok() })
        })
        .collect();
    until("a queue", || async { queue_length(stage).await > 10 }).await;
    let mut answered = 0;
    for call in calls {
        answered += usize::from(soon("its end", call).await.expect("no panic"));
    }
    assert_eq!(answered, 0, "there was nothing to answer");
    until("the end of the queue", || async { queue_length(stage).await == 0 }).await;

    // A task that comes now waits, since nobody waits for it. What is given to those who have just left does not count.
    let probes = AtomicU32::new(0);
    until("the end of the polls", || async {
        let id = format!("probe-{}", probes.fetch_add(1, Ordering::Relaxed));
        delegate(stage, &id).await.state() == State::Pending
    })
    .await;
    let probes = probes.into_inner();
    eprintln!("{} probes went to pollers that were gone", probes - 1);
    for number in 0..20 {
        let task = delegate(stage, &format!("later-{number}")).await;
        assert_eq!(task.state(), State::Pending);
    }
    // Whoever polls now is given all of them: no slot has leaked.
    let mut given = 0;
    for session_id in sessions.iter() {
        let request = v1::PollTasksRequest {
            namespace: stage.ns(),
            session_id: session_id.clone(),
            max_tasks: 50,
            wait_timeout: None,
        };
        let polled = soon("the tasks", stage.tasks().poll_tasks(request))
            .await
            .expect("polled");
        given += polled.into_inner().assignments.len();
    }
    assert!(given >= 21, "{given}");
    assert_eq!(find_task(stage, "later-19").await.state(), State::Assigned);
    assert_well(stage).await;
}

#[tokio::test]
async fn two_handlers_of_one_agent_never_both_hold_a_lock() {
    const TASKS: usize = 24;
    let play = Play::begin().await;
    let client = drumline::Client::builder(&play.stage.address)
        .namespace(play.stage.ns())
        .connect()
        .await
        .expect("a client");
    let (inside, most, under_way) = (
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicU32::new(0)),
    );
    let agent = {
        let (inside, most, under_way) = (Arc::clone(&inside), Arc::clone(&most), Arc::clone(&under_way));
        drumline::Agent::builder(&client, "a")
            .max_concurrent_tasks(4)
            .capability("work", move |task: drumline::TaskContext, _input: i64| {
                let (inside, most, under_way) = (Arc::clone(&inside), Arc::clone(&most), Arc::clone(&under_way));
                async move {
                    most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let lock = task.lock("resource").wait(LONG).send().await?;
                    let others = inside.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    let token = lock.token();
                    lock.release().await?;
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    Ok((others, token))
                }
            })
            .build()
            .start()
            .expect("an agent")
    };
    soon("the agent", agent.ready()).await.expect("registered");
    for number in 0..TASKS {
        delegate(&play.stage, &format!("t{number}")).await;
    }
    let mut tokens = std::collections::BTreeSet::new();
    for number in 0..TASKS {
        let id = format!("t{number}");
        until("its end", || super::is_task(&play.stage, &id, State::Completed)).await;
        let task = find_task(&play.stage, &id).await;
        let result = drumline::payload::to_json(&task.result.expect("a result")).expect("JSON");
        assert_eq!(result[0], 0, "another handler was inside");
        tokens.insert(result[1].as_i64().expect("a token"));
    }
    assert_eq!(tokens.len(), TASKS, "each hold had a token of its own");
    assert!(most.load(Ordering::SeqCst) > 1, "handlers were at it at once");
    soon("the agent's end", agent.stop()).await.expect("it ends");
}

/// A relay before a server, which passes everything on until it is told to stand still, and breaks when it is told to.
struct Relay {
    address: String,
    stall: Arc<Notify>,
    cut: Arc<Notify>,
    passing: tokio::task::JoinHandle<()>,
}

impl Relay {
    /// Takes one connection.
    async fn before(address: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = format!("http://{}", listener.local_addr().expect("an address"));
        let server = address.trim_start_matches("http://").to_owned();
        let (stall, cut) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (standstill, end) = (Arc::clone(&stall), Arc::clone(&cut));
        let passing = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.expect("a connection");
            let mut server = TcpStream::connect(server).await.expect("the server");
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
                () = standstill.notified() => {}
            }
            // Both connections are open, and nothing passes.
            end.notified().await;
        });
        Relay {
            address: own,
            stall,
            cut,
            passing,
        }
    }
}

#[tokio::test]
async fn the_late_break_of_a_half_open_stream_does_not_end_the_session_that_was_resumed() {
    let play = Play::begin().await;
    let relay = Relay::before(&play.stage.address).await;
    let through = Stage {
        address: relay.address.clone(),
        ..play.stage.clone()
    };
    let mut older = Line::register(&through, registration(&through, "a")).await.unwrap();
    older.beat(2);
    older.hear().await.unwrap().expect("an answer");
    relay.stall.notify_one();
    // Neither end hears of it.
    older.beat(3);
    let heard = tokio::time::timeout(Duration::from_millis(500), older.hear()).await;
    assert!(heard.is_err(), "{heard:?}");

    let mut newer = Line::resume(&play.stage, &older.session_id()).await.unwrap();
    assert!(newer.welcome.resumed);
    let mut number = 1;
    for round in 0..2 {
        // Longer than a broken stream's session is kept, and than the TTL.
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            number += 1;
            newer.beat(number);
            assert!(
                newer.hear().await.unwrap().is_some(),
                "the newer stream lives in round {round}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if round == 0 {
            relay.cut.notify_one();
            soon("the break", async {
                while !relay.passing.is_finished() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
    }
    drop(older);
    assert!(!is_offline(&play.stage, "a").await);
    assert_eq!(find_agent(&play.stage, "a").await.unwrap().session_incarnation, 1);
    assert!(play.events("agent.expired").await.is_empty());
}
