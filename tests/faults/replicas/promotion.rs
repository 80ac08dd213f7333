//! A standby that takes the place of a primary which has died.
//!
//! A synchronous standby has everything that was acknowledged. An asynchronous one may not: then what was lost is said, and nothing that
//! was given out before is given out again. That the old primary is gone for good is the operator's part; here it is killed.

use drumline_proto::v1;

use super::load::{Load, place_of};
use super::{ENOUGH, EVERYTHING, Kind, Props, Scene, Urls};
use crate::support::postgres::Postgres;
use crate::support::proxy::Proxy;
use crate::support::{Stage, metadata_of, reason_of};

#[tokio::test]
async fn a_synchronous_standby_that_is_promoted_has_everything_that_was_acknowledged() {
    let Some(props) = Props::get().await else { return };
    let standby = props.postgres.standby(props.postgres.address()).await;
    props.postgres.waits_for_a_standby().await;
    // Replicas find the primary by asking both.
    let hosts = format!("{},{}", props.postgres.address(), standby.address());
    let urls = Urls {
        database: format!("postgres://postgres@{hosts}/postgres?target_session_attrs=read-write"),
        ..props.urls()
    };
    let mut scene = props.play(&[urls.clone(), urls]).await;
    let load = scene.load().await;
    scene.postgres.kill();
    assert!(!scene.postgres.runs());
    standby.promote().await;
    let took = load.succeeds(&EVERYTHING, ENOUGH).await;
    eprintln!("{took:.2?} after the promotion, everything had succeeded {ENOUGH} times");
    let report = load.end().await;
    report.assert_all_is_well();
    assert_eq!(report.epochs().len(), 2, "the promotion was noticed");
    assert_eq!(report.sessions_lost(), 0, "an outage of the store kills nobody");
}

/// The last cursor of a namespace.
async fn last_cursor(scene: &Scene) -> String {
    let stage = Stage::new(&scene.replicas[0].url()).await;
    let request = v1::ListEventsRequest {
        namespace: scene.namespace.clone(),
        newest_first: true,
        page_size: 1,
        ..Default::default()
    };
    let page = stage.events().list_events(request).await.expect("a page").into_inner();
    page.events[0].cursor.clone()
}

/// What those are told who go on from a cursor.
async fn refusal_of(scene: &Scene, cursor: &str) -> tonic::Status {
    let stage = Stage::new(&scene.replicas[1].url()).await;
    let request = v1::ListEventsRequest {
        namespace: scene.namespace.clone(),
        after_cursor: cursor.to_owned(),
        ..Default::default()
    };
    stage
        .events()
        .list_events(request)
        .await
        .expect_err("the cursor is lost")
}

#[tokio::test]
async fn an_asynchronous_standby_that_is_promoted_says_what_was_lost_and_gives_no_token_again() {
    let Some(props) = Props::get().await else { return };
    let link = Proxy::before(props.postgres.address());
    let standby = props.postgres.standby(&link.address()).await;
    // Replicas find the primary at one address, whoever it is.
    let doors = [(); 2].map(|()| Proxy::before(props.postgres.address()));
    let urls = doors.each_ref().map(|door| Urls {
        database: format!("postgres://postgres@{}/postgres", door.address()),
        ..props.urls()
    });
    let mut scene = props.play(&urls).await;
    let load = scene.load().await;

    link.back().stall();
    load.succeeds(&EVERYTHING, ENOUGH).await;
    let lost = last_cursor(&scene).await;
    scene.postgres.kill();
    link.reset();
    promote(&standby, &doors).await;
    load.succeeds(
        &[Kind::Lock, Kind::Guarded, Kind::Swap, Kind::Publish, Kind::Receive],
        ENOUGH,
    )
    .await;

    let refusal = refusal_of(&scene, &lost).await;
    assert_eq!(reason_of(&refusal), "CURSOR_OUT_OF_RANGE");
    assert_eq!(metadata_of(&refusal, "problem"), "LOST");
    let report = load.end().await;
    report.assert_tokens_rise();
    let epochs: Vec<i64> = report.epochs().into_iter().collect();
    assert_eq!(epochs.len(), 2, "the promotion was noticed");
    assert_eq!(place_of(&lost).0, epochs[0]);
    let first = standby
        .ask(&format!(
            "SELECT first_position::text FROM epochs WHERE namespace = '{}' AND epoch = {}",
            scene.namespace, epochs[1]
        ))
        .await;
    let lost = report.assert_heard_but_for_the_lost(epochs[1], first.parse().expect("a position"));
    eprintln!("{lost} events had been acknowledged and were lost");
    assert!(lost > 0, "something was lost");
    // A task that was lost is not there, and an agent that registered since the loss began is none.
    let others = report.complaints_without("TASK_NOT_FOUND");
    assert!(others.is_empty(), "{others:#?}");

    // What is begun from now on is as if nothing had happened.
    let load = Load::start(&scene.addresses(), &format!("{}-after", scene.namespace));
    load.succeeds(&EVERYTHING, ENOUGH).await;
    load.end().await.assert_all_is_well();
}

async fn promote(standby: &Postgres, doors: &[Proxy]) {
    standby.promote().await;
    for door in doors {
        door.lead_to(standby.address());
    }
}
