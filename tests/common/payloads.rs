//! Payloads come back as they were sent, or are refused at the door.

use drumline_proto::v1::Payload;
use drumline_proto::v1::payload::Content;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::{assert_well, get, put};
use crate::events::{about, try_publish};
use crate::support::{Stage, json, metadata_of, on_every_composition, reason, reason_of};

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn number(number: f64) -> Value {
    value(Kind::NumberValue(number))
}

fn text(text: &str) -> Value {
    value(Kind::StringValue(text.into()))
}

fn list(values: Vec<Value>) -> Value {
    value(Kind::ListValue(ListValue { values }))
}

fn object(fields: Vec<(&str, Value)>) -> Value {
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    value(Kind::StructValue(Struct { fields }))
}

fn of_value(value: Value) -> Option<Payload> {
    Some(Payload {
        content: Some(Content::Value(value)),
        content_type: String::new(),
    })
}

fn of_data(data: Vec<u8>) -> Option<Payload> {
    Some(Payload {
        content: Some(Content::Data(data.into())),
        content_type: String::new(),
    })
}

/// Nested so deep: `nested(1)` is a bare value.
fn nested(depth: usize, wrap: fn(Value) -> Value) -> Value {
    (1..depth).fold(number(1.0), |inner, _| wrap(inner))
}

async fn refused(stage: &Stage, payload: Option<Payload>) -> tonic::Status {
    let status = stage.state().put_state(put(stage, "refused", payload.clone())).await;
    let event = crate::events::NewEvent {
        payload,
        ..about("note.made", "")
    };
    let of_event = try_publish(stage, vec![event])
        .await
        .expect_err("refused in an event too");
    let status = status.expect_err("refused");
    assert_eq!(reason_of(&status), reason_of(&of_event));
    status
}

