//! Calls whose caller has gone, or whose time is over.

use std::time::Duration;

use drumline_proto::v1;
use futures::StreamExt;

use super::{assert_well, get, ids, put};
use crate::events::{Reader, Start, about, list, list_all, positions};
use crate::support::{Stage, connect, json, on_every_composition};

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// What is in the log and in the documents tells one story.
async fn assert_consistent(stage: &Stage) {
    let (events, _) = list_all(stage, list(stage)).await;
    assert_eq!(positions(&events), (1..=events.len() as i64).collect::<Vec<_>>());
    let documents = ids(stage, "").await;
    for id in &documents {
        let changes = events
            .iter()
            .filter(|event| event.event_type == "state.changed" && event.subject == *id);
        let state = get(stage, id).await.expect("it is listed");
        assert_eq!(changes.count() as i64, state.version, "the changes of {id}");
    }
    let changes = events.iter().filter(|event| event.event_type == "state.changed");
    assert!(changes.into_iter().all(|event| documents.contains(&event.subject)));
    let mut reader = Reader::open(stage, Start::Beginning(true), Default::default()).await;
    assert_eq!(positions(&reader.catch_up().await.0), positions(&events));
}

#[tokio::test]
async fn two_thousand_calls_that_are_given_up_leave_nothing_half_done() {
    on_every_composition(|stage| async move {
        let mut dice = Dice(42);
        // Some connections die with calls on them.
        let mut connections = Vec::new();
        for _ in 0..8 {
            connections.push(Stage {
                channel: connect(&stage.address).await,
                ..stage.clone()
            });
        }
        let mut calls = Vec::new();
        let under_way = 100;
        for n in 0..2_000_u64 {
            let stage = connections[(n % 8) as usize].clone();
            let kind = dice.below(6);
            // Some are given up before they are sent, some on their way, some just after; a few wait for the end.
            let patience = match n % 4 {
                0 if kind != 4 => crate::support::wait::PATIENCE,
                1 => Duration::from_micros(dice.below(2_000)),
                _ => Duration::from_micros(dice.below(60_000)),
            };
            let document = format!("doc-{}", dice.below(20));
            let call = async move {
                match kind {
                    0 | 1 => drop(stage.state().put_state(put(&stage, &document, json("1"))).await),
                    2 => {
                        let once = v1::PutStateRequest {
                            request_id: format!("r-{}", n % 50),
                            ..put(&stage, "repeated", json(&(n % 50).to_string()))
                        };
                        drop(stage.state().put_state(once).await);
                    }
                    3 => {
                        let events = vec![
                            about("storm.made", "1"),
                            about("storm.made", "2"),
                            about("storm.made", "3"),
                        ];
                        drop(crate::events::try_publish(&stage, events).await);
                    }
                    4 => {
                        let reader = Reader::try_open(&stage, Some(Start::Beginning(true)), None).await;
                        if let Ok(mut reader) = reader {
                            while reader.try_next().await.is_ok() {}
                        }
                    }
                    _ => drop(get(&stage, &document).await),
                }
            };
            calls.push(async move { tokio::time::timeout(patience, call).await.is_ok() });
        }
        drop(connections);
        let outcomes: Vec<bool> = futures::stream::iter(calls).buffer_unordered(under_way).collect().await;
        let finished = outcomes.iter().filter(|finished| **finished).count();
        assert!(
            (100..1_900).contains(&finished),
            "{finished} calls were finished: there was no storm"
        );
        assert_well(&stage).await;
        // What was under way when its caller left is over once a call behind it is answered.
        stage.state().put_state(put(&stage, "last", json("1"))).await.unwrap();
        assert_consistent(&stage).await;
        let (events, _) = list_all(&stage, list(&stage)).await;
        let storm: Vec<&str> = events
            .iter()
            .filter(|event| event.event_type == "storm.made")
            .map(|event| event.subject.as_str())
            .collect();
        assert!(
            storm.chunks(3).all(|batch| batch == ["1", "2", "3"]),
            "a batch was torn"
        );
        let repeated = events.iter().filter(|event| event.subject == "repeated").count();
        assert!(repeated <= 50, "{repeated} changes by fifty requests");
    })
    .await;
}

#[tokio::test]
async fn a_call_whose_time_is_over_says_so_and_the_server_goes_on() {
    on_every_composition(|stage| async move {
        let (mut done, mut late) = (0, 0);
        for n in 0..300_u64 {
            let mut request = tonic::Request::new(put(&stage, &format!("doc-{n}"), json("1")));
            // From hopeless to ample.
            let micros = [0, 1, 100, 300, 1_000, 3_000, 10_000, 60_000_000][(n % 8) as usize];
            request.set_timeout(Duration::from_micros(micros));
            match stage.state().put_state(request).await {
                Ok(_) => done += 1,
                Err(status) => {
                    let over = [tonic::Code::DeadlineExceeded, tonic::Code::Cancelled];
                    assert!(over.contains(&status.code()), "{status}");
                    assert!(micros < 60_000_000, "an ample time was not enough: {status}");
                    late += 1;
                }
            }
        }
        assert!(done >= 37 && late >= 37, "{done} were done, {late} were late");
        assert_well(&stage).await;
        let made = ids(&stage, "").await.len();
        assert!(made >= done, "{done} were answered, {made} are there");
        assert_consistent(&stage).await;
        // A header that is none is no deadline.
        for header in ["", "1", "S", "-1S", "999999999S", "1x", "1 S"] {
            let mut request = tonic::Request::new(put(&stage, "header", json("1")));
            request.metadata_mut().insert("grpc-timeout", header.parse().unwrap());
            stage
                .state()
                .put_state(request)
                .await
                .unwrap_or_else(|status| panic!("{header:?}: {status}"));
        }
    })
    .await;
}
