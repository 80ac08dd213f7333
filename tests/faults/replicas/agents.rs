//! Agents on different replicas: one that dies, one that is cut off, and all of them when a replica dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use drumline::{Agent, AgentHandle, Client, TaskContext, TaskFailure};
use drumline_proto::v1;
use drumline_proto::v1::task::State;
use tokio::sync::Notify;

use super::Scene;
use crate::faults::{SOON, delegate, find_agent, find_task};
use crate::support::Stage;
use crate::support::keeper::Kept;
use crate::support::proxy::Proxy;
use crate::support::server::binary;
use crate::support::wait::{soon, until};

/// The stage of a scene's namespace on one of its replicas.
async fn stage(scene: &Scene, replica: usize) -> Stage {
    Stage {
        namespace: scene.namespace.clone(),
        ..Stage::new(&scene.replicas[replica].url()).await
    }
}

async fn client(scene: &Scene, addresses: &[String]) -> Client {
    let mut builder = Client::builder(&addresses[0]).namespace(scene.namespace.clone());
    for address in &addresses[1..] {
        builder = builder.address(address);
    }
    builder.connect().await.expect("a client")
}

/// An agent whose attempts end when they are let; it counts those that it began.
async fn agent(client: &Client, agent_id: &str, go: &Arc<Notify>, begun: &Arc<AtomicI32>) -> AgentHandle {
    let (go, begun) = (Arc::clone(go), Arc::clone(begun));
    let work = move |task: TaskContext, _input: i64| {
        let (go, begun) = (Arc::clone(&go), Arc::clone(&begun));
        async move {
            begun.fetch_add(1, Ordering::SeqCst);
            tokio::select! {
                () = go.notified() => {}
                () = task.cancelled() => return Err(TaskFailure::new("stopped", "told to stop")),
            }
            Ok(task.attempt())
        }
    };
    let agent = Agent::builder(client, agent_id).capability("work", work).build();
    let agent = agent.start().expect("an agent");
    soon("the registration", agent.ready()).await.expect("registered");
    agent
}

async fn runs_at(stage: &Stage, task_id: &str, agent_id: &str) -> bool {
    let task = find_task(stage, task_id).await;
    task.state() == State::Running && task.agent_id == agent_id
}

#[tokio::test]
async fn a_task_is_in_other_hands_in_time_when_its_agent_dies_on_another_replica() {
    let Some(scene) = Scene::begin().await else { return };
    let stages = [stage(&scene, 0).await, stage(&scene, 1).await];
    let log = scene.place.path().join("agent");
    let command = [
        "agent",
        "exec",
        "--capability",
        "work",
        "--agent-id",
        "mortal",
        "--server",
    ];
    let mut command: Vec<String> = [binary()].into_iter().chain(command).map(str::to_owned).collect();
    command.push(scene.replicas[0].url());
    command.extend(["--namespace", &scene.namespace, "--", "sleep", "30"].map(str::to_owned));
    let mortal = Kept::start(&command, &log);
    until("its registration", || async {
        find_agent(&stages[1], "mortal").await.is_ok()
    })
    .await;
    delegate(&stages[1], "t").await;
    until("its begin", || runs_at(&stages[1], "t", "mortal")).await;
    let (go, begun) = (Arc::new(Notify::new()), Arc::new(AtomicI32::new(0)));
    let heir = agent(&client(&scene, &[scene.replicas[1].url()]).await, "heir", &go, &begun).await;

    mortal.kill();
    let died = Instant::now();
    until("the task in other hands", || runs_at(&stages[1], "t", "heir")).await;
    let took = died.elapsed();
    eprintln!("it was in other hands {took:.2?} after the death");
    assert!(took < SOON, "{took:?}");
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    go.notify_one();
    until("its end", || async {
        find_task(&stages[0], "t").await.state() == State::Completed
    })
    .await;
    soon("the agent's end", heir.stop()).await.expect("it ends");
}

#[tokio::test]
async fn a_task_is_in_other_hands_in_time_when_its_agent_is_cut_off_from_its_replica() {
    let Some(scene) = Scene::begin().await else { return };
    let stage = stage(&scene, 1).await;
    let proxy = Proxy::before(&scene.replicas[0].address);
    let (go, begun) = (Arc::new(Notify::new()), Arc::new(AtomicI32::new(0)));
    let through = client(&scene, &[format!("http://{}", proxy.address())]).await;
    let cut_off = agent(&through, "cut-off", &go, &begun).await;
    delegate(&stage, "t").await;
    until("its begin", || runs_at(&stage, "t", "cut-off")).await;
    let (other_go, other_begun) = (Arc::new(Notify::new()), Arc::new(AtomicI32::new(0)));
    let heir = agent(
        &client(&scene, &[scene.replicas[1].url()]).await,
        "heir",
        &other_go,
        &other_begun,
    )
    .await;

    // What it hears does not come any more, though what it says still arrives.
    proxy.back().stall();
    let began = Instant::now();
    until("the task in other hands", || runs_at(&stage, "t", "heir")).await;
    let took = began.elapsed();
    eprintln!("it was in other hands {took:.2?} after the line was cut");
    // It does not die: it misses an answer for two thirds of its TTL of 3 s, and is heard once more, for it tries to come back. A TTL after
    // that it counts as dead: five seconds in all where the line is cut right after an answer.
    assert!(took < SOON + Duration::from_secs(1), "{took:?}");
    other_go.notify_one();
    until("its end", || async {
        find_task(&stage, "t").await.state() == State::Completed
    })
    .await;
    let task = find_task(&stage, "t").await;
    assert_eq!((task.attempt, task.agent_id.as_str()), (2, "heir"));
    proxy.back().heal();
    for agent in [cut_off, heir] {
        soon("the agent's end", agent.stop()).await.expect("it ends");
    }
}

#[tokio::test]
async fn agents_go_on_through_another_replica_when_theirs_dies() {
    const AGENTS: usize = 4;
    let Some(scene) = Scene::begin().await else { return };
    let stage = stage(&scene, 1).await;
    let (go, begun) = (Arc::new(Notify::new()), Arc::new(AtomicI32::new(0)));
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        // Half of them begin on each replica.
        let mut addresses = scene.addresses();
        addresses.rotate_left(number % 2);
        agents.push(
            agent(
                &client(&scene, &addresses).await,
                &format!("agent-{number}"),
                &go,
                &begun,
            )
            .await,
        );
        delegate(&stage, &format!("t{number}")).await;
    }
    until("all at work", || async { begun.load(Ordering::SeqCst) == 4 }).await;

    scene.replicas[0].kill();
    assert!(!scene.replicas[0].process.runs());
    // Longer than they would be thought alive if they had not come back.
    let killed = Instant::now();
    while killed.elapsed() < 2 * SOON {
        for number in 0..AGENTS {
            let agent = find_agent(&stage, &format!("agent-{number}")).await.expect("an agent");
            assert_ne!(agent.status(), v1::agent::Status::Offline, "agent-{number}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for _ in 0..AGENTS {
        go.notify_one();
    }
    for number in 0..AGENTS {
        let id = format!("t{number}");
        until("its end", || async {
            find_task(&stage, &id).await.state() == State::Completed
        })
        .await;
        assert_eq!(find_task(&stage, &id).await.attempt, 1, "{id} was not begun again");
        let agent = find_agent(&stage, &format!("agent-{number}")).await.expect("an agent");
        assert_eq!(agent.session_incarnation, 1, "agent-{number} was not away");
    }
    for agent in agents {
        soon("the agent's end", agent.stop()).await.expect("it ends");
    }
}
