//! Connections that have reached their age: they go, and nobody who uses them loses anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drumline::{Agent, Client, TaskContext, TaskFailure};
use drumline_proto::v1;
use tonic::Code;

use crate::events::{Reader, Start, positions, publish_many};
use crate::support::server::Server;
use crate::support::wait::soon;
use crate::support::{Stage, connect, metadata_of, reason_of};

/// A server whose connections become a second old.
fn start() -> Server {
    Server::with(&["--ephemeral", "--listen", "127.0.0.1:0", "--max-connection-age=1s"])
}

/// Reads up to the status that a subscription ends with.
async fn to_the_end(mut reader: Reader) -> (Vec<i64>, tonic::Status) {
    let mut seen = Vec::new();
    loop {
        match reader.try_next().await {
            Ok(v1::subscribe_response::Content::Event(event)) => seen.push(event.position),
            Ok(_) => {}
            Err(status) => return (seen, status),
        }
    }
}

#[tokio::test]
async fn a_stream_ends_with_a_place_to_go_on_from_and_calls_go_on_beside_it() {
    let server = start();
    let stage = Stage::new(&server.address).await;
    let mut start = Start::Beginning(true);
    let (mut seen, mut published) = (Vec::new(), 0);
    let began = Instant::now();
    for _ in 0..3 {
        // A connection of its own, as old as the subscription.
        let own = Stage {
            channel: connect(&server.address).await,
            ..stage.clone()
        };
        let reader = Reader::open(&own, start, Default::default()).await;
        let reading = tokio::spawn(to_the_end(reader));
        while !reading.is_finished() {
            // Not one of these fails, though their connection grows old too.
            publish_many(&stage, "note.made", 10).await;
            published += 10;
        }
        let (more, status) = soon("the end of the stream", reading).await.expect("no panic");
        assert_eq!(
            (status.code(), reason_of(&status).as_str()),
            (Code::Unavailable, "DRAINING")
        );
        seen.extend(more);
        start = Start::Cursor(metadata_of(&status, "cursor"));
    }
    assert!(
        began.elapsed() > Duration::from_millis(2_500),
        "three lives took {:?}",
        began.elapsed()
    );
    let mut last = Reader::open(&stage, start, Default::default()).await;
    seen.extend(positions(&last.catch_up().await.0));
    assert_eq!(seen, (1..=published).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_call_that_is_under_way_is_finished() {
    let server = start();
    let stage = Stage::new(&server.address).await;
    let held = v1::AcquireLockRequest {
        namespace: stage.ns(),
        resource_id: "r".into(),
        holder_id: "first".into(),
        ttl: crate::support::duration(Duration::from_secs(3)),
        ..Default::default()
    };
    stage.locks().acquire_lock(held.clone()).await.expect("free");
    // It waits for longer than its connection lives.
    let waiting = v1::AcquireLockRequest {
        holder_id: "second".into(),
        wait_timeout: crate::support::duration(Duration::from_secs(15)),
        ..held
    };
    let own = Stage {
        channel: connect(&server.address).await,
        ..stage
    };
    let granted = soon("the lock", own.locks().acquire_lock(waiting))
        .await
        .expect("handed over");
    assert!(granted.into_inner().lock.expect("a lock").fencing_token > 0);
}

#[tokio::test]
async fn an_agent_moves_with_its_session_and_its_work() {
    let server = start();
    let client = Client::connect(&server.address).await.expect("the server listens");
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begun);
    // Longer than a connection lives, so that every attempt sees a move.
    let work = move |task: TaskContext, number: u64| {
        let begun = Arc::clone(&counted);
        async move {
            begun.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            assert_eq!(task.attempt(), 1);
            Ok::<_, TaskFailure>(number * 2)
        }
    };
    let agent = Agent::builder(&client, "mover")
        .capability("double", work)
        .max_concurrent_tasks(4)
        .build();
    let agent = agent.start().expect("an agent");
    let session = soon("the session", agent.ready()).await.expect("online").session_id;
    let tasks = client.tasks();
    let results = (0..4_u64).map(|number| {
        let tasks = tasks.clone();
        async move {
            let handle = tasks.delegate("double", &number).send().await.expect("delegated");
            handle.wait::<u64>().await.expect("a result")
        }
    });
    let results = soon("the results", futures::future::join_all(results)).await;
    assert_eq!(results, [0, 2, 4, 6]);
    assert_eq!(begun.load(Ordering::Relaxed), 4, "nothing was done twice");
    let now = soon("the session", agent.ready()).await.expect("online").session_id;
    assert_eq!(now, session, "it is the same life");
    agent.drain().await.expect("a goodbye");
}
