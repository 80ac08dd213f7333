//! A Postgres that dies, is restarted, or stands still.

use std::time::Duration;

use super::{ENOUGH, EVERYTHING, Kind, Scene, long};
use crate::faults::replicas::load::Load;

/// Fails if anything was changed that was begun after the fault and answered before its end.
fn assert_nothing_changed(load: &Load, from: Duration, until: Duration) {
    for kind in [Kind::Lock, Kind::Guarded, Kind::Swap, Kind::Publish] {
        assert_eq!(load.count(kind, from, until), 0, "{kind:?} without a database");
    }
}

#[tokio::test]
async fn a_postgres_that_is_killed_loses_nothing_that_was_acknowledged() {
    let Some(mut scene) = Scene::begin().await else { return };
    let load = scene.load().await;
    scene.postgres.kill();
    let killed = load.now();
    assert!(!scene.postgres.runs());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_nothing_changed(&load, killed, load.now());
    scene.postgres.go().await;
    assert!(
        scene.postgres.printed().contains("was interrupted"),
        "it had to recover"
    );
    let took = load.succeeds(&EVERYTHING, ENOUGH).await;
    eprintln!("{took:.2?} after Postgres was there again, everything had succeeded {ENOUGH} times");
    let report = load.end().await;
    report.assert_all_is_well();
    assert_eq!(report.sessions_lost(), 0, "an outage of the store kills nobody");
}

#[tokio::test]
async fn a_postgres_that_is_restarted_loses_nothing_that_was_acknowledged() {
    let Some(mut scene) = Scene::begin().await else { return };
    let load = scene.load().await;
    scene.postgres.stop();
    let stopped = load.now();
    assert!(!scene.postgres.runs());
    tokio::time::sleep(long()).await;
    assert_nothing_changed(&load, stopped, load.now());
    scene.postgres.go().await;
    load.succeeds(&EVERYTHING, ENOUGH).await;
    let report = load.end().await;
    report.assert_all_is_well();
    assert_eq!(report.sessions_lost(), 0, "an outage of the store kills nobody");
}

#[tokio::test]
async fn a_postgres_that_stands_still_loses_nothing_that_was_acknowledged() {
    let Some(scene) = Scene::begin().await else { return };
    let load = scene.load().await;
    for length in [Duration::from_millis(500), long()] {
        scene.postgres.pause();
        let paused = load.now();
        tokio::time::sleep(length).await;
        assert!(scene.postgres.is_paused());
        assert_nothing_changed(&load, paused, load.now());
        scene.postgres.resume();
        load.succeeds(&EVERYTHING, ENOUGH).await;
    }
    let report = load.end().await;
    report.assert_all_is_well();
    assert_eq!(report.sessions_lost(), 0, "an outage of the store kills nobody");
}
