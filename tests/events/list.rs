//! Listing: pages, directions, times, and cursors to go on from.

use drumline_proto::v1;
use drumline_proto::v1::subscribe_request::Start;

use super::{Reader, about, list, list_all, positions, publish, publish_many, types};
use crate::support::{on_every_composition, reason};

#[tokio::test]
async fn pages_put_together_are_the_log_in_both_directions() {
    on_every_composition(|stage| async move {
        publish_many(&stage, "note.made", 700).await;
        let forwards: Vec<i64> = (1..=700).collect();
        let backwards: Vec<i64> = (1..=700).rev().collect();
        for page_size in [1_000, 333, 100, 0] {
            for newest_first in [false, true] {
                let request = v1::ListEventsRequest {
                    page_size,
                    newest_first,
                    ..list(&stage)
                };
                let first = stage.events().list_events(request.clone()).await.unwrap().into_inner();
                let size = if page_size == 0 { 100 } else { page_size as usize };
                assert_eq!(first.events.len(), size.min(700));
                let (all, cursor) = list_all(&stage, request).await;
                let wanted = if newest_first { &backwards } else { &forwards };
                assert_eq!(&positions(&all), wanted, "{page_size} {newest_first}");
                // The cursor of the last page is where to subscribe from, in both directions.
                let mut reader = Reader::open(&stage, Start::Cursor(cursor), v1::EventFilter::default()).await;
                let (events, mark) = reader.catch_up().await;
                assert_eq!((events.len(), mark.position), (0, 700));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_cursor_of_a_page_misses_nothing_that_came_meanwhile() {
    on_every_composition(|stage| async move {
        publish_many(&stage, "note.made", 10).await;
        for newest_first in [false, true] {
            let request = v1::ListEventsRequest {
                page_size: 4,
                newest_first,
                ..list(&stage)
            };
            let before = list_all(&stage, list(&stage)).await.0.len() as i64;
            let mut page = stage.events().list_events(request.clone()).await.unwrap().into_inner();
            let mut seen = positions(&page.events);
            while !page.next_page_token.is_empty() {
                publish(&stage, vec![about("note.made", "meanwhile")]).await;
                let request = v1::ListEventsRequest {
                    page_token: page.next_page_token,
                    ..request.clone()
                };
                page = stage.events().list_events(request).await.unwrap().into_inner();
                seen.extend(positions(&page.events));
            }
            let mut reader = Reader::open(&stage, Start::Cursor(page.cursor), v1::EventFilter::default()).await;
            seen.extend(positions(&reader.catch_up().await.0));
            seen.sort_unstable();
            let end = list_all(&stage, list(&stage)).await.0.len() as i64;
            assert!(end > before);
            assert_eq!(seen, (1..=end).collect::<Vec<_>>(), "newest first: {newest_first}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_listing_keeps_to_its_bounds_in_both_directions() {
    on_every_composition(|stage| async move {
        let mut answers = Vec::new();
        for n in 1..=20 {
            answers.push(publish(&stage, vec![about("note.made", n.to_string())]).await);
        }
        let (events, _) = list_all(&stage, list(&stage)).await;
        let key = |event: &v1::Event| event.timestamp.map(|time| (time.seconds, time.nanos));
        for newest_first in [false, true] {
            let check = |request: v1::ListEventsRequest, wanted: Vec<i64>| {
                let stage = stage.clone();
                async move {
                    let mut wanted = wanted;
                    if newest_first {
                        wanted.reverse();
                    }
                    for page_size in [0, 3] {
                        let request = v1::ListEventsRequest {
                            newest_first,
                            page_size,
                            ..request.clone()
                        };
                        assert_eq!(
                            positions(&list_all(&stage, request.clone()).await.0),
                            wanted,
                            "{request:?}"
                        );
                    }
                }
            };
            let after_cursor = answers[11].cursor.clone();
            check(
                v1::ListEventsRequest {
                    after_cursor,
                    ..list(&stage)
                },
                (13..=20).collect(),
            )
            .await;
            let start_position = 15;
            check(
                v1::ListEventsRequest {
                    start_position,
                    ..list(&stage)
                },
                (15..=20).collect(),
            )
            .await;
            check(
                v1::ListEventsRequest {
                    start_position: 21,
                    ..list(&stage)
                },
                vec![],
            )
            .await;

            let (start_time, end_time) = (events[4].timestamp, events[9].timestamp);
            let within = |event: &&v1::Event| key(event) >= key(&events[4]) && key(event) < key(&events[9]);
            let wanted: Vec<i64> = events.iter().filter(within).map(|event| event.position).collect();
            check(
                v1::ListEventsRequest {
                    start_time,
                    end_time,
                    ..list(&stage)
                },
                wanted,
            )
            .await;
            let wanted = events.iter().filter(|event| key(event) < key(&events[9]));
            let wanted: Vec<i64> = wanted.map(|event| event.position).collect();
            check(
                v1::ListEventsRequest {
                    end_time,
                    ..list(&stage)
                },
                wanted,
            )
            .await;
            // A window that ends before it begins has nothing in it.
            let nothing = v1::ListEventsRequest {
                start_time: end_time,
                end_time: start_time,
                ..list(&stage)
            };
            check(nothing, vec![]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_page_ends_before_it_has_looked_at_everything() {
    on_every_composition(|stage| async move {
        for _ in 0..6 {
            publish_many(&stage, "straw.made", 1_000).await;
        }
        publish(&stage, vec![about("needle.made", "")]).await;
        let request = v1::ListEventsRequest {
            filter: Some(types(&["needle.*"])),
            ..list(&stage)
        };
        let page = stage.events().list_events(request.clone()).await.unwrap().into_inner();
        assert!(page.events.is_empty() && !page.next_page_token.is_empty());
        let (found, _) = list_all(&stage, request).await;
        assert_eq!(positions(&found), [6_001]);
    })
    .await;
}

#[tokio::test]
async fn large_events_come_in_pages_that_fit_a_message() {
    on_every_composition(|stage| async move {
        let payload = crate::support::json(&format!("\"{}\"", "x".repeat(900_000)));
        for _ in 0..12 {
            let large = v1::NewEvent {
                payload: payload.clone(),
                ..about("large.made", "")
            };
            publish(&stage, vec![large]).await;
        }
        // The client takes messages of 4 MiB, as every client does unless it is told otherwise.
        let (events, _) = list_all(&stage, list(&stage)).await;
        assert_eq!(positions(&events), (1..=12).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_page_token_is_good_for_its_own_list_alone() {
    on_every_composition(|stage| async move {
        let answer = publish_many(&stage, "note.made", 10).await;
        let request = v1::ListEventsRequest {
            page_size: 3,
            ..list(&stage)
        };
        let token = stage
            .events()
            .list_events(request.clone())
            .await
            .unwrap()
            .into_inner()
            .next_page_token;
        let with_token = v1::ListEventsRequest {
            page_token: token,
            ..request.clone()
        };
        assert!(stage.events().list_events(with_token.clone()).await.is_ok());
        let others = [
            v1::ListEventsRequest {
                newest_first: true,
                ..with_token.clone()
            },
            v1::ListEventsRequest {
                filter: Some(types(&["note.made"])),
                ..with_token.clone()
            },
            v1::ListEventsRequest {
                after_cursor: answer.cursor.clone(),
                ..with_token.clone()
            },
            v1::ListEventsRequest {
                start_position: 2,
                ..with_token.clone()
            },
            v1::ListEventsRequest {
                page_token: "00".into(),
                ..request.clone()
            },
            v1::ListEventsRequest {
                page_token: "not hex".into(),
                ..request.clone()
            },
            v1::ListEventsRequest {
                page_token: "é".into(),
                ..request.clone()
            },
            v1::ListEventsRequest {
                page_token: "f".repeat(1_000_000),
                ..request.clone()
            },
        ];
        for other in others {
            let refused = stage.events().list_events(other).await;
            assert_eq!(reason(refused), "INVALID_PAGE_TOKEN");
        }
        let negative = v1::ListEventsRequest {
            page_size: -1,
            ..request.clone()
        };
        assert_eq!(reason(stage.events().list_events(negative).await), "INVALID_REQUEST");
        let negative = v1::ListEventsRequest {
            start_position: -1,
            ..request.clone()
        };
        assert_eq!(reason(stage.events().list_events(negative).await), "INVALID_REQUEST");
        let both = v1::ListEventsRequest {
            start_position: 1,
            after_cursor: answer.cursor,
            ..request
        };
        assert_eq!(reason(stage.events().list_events(both).await), "INVALID_REQUEST");
    })
    .await;
}
