//! What replicas say and hear while all is well.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::commits::{assert_same, batch};
use super::server::{LONG, Server, Talk, is_installed, until};
use crate::bus::hint::{MAX_MESSAGE, Seal};
use crate::bus::{Bus, Heard, Hint};

pub(super) type Listener = mpsc::Receiver<Heard>;

/// A replica's bus, once it is connected, and what it hears.
pub(super) async fn replica(url: &str) -> (Bus, Listener) {
    let bus = Bus::redis(url, "store").expect("a URL");
    let listener = bus.listen();
    connected(&bus).await;
    (bus, listener)
}

pub(super) async fn connected(bus: &Bus) {
    until("the bus is connected", || async { bus.is_connected() }).await;
}

pub(super) async fn disconnected(bus: &Bus) {
    until("the bus is not connected", || async { !bus.is_connected() }).await;
}

pub(super) async fn next(listener: &mut Listener) -> Heard {
    timeout(LONG, listener.recv())
        .await
        .expect("something is heard")
        .expect("the bus is there")
}

pub(super) async fn next_hint(listener: &mut Listener) -> Hint {
    loop {
        if let Heard::Hint(hint) = next(listener).await {
            return hint;
        }
    }
}

pub(super) async fn interruption(listener: &mut Listener) {
    while !matches!(next(listener).await, Heard::Interrupted) {}
}

/// Publishes from now on, until the listener has heard something of it; a hint can be lost.
pub(super) async fn flows(from: &Bus, to: &mut Listener) -> Hint {
    static NUMBER: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(1_000_000);
    let first = NUMBER.fetch_add(1_000, std::sync::atomic::Ordering::SeqCst);
    let hear = async {
        loop {
            let hint = next_hint(to).await;
            if hint.head.batch >= first {
                return hint;
            }
        }
    };
    let say = async {
        for number in first.. {
            from.publish(&batch(number, 100));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! { hint = hear => hint, () = say => unreachable!("there is no end of it") }
}

/// Until whole hints arrive: until the speaker knows that it is not alone.
pub(super) async fn flows_whole(from: &Bus, to: &mut Listener) {
    while flows(from, to).await.commit.is_none() {}
}

#[tokio::test]
async fn what_one_commits_the_others_hear_and_not_itself() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (one, mut one_hears) = replica(&redis.url()).await;
    let (two, mut two_hears) = replica(&redis.url()).await;
    let (_three, mut three_hears) = replica(&redis.url()).await;
    for listener in [&mut one_hears, &mut two_hears, &mut three_hears] {
        assert!(
            matches!(next(listener).await, Heard::Interrupted),
            "what was before the connection may be missed"
        );
    }
    flows_whole(&one, &mut two_hears).await;
    flows_whole(&two, &mut one_hears).await;
    let commits: Vec<_> = (1..=300).map(|number| batch(number, number as usize * 10)).collect();
    let others = [&mut two_hears, &mut three_hears];
    commits.iter().for_each(|commit| one.publish(commit));
    for listener in others {
        let mut heard = 0;
        while heard < commits.len() {
            let hint = next_hint(listener).await;
            if hint.head.batch <= 300 {
                assert_same(&hint.commit.expect("the whole"), &commits[heard]);
                heard += 1;
            }
        }
    }
    // What two says next is the next that one hears: nothing of its own is in between.
    two.publish(&batch(7_777, 0));
    assert_eq!(next_hint(&mut one_hears).await.head.batch, 7_777);
}

#[tokio::test]
async fn one_process_says_and_hears_nothing() {
    let bus = Bus::Local;
    let mut listener = bus.listen();
    bus.publish(&batch(1, 0));
    assert!(bus.is_connected());
    assert!(listener.recv().await.is_none());
}

#[tokio::test]
async fn who_is_alone_says_little_until_somebody_comes() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (one, _) = replica(&redis.url()).await;
    let mut monitor = Talk::with(redis.port).await;
    monitor.say(&[b"MONITOR"]).await;
    let mut seen = monitor.read().await;
    one.publish(&batch(1, 5_000));
    while !seen.contains("PUBLISH") {
        seen += &monitor.read().await;
    }
    let line = seen.lines().find(|line| line.contains("PUBLISH")).expect("a line");
    assert!(line.len() < 1_000, "only the header, with its bytes escaped: {line}");
    let (_two, mut two_hears) = replica(&redis.url()).await;
    flows_whole(&one, &mut two_hears).await;
}

