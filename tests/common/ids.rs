//! Ids that clients choose, namespaces, and page tokens.

use drumline_proto::v1;

use super::{assert_well, get, ids, put};
use crate::events::{about, list, list_all, publish, publish_many};
use crate::support::{Stage, json, on_every_composition, reason};

/// Strange, but ids.
fn strange() -> Vec<String> {
    let mut ids: Vec<String> = [
        " ",
        "  two  spaces ",
        ".",
        "..",
        "../../etc/passwd",
        "'; DROP TABLE documents; --",
        "\" OR 1=1",
        "%",
        "_",
        "%_%",
        "?1",
        "$1",
        "{}",
        "a/b\\c",
        "NULL",
        "é",
        "e\u{301}",
        "E\u{301}",
        "🥁",
        "\u{202e}desrever",
        "\u{200b}",
        "\u{feff}",
        "\u{fffd}",
        "\u{ffff}",
        "\u{e000}1",
        "\u{d7ff}1",
        "\u{10ffff}",
        "\u{10ffff}\u{10ffff}",
        "ß",
        "SS",
        "ss",
        "ſ",
        "ı",
        "I",
    ]
    .map(str::to_owned)
    .into();
    ids.push("x".repeat(255));
    ids.push("ഡ".repeat(85));
    ids.push(format!("{}é", "x".repeat(253)));
    ids
}

/// No ids.
fn hostile() -> Vec<String> {
    let mut ids: Vec<String> = ["", "\0", "a\0b", "\n", "tab\t", "\u{7f}", "\u{85}", "\u{9f}x"]
        .map(str::to_owned)
        .into();
    ids.push("x".repeat(256));
    ids.push(format!("{}é", "x".repeat(254)));
    ids.push("x".repeat(1_000_000));
    ids
}

