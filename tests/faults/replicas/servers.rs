//! Replicas that die or stand still.

use std::time::Duration;

use rustix::process::Signal;

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
    let replica = &scene.replicas[0].process;
    for length in [Duration::from_millis(500), long()] {
        // Callers find it standing in the middle of something: the other one has to get past that.
        replica.signal(Signal::STOP);
        let stopped = load.now();
        let took = load.succeeds(&EVERYTHING, ENOUGH).await;
        tokio::time::sleep(length.saturating_sub(load.now() - stopped)).await;
        assert!(replica.is_stopped(), "it stood still all the time");
        eprintln!("beside one that stands still, {ENOUGH} of everything took {took:.2?}");
        replica.signal(Signal::CONT);
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
