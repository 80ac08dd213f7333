//! Payloads, times and guards between the wire and the house.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use drumline_proto::v1;
use prost_types::value::Kind;

use super::check::{Check, MAX_ID};
use crate::config::Limits;
use crate::error::{Reason, Refusal};
use crate::locks::rules::Guard;
use crate::payload::{Form, MAX_DEPTH, Payload};
use crate::time::Time;

/// A payload from the wire; nothing if there is none.
///
/// # Errors
/// INVALID_REQUEST for malformed JSON, U+0000, numbers that are none, or nesting deeper than 32; PAYLOAD_TOO_LARGE.
pub fn from_proto(
    field: impl Display,
    payload: Option<v1::Payload>,
    limits: &Limits,
) -> Result<Option<Payload>, Refusal> {
    let field = &field;
    let Some(payload) = payload else {
        return Ok(None);
    };
    let mut check = Check::default();
    let content_type = check.text(format_args!("{field}.content_type"), &payload.content_type, MAX_ID);
    if content_type.chars().any(char::is_control) {
        check.violation(format_args!("{field}.content_type"), "must not have control characters");
    }
    check.finish()?;
    let (form, body) = match payload.content {
        None => (Form::Data, Bytes::new()),
        Some(v1::payload::Content::Data(data)) => (Form::Data, data),
        Some(v1::payload::Content::Json(text)) => {
            check_size(field, text.len(), limits)?;
            check_json(format_args!("{field}.json"), &text)?;
            (Form::Json, Bytes::from(text))
        }
        Some(v1::payload::Content::Value(value)) => {
            let refused = |problem| Refusal::invalid(format!("{field}.value"), problem);
            let value = json_of_value(value, 1).map_err(refused)?;
            (Form::Value, Bytes::from(value.to_string()))
        }
    };
    check_size(field, body.len(), limits)?;
    Ok(Some(Payload {
        form,
        content_type,
        body,
    }))
}

fn check_size(field: impl Display, size: usize, limits: &Limits) -> Result<(), Refusal> {
    let limit = limits.max_payload_bytes;
    if size <= limit {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::PayloadTooLarge,
        format!("{field} has {size} bytes, at most {limit} are allowed"),
    )
    .with("field", field)
    .with("limit_bytes", limit)
    .with("size_bytes", size))
}

fn check_json(field: impl Display, text: &str) -> Result<(), Refusal> {
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| Refusal::invalid(field.to_string(), format!("is not JSON: {error}")))?;
    check_value(&value, 1).map_err(|problem| Refusal::invalid(field.to_string(), problem))
}

fn check_value(value: &serde_json::Value, depth: usize) -> Result<(), &'static str> {
    if depth > MAX_DEPTH {
        return Err(TOO_DEEP);
    }
    match value {
        serde_json::Value::String(text) => check_text(text),
        serde_json::Value::Array(items) => items.iter().try_for_each(|item| check_value(item, depth + 1)),
        serde_json::Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            check_text(name)?;
            check_value(value, depth + 1)
        }),
        _ => Ok(()),
    }
}

const TOO_DEEP: &str = "nests deeper than 32";

fn check_text(text: &str) -> Result<(), &'static str> {
    if text.contains('\0') {
        Err("must not have the character U+0000")
    } else {
        Ok(())
    }
}

/// A protobuf value as JSON; whole numbers become integers.
fn json_of_value(value: prost_types::Value, depth: usize) -> Result<serde_json::Value, &'static str> {
    if depth > MAX_DEPTH {
        return Err(TOO_DEEP);
    }
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(flag)) => flag.into(),
        Some(Kind::StringValue(text)) => {
            check_text(&text)?;
            text.into()
        }
        Some(Kind::NumberValue(number)) => {
            json_number(number).ok_or("must not have numbers that are infinite or none")?
        }
        Some(Kind::ListValue(list)) => list
            .values
            .into_iter()
            .map(|value| json_of_value(value, depth + 1))
            .collect::<Result<Vec<_>, _>>()?
            .into(),
        Some(Kind::StructValue(fields)) => {
            let fields = fields.fields.into_iter().map(|(name, value)| {
                check_text(&name)?;
                Ok((name, json_of_value(value, depth + 1)?))
            });
            serde_json::Value::Object(fields.collect::<Result<_, &'static str>>()?)
        }
    })
}

fn json_number(number: f64) -> Option<serde_json::Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return Some((number as i64).into());
    }
    serde_json::Number::from_f64(number).map(serde_json::Value::Number)
}

fn value_of_json(value: serde_json::Value) -> prost_types::Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => Kind::ListValue(prost_types::ListValue {
            values: items.into_iter().map(value_of_json).collect(),
        }),
        serde_json::Value::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields
                .into_iter()
                .map(|(name, value)| (name, value_of_json(value)))
                .collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

/// A payload for the wire, in the form that it was sent in.
pub fn to_proto(payload: &Payload) -> v1::Payload {
    let content = match payload.form {
        Form::Data => v1::payload::Content::Data(payload.body.clone()),
        Form::Json => v1::payload::Content::Json(String::from_utf8_lossy(&payload.body).into_owned()),
        Form::Value => v1::payload::Content::Value(value_of_json(payload.json().unwrap_or_default())),
    };
    v1::Payload {
        content: Some(content),
        content_type: payload.content_type.clone(),
    }
}

/// A time for the wire.
pub fn timestamp(time: Time) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.0.div_euclid(1_000_000),
        nanos: i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}

/// A time from the wire.
pub fn time(timestamp: prost_types::Timestamp) -> Time {
    Time(
        timestamp
            .seconds
            .saturating_mul(1_000_000)
            .saturating_add(i64::from(timestamp.nanos) / 1_000),
    )
}

/// A duration for the wire.
pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

/// Guards from the wire; at most 100.
pub fn guards(check: &mut Check, guards: Vec<v1::Guard>) -> Vec<Guard> {
    if guards.len() > 100 {
        check.violation("guards", "has more than 100 guards");
        return Vec::new();
    }
    let guards = guards.into_iter().enumerate().map(|(index, guard)| {
        let resource_id = check.id(format_args!("guards[{index}].resource_id"), &guard.resource_id);
        if guard.fencing_token <= 0 {
            check.violation(
                format_args!("guards[{index}].fencing_token"),
                "must be the token of a grant",
            );
        }
        Guard {
            resource_id,
            token: guard.fencing_token,
        }
    });
    guards.collect()
}
