//! Commits that wait for a synchronous standby which is not there: they are neither told too early nor lost.

use std::time::Duration;

use drumline_proto::v1;

use super::{Props, Scene};
use crate::support::postgres::Postgres;
use crate::support::wait::until;
use crate::support::{Stage, json, reason};

async fn put(stage: Stage, request_id: &'static str) -> Result<i64, tonic::Status> {
    let request = v1::PutStateRequest {
        namespace: stage.ns(),
        request_id: request_id.into(),
        state_id: "document".into(),
        payload: json("1"),
        ..Default::default()
    };
    let written = stage.state().put_state(request).await?;
    Ok(written.into_inner().version)
}

/// How many commits wait for a standby.
async fn waiting(postgres: &Postgres) -> String {
    let waiting = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    postgres.ask(waiting).await
}

/// A replica over a primary whose standby has just died, and a standby that has everything until then.
async fn begin() -> Option<(Scene, Postgres, Stage)> {
    let props = Props::get().await?;
    let mut standby = props.postgres.standby(props.postgres.address()).await;
    props.postgres.waits_for_a_standby().await;
    let urls = [props.urls()];
    let scene = props.play(&urls).await;
    let stage = Stage::new(&scene.replicas[0].url()).await;
    assert_eq!(put(stage.clone(), "first").await.expect("written"), 1);
    standby.kill();
    assert!(!standby.runs());
    Some((scene, standby, stage))
}

#[tokio::test]
async fn a_commit_that_only_the_primary_has_is_told_when_the_standby_has_it_too() {
    let Some((mut scene, mut standby, stage)) = begin().await else {
        return;
    };
    let mut written = tokio::spawn(put(stage.clone(), "second"));
    until("a commit that waits", || async {
        waiting(&scene.postgres).await == "1"
    })
    .await;
    // The end of the server ends the wait: after it the commit is there, and on no standby.
    scene.postgres.kill();
    scene.postgres.go().await;
    let versions = "SELECT max(version)::text FROM documents";
    assert_eq!(scene.postgres.ask(versions).await, "2");
    let early = tokio::time::timeout(Duration::from_secs(5), &mut written).await;
    let early = early.map(|outcome| outcome.expect("no panic"));
    assert!(!matches!(early, Ok(Ok(_))), "it was told while no standby had it");
    standby.go().await;
    let outcome = match early {
        Ok(outcome) => outcome,
        Err(_) => written.await.expect("no panic"),
    };
    // Where the server took long to recover, the commit was not looked for to the end.
    match outcome {
        Ok(version) => assert_eq!(version, 2),
        unknown => assert_eq!(reason(unknown), "OUTCOME_UNKNOWN"),
    }
    until("the standby", || async { standby.ask(versions).await == "2" }).await;
    let again = put(stage, "second").await;
    assert_eq!(again.expect("the answer that was kept"), 2);
}

#[tokio::test]
async fn a_commit_that_waits_for_too_long_is_unknown_and_found_by_its_request_id() {
    if std::env::var_os("DRUMLINE_TEST_LONG").is_none() {
        eprintln!("DRUMLINE_TEST_LONG is not set: it would take half a minute");
        return;
    }
    let Some((scene, mut standby, stage)) = begin().await else {
        return;
    };
    let outcome = put(stage.clone(), "second").await;
    assert_eq!(reason(outcome), "OUTCOME_UNKNOWN");
    // Its connection is gone, and it waits all the same: nothing cuts it short.
    assert_eq!(waiting(&scene.postgres).await, "1");
    assert_eq!(
        scene.postgres.ask("SELECT max(version)::text FROM documents").await,
        "1"
    );
    standby.go().await;
    until("the end of the wait", || async {
        waiting(&scene.postgres).await == "0"
    })
    .await;
    let again = put(stage.clone(), "second").await;
    assert_eq!(again.expect("the answer that was kept"), 2);
    assert_eq!(put(stage, "third").await.expect("written"), 3);
}
