//! Redis that is not there, dies, stops, forgets, or cannot be reached.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::commits::batch;
use super::proxy::{Proxy, Way};
use super::server::{Server, is_installed, until};
use super::talk::{connected, disconnected, flows, flows_whole, interruption, replica};
use crate::bus::Bus;

/// In how long a dead connection has to be noticed, and a little for a busy machine.
const NOTICED: Duration = Duration::from_millis(5_500);

/// After a fault: both know that they may have missed something, and hear each other again.
async fn both_hear_again(one: (&Bus, &mut super::talk::Listener), two: (&Bus, &mut super::talk::Listener)) {
    interruption(one.1).await;
    interruption(two.1).await;
    connected(one.0).await;
    connected(two.0).await;
    flows_whole(one.0, two.1).await;
    flows_whole(two.0, one.1).await;
}

#[tokio::test]
async fn redis_can_come_later() {
    if !is_installed() {
        return;
    }
    let mut redis = Server::new(&[]);
    let one = Bus::redis(&redis.url(), "store").expect("a URL");
    let two = Bus::redis(&redis.url(), "store").expect("a URL");
    let (mut one_hears, mut two_hears) = (one.listen(), two.listen());
    one.publish(&batch(1, 0));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!one.is_connected());
    assert!(one_hears.try_recv().is_err());
    redis.restart().await;
    both_hear_again((&one, &mut one_hears), (&two, &mut two_hears)).await;
}

#[tokio::test]
async fn redis_can_be_killed_and_come_back() {
    if !is_installed() {
        return;
    }
    let mut redis = Server::start(&[]).await;
    let (one, mut one_hears) = replica(&redis.url()).await;
    let (two, mut two_hears) = replica(&redis.url()).await;
    flows_whole(&one, &mut two_hears).await;
    for _ in 0..3 {
        redis.kill();
        disconnected(&one).await;
        disconnected(&two).await;
        interruption(&mut one_hears).await;
        interruption(&mut two_hears).await;
        one.publish(&batch(1, 0));
        redis.restart().await;
        both_hear_again((&one, &mut one_hears), (&two, &mut two_hears)).await;
    }
}

#[tokio::test]
async fn redis_can_be_flushed() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (one, _one_hears) = replica(&redis.url()).await;
    let (_two, mut two_hears) = replica(&redis.url()).await;
    flows_whole(&one, &mut two_hears).await;
    for _ in 0..3 {
        assert_eq!(redis.ask("FLUSHALL").await, "+OK\r\n");
        flows_whole(&one, &mut two_hears).await;
    }
    assert!(one.is_connected());
    assert_eq!(redis.ask("DBSIZE").await, ":0\r\n", "nothing is kept there");
}

#[tokio::test]
async fn redis_can_be_stopped_for_a_while() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (one, mut one_hears) = replica(&redis.url()).await;
    let (two, mut two_hears) = replica(&redis.url()).await;
    flows_whole(&one, &mut two_hears).await;
    let began = Instant::now();
    redis.signal(Signal::STOP);
    disconnected(&one).await;
    disconnected(&two).await;
    assert!(began.elapsed() < NOTICED, "{:?}", began.elapsed());
    interruption(&mut one_hears).await;
    interruption(&mut two_hears).await;
    redis.signal(Signal::CONT);
    both_hear_again((&one, &mut one_hears), (&two, &mut two_hears)).await;
}

#[tokio::test]
async fn a_short_stop_costs_no_connection() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (one, _one_hears) = replica(&redis.url()).await;
    let (_two, mut two_hears) = replica(&redis.url()).await;
    flows_whole(&one, &mut two_hears).await;
    let connections = redis.info("total_connections_received").await;
    redis.signal(Signal::STOP);
    one.publish(&batch(5, 0));
    tokio::time::sleep(Duration::from_millis(500)).await;
    redis.signal(Signal::CONT);
    flows_whole(&one, &mut two_hears).await;
    assert_eq!(
        redis.info("total_connections_received").await,
        connections + 1,
        "the one that asks"
    );
}

#[tokio::test]
async fn nothing_piles_up_while_redis_is_stopped() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (one, _one_hears) = replica(&redis.url()).await;
    let (_two, mut two_hears) = replica(&redis.url()).await;
    flows_whole(&one, &mut two_hears).await;
    redis.signal(Signal::STOP);
    let mut commits: Vec<Weak<_>> = Vec::new();
    let mut most = 0;
    for number in 0..100_000 {
        let commit = batch(number, 10_000);
        one.publish(&commit);
        commits.push(Arc::downgrade(&commit));
        drop(commit);
        if number % 500 == 0 {
            // As lanes do, so that the bus has its turn.
            tokio::task::yield_now().await;
            most = most.max(commits.iter().filter(|commit| commit.strong_count() > 0).count());
        }
    }
    // 16 MiB of them, in commits of 10 kB, may wait.
    assert!((1..2_000).contains(&most), "{most} commits were kept");
    disconnected(&one).await;
    until("all of them are forgotten", || async {
        commits.iter().all(|commit| commit.strong_count() == 0)
    })
    .await;
    redis.signal(Signal::CONT);
    connected(&one).await;
    flows_whole(&one, &mut two_hears).await;
}

#[tokio::test]
async fn a_connection_that_is_open_in_one_direction_only_is_noticed() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    for way in [Way::ToServerStalls, Way::ToClientStalls] {
        let proxy = Proxy::to(redis.port).await;
        let (one, mut one_hears) = replica(&format!("redis://127.0.0.1:{}", proxy.port)).await;
        let (two, mut two_hears) = replica(&redis.url()).await;
        flows_whole(&one, &mut two_hears).await;
        while one_hears.try_recv().is_ok() {}
        assert_eq!(proxy.accepted(), 1);
        let began = Instant::now();
        proxy.stall(way);
        interruption(&mut one_hears).await;
        assert!(began.elapsed() < NOTICED, "{way:?}: {:?}", began.elapsed());
        flows(&one, &mut two_hears).await;
        flows(&two, &mut one_hears).await;
        assert_eq!(proxy.accepted(), 2, "{way:?}");
    }
}

#[tokio::test]
async fn a_client_that_redis_throws_out_comes_again_and_leaves_nothing_behind() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (_one, mut hears) = replica(&redis.url()).await;
    interruption(&mut hears).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut most = 0;
    for round in 0..30 {
        until("a subscriber is thrown out", || async {
            redis.ask("CLIENT KILL TYPE pubsub").await == ":1\r\n"
        })
        .await;
        interruption(&mut hears).await;
        if round < 5 {
            most = most.max(tasks());
        }
    }
    until("the tasks of old connections have ended", || async {
        tasks() <= most + 1
    })
    .await;
    until("so have the connections", || async {
        redis.info("connected_clients").await == 2
    })
    .await;
}