#[tokio::test]
async fn a_payload_comes_back_in_the_form_that_it_was_sent_in() {
    on_every_composition(|stage| async move {
        let numbers = [
            0.0,
            1.0,
            -1.0,
            0.5,
            1e15,
            9_007_199_254_740_991.0,
            -9_007_199_254_740_992.0,
            1e300,
            5e-324,
            0.1,
        ];
        let everything = object(vec![
            ("numbers", list(numbers.map(number).to_vec())),
            ("text", text("\u{1}\u{7f}\"\\/ é 🥁 \u{2028}\u{feff}\u{ffff}")),
            ("", object(vec![])),
            ("nothing", value(Kind::NullValue(0))),
            (
                "flags",
                list(vec![value(Kind::BoolValue(true)), value(Kind::BoolValue(false))]),
            ),
            ("empty", list(vec![])),
        ]);
        let mut payloads = vec![
            of_value(everything),
            of_value(value(Kind::NullValue(0))),
            of_value(text("")),
            json("null"),
            json(" {\"b\": 1,  \"a\": 1.10, \"a\": -0.0, \"n\": 123456789012345678901234567890.5e-7} \n"),
            json(r#""\u00e9\ud83e\udd41\/""#),
            of_data((0..=255).collect()),
            of_data(vec![b'\n'; 3]),
        ];
        payloads.push(Some(Payload {
            content: Some(Content::Data(vec![0u8, 10, 0].into())),
            content_type: "text/x-note; charset=\"no such\"".into(),
        }));
        for payload in payloads {
            stage
                .state()
                .put_state(put(&stage, "document", payload.clone()))
                .await
                .unwrap();
            assert_eq!(get(&stage, "document").await.unwrap().payload, payload);
            let event = crate::events::NewEvent {
                payload: payload.clone(),
                ..about("note.made", "")
            };
            let position = try_publish(&stage, vec![event]).await.unwrap().position;
            let start = crate::events::Start::Position(position);
            let mut reader = crate::events::Reader::open(&stage, start, Default::default()).await;
            assert_eq!(reader.event().await.payload, payload);
        }
    })
    .await;
}

#[tokio::test]
async fn nesting_ends_at_thirty_two() {
    on_every_composition(|stage| async move {
        let in_list: fn(Value) -> Value = |inner| list(vec![inner]);
        let in_object: fn(Value) -> Value = |inner| object(vec![("x", inner)]);
        for wrap in [in_list, in_object] {
            let deep = of_value(nested(32, wrap));
            stage
                .state()
                .put_state(put(&stage, "deep", deep.clone()))
                .await
                .unwrap();
            assert_eq!(get(&stage, "deep").await.unwrap().payload, deep);
            let event = crate::events::NewEvent {
                payload: deep,
                ..about("note.made", "")
            };
            try_publish(&stage, vec![event]).await.unwrap();
            for depth in [33, 40, 100, 1_000] {
                let status = refused(&stage, of_value(nested(depth, wrap))).await;
                assert_eq!(status.code(), tonic::Code::InvalidArgument, "{depth}: {status}");
                assert_eq!(reason_of(&status), "INVALID_REQUEST");
            }
        }
        let in_json = |depth: usize| json(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
        stage.state().put_state(put(&stage, "deep", in_json(32))).await.unwrap();
        for depth in [33, 129, 100_000] {
            assert_eq!(reason_of(&refused(&stage, in_json(depth)).await), "INVALID_REQUEST");
        }
        assert_well(&stage).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_no_json_or_cannot_be_kept_is_refused() {
    on_every_composition(|stage| async move {
        let bad = [
            of_value(text("\0")),
            of_value(object(vec![("a\0", number(1.0))])),
            of_value(list(vec![list(vec![text("x\0y")])])),
            of_value(number(f64::NAN)),
            of_value(number(f64::INFINITY)),
            json(""),
            json("{"),
            json("[1] 2"),
            json("nul"),
            json("'a'"),
            json("[1,]"),
            json("NaN"),
            json("\"\\u0000\""),
            json("{\"a\\u0000\": 1}"),
            json("\"\0\""),
            json("\"\\ud800\""),
            Some(Payload {
                content: Some(Content::Json("1".into())),
                content_type: "x".repeat(256),
            }),
            Some(Payload {
                content: Some(Content::Data(vec![1].into())),
                content_type: "a\nb".into(),
            }),
        ];
        for payload in bad {
            let status = refused(&stage, payload.clone()).await;
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{payload:?}");
            assert_eq!(reason_of(&status), "INVALID_REQUEST", "{payload:?}");
        }
        assert_eq!(reason(get(&stage, "refused").await), "STATE_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn a_payload_may_have_a_mebibyte_and_no_byte_more() {
    on_every_composition(|stage| async move {
        const MOST: usize = 1 << 20;
        let of_text = |size: usize| "x".repeat(size - 2);
        let fitting = [
            of_data(vec![7; MOST]),
            json(&format!("\"{}\"", of_text(MOST))),
            of_value(text(&of_text(MOST))),
        ];
        for payload in fitting {
            stage
                .state()
                .put_state(put(&stage, "large", payload.clone()))
                .await
                .unwrap();
            assert_eq!(get(&stage, "large").await.unwrap().payload, payload);
        }
        let too_large = [
            of_data(vec![7; MOST + 1]),
            json(&format!("\"{}\"", of_text(MOST + 1))),
            of_value(text(&of_text(MOST + 1))),
        ];
        for payload in too_large {
            let status = refused(&stage, payload).await;
            assert_eq!(reason_of(&status), "PAYLOAD_TOO_LARGE");
            assert!(metadata_of(&status, "field").ends_with("payload"));
            assert_eq!(metadata_of(&status, "limit_bytes"), MOST.to_string());
            assert_eq!(metadata_of(&status, "size_bytes"), (MOST + 1).to_string());
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_of_more_than_four_mebibytes_is_refused_and_says_how_much_is_allowed() {
    on_every_composition(|stage| async move {
        let event = crate::events::NewEvent {
            payload: of_data(vec![1; 1_000_000]),
            ..about("large.made", "")
        };
        assert_eq!(try_publish(&stage, vec![event.clone(); 4]).await.unwrap().position, 4);
        for count in [5, 20] {
            let status = try_publish(&stage, vec![event.clone(); count]).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
            assert_eq!(reason_of(&status), "PAYLOAD_TOO_LARGE");
            assert_eq!(metadata_of(&status, "limit_bytes"), (4 << 20).to_string());
        }
        assert_eq!(
            try_publish(&stage, vec![about("note.made", "")])
                .await
                .unwrap()
                .position,
            5
        );
    })
    .await;
}
