//! Publishing: batches that are atomic, ids that make it safe to repeat, and what clients may not say.

use drumline_proto::v1;
use tonic_types::StatusExt;

use super::{about, event, list, list_all, positions, publish, publish_many, try_publish};
use crate::support::{Stage, json, metadata_of, on_every_composition, reason, reason_of, text_of};

fn with_id(event_id: &str, subject: &str) -> v1::NewEvent {
    v1::NewEvent {
        event_id: event_id.into(),
        ..about("note.made", subject)
    }
}

async fn get(stage: &Stage, event_id: &str) -> Result<v1::Event, tonic::Status> {
    let request = v1::GetEventRequest {
        namespace: stage.ns(),
        event_id: event_id.into(),
    };
    let answer = stage.events().get_event(request).await?.into_inner();
    Ok(answer.event.expect("an event"))
}

#[tokio::test]
async fn an_event_comes_back_as_it_was_published() {
    on_every_composition(|stage| async move {
        let sent = v1::NewEvent {
            event_id: "finding-1".into(),
            event_type: "review.finding".into(),
            schema_version: "2".into(),
            target_agent: "fixer".into(),
            subject: "src/lib.rs".into(),
            payload: json(r#"{"line": 9007199254740993}"#),
            correlation_id: "review-7".into(),
            causation_id: "task-3".into(),
            priority: -4,
            ttl: crate::support::duration(std::time::Duration::from_secs(600)),
        };
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut request = tonic::Request::new(v1::PublishEventsRequest {
            namespace: stage.ns(),
            events: vec![sent.clone()],
            ..Default::default()
        });
        request
            .metadata_mut()
            .insert("traceparent", traceparent.parse().unwrap());
        let answer = stage.events().publish_events(request).await.unwrap().into_inner();
        let event = get(&stage, "finding-1").await.unwrap();
        assert!(event.timestamp.is_some());
        let expected = v1::Event {
            event_id: "finding-1".into(),
            event_type: sent.event_type,
            schema_version: sent.schema_version,
            source_agent: String::new(),
            target_agent: sent.target_agent,
            subject: sent.subject,
            payload: sent.payload,
            timestamp: event.timestamp,
            correlation_id: sent.correlation_id,
            causation_id: sent.causation_id,
            priority: sent.priority,
            ttl: sent.ttl,
            position: 1,
            cursor: answer.cursor,
            traceparent: traceparent.into(),
        };
        assert_eq!(event, expected);
        let (listed, _) = list_all(&stage, list(&stage)).await;
        assert_eq!(listed, std::slice::from_ref(&expected));
        let mut reader = super::Reader::from_the_beginning(&stage).await;
        assert_eq!(reader.event().await, expected);
    })
    .await;
}

#[tokio::test]
async fn an_event_is_found_by_the_id_that_it_was_given_or_that_the_server_made() {
    on_every_composition(|stage| async move {
        let events = vec![about("note.made", "a"), with_id("mine", "b"), about("note.made", "c")];
        let answer = publish(&stage, events).await;
        for (published, subject) in answer.events.iter().zip(["a", "b", "c"]) {
            let event = get(&stage, &published.event_id).await.unwrap();
            assert_eq!((event.subject.as_str(), event.position), (subject, published.position));
            assert_eq!(event.event_id, published.event_id);
        }
        assert_eq!(answer.events[1].event_id, "mine");
        assert!(uuid::Uuid::parse_str(&answer.events[0].event_id).is_ok());

        // The id of an event that has been given one is that, and no other leads to it.
        let elsewhere = v1::GetEventRequest {
            namespace: format!("{}-other", stage.namespace),
            event_id: "mine".into(),
        };
        let status = stage.events().get_event(elsewhere).await.unwrap_err();
        assert_eq!(
            (status.code(), reason_of(&status).as_str()),
            (tonic::Code::NotFound, "EVENT_NOT_FOUND")
        );
        assert_eq!(metadata_of(&status, "event_id"), "mine");
        let mut changed = answer.events[0].event_id.clone().into_bytes();
        changed[0] = if changed[0] == b'0' { b'1' } else { b'0' };
        let random = uuid::Uuid::new_v4().to_string();
        let nil = uuid::Uuid::nil().to_string();
        for id in [
            String::from_utf8(changed).unwrap().as_str(),
            &random,
            &nil,
            "Mine",
            "mine ",
        ] {
            assert_eq!(reason(get(&stage, id).await), "EVENT_NOT_FOUND", "{id:?}");
        }
        for id in ["", "a\u{0}b", &"x".repeat(256)] {
            assert_eq!(reason(get(&stage, id).await), "INVALID_REQUEST", "{id:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_duplicate_is_answered_with_the_first_position() {
    on_every_composition(|stage| async move {
        let summary = |answer: &v1::PublishEventsResponse| -> Vec<(i64, bool)> {
            answer
                .events
                .iter()
                .map(|event| (event.position, event.duplicate))
                .collect()
        };
        // Within a batch…
        let batch = vec![
            with_id("a", "1"),
            with_id("b", "2"),
            with_id("a", "3"),
            about("note.made", "4"),
        ];
        let answer = publish(&stage, batch).await;
        assert_eq!(summary(&answer), [(1, false), (2, false), (1, true), (3, false)]);
        assert_eq!(answer.position, 3);
        // …from one batch to the next, whatever else it says…
        let answer = publish(&stage, vec![about("note.made", "5"), with_id("b", "6")]).await;
        assert_eq!(summary(&answer), [(4, false), (2, true)]);
        // …and when nothing in the batch is new.
        let answer = publish(&stage, vec![with_id("a", "7"), with_id("b", "8")]).await;
        assert_eq!(summary(&answer), [(1, true), (2, true)]);
        let (listed, _) = list_all(&stage, list(&stage)).await;
        let subjects: Vec<&str> = listed.iter().map(|event| event.subject.as_str()).collect();
        assert_eq!(subjects, ["1", "2", "4", "5"]);
    })
    .await;
}

#[tokio::test]
async fn of_many_who_publish_one_id_at_once_one_is_first() {
    on_every_composition(|stage| async move {
        let publishers = (0..40).map(|n| {
            let stage = stage.clone();
            tokio::spawn(async move { publish(&stage, vec![with_id("one", &n.to_string())]).await })
        });
        let answers = futures::future::join_all(publishers).await;
        let answers: Vec<_> = answers
            .into_iter()
            .map(|answer| answer.unwrap().events[0].clone())
            .collect();
        assert_eq!(answers.iter().filter(|answer| !answer.duplicate).count(), 1);
        assert!(answers.iter().all(|answer| answer.position == 1));
        assert_eq!(list_all(&stage, list(&stage)).await.0.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn types_that_the_server_makes_are_refused_from_clients() {
    on_every_composition(|stage| async move {
        for reserved in [
            "task.completed",
            "agent.registered",
            "resource.locked",
            "state.changed",
            "workflow.x.y",
            "task",
        ] {
            let status = try_publish(&stage, vec![event("fine.type"), event(reserved)])
                .await
                .unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert_eq!(reason_of(&status), "EVENT_TYPE_RESERVED", "{reserved}");
            assert_eq!(metadata_of(&status, "event_type"), reserved);
        }
        // What only looks like them is not.
        for fine in ["tasks.completed", "Task.completed", "my.task.completed", "statechange"] {
            publish(&stage, vec![event(fine)]).await;
        }
        assert_eq!(list_all(&stage, list(&stage)).await.0.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn one_bad_event_keeps_out_its_whole_batch() {
    on_every_composition(|stage| async move {
        let bad = [
            event(""),
            event("a..b"),
            event(".a"),
            event("a.*"),
            event("a.\u{0}"),
            event(&"x".repeat(256)),
            v1::NewEvent {
                ttl: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
                ..event("a.b")
            },
            v1::NewEvent {
                ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                ..event("a.b")
            },
            v1::NewEvent {
                payload: json("{"),
                ..event("a.b")
            },
            v1::NewEvent {
                event_id: "\n".into(),
                ..event("a.b")
            },
        ];
        for bad in bad {
            let batch = vec![with_id("good-1", "1"), bad.clone(), with_id("good-2", "2")];
            let status = try_publish(&stage, batch).await.unwrap_err();
            assert_eq!(reason_of(&status), "INVALID_REQUEST", "{bad:?}");
            let violations = status.get_details_bad_request().expect("the fields").field_violations;
            assert!(
                violations
                    .iter()
                    .all(|violation| violation.field.starts_with("events[1].")),
                "{violations:?}"
            );
        }
        assert_eq!(reason(try_publish(&stage, Vec::new()).await), "INVALID_REQUEST");
        assert_eq!(
            reason(try_publish(&stage, vec![event("a.b"); 1_001]).await),
            "INVALID_REQUEST"
        );
        let guarded = v1::PublishEventsRequest {
            namespace: stage.ns(),
            events: vec![event("a.b")],
            guards: vec![v1::Guard {
                resource_id: "nobody-holds-it".into(),
                fencing_token: 1,
            }],
            ..Default::default()
        };
        assert_eq!(
            reason(stage.events().publish_events(guarded).await),
            "STALE_FENCING_TOKEN"
        );
        assert_eq!(list_all(&stage, list(&stage)).await.0.len(), 0);
        // The good ones were not noted anywhere either.
        let answer = publish(&stage, vec![with_id("good-1", "1")]).await;
        assert_eq!((answer.events[0].position, answer.events[0].duplicate), (1, false));
    })
    .await;
}

#[tokio::test]
async fn a_thousand_events_are_one_batch() {
    on_every_composition(|stage| async move {
        let mut live = super::Reader::from_the_beginning(&stage).await;
        live.catch_up().await;
        let answer = publish_many(&stage, "note.made", 1_000).await;
        let wanted: Vec<i64> = (1..=1_000).collect();
        assert_eq!(
            answer.events.iter().map(|event| event.position).collect::<Vec<_>>(),
            wanted
        );
        assert_eq!(positions(&live.take(1_000).await), wanted);
        let (listed, _) = list_all(&stage, list(&stage)).await;
        assert_eq!(positions(&listed), wanted);
        assert_eq!(listed[999].subject, "1000");
    })
    .await;
}

#[tokio::test]
async fn what_happens_to_documents_is_in_the_log() {
    on_every_composition(|stage| async move {
        let mut live = super::Reader::from_the_beginning(&stage).await;
        let put = v1::PutStateRequest {
            namespace: stage.ns(),
            state_id: "plan".into(),
            payload: json("1"),
            correlation_id: "c1".into(),
            ..Default::default()
        };
        let made = stage.state().put_state(put).await.unwrap().into_inner();
        publish(&stage, vec![event("note.made")]).await;
        let delete = v1::DeleteStateRequest {
            namespace: stage.ns(),
            state_id: "plan".into(),
            ..Default::default()
        };
        let deleted = stage.state().delete_state(delete).await.unwrap().into_inner();
        let seen = live.take(3).await;
        let kinds: Vec<&str> = seen.iter().map(|event| event.event_type.as_str()).collect();
        assert_eq!(kinds, ["state.changed", "note.made", "state.changed"]);
        assert_eq!((made.position, deleted.position), (1, 3));
        assert_eq!(
            (seen[0].subject.as_str(), seen[0].correlation_id.as_str()),
            ("plan", "c1")
        );
        assert_eq!(seen[0].cursor, made.cursor);
        let value = seen[2].payload.clone().expect("says what changed");
        let Some(v1::payload::Content::Value(value)) = value.content else {
            panic!("the server's events have values: {value:?}");
        };
        let Some(prost_types::value::Kind::StructValue(value)) = value.kind else {
            panic!("a struct");
        };
        assert_eq!(
            value.fields["version"].kind,
            Some(prost_types::value::Kind::NumberValue(2.0))
        );
        assert_eq!(
            value.fields["deleted"].kind,
            Some(prost_types::value::Kind::BoolValue(true))
        );
        let json_event = v1::NewEvent {
            payload: json("[1.50]"),
            ..with_id("json", "")
        };
        publish(&stage, vec![json_event]).await;
        assert_eq!(text_of(&get(&stage, "json").await.unwrap().payload), "[1.50]");
    })
    .await;
}
