//! Connections of which one direction lets nothing through, that are slow, or that break: between replicas and Postgres, replicas and
//! Redis, callers and a replica.

use std::time::Duration;

use super::load::Load;
use super::{ENOUGH, EVERYTHING, Props, Scene, Urls, long};
use crate::support::proxy::{Direction, Proxy};

/// Lets nothing through in one direction for a while, in which the callers must go on by the other replica; says how long they took.
async fn stall(load: &Load, direction: &Direction, other: &Direction) -> Duration {
    direction.stall();
    // What was under way has arrived, or is held.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (passed, elsewhere) = (direction.passed(), other.passed());
    let began = load.now();
    let took = load.succeeds(&EVERYTHING, ENOUGH).await;
    tokio::time::sleep(long().saturating_sub(load.now() - began)).await;
    assert_eq!(direction.passed(), passed, "nothing came through");
    eprintln!("{} bytes went the other way meanwhile", other.passed() - elsewhere);
    direction.heal();
    load.succeeds(&EVERYTHING, ENOUGH).await;
    took
}

/// What networks do to a connection of one replica of two, under load, and that it costs nothing but time.
async fn try_everything(scene: Scene, proxy: &Proxy) {
    let load = scene.load().await;
    let took = stall(&load, proxy.back(), proxy.there()).await;
    eprintln!("nothing came back: {ENOUGH} of everything took {took:.2?}");
    let took = stall(&load, proxy.there(), proxy.back()).await;
    eprintln!("nothing went there: {ENOUGH} of everything took {took:.2?}");
    for direction in [proxy.there(), proxy.back()] {
        direction.delay(Duration::from_millis(20));
    }
    let passed = proxy.back().passed();
    load.succeeds(&EVERYTHING, ENOUGH).await;
    assert!(proxy.back().passed() > passed, "the slow connection is in use");
    for direction in [proxy.there(), proxy.back()] {
        direction.delay(Duration::ZERO);
    }
    for _ in 0..3 {
        let connections = proxy.connections();
        proxy.reset();
        load.succeeds(&EVERYTHING, ENOUGH / 3).await;
        assert!(proxy.connections() > connections, "it connects again");
    }
    let report = load.end().await;
    report.assert_all_is_well();
    assert_eq!(
        report.sessions_lost(),
        0,
        "agents that called another replica were there all the time"
    );
}

#[tokio::test]
async fn a_connection_to_postgres_that_stalls_costs_time_and_nothing_else() {
    let Some(props) = Props::get().await else { return };
    let proxy = Proxy::before(props.postgres.address());
    let through = Urls {
        database: format!("postgres://postgres@{}/postgres", proxy.address()),
        ..props.urls()
    };
    let urls = [through, props.urls()];
    try_everything(props.play(&urls).await, &proxy).await;
}

#[tokio::test]
async fn a_connection_to_redis_that_stalls_costs_latency_and_nothing_else() {
    let Some(props) = Props::get().await else { return };
    let proxy = Proxy::before(props.redis.address());
    let through = Urls {
        redis: Some(format!("redis://{}", proxy.address())),
        ..props.urls()
    };
    let urls = [through, props.urls()];
    try_everything(props.play(&urls).await, &proxy).await;
}

#[tokio::test]
async fn a_connection_of_callers_that_stalls_costs_time_and_nothing_else() {
    let Some(mut scene) = Scene::begin().await else { return };
    let proxy = Proxy::before(&scene.replicas[0].address);
    scene.replicas[0].address = proxy.address();
    try_everything(scene, &proxy).await;
}
