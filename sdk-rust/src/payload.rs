//! Payloads: what agents send each other, to and from Rust types.
//!
//! Typed data is sent as JSON text, which keeps every digit of every number. What comes back may be in any of the three
//! forms, since another client may have written it; [`decode`] reads all of them, and says so where the content is
//! not what was asked for.

use bytes::Bytes;
use drumline_proto::v1::Payload;
use drumline_proto::v1::payload::Content;
use prost_types::value::Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// The whole numbers that a double holds exactly end here.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A payload of JSON text.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Payload> {
    let text = serde_json::to_string(value).map_err(Error::payload)?;
    Ok(Payload {
        content: Some(Content::Json(text)),
        content_type: String::new(),
    })
}

/// A payload in protobuf's own form of JSON: numbers are doubles.
pub fn value(value: &Value) -> Payload {
    Payload {
        content: Some(Content::Value(to_value(value))),
        content_type: String::new(),
    }
}

/// A payload of opaque bytes, with their media type; empty is `application/octet-stream`.
pub fn bytes(data: impl Into<Bytes>, content_type: impl Into<String>) -> Payload {
    Payload {
        content: Some(Content::Data(data.into())),
        content_type: content_type.into(),
    }
}

/// Reads a payload as a type. A payload of nothing is read as `null`.
pub fn decode<T: DeserializeOwned>(payload: &Payload) -> Result<T> {
    match &payload.content {
        Some(Content::Json(text)) => serde_json::from_str(text).map_err(Error::payload),
        Some(Content::Data(data)) => {
            let media = payload.content_type.as_str();
            if !(media == "application/json" || media.ends_with("+json")) {
                return Err(Error::payload(format!("bytes of type {media:?} are not JSON")));
            }
            serde_json::from_slice(data).map_err(Error::payload)
        }
        _ => serde_json::from_value(to_json(payload)?).map_err(Error::payload),
    }
}

/// Reads a payload that may be absent; absent is `null`.
pub fn decode_opt<T: DeserializeOwned>(payload: Option<&Payload>) -> Result<T> {
    decode(payload.unwrap_or(&Payload::default()))
}

/// Reads a payload as JSON. Whole numbers in `value` come as integers, as the server's schemas and expressions see them.
pub fn to_json(payload: &Payload) -> Result<Value> {
    match &payload.content {
        None => Ok(Value::Null),
        Some(Content::Value(value)) => Ok(from_value(value)),
        _ => decode(payload),
    }
}

/// The bytes of a payload: of `data` as they are, of JSON as text.
pub fn to_bytes(payload: &Payload) -> Result<Bytes> {
    match &payload.content {
        None => Ok(Bytes::new()),
        Some(Content::Data(data)) => Ok(data.clone()),
        Some(Content::Json(text)) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        Some(Content::Value(value)) => Ok(from_value(value).to_string().into()),
    }
}

fn to_value(json: &Value) -> prost_types::Value {
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(prost_types::ListValue {
            values: items.iter().map(to_value).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields
                .iter()
                .map(|(name, value)| (name.clone(), to_value(value)))
                .collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

fn from_value(value: &prost_types::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(truth)) => Value::Bool(*truth),
        Some(Kind::NumberValue(number)) => from_double(*number),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => list.values.iter().map(from_value).collect(),
        Some(Kind::StructValue(fields)) => {
            let fields = fields.fields.iter();
            Value::Object(fields.map(|(name, value)| (name.clone(), from_value(value))).collect())
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // Only whole numbers that fit get there.
fn from_double(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return Value::from(number as i64);
    }
    serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_keeps_every_digit() {
        let text = "9007199254740993.000000000000000001";
        let number: serde_json::Number = serde_json::from_str(text).expect("a number");
        let payload = json(&number).expect("a payload");
        assert_eq!(payload.content, Some(Content::Json(text.into())));
        assert_eq!(decode::<serde_json::Number>(&payload).expect("a number"), number);
        assert_eq!(
            decode::<u64>(&json(&u64::MAX).expect("a payload")).expect("whole"),
            u64::MAX
        );
    }

    #[test]
    fn a_value_comes_back_with_whole_numbers_as_integers() {
        let document = json!({"n": 3, "x": 1.5, "list": [null, true, "text"], "in": {"k": -1}});
        assert_eq!(to_json(&value(&document)).expect("JSON"), document);
        #[derive(serde::Deserialize)]
        struct Typed {
            n: u32,
        }
        assert_eq!(decode::<Typed>(&value(&document)).expect("typed").n, 3);
    }

    #[test]
    fn bytes_are_json_only_if_they_say_so() {
        assert!(decode::<Value>(&bytes("{}", "")).is_err());
        let typed = decode::<Value>(&bytes("[1]", "application/json")).expect("JSON");
        assert_eq!(typed, json!([1]));
        assert_eq!(to_bytes(&bytes("ab", "")).expect("bytes"), Bytes::from("ab"));
    }

    #[test]
    fn nothing_is_null() {
        decode::<()>(&Payload::default()).expect("unit");
        assert_eq!(decode_opt::<Option<u8>>(None).expect("none"), None);
    }
}