#[tokio::test]
async fn a_large_commit_is_told_of_without_its_rows() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (one, _) = replica(&redis.url()).await;
    let (_two, mut two_hears) = replica(&redis.url()).await;
    flows_whole(&one, &mut two_hears).await;
    one.publish(&batch(1, MAX_MESSAGE));
    one.publish(&batch(2, MAX_MESSAGE - 1_000));
    let large = loop {
        let hint = next_hint(&mut two_hears).await;
        if hint.head.batch == 1 {
            break hint;
        }
    };
    assert!(large.commit.is_none());
    assert_eq!(large.events, 1);
    assert!(
        next_hint(&mut two_hears).await.commit.is_some(),
        "one just below goes whole"
    );
}

#[tokio::test]
async fn stores_on_one_redis_do_not_mix() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (one, _) = replica(&redis.url()).await;
    let (_two, mut two_hears) = replica(&redis.url()).await;
    let other = Bus::redis(&redis.url(), "another store").expect("a URL");
    let mut other_hears = other.listen();
    connected(&other).await;
    interruption(&mut other_hears).await;
    for number in 1..=100 {
        other.publish(&batch(-number, 0));
        one.publish(&batch(number, 0));
    }
    for number in 1..=100 {
        assert_eq!(next_hint(&mut two_hears).await.head.batch, number);
    }
    assert!(other_hears.try_recv().is_err());
}

#[tokio::test]
async fn garbage_is_an_interruption_and_no_more() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (one, _) = replica(&redis.url()).await;
    let (_two, mut two_hears) = replica(&redis.url()).await;
    flows_whole(&one, &mut two_hears).await;
    while two_hears.try_recv().is_ok() {}
    let mut stranger = Talk::with(redis.port).await;
    let channel = Seal::new("store").channel();
    let forged = Seal::new("a guess").close(&[3; 16], 1, Some(&Hint::of(&batch(9, 0), true)));
    for garbage in [&b""[..], b"garbage", &[0xff; 5_000], &forged] {
        stranger.say(&[b"PUBLISH", channel.as_bytes(), garbage]).await;
        stranger.read().await;
        interruption(&mut two_hears).await;
    }
    for _ in 0..20_000 {
        stranger.say(&[b"PUBLISH", channel.as_bytes(), b"garbage"]).await;
    }
    flows_whole(&one, &mut two_hears).await;
}

#[tokio::test]
async fn who_is_idle_says_a_word_in_two_seconds() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (_one, mut hears) = replica(&redis.url()).await;
    let (before, began) = (redis.info("total_commands_processed").await, Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let commands = redis.info("total_commands_processed").await - before;
    // Asking is one of them.
    let most = began.elapsed().as_secs() as i64 / 2 + 2;
    assert!(
        (2..=most).contains(&commands),
        "{commands} commands in {:?}",
        began.elapsed()
    );
    assert!(matches!(next(&mut hears).await, Heard::Interrupted));
    assert!(hears.try_recv().is_err(), "and nothing is heard of it");
}

#[tokio::test]
async fn a_bus_that_is_dropped_closes_its_connection() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]).await;
    let (one, mut hears) = replica(&redis.url()).await;
    interruption(&mut hears).await;
    let clone = one.clone();
    drop(one);
    assert_eq!(redis.info("connected_clients").await, 2, "and the one that asks");
    drop(clone);
    until("the connection is closed", || async {
        redis.info("connected_clients").await == 1
    })
    .await;
    until("the listener is told", || {
        let is_closed = hears.is_closed();
        async move { is_closed }
    })
    .await;
}
