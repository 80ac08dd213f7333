//! One message in full, a field a line. The descriptors say what is in it, so that no field is forgotten.

use std::time::SystemTime;

use drumline::v1::Payload;
use prost_reflect::{DynamicMessage, Kind, ReflectMessage, Value};

use super::{Failure, human};

/// The fields that are set, with their names for people.
pub fn fields(message: &DynamicMessage, now: SystemTime) -> Result<Vec<(String, String)>, Failure> {
    let mut rows = Vec::new();
    for field in message.descriptor().fields().filter(|field| message.has_field(field)) {
        let text = match field.kind() {
            Kind::Enum(kind) if !field.is_list() => {
                let number = message.get_field(&field).as_enum_number().unwrap_or_default();
                human::name(
                    kind.get_value(number)
                        .map_or(number.to_string(), |value| value.name().to_owned())
                        .as_str(),
                )
            }
            _ => shown(&message.get_field(&field), now)?,
        };
        rows.push((field.name().replace('_', " "), text));
    }
    Ok(rows)
}

fn shown(value: &Value, now: SystemTime) -> Result<String, Failure> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Bool(truth) => truth.to_string(),
        Value::I32(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Message(message) => shown_message(message, now)?,
        Value::List(items) if items.iter().all(|item| matches!(item, Value::String(_))) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        Value::List(items) => {
            let items: Result<Vec<String>, Failure> = items.iter().map(|item| shown(item, now)).collect();
            items?.join("; ")
        }
        Value::Map(entries) => {
            let mut pairs = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                let key = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
                pairs.push(format!("{key}={}", shown(value, now)?));
            }
            pairs.sort_unstable();
            pairs.join(", ")
        }
        other => format!("{other:?}"),
    })
}

fn shown_message(message: &DynamicMessage, now: SystemTime) -> Result<String, Failure> {
    let wrong = |error: prost::DecodeError| Failure::message(error.to_string());
    Ok(match message.descriptor().full_name() {
        "drumline.v1.Payload" => human::payload(Some(&message.transcode_to::<Payload>().map_err(wrong)?)),
        "google.protobuf.Duration" => human::duration(Some(&message.transcode_to().map_err(wrong)?)),
        "google.protobuf.Timestamp" => {
            let time = message.transcode_to().map_err(wrong)?;
            format!("{} ({})", human::time(Some(&time)), human::age(Some(&time), now))
        }
        _ => {
            let inner = fields(message, now)?;
            inner
                .iter()
                .map(|(name, text)| format!("{name}: {text}"))
                .collect::<Vec<_>>()
                .join(", ")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::json;
    use drumline::v1 as pb;

    #[test]
    fn every_field_that_is_set_has_a_line() {
        let task = pb::Task {
            task_id: "t".into(),
            state: pb::task::State::TimedOut as i32,
            input: Some(drumline::payload::json(&[1, 2]).expect("JSON")),
            timeout: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
            create_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            label_requirements: [("a".to_owned(), "b".to_owned())].into(),
            error: Some(pb::TaskError {
                kind: "timeout".into(),
                message: "late".into(),
                permanent: false,
            }),
            attempt: 2,
            ..Default::default()
        };
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(60);
        let rows = fields(&json::dynamic(&task, "Task").expect("dynamic"), now).expect("fields");
        let row = |name: &str| {
            rows.iter()
                .find(|(field, _)| field == name)
                .map(|(_, text)| text.as_str())
        };
        assert_eq!(row("task id"), Some("t"));
        assert_eq!(row("state"), Some("TIMED_OUT"));
        assert_eq!(row("input"), Some("[1,2]"));
        assert_eq!(row("timeout"), Some("600s"));
        assert_eq!(row("create time"), Some("1970-01-01T00:00:00Z (60s)"));
        assert_eq!(row("label requirements"), Some("a=b"));
        assert_eq!(row("error"), Some("kind: timeout, message: late"));
        assert_eq!(row("attempt"), Some("2"));
        assert_eq!(row("result"), None);
    }
}
