//! Answers for people: times, ages, durations, payloads, in one line each.

use std::time::SystemTime;

use drumline::v1::Payload;
use drumline::v1::payload::Content;
use prost_types::{Duration, Timestamp};

/// A text on one line that cannot steer a terminal: what others have written may be hostile.
pub fn one_line(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// A point in time, to the millisecond; `-` if there is none.
pub fn time(time: Option<&Timestamp>) -> String {
    let Some(time) = time else { return "-".into() };
    Timestamp {
        seconds: time.seconds,
        nanos: time.nanos / 1_000_000 * 1_000_000,
    }
    .to_string()
}

/// How long ago, roughly: `4s`, `12m`, `3h`, `5d`; with `in` before it where it is to come, `-` if there is no time.
pub fn age(time: Option<&Timestamp>, now: SystemTime) -> String {
    let Some(time) = time else { return "-".into() };
    let now = Timestamp::from(now);
    let seconds = now.seconds - time.seconds;
    let rough = match seconds.unsigned_abs() {
        s @ 0..=119 => format!("{s}s"),
        s @ 120..=7_199 => format!("{}m", s / 60),
        s @ 7_200..=172_799 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    };
    if seconds < 0 { format!("in {rough}") } else { rough }
}

/// A length of time: `300s`, `1.5s`; `-` if there is none.
pub fn duration(duration: Option<&Duration>) -> String {
    let Some(duration) = duration else { return "-".into() };
    #[allow(clippy::cast_precision_loss)] // For people.
    let seconds = duration.seconds as f64 + f64::from(duration.nanos) / 1e9;
    format!("{seconds}s")
}

/// A payload: JSON as compact text, bytes by their size and type.
pub fn payload(payload: Option<&Payload>) -> String {
    let Some(payload) = payload else { return "-".into() };
    match &payload.content {
        None => "-".into(),
        Some(Content::Data(data)) => {
            let kind = match payload.content_type.as_str() {
                "" => "application/octet-stream",
                kind => kind,
            };
            format!("<{} bytes of {kind}>", data.len())
        }
        // As it was written, but for its line breaks: parsing it could lose nothing, but would order its keys.
        Some(Content::Json(text)) if !text.contains(['\n', '\t']) => text.clone(),
        Some(_) => {
            drumline::payload::to_json(payload).map_or_else(|_error| "<not JSON>".into(), |json| json.to_string())
        }
    }
}

/// The name of an enum's value without its prefix.
pub fn name(name: &str) -> String {
    let short = name.strip_prefix("STATE_").or_else(|| name.strip_prefix("STATUS_"));
    let short = short
        .or_else(|| name.strip_prefix("WORKFLOW_TYPE_"))
        .or_else(|| name.strip_prefix("ON_FAILURE_"));
    short.unwrap_or(name).to_owned()
}

/// A text, or `-` where it is empty.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}

/// Pairs, as `a=1,b=2`.
pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    or_dash(&pairs.join(","))
}

/// The end of a text that may be cut anywhere, to at most so many bytes.
pub fn tail(bytes: &[u8], most: usize) -> String {
    let mut start = bytes.len().saturating_sub(most);
    // Not in the middle of a character.
    while start > 0 && start < bytes.len() && bytes[start] & 0xC0 == 0x80 {
        start += 1;
    }
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration as Std;

    #[test]
    fn hostile_text_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb c");
        assert_eq!(one_line("schön"), "schön");
    }

    #[test]
    fn ages_are_rough() {
        let now = SystemTime::UNIX_EPOCH + Std::from_secs(1_000_000);
        let ago = |seconds: i64| Timestamp {
            seconds: 1_000_000 - seconds,
            nanos: 0,
        };
        for (seconds, text) in [
            (4, "4s"),
            (119, "119s"),
            (720, "12m"),
            (10_800, "3h"),
            (432_000, "5d"),
            (-60, "in 60s"),
        ] {
            assert_eq!(age(Some(&ago(seconds)), now), text);
        }
        assert_eq!(age(None, now), "-");
    }

    #[test]
    fn times_and_durations() {
        assert_eq!(
            time(Some(&Timestamp {
                seconds: 0,
                nanos: 1_999_999
            })),
            "1970-01-01T00:00:00.001Z"
        );
        assert_eq!(
            duration(Some(&Duration {
                seconds: 1,
                nanos: 500_000_000
            })),
            "1.5s"
        );
        assert_eq!(duration(Some(&Duration { seconds: 300, nanos: 0 })), "300s");
    }

    #[test]
    fn payloads_are_compact() {
        let json = |text: &str| Payload {
            content: Some(Content::Json(text.into())),
            ..Default::default()
        };
        assert_eq!(payload(Some(&json("{\n \"a\": 1.10\n}"))), "{\"a\":1.10}");
        assert_eq!(payload(Some(&json("{\"b\":1,\"a\":2}"))), "{\"b\":1,\"a\":2}");
        let bytes = drumline::payload::bytes(vec![1, 2, 3], "");
        assert_eq!(payload(Some(&bytes)), "<3 bytes of application/octet-stream>");
        let value = drumline::payload::value(&serde_json::json!({"n": 3}));
        assert_eq!(payload(Some(&value)), "{\"n\":3}");
    }

    #[test]
    fn the_tail_of_a_text_begins_with_a_whole_character() {
        assert_eq!(tail("aäb".as_bytes(), 2), "b");
        assert_eq!(tail("aäb".as_bytes(), 3), "äb");
        assert_eq!(tail(b"abc", 10), "abc");
    }
}
