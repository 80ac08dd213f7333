//! A Redis that dies, is emptied, stands still, or is not there: nothing but latency may change, whoever calls whichever replica.

use std::time::Duration;

use super::load::Load;
use super::{ENOUGH, EVERYTHING, Props, Scene, Urls, long};
use crate::support::server::lasting_address;

/// Waits until enough of everything has succeeded, on both replicas, and fails if it takes long.
async fn goes_on(load: &Load) {
    let took = load.succeeds(&EVERYTHING, ENOUGH).await;
    eprintln!("{ENOUGH} of everything took {took:.2?}");
}

#[tokio::test]
async fn a_redis_that_is_killed_emptied_or_stands_still_costs_latency_and_nothing_else() {
    let Some(mut scene) = Scene::begin().await else { return };
    let load = scene.load().await;

    let emptied = scene.redis.ask("FLUSHALL").await.expect("it answers");
    assert_eq!(emptied, "+OK");
    goes_on(&load).await;

    scene.redis.pause();
    let paused = load.now();
    goes_on(&load).await;
    tokio::time::sleep(long().saturating_sub(load.now() - paused)).await;
    assert!(scene.redis.is_paused());
    scene.redis.resume();
    goes_on(&load).await;

    scene.redis.kill();
    goes_on(&load).await;
    assert!(!scene.redis.runs());
    scene.redis.go().await;
    goes_on(&load).await;

    let report = load.end().await;
    report.assert_all_is_well();
    assert_eq!(report.sessions_lost(), 0, "Redis is nobody's life");
}

#[tokio::test]
async fn a_redis_that_never_was_there_costs_latency_and_nothing_else() {
    let Some(props) = Props::get().await else { return };
    let nowhere = format!("redis://{}", lasting_address());
    let urls = Urls {
        redis: Some(nowhere),
        ..props.urls()
    };
    let scene = props.play(&[urls.clone(), urls]).await;
    let load = scene.load().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    goes_on(&load).await;
    let report = load.end().await;
    report.assert_all_is_well();
    assert_eq!(report.sessions_lost(), 0);
}
