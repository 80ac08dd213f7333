//! Replicas that die or stand still.

use std::time::Duration;

use super::{ENOUGH, EVERYTHING, Scene, long};

#[tokio::test]
async fn a_replica_that_is_killed_costs_time_and_nothing_else() {
    let Some(mut scene) = Scene::begin().await else { return };
    let load = scene.load().await;
    scene.replicas[0].kill();
    assert!(!scene.replicas[0].process.runs());
    let took = load.succeeds(&EVERYTHING, ENOUGH).await;
    eprintln!("with one replica of two, {ENOUGH} of everything took {took:.2?}");
    scene.replicas[0].start_again().await;
    load.succeeds(&EVERYTHING, ENOUGH).await;
    let report = load.end().await;
    report.assert_all_is_well();
    assert_eq!(
        report.sessions_lost(),
        0,
        "agents that called another replica were there all the time"
    );
}

#[tokio::test]
async fn a_replica_that_stands_still_costs_time_and_nothing_else() {
    let Some(scene) = Scene::begin().await else { return };
    let load = scene.load().await;
    for length in [Duration::from_millis(500), long()] {
        scene.replicas[0].pause(length).await;
        load.succeeds(&EVERYTHING, ENOUGH).await;
    }
    let report = load.end().await;
    report.assert_all_is_well();
    assert_eq!(
        report.sessions_lost(),
        0,
        "agents that called another replica were there all the time"
    );
}
