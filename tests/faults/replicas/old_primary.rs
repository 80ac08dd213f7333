//! An old primary that is still there after its standby was promoted: nobody fenced it.

use drumline_proto::v1;

use super::{Props, Urls};
use crate::support::postgres::Postgres;
use crate::support::proxy::Proxy;
use crate::support::wait::until;
use crate::support::{Stage, json, reason};

async fn put(stage: &Stage) -> Result<tonic::Response<v1::PutStateResponse>, tonic::Status> {
    let request = v1::PutStateRequest {
        namespace: stage.ns(),
        state_id: "document".into(),
        payload: json("1"),
        ..Default::default()
    };
    stage.state().put_state(request).await
}

/// How many batches a server has.
async fn batches(postgres: &Postgres) -> String {
    postgres.ask("SELECT count(*)::text FROM batches").await
}

/// Fails if anything is committed on the old primary over this replica.
async fn assert_refused(stage: &Stage, old: &Postgres) {
    let before = batches(old).await;
    for outcome in futures::future::join_all((0..8).map(|_| put(stage))).await {
        assert_eq!(reason(outcome), "STORE_UNAVAILABLE");
    }
    assert_eq!(batches(old).await, before, "nothing was committed there");
}

#[tokio::test]
async fn an_old_primary_gets_no_commit_once_a_later_history_was_heard_of() {
    let Some(props) = Props::get().await else { return };
    let standby = props.postgres.standby(props.postgres.address()).await;
    let doors = [(); 2].map(|()| Proxy::before(props.postgres.address()));
    let urls = doors.each_ref().map(|door| Urls {
        database: format!("postgres://postgres@{}/postgres", door.address()),
        ..props.urls()
    });
    let scene = props.play(&urls).await;
    let (one, other) = (
        Stage::new(&scene.replicas[0].url()).await,
        Stage::new(&scene.replicas[1].url()).await,
    );
    put(&one).await.expect("written");
    put(&other).await.expect("written");

    // One of the replicas finds the new primary. The other is still connected to the old one, and hears of it.
    standby.promote().await;
    doors[1].lead_to(standby.address());
    doors[1].reset();
    until("a commit on the new primary", || async { put(&other).await.is_ok() }).await;
    until("word of it", || async { put(&one).await.is_err() }).await;
    assert_refused(&one, &scene.postgres).await;

    // The way that led to the new primary leads back.
    doors[1].lead_to(scene.postgres.address());
    doors[1].reset();
    assert_refused(&other, &scene.postgres).await;

    for (door, stage) in doors.iter().zip([&one, &other]) {
        door.lead_to(standby.address());
        until("the new primary", || async { put(stage).await.is_ok() }).await;
    }
    let epochs = standby.ask("SELECT count(DISTINCT epoch)::text FROM batches").await;
    assert_eq!(epochs, "2");
}
