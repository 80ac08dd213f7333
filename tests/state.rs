//! Documents: versions, compare-and-swap, deletion, history, watching.

use std::time::Duration;

use drumline_proto::v1;
use prost::Message;
use tokio_stream::StreamExt;

use crate::support::wait::soon;
use crate::support::{Stage, json, metadata_of, on_every_composition, reason, reason_of, text_of};

fn put(stage: &Stage, id: &str, content: &str, expected_version: Option<i64>) -> v1::PutStateRequest {
    v1::PutStateRequest {
        namespace: stage.ns(),
        state_id: id.into(),
        payload: json(content),
        expected_version,
        ..Default::default()
    }
}

async fn get(stage: &Stage, id: &str) -> Result<v1::State, tonic::Status> {
    let request = v1::GetStateRequest {
        namespace: stage.ns(),
        state_id: id.into(),
        version: 0,
    };
    Ok(stage
        .state()
        .get_state(request)
        .await?
        .into_inner()
        .state
        .expect("a state"))
}

#[tokio::test]
async fn a_document_comes_back_as_it_was_put() {
    on_every_composition(|stage| async move {
        let digits = r#"{"n": 9007199254740993, "x": 0.10000000000000000001}"#;
        let made = stage
            .state()
            .put_state(put(&stage, "plan", digits, None))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(made.version, 1);
        assert!(made.position > 0 && !made.cursor.is_empty());
        let state = get(&stage, "plan").await.unwrap();
        assert_eq!(text_of(&state.payload), digits);
        assert_eq!(
            (state.version, state.position, state.deleted),
            (1, made.position, false)
        );

        let bytes = v1::Payload {
            content: Some(v1::payload::Content::Data(vec![0u8, 255, 7].into())),
            content_type: "image/x-none".into(),
        };
        let request = v1::PutStateRequest {
            payload: Some(bytes.clone()),
            ..put(&stage, "image", "0", None)
        };
        stage.state().put_state(request).await.unwrap();
        assert_eq!(get(&stage, "image").await.unwrap().payload, Some(bytes));
    })
    .await;
}

#[tokio::test]
async fn concurrent_increments_lose_nothing() {
    on_every_composition(|stage| async move {
        stage
            .state()
            .put_state(put(&stage, "counter", "0", Some(0)))
            .await
            .unwrap();
        let workers = (0..16).map(|_| {
            let stage = stage.clone();
            tokio::spawn(async move {
                let mut conflicts = 0;
                for _ in 0..10 {
                    loop {
                        let state = get(&stage, "counter").await.unwrap();
                        let next: i64 = text_of(&state.payload).parse::<i64>().unwrap() + 1;
                        let request = put(&stage, "counter", &next.to_string(), Some(state.version));
                        match stage.state().put_state(request).await {
                            Ok(_) => break,
                            Err(status) => {
                                assert_eq!(reason_of(&status), "VERSION_CONFLICT");
                                conflicts += 1;
                            }
                        }
                    }
                }
                conflicts
            })
        });
        let conflicts: i64 = futures::future::join_all(workers)
            .await
            .into_iter()
            .map(Result::unwrap)
            .sum();
        let state = get(&stage, "counter").await.unwrap();
        assert_eq!((text_of(&state.payload), state.version), ("160".to_owned(), 161));
        assert!(conflicts > 0, "the workers never met");
    })
    .await;
}

#[tokio::test]
async fn a_conflict_tells_the_current_version_and_document() {
    on_every_composition(|stage| async move {
        stage.state().put_state(put(&stage, "doc", "1", None)).await.unwrap();
        let status = stage
            .state()
            .put_state(put(&stage, "doc", "2", Some(7)))
            .await
            .unwrap_err();
        assert_eq!(status.code(), tonic::Code::Aborted);
        assert_eq!(reason_of(&status), "VERSION_CONFLICT");
        assert_eq!(metadata_of(&status, "current_version"), "1");
        let details = tonic_types::pb::Status::decode(status.details()).unwrap();
        let state = details
            .details
            .iter()
            .find(|any| any.type_url.ends_with("drumline.v1.State"))
            .unwrap();
        let state = v1::State::decode(state.value.as_slice()).unwrap();
        assert_eq!((state.version, text_of(&state.payload).as_str()), (1, "1"));

        let status = stage
            .state()
            .put_state(put(&stage, "none", "2", Some(3)))
            .await
            .unwrap_err();
        assert_eq!(metadata_of(&status, "current_version"), "0");
        assert_eq!(
            reason(stage.state().put_state(put(&stage, "doc", "2", Some(0))).await),
            "VERSION_CONFLICT"
        );
    })
    .await;
}