#[tokio::test]
async fn ids_are_kept_and_compared_byte_by_byte() {
    on_every_composition(|stage| async move {
        for (n, id) in strange().iter().enumerate() {
            let made = stage.state().put_state(put(&stage, id, json(&n.to_string()))).await;
            assert_eq!(made.unwrap().into_inner().version, 1, "{id:?} was taken for another");
        }
        for (n, id) in strange().iter().enumerate() {
            let state = get(&stage, id).await.unwrap();
            assert_eq!((&state.state_id, state.payload), (id, json(&n.to_string())));
        }
        let mut sorted = strange();
        sorted.sort();
        assert_eq!(ids(&stage, "").await, sorted);
        for prefix in strange() {
            let under = sorted.iter().filter(|id| id.starts_with(&prefix)).cloned();
            assert_eq!(
                ids(&stage, &prefix).await,
                under.collect::<Vec<_>>(),
                "under {prefix:?}"
            );
        }

        for id in strange() {
            let event = v1::NewEvent {
                event_id: id.clone(),
                correlation_id: id.clone(),
                target_agent: id.clone(),
                ..about("note.made", id.clone())
            };
            assert!(
                !publish(&stage, vec![event.clone()]).await.events[0].duplicate,
                "{id:?} was taken for another"
            );
            assert!(publish(&stage, vec![event]).await.events[0].duplicate);
            let filter = v1::EventFilter {
                correlation_id: id.clone(),
                ..Default::default()
            };
            let request = v1::ListEventsRequest {
                filter: Some(filter),
                ..list(&stage)
            };
            let (events, _) = list_all(&stage, request).await;
            let found: Vec<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
            assert_eq!(found, [id.as_str()]);
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_no_id_is_refused_wherever_it_stands() {
    on_every_composition(|stage| async move {
        for id in hostile() {
            let short: String = id.chars().take(10).collect();
            let mut outcomes = vec![
                (
                    stage.state().put_state(put(&stage, &id, json("1"))).await.map(|_| ()),
                    "state_id",
                ),
                (get(&stage, &id).await.map(|_| ()), "state_id of get"),
            ];
            // Where nothing is a choice too, nothing is no fault.
            if !id.is_empty() {
                let of_put = |change: fn(&mut v1::PutStateRequest, String)| {
                    let mut request = put(&stage, "fine", json("1"));
                    change(&mut request, id.clone());
                    let mut client = stage.state();
                    async move { client.put_state(request).await.map(|_| ()) }
                };
                outcomes.push((of_put(|request, id| request.namespace = id).await, "namespace"));
                outcomes.push((of_put(|request, id| request.request_id = id).await, "request_id"));
                outcomes.push((of_put(|request, id| request.session_id = id).await, "session_id"));
                outcomes.push((
                    of_put(|request, id| request.correlation_id = id).await,
                    "correlation_id",
                ));
                let of_list = v1::ListStatesRequest {
                    namespace: stage.ns(),
                    prefix: id.clone(),
                    ..Default::default()
                };
                outcomes.push((stage.state().list_states(of_list).await.map(|_| ()), "prefix"));
                let of_watch = v1::WatchStateRequest {
                    namespace: stage.ns(),
                    target: Some(v1::watch_state_request::Target::Prefix(id.clone())),
                    ..Default::default()
                };
                outcomes.push((stage.state().watch_state(of_watch).await.map(|_| ()), "prefix of watch"));
                let of_event = |change: fn(&mut v1::NewEvent, String)| {
                    let mut event = about("note.made", "");
                    change(&mut event, id.clone());
                    let stage = stage.clone();
                    async move { crate::events::try_publish(&stage, vec![event]).await.map(|_| ()) }
                };
                outcomes.push((of_event(|event, id| event.event_id = id).await, "event_id"));
                outcomes.push((of_event(|event, id| event.subject = id).await, "subject"));
                outcomes.push((of_event(|event, id| event.target_agent = id).await, "target_agent"));
                outcomes.push((of_event(|event, id| event.causation_id = id).await, "causation_id"));
            }
            for (outcome, field) in outcomes {
                let status = outcome.expect_err(&format!("{short:?} as {field}"));
                assert_eq!(status.code(), tonic::Code::InvalidArgument, "{short:?} as {field}");
                assert_eq!(reason::<()>(Err(status)), "INVALID_REQUEST", "{short:?} as {field}");
            }
        }
        assert_eq!(list_all(&stage, list(&stage)).await.0.len(), 0);
        assert_well(&stage).await;
    })
    .await;
}

#[tokio::test]
async fn documents_are_found_behind_any_number_that_are_before_them() {
    on_every_composition(|stage| async move {
        for n in 0..250 {
            let (behind_the_last, before) = (format!("`\u{10ffff}{n:03}"), format!("m{n:03}"));
            for id in [behind_the_last, before] {
                stage.state().put_state(put(&stage, &id, json("1"))).await.unwrap();
            }
        }
        for id in ["a", "\u{e000}"] {
            stage.state().put_state(put(&stage, id, json("1"))).await.unwrap();
            let found = crate::support::wait::soon("the end of the list", ids(&stage, id)).await;
            assert_eq!(found, [id]);
        }
    })
    .await;
}

#[tokio::test]
async fn namespaces_know_nothing_of_each_other() {
    on_every_composition(|stage| async move {
        let other = Stage {
            namespace: format!("{} \u{10ffff}'", stage.namespace),
            ..stage.clone()
        };
        publish_many(&stage, "note.made", 3).await;
        stage.state().put_state(put(&stage, "doc", json("1"))).await.unwrap();
        assert_eq!(reason(get(&other, "doc").await), "STATE_NOT_FOUND");
        assert!(ids(&other, "").await.is_empty());
        assert!(list_all(&other, list(&other)).await.0.is_empty());
        let repeated = v1::PutStateRequest {
            request_id: "r".into(),
            ..put(&other, "doc", json("2"))
        };
        let made = other.state().put_state(repeated.clone()).await.unwrap().into_inner();
        assert_eq!((made.version, made.position), (1, 1));
        let here = v1::PutStateRequest {
            namespace: stage.ns(),
            ..repeated
        };
        assert_eq!(stage.state().put_state(here).await.unwrap().into_inner().version, 2);
        let event = v1::NewEvent {
            event_id: "one".into(),
            ..about("note.made", "")
        };
        assert!(!publish(&stage, vec![event.clone()]).await.events[0].duplicate);
        assert!(!publish(&other, vec![event]).await.events[0].duplicate);
        // No name is the name `default`.
        let (unnamed, named) = (
            Stage {
                namespace: String::new(),
                ..stage.clone()
            },
            Stage {
                namespace: "default".into(),
                ..stage.clone()
            },
        );
        let id = format!("of {}", stage.namespace);
        unnamed.state().put_state(put(&unnamed, &id, json("3"))).await.unwrap();
        assert_eq!(get(&named, &id).await.unwrap().payload, json("3"));
    })
    .await;
}

#[tokio::test]
async fn a_page_is_asked_for_with_a_token_of_its_list_and_a_size_that_is_none_below_zero() {
    on_every_composition(|stage| async move {
        for id in ["a/1", "a/2", "a/3", "b/1"] {
            for _ in 0..3 {
                stage.state().put_state(put(&stage, id, json("1"))).await.unwrap();
            }
        }
        let states = |prefix: &str, page_token: &str, page_size| {
            let request = v1::ListStatesRequest {
                namespace: stage.ns(),
                prefix: prefix.into(),
                page_size,
                page_token: page_token.into(),
                without_payload: true,
            };
            let mut client = stage.state();
            async move { client.list_states(request).await }
        };
        let versions = |id: &str, page_token: &str, page_size| {
            let request = v1::ListStateVersionsRequest {
                namespace: stage.ns(),
                state_id: id.into(),
                page_size,
                page_token: page_token.into(),
            };
            let mut client = stage.state();
            async move { client.list_state_versions(request).await }
        };
        let of_states = states("a/", "", 2).await.unwrap().into_inner().next_page_token;
        let of_versions = versions("a/1", "", 2).await.unwrap().into_inner().next_page_token;
        assert!(!of_states.is_empty() && !of_versions.is_empty());
        assert_eq!(states("a/", &of_states, 2).await.unwrap().into_inner().states.len(), 1);
        assert_eq!(
            versions("a/1", &of_versions, 2)
                .await
                .unwrap()
                .into_inner()
                .versions
                .len(),
            1
        );

        let cut = &of_states[..of_states.len() - 2];
        for token in [of_versions.as_str(), cut, "0", "zz", "é", "\0", " "] {
            assert_eq!(reason(states("a/", token, 2).await), "INVALID_PAGE_TOKEN", "{token:?}");
        }
        assert_eq!(reason(states("b/", &of_states, 2).await), "INVALID_PAGE_TOKEN");
        assert_eq!(reason(versions("a/2", &of_versions, 2).await), "INVALID_PAGE_TOKEN");
        for size in [-1, i32::MIN] {
            assert_eq!(reason(states("a/", "", size).await), "INVALID_REQUEST");
            assert_eq!(reason(versions("a/1", "", size).await), "INVALID_REQUEST");
        }
        assert_eq!(states("", "", i32::MAX).await.unwrap().into_inner().states.len(), 4);
    })
    .await;
}
