//! Protobuf's own JSON for the messages of the contract, both ways, through the descriptors that the server serves for reflection.
//!
//! What is written is canonical: names in lowerCamelCase, 64-bit numbers as strings, times as RFC 3339. What is read may name
//! fields either way, leave out the prefixes of enums, and have plain JSON wherever the contract has a `Payload`.

use std::io::{self, Write};
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::ser::{CompactFormatter, Formatter};
use serde_json::{Map, Value};

use super::Failure;

/// The contract. It is compiled in, so a failure here is one of the build.
static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(drumline_proto::FILE_DESCRIPTOR_SET).ok());

/// The name of the message that holds free data.
const PAYLOAD: &str = "drumline.v1.Payload";

/// The descriptor of a message of the contract.
fn descriptor(name: &str) -> Result<MessageDescriptor, Failure> {
    let found = POOL
        .as_ref()
        .and_then(|pool| pool.get_message_by_name(&format!("drumline.v1.{name}")));
    found.ok_or_else(|| Failure::message(format!("this build knows no message {name}")))
}

/// A message with its descriptor.
pub fn dynamic(message: &impl Message, name: &str) -> Result<DynamicMessage, Failure> {
    let bytes = message.encode_to_vec();
    DynamicMessage::decode(descriptor(name)?, bytes.as_slice()).map_err(|error| Failure::message(error.to_string()))
}

/// A message as one line of JSON.
pub fn line(message: &impl Message, name: &str) -> Result<String, Failure> {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Whole);
    dynamic(message, name)?
        .serialize(&mut serializer)
        .map_err(|error| Failure::message(error.to_string()))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Writes doubles that are whole numbers as whole numbers: in a `Value` every number is a double.
struct Whole;

impl Formatter for Whole {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        // Beyond this a double no longer knows its last digits.
        if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
            return write!(writer, "{value:.0}");
        }
        CompactFormatter.write_f64(writer, value)
    }
}

/// Reads a message from JSON text.
pub fn read<M: Message + Default>(text: &str, name: &str) -> Result<M, Failure> {
    let wrong = |error: String| Failure::usage(format!("not a {name}: {error}"));
    let value: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let descriptor = descriptor(name)?;
    let value = wrap_payloads(value, &descriptor);
    let options = DeserializeOptions::new();
    let message = DynamicMessage::deserialize_with_options(descriptor, Plain(value), &options);
    let message = message.map_err(|error| wrong(error.to_string()))?;
    M::decode(message.encode_to_vec().as_slice()).map_err(|error| wrong(error.to_string()))
}

/// Turns plain JSON into a payload wherever the message has one.
fn wrap_payloads(value: Value, message: &MessageDescriptor) -> Value {
    if message.full_name() == PAYLOAD {
        return as_payload(value);
    }
    // Messages with a JSON of their own, such as durations, have nothing of ours inside.
    if message.full_name().starts_with("google.protobuf.") {
        return value;
    }
    let Value::Object(fields) = value else { return value };
    let wrapped = fields.into_iter().map(|(name, value)| {
        let field = message
            .get_field_by_json_name(&name)
            .or_else(|| message.get_field_by_name(&name));
        let value = match field {
            Some(field) => wrap_field(value, &field),
            None => value,
        };
        (name, value)
    });
    Value::Object(wrapped.collect())
}

fn wrap_field(value: Value, field: &FieldDescriptor) -> Value {
    let message = match field.kind() {
        Kind::Message(message) => message,
        Kind::Enum(kind) => return full_name(value, &kind),
        _ => return value,
    };
    match value {
        Value::Object(entries) if field.is_map() => {
            let Kind::Message(message) = message.map_entry_value_field().kind() else {
                return Value::Object(entries);
            };
            let entries = entries
                .into_iter()
                .map(|(key, value)| (key, wrap_payloads(value, &message)));
            Value::Object(entries.collect())
        }
        Value::Array(items) if field.is_list() => items.into_iter().map(|item| wrap_payloads(item, &message)).collect(),
        value => wrap_payloads(value, &message),
    }
}

/// The value of an enum may leave its prefix out: `SKIP` is `ON_FAILURE_SKIP`.
fn full_name(value: Value, kind: &EnumDescriptor) -> Value {
    let Some(name) = value.as_str() else { return value };
    if kind.get_value_by_name(name).is_some() {
        return value;
    }
    let end = format!("_{}", name.to_ascii_uppercase());
    let found = kind.values().find(|known| known.name().ends_with(&end));
    found.map_or(value, |known| Value::String(known.name().to_owned()))
}

/// JSON that already has a payload's shape stays as it is; any other becomes a payload of JSON text, with every digit.
fn as_payload(value: Value) -> Value {
    if is_payload(&value) {
        return value;
    }
    let text = Value::String(value.to_string());
    Value::Object(Map::from_iter([("json".to_owned(), text)]))
}