#[tokio::test]
async fn a_recreated_document_goes_on_from_its_old_version() {
    on_every_composition(|stage| async move {
        stage.state().put_state(put(&stage, "doc", "1", None)).await.unwrap();
        let delete = v1::DeleteStateRequest {
            namespace: stage.ns(),
            state_id: "doc".into(),
            expected_version: Some(1),
            ..Default::default()
        };
        assert_eq!(
            stage
                .state()
                .delete_state(delete.clone())
                .await
                .unwrap()
                .into_inner()
                .version,
            2
        );
        assert_eq!(reason(get(&stage, "doc").await), "STATE_NOT_FOUND");
        assert_eq!(reason(stage.state().delete_state(delete).await), "STATE_NOT_FOUND");
        let made = stage
            .state()
            .put_state(put(&stage, "doc", "3", Some(0)))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(made.version, 3);
    })
    .await;
}

#[tokio::test]
async fn the_last_versions_are_kept_newest_first() {
    on_every_composition(|stage| async move {
        for n in 1..=13 {
            stage
                .state()
                .put_state(put(&stage, "doc", &n.to_string(), None))
                .await
                .unwrap();
        }
        let mut versions = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListStateVersionsRequest {
                namespace: stage.ns(),
                state_id: "doc".into(),
                page_size: 4,
                page_token,
            };
            let page = stage.state().list_state_versions(request).await.unwrap().into_inner();
            versions.extend(
                page.versions
                    .iter()
                    .map(|state| (state.version, text_of(&state.payload))),
            );
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let expected: Vec<_> = (4..=13).rev().map(|n| (n, n.to_string())).collect();
        assert_eq!(versions, expected);
        let old = |version| v1::GetStateRequest {
            namespace: stage.ns(),
            state_id: "doc".into(),
            version,
        };
        let state = stage
            .state()
            .get_state(old(4))
            .await
            .unwrap()
            .into_inner()
            .state
            .unwrap();
        assert_eq!(text_of(&state.payload), "4");
        assert_eq!(reason(stage.state().get_state(old(3)).await), "VERSION_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn documents_are_listed_by_id_under_a_prefix() {
    on_every_composition(|stage| async move {
        for id in ["a", "b/1", "b/2", "b/3", "b\u{10ffff}", "c"] {
            stage.state().put_state(put(&stage, id, "1", None)).await.unwrap();
        }
        let mut ids = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListStatesRequest {
                namespace: stage.ns(),
                prefix: "b/".into(),
                page_size: 2,
                page_token,
                without_payload: true,
            };
            let page = stage.state().list_states(request).await.unwrap().into_inner();
            assert!(page.states.iter().all(|state| state.payload.is_none()));
            ids.extend(page.states.into_iter().map(|state| state.state_id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(ids, ["b/1", "b/2", "b/3"]);
    })
    .await;
}

#[tokio::test]
async fn a_repeated_request_is_answered_once() {
    on_every_composition(|stage| async move {
        let request = v1::PutStateRequest {
            request_id: "r1".into(),
            ..put(&stage, "doc", "1", None)
        };
        let first = stage.state().put_state(request.clone()).await.unwrap().into_inner();
        let second = stage.state().put_state(request.clone()).await.unwrap().into_inner();
        assert_eq!(first, second);
        assert_eq!(get(&stage, "doc").await.unwrap().version, 1);
        let other = v1::PutStateRequest {
            payload: json("2"),
            ..request
        };
        assert_eq!(reason(stage.state().put_state(other).await), "REQUEST_ID_REUSED");
        // A refusal is not remembered: what was refused can be tried again.
        let refused = v1::PutStateRequest {
            request_id: "r2".into(),
            ..put(&stage, "other", "1", Some(1))
        };
        assert_eq!(
            reason(stage.state().put_state(refused.clone()).await),
            "VERSION_CONFLICT"
        );
        stage.state().put_state(put(&stage, "other", "0", None)).await.unwrap();
        assert_eq!(stage.state().put_state(refused).await.unwrap().into_inner().version, 2);
    })
    .await;
}

#[tokio::test]
async fn a_watcher_sees_the_documents_and_then_their_changes() {
    on_every_composition(|stage| async move {
        for (id, content) in [("w/a", "1"), ("w/b", "2"), ("other", "3")] {
            stage.state().put_state(put(&stage, id, content, None)).await.unwrap();
        }
        let request = v1::WatchStateRequest {
            namespace: stage.ns(),
            target: Some(v1::watch_state_request::Target::Prefix("w/".into())),
            ..Default::default()
        };
        let mut watch = stage.state().watch_state(request.clone()).await.unwrap().into_inner();
        let mut ids = Vec::new();
        loop {
            let message = soon("the snapshot", watch.next()).await.unwrap().unwrap();
            if message.caught_up {
                break;
            }
            ids.push(message.state.unwrap().state_id);
        }
        assert_eq!(ids, ["w/a", "w/b"]);
        stage.state().put_state(put(&stage, "other", "4", None)).await.unwrap();
        stage.state().put_state(put(&stage, "w/a", "5", None)).await.unwrap();
        let message = soon("the change", watch.next()).await.unwrap().unwrap();
        let state = message.state.unwrap();
        assert_eq!(
            (state.state_id.as_str(), text_of(&state.payload).as_str()),
            ("w/a", "5")
        );
        drop(watch);

        // What changes while nobody watches is seen from the cursor on, and only that.
        stage.state().put_state(put(&stage, "w/c", "6", None)).await.unwrap();
        let resumed = v1::WatchStateRequest {
            cursor: message.cursor,
            ..request
        };
        let mut watch = stage.state().watch_state(resumed).await.unwrap().into_inner();
        let state = soon("the news", watch.next()).await.unwrap().unwrap().state.unwrap();
        assert_eq!(state.state_id, "w/c");
        assert!(soon("the mark", watch.next()).await.unwrap().unwrap().caught_up);
    })
    .await;
}

#[tokio::test]
async fn bad_requests_name_every_field_and_change_nothing() {
    on_every_composition(|stage| async move {
        use tonic_types::StatusExt;
        let request = v1::PutStateRequest {
            state_id: "x\u{7}".repeat(200),
            expected_version: Some(-1),
            payload: json("{\"a\": \"\\u0000\"}"),
            guards: vec![v1::Guard {
                resource_id: String::new(),
                fencing_token: 0,
            }],
            ..put(&stage, "", "0", None)
        };
        let status = stage.state().put_state(request).await.unwrap_err();
        assert_eq!(reason_of(&status), "INVALID_REQUEST");
        let fields: Vec<String> = status
            .get_details_bad_request()
            .unwrap()
            .field_violations
            .into_iter()
            .map(|violation| violation.field)
            .collect();
        for field in [
            "state_id",
            "expected_version",
            "payload.json",
            "guards[0].resource_id",
            "guards[0].fencing_token",
        ] {
            assert!(
                fields.iter().any(|named| named == field),
                "{field} is not among {fields:?}"
            );
        }
        for content in ["{", "nul", "[1] 2", &format!("{}{}", "[".repeat(33), "]".repeat(33))] {
            assert_eq!(
                reason(stage.state().put_state(put(&stage, "doc", content, None)).await),
                "INVALID_REQUEST"
            );
        }
        let large = format!("\"{}\"", "x".repeat(1 << 20));
        let status = stage
            .state()
            .put_state(put(&stage, "doc", &large, None))
            .await
            .unwrap_err();
        assert_eq!(reason_of(&status), "PAYLOAD_TOO_LARGE");
        assert_eq!(metadata_of(&status, "limit_bytes"), (1 << 20).to_string());
        let deep = format!("{}{}", "[".repeat(32), "]".repeat(32));
        stage.state().put_state(put(&stage, "doc", &deep, None)).await.unwrap();
        let stale = vec![v1::Guard {
            resource_id: "r".into(),
            fencing_token: 5,
        }];
        let guarded = v1::PutStateRequest {
            guards: stale,
            ..put(&stage, "doc", "1", None)
        };
        assert_eq!(reason(stage.state().put_state(guarded).await), "STALE_FENCING_TOKEN");
        let dead = v1::PutStateRequest {
            session_id: "no-such-session".into(),
            ..put(&stage, "doc", "1", None)
        };
        assert_eq!(reason(stage.state().put_state(dead).await), "SESSION_ENDED");
        assert_eq!(get(&stage, "doc").await.unwrap().version, 1);
        tokio::time::timeout(Duration::from_secs(5), get(&stage, "doc"))
            .await
            .unwrap()
            .unwrap();
    })
    .await;
}
