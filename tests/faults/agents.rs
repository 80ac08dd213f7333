//! Agents that are killed or stopped while they work.

use std::time::Instant;

use drumline_proto::v1;
use drumline_proto::v1::task::State;

use super::{
    Play, SOON, TTL, assert_done_once, completed_items, completes, delegate, find_agent, find_task, is_offline,
    is_task, results, start_map, wait_for, workflow,
};
use crate::common::{assert_well, put};
use crate::support::wait::until;
use crate::support::{Stage, json, reason, text_of};

/// Waits until a task runs at another agent than this one; gives that one's id.
async fn runs_elsewhere(stage: &Stage, task_id: &str, than: &str) -> String {
    until("the task in other hands", || async {
        let task = find_task(stage, task_id).await;
        task.state() == State::Running && task.agent_id != than
    })
    .await;
    find_task(stage, task_id).await.agent_id
}

#[tokio::test]
async fn a_killed_agents_task_is_soon_in_other_hands_and_has_one_result() {
    let play = Play::begin().await;
    let script = format!(r#"{} echo "\"$DRUMLINE_AGENT_ID\"""#, wait_for("go"));
    let mut agents = [play.agent("a", 1, &script).await, play.agent("b", 1, &script).await];
    delegate(&play.stage, "t").await;
    until("its begin", || is_task(&play.stage, "t", State::Running)).await;
    let first = find_task(&play.stage, "t").await.agent_id;
    let (victim, other) = if first == "a" { (0, "b") } else { (1, "a") };
    until("the program's begin", || async { play.executions().len() == 1 }).await;

    let began = Instant::now();
    agents[victim].kill();
    assert_eq!(runs_elsewhere(&play.stage, "t", &first).await, other);
    let took = began.elapsed();
    eprintln!("reassigned {took:?} after SIGKILL");
    assert!(took < SOON, "{took:?}");

    play.allow("go");
    until("its end", || is_task(&play.stage, "t", State::Completed)).await;
    let task = find_task(&play.stage, "t").await;
    assert_eq!((text_of(&task.result), task.attempt), (format!("\"{other}\""), 2));
    assert_eq!(play.count("task.completed", "t").await, 1);
    assert_eq!(play.count("task.reassigned", "t").await, 1);
    assert_eq!(play.events("agent.expired").await.len(), 1);
    assert!(is_offline(&play.stage, &first).await);
    assert_eq!(play.executions().len(), 2);
}

/// Everything that can be tried under a session that is over, and with an attempt that is.
async fn assert_refused(stage: &Stage, session_id: &str, attempt_token: &str) {
    let over = |reason: String| {
        assert!(
            ["SESSION_ENDED", "SESSION_SUPERSEDED"].contains(&reason.as_str()),
            "{reason}"
        );
    };
    let (namespace, session_id, task_id) = (stage.ns(), session_id.to_owned(), "t".to_owned());
    let attempt_token = attempt_token.to_owned();
    let complete = v1::CompleteTaskRequest {
        namespace: namespace.clone(),
        session_id: session_id.clone(),
        task_id: task_id.clone(),
        attempt_token: attempt_token.clone(),
        result: json("\"stale\""),
        ..Default::default()
    };
    over(reason(stage.tasks().complete_task(complete).await));
    let fail = v1::FailTaskRequest {
        namespace: namespace.clone(),
        session_id: session_id.clone(),
        task_id: task_id.clone(),
        attempt_token: attempt_token.clone(),
        ..Default::default()
    };
    over(reason(stage.tasks().fail_task(fail).await));
    let progress = v1::ReportProgressRequest {
        namespace: namespace.clone(),
        session_id: session_id.clone(),
        task_id,
        attempt_token: attempt_token.clone(),
        progress: 0.5,
        ..Default::default()
    };
    over(reason(stage.tasks().report_progress(progress).await));
    let write = v1::PutStateRequest {
        session_id: session_id.clone(),
        ..put(stage, "stale", json("1"))
    };
    over(reason(stage.state().put_state(write).await));
    let acquire = v1::AcquireLockRequest {
        namespace: namespace.clone(),
        session_id: session_id.clone(),
        resource_id: "stale".into(),
        ..Default::default()
    };
    over(reason(stage.locks().acquire_lock(acquire).await));
    let publish = v1::PublishEventsRequest {
        namespace: namespace.clone(),
        session_id: session_id.clone(),
        events: vec![crate::events::event("stale.made")],
        ..Default::default()
    };
    over(reason(stage.events().publish_events(publish).await));
    let heartbeat = v1::HeartbeatRequest { namespace, session_id };
    over(reason(stage.registry().heartbeat(heartbeat).await));
}

#[tokio::test]
async fn a_stopped_agent_loses_its_task_and_is_refused_when_it_goes_on() {
    let play = Play::begin().await;
    let script = format!(
        r#"echo "$DRUMLINE_SESSION_ID $DRUMLINE_ATTEMPT_TOKEN" > "credentials-$DRUMLINE_ATTEMPT"; {}
        echo "\"$DRUMLINE_AGENT_ID\""; touch "over-$DRUMLINE_ATTEMPT""#,
        wait_for("go-$DRUMLINE_ATTEMPT")
    );
    let agents = [play.agent("a", 1, &script).await, play.agent("b", 1, &script).await];
    delegate(&play.stage, "t").await;
    until("its begin", || is_task(&play.stage, "t", State::Running)).await;
    let first = find_task(&play.stage, "t").await.agent_id;
    let (victim, other) = if first == "a" {
        (&agents[0], "b")
    } else {
        (&agents[1], "a")
    };
    let credentials = || std::fs::read_to_string(play.desk().join("credentials-1")).unwrap_or_default();
    until("the program's begin", || async { credentials().ends_with('\n') }).await;

    let began = Instant::now();
    victim.signal("STOP");
    assert_eq!(runs_elsewhere(&play.stage, "t", &first).await, other);
    let took = began.elapsed();
    eprintln!("reassigned {took:?} after SIGSTOP");
    assert!(took < SOON, "{took:?}");
    let mut credentials = credentials();
    credentials.truncate(credentials.trim_end().len());
    let (session_id, attempt_token) = credentials.split_once(' ').expect("a session and a token");
    assert_refused(&play.stage, session_id, attempt_token).await;

    // Its program has a result, which it finds when it goes on.
    play.allow("go-1");
    let over = play.desk().join("over-1");
    until("the program's end", || async { over.exists() }).await;
    victim.signal("CONT");
    until("its next registration", || async {
        let agent = find_agent(&play.stage, &first).await.unwrap();
        agent.session_incarnation == 2 && agent.status() == v1::agent::Status::Active
    })
    .await;
    assert_refused(&play.stage, session_id, attempt_token).await;
    let task = find_task(&play.stage, "t").await;
    assert_eq!((task.state(), task.agent_id.as_str()), (State::Running, other));
    play.allow("go-2");
    until("its end", || is_task(&play.stage, "t", State::Completed)).await;
    let task = find_task(&play.stage, "t").await;
    assert_eq!((text_of(&task.result), task.attempt), (format!("\"{other}\""), 2));
    assert_eq!(play.count("task.completed", "t").await, 1);
    assert_well(&play.stage).await;
}

#[tokio::test]
async fn three_of_four_agents_killed_at_once_do_not_stop_a_workflow() {
    const ITEMS: usize = 20;
    let play = Play::begin().await;
    // The first attempts of the last items last until three agents are gone: the fault is in the middle for certain.
    let script = format!(
        r#"[ "$DRUMLINE_ITEM_KEY" -ge 4 ] && {{ {} }}; echo "[$input, $DRUMLINE_ATTEMPT]""#,
        wait_for("go")
    );
    let mut agents = Vec::new();
    for agent_id in ["a", "b", "c", "d"] {
        agents.push(play.agent(agent_id, 2, &script).await);
    }
    start_map(&play.stage, ITEMS, 8).await;
    until("the middle", || async {
        completed_items(&play.stage).await == 4 && play.executions().len() == 12
    })
    .await;
    let under_way = workflow(&play.stage).await;
    let lost = under_way.subtasks.iter().filter(|subtask| {
        subtask.state() == v1::subtask::State::InProgress && ["a", "b", "c"].contains(&subtask.agent_id.as_str())
    });
    let lost = lost.count();
    assert!(lost >= 3, "{lost} in the hands of those that will be killed");

    let began = Instant::now();
    for agent in &agents[..3] {
        agent.signal("KILL");
    }
    until("the loss", || async {
        play.events("task.reassigned").await.len() >= lost
    })
    .await;
    let took = began.elapsed();
    eprintln!("{lost} tasks taken off three agents {took:?} after SIGKILL");
    assert!(took < SOON && SOON > TTL, "{took:?}");
    assert!(agents[3].runs());
    play.allow("go");
    completes(&play.stage).await;
    assert_done_once(&play, ITEMS).await;
    for subtask in results(&play.stage).await {
        let expected = format!("[{}, {}]", subtask.index, subtask.attempt);
        assert_eq!(text_of(&subtask.result), expected);
    }
    assert_eq!(play.events("task.reassigned").await.len(), lost);
    assert_eq!(play.events("agent.expired").await.len(), 3);
}