fn is_payload(value: &Value) -> bool {
    let Value::Object(fields) = value else { return false };
    let known = |name: &String| {
        matches!(
            name.as_str(),
            "value" | "json" | "data" | "contentType" | "content_type"
        )
    };
    let contents = ["value", "json", "data"]
        .into_iter()
        .filter(|name| fields.contains_key(*name))
        .count();
    let text = |name: &str| fields.get(name).is_none_or(Value::is_string);
    contents == 1 && fields.keys().all(known) && ["json", "data", "contentType", "content_type"].into_iter().all(text)
}

/// JSON whose numbers are plain ones. `serde_json` is built to keep every digit, and then hands out numbers in a form that
/// only itself understands.
struct Plain(Value);

impl<'de> Deserializer<'de> for Plain {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(truth) => visitor.visit_bool(truth),
            Value::String(text) => visitor.visit_string(text),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), _, _) => visitor.visit_i64(number),
                (_, Some(number), _) => visitor.visit_u64(number),
                (_, _, Some(number)) => visitor.visit_f64(number),
                _ => Err(serde::de::Error::custom(format!("{number} is out of range"))),
            },
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Plain))),
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Plain(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl IntoDeserializer<'_> for Plain {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drumline::v1 as pb;
    use pb::payload::Content;

    #[test]
    fn messages_are_written_in_protobufs_own_json() {
        let lock = pb::Lock {
            resource_id: "r".into(),
            fencing_token: 9_007_199_254_740_993,
            ttl: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
            ..Default::default()
        };
        let text = line(&lock, "Lock").expect("JSON");
        assert_eq!(
            text,
            r#"{"resourceId":"r","fencingToken":"9007199254740993","ttl":"300s"}"#
        );
        assert_eq!(read::<pb::Lock>(&text, "Lock").expect("a lock"), lock);
    }

    #[test]
    fn whole_numbers_are_written_whole() {
        let value = drumline::payload::value(&serde_json::json!({"n": 1, "x": 1.5, "big": 0.25}));
        let text = line(&value, "Payload").expect("JSON");
        assert_eq!(text, r#"{"value":{"big":0.25,"n":1,"x":1.5}}"#);
    }

    #[test]
    fn plain_json_stands_for_a_payload() {
        let text = r#"{
            "workflow_id": "w", "workflowType": "WORKFLOW_TYPE_SEQUENTIAL", "maxConcurrentDelegates": 7,
            "input": {"n": 12345678901234567890.123},
            "deadline": "10s",
            "labels": {"a": "b"},
            "steps": [
                {"stepId": "a", "capability": "c", "input": ["${input.n}"],
                 "retryPolicy": {"maxAttempts": 3, "backoffMultiplier": 1.5},
                 "fallback": {"result": null}},
                {"stepId": "b", "capability": "c", "input": {"value": {"x": 1}, "contentType": "application/json"}}
            ]
        }"#;
        let request: pb::StartWorkflowRequest = read(text, "StartWorkflowRequest").expect("a request");
        let json = |payload: &Option<pb::Payload>| payload.clone().and_then(|payload| payload.content);
        assert_eq!(
            json(&request.input),
            Some(Content::Json(r#"{"n":12345678901234567890.123}"#.into()))
        );
        assert_eq!(
            json(&request.steps[0].input),
            Some(Content::Json(r#"["${input.n}"]"#.into()))
        );
        assert!(matches!(json(&request.steps[1].input), Some(Content::Value(_))));
        let policy = request.steps[0].retry_policy.clone().expect("a policy");
        assert_eq!((policy.max_attempts, policy.backoff_multiplier), (3, 1.5));
        let fallback = request.steps[0].fallback.clone().and_then(|fallback| fallback.kind);
        let Some(pb::fallback::Kind::Result(result)) = fallback else {
            panic!("no result")
        };
        assert_eq!(result.content, Some(Content::Json("null".into())));
        assert_eq!(
            (request.max_concurrent_delegates, request.deadline.map(|d| d.seconds)),
            (7, Some(10))
        );
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        let wrong = read::<pb::StartWorkflowRequest>(r#"{"step": []}"#, "StartWorkflowRequest").expect_err("unknown");
        assert!(format!("{wrong:?}").contains("step"), "{wrong:?}");
        assert!(read::<pb::StartWorkflowRequest>("[]", "StartWorkflowRequest").is_err());
        assert!(read::<pb::StartWorkflowRequest>("{", "StartWorkflowRequest").is_err());
    }

    #[test]
    fn only_a_payloads_own_shape_is_left_alone() {
        let shape = |text: &str| is_payload(&serde_json::from_str(text).expect("JSON"));
        assert!(
            shape(r#"{"value": 1}"#) && shape(r#"{"json": "1"}"#) && shape(r#"{"data": "AA==", "contentType": "x"}"#)
        );
        assert!(!shape(r#"{"json": 1}"#) && !shape(r#"{"value": 1, "x": 2}"#) && !shape(r#"{}"#) && !shape("1"));
    }
}
