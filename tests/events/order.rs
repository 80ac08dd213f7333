//! One order for all: gapless positions, and every subscriber sees every event once.

use drumline_proto::v1;
use drumline_proto::v1::subscribe_request::Start;

use super::{Reader, about, list, list_all, positions, publish, types};
use crate::support::{Stage, on_every_composition};

const PUBLISHERS: usize = 16;
const BATCHES: usize = 20;
const BATCH: usize = 3;
const ALL: usize = PUBLISHERS * BATCHES * BATCH;

/// Sixteen publishers at once; gives what each was answered, in its order.
async fn publish_under_load(stage: &Stage) -> Vec<Vec<v1::PublishEventsResponse>> {
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let stage = stage.clone();
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for batch in 0..BATCHES {
                let events = (0..BATCH).map(|n| {
                    let kind = if publisher % 2 == 0 { "load.even" } else { "load.odd" };
                    about(kind, format!("{publisher}/{batch}/{n}"))
                });
                answers.push(publish(&stage, events.collect()).await);
            }
            answers
        })
    });
    let answers = futures::future::join_all(publishers).await;
    answers.into_iter().map(|answers| answers.expect("no panic")).collect()
}

#[tokio::test]
async fn positions_are_gapless_and_in_the_order_of_commits() {
    on_every_composition(|stage| async move {
        let answers = publish_under_load(&stage).await;
        let mut all = Vec::new();
        for publisher in &answers {
            for (answer, next) in publisher.iter().zip(publisher.iter().skip(1)) {
                assert!(
                    answer.position < next.events[0].position,
                    "a publisher was overtaken by itself"
                );
            }
            for answer in publisher {
                let of_batch: Vec<i64> = answer.events.iter().map(|event| event.position).collect();
                let first = of_batch[0];
                assert_eq!(
                    of_batch,
                    (first..first + BATCH as i64).collect::<Vec<_>>(),
                    "a batch stays together"
                );
                assert_eq!(answer.position, first + BATCH as i64 - 1);
                all.extend(of_batch);
            }
        }
        all.sort_unstable();
        assert_eq!(all, (1..=ALL as i64).collect::<Vec<_>>());

        let (listed, _) = list_all(&stage, list(&stage)).await;
        assert_eq!(positions(&listed), all);
        let times: Vec<_> = listed.iter().map(|event| event.timestamp.expect("a time")).collect();
        let in_order = times
            .windows(2)
            .all(|pair| (pair[0].seconds, pair[0].nanos) <= (pair[1].seconds, pair[1].nanos));
        assert!(in_order, "time ran backwards");
    })
    .await;
}

#[tokio::test]
async fn every_subscriber_sees_every_event_once_while_it_catches_up_and_goes_live() {
    on_every_composition(|stage| async move {
        let publishing = tokio::spawn({
            let stage = stage.clone();
            async move { publish_under_load(&stage).await }
        });
        // They begin one after another, each when the one before has seen some: at different depths of the catching up.
        let mut readers = Vec::new();
        for reader in 0..8 {
            let filter = match reader % 3 {
                0 => types(&[]),
                1 => types(&["load.even"]),
                _ => types(&["*.odd"]),
            };
            let mut subscriber = Reader::open(&stage, Start::Beginning(true), filter).await;
            let mut seen = subscriber.take(40).await;
            readers.push(tokio::spawn(async move {
                let all = if reader % 3 == 0 { ALL } else { ALL / 2 };
                seen.extend(subscriber.take(all - seen.len()).await);
                (reader, seen)
            }));
        }
        publishing.await.expect("no panic");
        let (listed, _) = list_all(&stage, list(&stage)).await;
        for reader in readers {
            let (reader, seen) = reader.await.expect("no panic");
            let wanted = listed.iter().filter(|event| match reader % 3 {
                0 => true,
                1 => event.event_type == "load.even",
                _ => event.event_type == "load.odd",
            });
            let wanted: Vec<i64> = wanted.map(|event| event.position).collect();
            assert_eq!(positions(&seen), wanted, "what reader {reader} saw");
        }
    })
    .await;
}

#[tokio::test]
async fn a_subscriber_that_comes_back_with_its_last_cursor_sees_each_event_once() {
    on_every_composition(|stage| async move {
        let publishing = tokio::spawn({
            let stage = stage.clone();
            async move { publish_under_load(&stage).await }
        });
        let mut seen: Vec<i64> = Vec::new();
        let mut start = Start::Beginning(true);
        while seen.len() < ALL {
            let mut reader = Reader::open(&stage, start, v1::EventFilter::default()).await;
            let few = (ALL - seen.len()).min(97);
            let events = reader.take(few).await;
            seen.extend(positions(&events));
            start = Start::Cursor(events.last().expect("some").cursor.clone());
        }
        assert_eq!(seen, (1..=ALL as i64).collect::<Vec<_>>());
        publishing.await.expect("no panic");
    })
    .await;
}

#[tokio::test]
async fn what_a_publisher_was_just_answered_can_be_subscribed_from() {
    on_every_composition(|stage| async move {
        for round in 1..=50 {
            let answer = publish(&stage, vec![about("note.made", round.to_string())]).await;
            // Neither ahead of the log, nor sent again.
            for start in [Start::Cursor(answer.cursor.clone()), Start::Now(true)] {
                let mut reader = Reader::open(&stage, start, v1::EventFilter::default()).await;
                let (events, mark) = reader.catch_up().await;
                assert_eq!((events.len(), mark.position), (0, answer.position));
            }
        }
    })
    .await;
}
