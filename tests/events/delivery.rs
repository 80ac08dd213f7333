//! What a subscriber is sent and when: progress, events whose time is over, and the end for those who do not read.

use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::subscribe_request::Start;
use drumline_proto::v1::subscribe_response::Content;

use super::{Reader, about, event, list, list_all, positions, publish, publish_many, types};
use crate::support::wait::until;
use crate::support::{Stage, duration, metadata_of, on_every_composition, reason, reason_of};

#[tokio::test]
async fn a_subscriber_is_told_how_far_it_has_come() {
    on_every_composition(|stage| async move {
        publish_many(&stage, "straw.made", 3).await;
        let mut reader = Reader::open(&stage, Start::Beginning(true), types(&["needle.*"])).await;
        let (events, mark) = reader.catch_up().await;
        assert_eq!((events.len(), mark.position, mark.caught_up), (0, 3, true));
        // What does not match is counted all the same, after a while.
        let answer = publish_many(&stage, "straw.made", 4).await;
        let progress = reader.nothing_up_to(7).await;
        assert_eq!((progress.position, progress.caught_up), (7, false));
        assert_eq!(progress.cursor, answer.cursor);
        publish(&stage, vec![event("needle.made")]).await;
        assert_eq!(reader.event().await.position, 8);
        let mut again = Reader::open(&stage, Start::Cursor(progress.cursor), types(&["needle.*"])).await;
        assert_eq!(again.event().await.position, 8);
        // An interval of less than a second is too short.
        let request = v1::SubscribeRequest {
            namespace: stage.ns(),
            progress_interval: duration(Duration::from_millis(999)),
            ..Default::default()
        };
        assert_eq!(reason(stage.events().subscribe(request).await), "INVALID_REQUEST");
    })
    .await;
}

#[tokio::test]
async fn an_event_whose_time_is_over_is_passed_over_and_counted() {
    on_every_composition(|stage| async move {
        let short = v1::NewEvent {
            event_id: "short".into(),
            ttl: duration(Duration::from_millis(1)),
            ..about("note.made", "short")
        };
        let long = v1::NewEvent {
            event_id: "long".into(),
            ttl: duration(Duration::from_secs(3_000)),
            ..about("note.made", "long")
        };
        publish(
            &stage,
            vec![about("note.made", "first"), short.clone(), long, short.clone()],
        )
        .await;
        let last = v1::NewEvent {
            event_id: "last".into(),
            ..short.clone()
        };
        publish(&stage, vec![last]).await;
        let get = |event_id: &'static str| {
            let stage = stage.clone();
            async move {
                let request = v1::GetEventRequest {
                    namespace: stage.ns(),
                    event_id: event_id.into(),
                };
                stage.events().get_event(request).await
            }
        };
        until("the end of the event's time", || async { get("last").await.is_err() }).await;
        assert_eq!(reason(get("short").await), "EVENT_NOT_FOUND");
        assert!(get("long").await.is_ok());
        assert_eq!(positions(&list_all(&stage, list(&stage)).await.0), [1, 3]);
        let mut reader = Reader::from_the_beginning(&stage).await;
        let (events, mark) = reader.catch_up().await;
        assert_eq!((positions(&events), mark.position), (vec![1, 3], 4));
        // Its id and its position are taken for good.
        let answer = publish(&stage, vec![short, event("note.made")]).await;
        assert_eq!((answer.events[0].position, answer.events[0].duplicate), (2, true));
        assert_eq!(answer.events[1].position, 5);
    })
    .await;
}

/// A subscriber that takes in little unless it reads: its flow-control windows are small.
async fn narrow(stage: &Stage) -> Stage {
    let endpoint = tonic::transport::Endpoint::from_shared(stage.address.clone()).expect("an address");
    let endpoint = endpoint
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535);
    Stage {
        channel: endpoint.connect().await.expect("the server listens"),
        ..stage.clone()
    }
}

#[tokio::test]
async fn a_slow_consumer_is_cut_off_with_a_cursor_from_which_nothing_is_lost() {
    on_every_composition(|stage| async move {
        let narrow = narrow(&stage).await;
        let mut slow = Reader::from_the_beginning(&narrow).await;
        slow.catch_up().await;
        // One that reads, on the same feed, is not hindered.
        let mut fast = Reader::from_the_beginning(&stage).await;
        fast.catch_up().await;
        let count: i64 = 10_000;
        let padding = "x".repeat(200);
        for batch in 0..count / 1_000 {
            let events = (0..1_000).map(|n| about("flood.made", format!("{batch}/{n}/{padding}")));
            publish(&stage, events.collect()).await;
            let seen = fast.take(1_000).await;
            assert_eq!(seen[999].position, (batch + 1) * 1_000);
        }
        let mut seen = Vec::new();
        let status = loop {
            match slow.try_next().await {
                Ok(Content::Event(event)) => seen.push(event.position),
                Ok(Content::Progress(_)) => {}
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(reason_of(&status), "SLOW_CONSUMER");
        assert!(!seen.is_empty() && (seen.len() as i64) < count);
        assert_eq!(seen, (1..=seen.len() as i64).collect::<Vec<_>>());
        let start = Start::Cursor(metadata_of(&status, "cursor"));
        let mut again = Reader::open(&stage, start, v1::EventFilter::default()).await;
        seen.extend(positions(&again.take(count as usize - seen.len()).await));
        assert_eq!(seen, (1..=count).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_consumer_that_is_cut_off_again_and_again_never_skips() {
    on_every_composition(|stage| async move {
        let count: i64 = 30_000;
        // It is live before anything happens, and reads nothing until more has happened than it is kept for.
        let narrow = narrow(&stage).await;
        let mut reader = Reader::from_the_beginning(&narrow).await;
        reader.catch_up().await;
        let (half_way, reached) = tokio::sync::oneshot::channel();
        let publishing = tokio::spawn({
            let stage = stage.clone();
            async move {
                let mut half_way = Some(half_way);
                for batch in 0..count / 1_000 {
                    publish_many(&stage, "flood.made", 1_000).await;
                    if batch == count / 2_000 {
                        half_way.take().expect("once").send(()).expect("the reader waits");
                    }
                }
            }
        });
        reached.await.expect("half of the events");
        // It has room again in the middle of a batch that it has missed the beginning of: what comes then must not be sent to it.
        let (mut next, mut cut_off) = (1, 0);
        while next <= count {
            match reader.try_next().await {
                Ok(Content::Event(event)) => {
                    assert_eq!(event.position, next);
                    next += 1;
                }
                Ok(Content::Progress(progress)) => assert_eq!(progress.position, next - 1),
                Err(status) => {
                    assert_eq!(reason_of(&status), "SLOW_CONSUMER");
                    cut_off += 1;
                    let start = Start::Cursor(metadata_of(&status, "cursor"));
                    reader = Reader::open(&narrow, start, v1::EventFilter::default()).await;
                }
            }
        }
        assert!(cut_off > 0, "the reader was never too slow");
        publishing.await.expect("no panic");
    })
    .await;
}
