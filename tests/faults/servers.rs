//! Servers that are killed or stopped, and stores that are blocked, in the middle of a workflow.

use std::time::{Duration, Instant};

use drumline_proto::v1;
use drumline_proto::v1::task::State;

use super::{
    Play, SOON, TTL, assert_done_once, completed_items, completes, database, delegate, find_agent, find_task, is_task,
    length_of_fault, recorded, start_map, wait_for,
};
use crate::common::{assert_well, get, put};
use crate::support::server::Server;
use crate::support::wait::{soon, until};
use crate::support::{Stage, json, reason_of, text_of};

async fn fencing_token(stage: &Stage, resource: &str) -> i64 {
    let request = v1::AcquireLockRequest {
        namespace: stage.ns(),
        resource_id: resource.into(),
        holder_id: "test".into(),
        ..Default::default()
    };
    let lock = stage.locks().acquire_lock(request).await.expect("a lock").into_inner();
    let token = lock.lock.expect("a lock").fencing_token;
    let request = v1::ReleaseLockRequest {
        namespace: stage.ns(),
        resource_id: resource.into(),
        fencing_token: token,
        ..Default::default()
    };
    stage.locks().release_lock(request).await.expect("released");
    token
}

async fn version(stage: &Stage, document: &str) -> i64 {
    let written = stage.state().put_state(put(stage, document, json("1"))).await;
    written.expect("written").into_inner().version
}

#[tokio::test]
async fn a_workflow_goes_on_where_it_was_after_kill_nine_of_the_server() {
    const ITEMS: usize = 24;
    let mut play = Play::begin().await;
    let script = format!(
        r#"[ "$DRUMLINE_ITEM_KEY" -ge 20 ] && {{ {} }}; sleep 0.2; echo "$input""#,
        wait_for("go")
    );
    let mut agents = [play.agent("a", 3, &script).await, play.agent("b", 3, &script).await];
    let token = fencing_token(&play.stage, "resource").await;
    assert_eq!(version(&play.stage, "document").await, 1);
    start_map(&play.stage, ITEMS, 6).await;
    until("the middle", || async { completed_items(&play.stage).await >= 6 }).await;
    let kept = recorded(&play.stage).await;
    let before = play.executions();

    let address = play.server.listen_address().to_owned();
    let data = play.directory.path().join("data");
    // The old one goes first: the data directory takes one at a time.
    play.server.signal("KILL");
    until("its end", || {
        let ended = play.server.exited().is_some();
        async move { ended }
    })
    .await;
    play.server = Server::start(&data, &address);
    let began = Instant::now();
    play.stage = Stage {
        namespace: play.stage.ns(),
        ..Stage::new(&play.server.address).await
    };
    let after = recorded(&play.stage).await;
    assert!(after.starts_with(&kept), "{kept:?} was seen before, {after:?} is there");
    assert!(after.len() < ITEMS, "there was something left to do");
    until("progress", || async { recorded(&play.stage).await.len() > after.len() }).await;
    let took = began.elapsed();
    eprintln!(
        "{} of {ITEMS} were recorded; the next was {took:?} after the restart",
        after.len()
    );
    assert!(took < SOON, "{took:?}");
    assert!(fencing_token(&play.stage, "resource").await > token);
    assert_eq!(version(&play.stage, "document").await, 2);

    play.allow("go");
    completes(&play.stage).await;
    assert_done_once(&play, ITEMS).await;
    let executions = play.executions();
    for item in &kept {
        let runs = |lines: &[Vec<String>]| -> usize { lines.iter().filter(|line| line[0] == item.to_string()).count() };
        assert_eq!(
            runs(&before),
            runs(&executions),
            "item {item} was recorded, and ran again"
        );
    }
    assert!(agents.iter_mut().all(super::AgentProcess::runs));
    for agent_id in ["a", "b"] {
        let agent = find_agent(&play.stage, agent_id).await.unwrap();
        assert_eq!(agent.session_incarnation, 1, "{agent_id} was not away");
    }
}

/// Two agents, each with a task under way that ends when it is let.
async fn at_work() -> (Play, Vec<super::AgentProcess>) {
    let play = Play::begin().await;
    let script = format!(r#"{} echo "$DRUMLINE_ATTEMPT""#, wait_for("go"));
    let agents = vec![play.agent("a", 1, &script).await, play.agent("b", 1, &script).await];
    for task_id in ["t1", "t2"] {
        delegate(&play.stage, task_id).await;
        until("its begin", || is_task(&play.stage, task_id, State::Running)).await;
    }
    (play, agents)
}

/// Fails unless nobody died, also some time after the fault, and each task completes, in so many attempts at most.
async fn assert_unharmed(play: &Play, agents: &mut [super::AgentProcess], attempts: i32) {
    // Time for whoever would bury them late.
    tokio::time::sleep(TTL + Duration::from_secs(2)).await;
    let expired = play.events("agent.expired").await;
    assert!(expired.is_empty(), "{expired:?}");
    for agent_id in ["a", "b"] {
        let agent = find_agent(&play.stage, agent_id).await.unwrap();
        assert_eq!(agent.session_incarnation, 1);
        assert_ne!(agent.status(), v1::agent::Status::Offline);
    }
    play.allow("go");
    for task_id in ["t1", "t2"] {
        until("its end", || is_task(&play.stage, task_id, State::Completed)).await;
        let task = find_task(&play.stage, task_id).await;
        assert_eq!(text_of(&task.result), task.attempt.to_string());
        assert!(task.attempt <= attempts, "attempt {} of {task_id}", task.attempt);
        assert_eq!(play.count("task.completed", task_id).await, 1);
    }
    // Nobody took a task off its agent: one that had to stop said so itself.
    for event in play.events("task.reassigned").await {
        let payload = event.payload.expect("a payload");
        let text = drumline::payload::to_json(&payload).expect("JSON").to_string();
        assert!(text.contains("could not know that its session lived"), "{text}");
    }
    assert!(agents.iter_mut().all(super::AgentProcess::runs));
    assert_well(&play.stage).await;
}

#[tokio::test]
async fn a_server_that_is_stopped_for_long_kills_none_of_its_agents() {
    let (play, mut agents) = at_work().await;
    play.server.signal("STOP");
    // Nobody is answered: the fault is there.
    let answer = tokio::time::timeout(Duration::from_millis(500), get(&play.stage, "none")).await;
    assert!(answer.is_err(), "{answer:?}");
    tokio::time::sleep(length_of_fault()).await;
    play.server.signal("CONT");
    // An agent that hears nothing for its TTL cannot know that it lives: it stops its programs, and begins again.
    assert_unharmed(&play, &mut agents, 2).await;
}

#[tokio::test]
async fn a_store_that_is_blocked_for_long_kills_no_agent() {
    let (play, mut agents) = at_work().await;
    let other = rusqlite::Connection::open(database(play.directory.path())).expect("the file");
    other.busy_timeout(Duration::from_secs(5)).expect("patience");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let began = Instant::now();
    let refused = soon("a refusal", async {
        play.stage
            .state()
            .put_state(put(&play.stage, "document", json("1")))
            .await
    })
    .await
    .expect_err("nothing can be written");
    assert_eq!(reason_of(&refused), "STORE_UNAVAILABLE");
    tokio::time::sleep(length_of_fault().saturating_sub(began.elapsed())).await;
    other.execute_batch("ROLLBACK").expect("the lock is given back");
    // The server still answers heartbeats.
    assert_unharmed(&play, &mut agents, 1).await;
}
