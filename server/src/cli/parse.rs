//! Arguments that are more than a word: durations, times, payloads, pairs.

use std::io::Read;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use drumline::v1::payload::Content;
use drumline::v1::{Guard, Payload};
use prost_types::Timestamp;

use super::Failure;
use crate::time;

/// A duration such as `10s`, `1.5s`, `250ms` or `1h30m`; a number alone is in seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    time::duration_of(text).ok_or_else(|| format!("{text:?} is no duration: write it like 10s, 250ms or 1h30m"))
}

/// A point in time: RFC 3339, or how long ago, such as `10m`.
pub fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = Timestamp::from_str(text) {
        return Ok(time);
    }
    let ago = duration(text).map_err(|_error| {
        format!("{text:?} is no time: write it like 2026-01-31T12:00:00Z, or how long ago, like 10m")
    })?;
    SystemTime::now()
        .checked_sub(ago)
        .map(Timestamp::from)
        .ok_or_else(|| format!("{text:?} is too long ago"))
}

/// A length of time for a request.
pub fn proto_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration {
        seconds: 315_576_000_000,
        nanos: 0,
    })
}

/// `name=value`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no pair: write it like name=value")),
    }
}

/// `resource=token`, as `lock run` and `locks acquire` tell the token. The resource itself may contain `=`.
pub fn guard(text: &str) -> Result<Guard, String> {
    let wrong = || format!("{text:?} is no guard: write it like resource=token");
    let (resource_id, token) = text.rsplit_once('=').ok_or_else(wrong)?;
    let fencing_token = token.parse().map_err(|_error| wrong())?;
    Ok(Guard {
        resource_id: resource_id.to_owned(),
        fencing_token,
    })
}

/// The value of an enum by its name without the prefix, in any case.
pub fn named<T>(text: &str, prefix: &str, from_name: impl Fn(&str) -> Option<T>) -> Result<T, String> {
    let name = format!("{prefix}{}", text.to_ascii_uppercase().replace('-', "_"));
    from_name(&name)
        .filter(|_| !name.ends_with("_UNSPECIFIED"))
        .ok_or_else(|| format!("{text:?} is not known here"))
}

/// What a payload's argument stands for: JSON text, `@file`, or `-` for standard input. JSON goes out as it was
/// written, so every digit of it arrives; with a media type that is not JSON the bytes do.
pub fn payload(text: &str, content_type: Option<&str>) -> Result<Payload, Failure> {
    let bytes = match text.strip_prefix('@') {
        Some(path) => std::fs::read(path).map_err(|error| Failure::usage(format!("{path}: {error}")))?,
        None if text == "-" => stdin()?,
        None => text.as_bytes().to_vec(),
    };
    payload_of(bytes, content_type.unwrap_or_default())
}

/// A payload of these bytes: JSON text unless the media type says otherwise.
pub fn payload_of(bytes: Vec<u8>, content_type: &str) -> Result<Payload, Failure> {
    let is_json = content_type.is_empty() || content_type == "application/json" || content_type.ends_with("+json");
    if !is_json {
        return Ok(drumline::payload::bytes(bytes, content_type));
    }
    let text = String::from_utf8(bytes).map_err(|_error| Failure::usage("the payload is not UTF-8"))?;
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        let hint = "quote strings, as in '\"text\"'; @FILE and - read from elsewhere";
        return Err(Failure::usage(format!("the payload is not JSON: {error} ({hint})")));
    }
    Ok(Payload {
        content: Some(Content::Json(text.trim().to_owned())),
        content_type: content_type.to_owned(),
    })
}

/// All of standard input.
pub fn stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("10s", 10_000),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("2d", 172_800_000),
            ("0", 0),
            ("7", 7_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("1500us"), Ok(Duration::from_micros(1_500)));
        for text in [
            "",
            "s",
            "10 s",
            "-1s",
            "1.5",
            "10x",
            "1..5s",
            "s10",
            "99999999999999999999d",
        ] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_are_absolute_or_ago() {
        assert_eq!(time("1970-01-01T00:01:00Z"), Ok(Timestamp { seconds: 60, nanos: 0 }));
        let ago = time("10m").expect("a time");
        assert!(ago.seconds < Timestamp::from(SystemTime::now()).seconds - 500);
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn pairs_and_guards() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("=b").is_err() && pair("a").is_err());
        let guard = guard("a=b=7").expect("a guard");
        assert_eq!((guard.resource_id.as_str(), guard.fencing_token), ("a=b", 7));
        assert!(super::guard("a").is_err() && super::guard("a=x").is_err());
    }

    #[test]
    fn a_payload_keeps_every_digit_and_must_be_json() {
        let digits = payload(" 9007199254740993.10 ", None).expect("JSON");
        assert_eq!(digits.content, Some(Content::Json("9007199254740993.10".into())));
        assert!(payload("text", None).is_err());
        assert!(payload("@/no/such/file", None).is_err());
        let bytes = payload("text", Some("text/plain")).expect("bytes");
        assert_eq!(bytes.content, Some(Content::Data("text".into())));
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "[1]\n").expect("written");
        let argument = format!("@{}", file.path().display());
        assert_eq!(
            payload(&argument, None).expect("JSON").content,
            Some(Content::Json("[1]".into()))
        );
    }

    #[test]
    fn enums_are_named_without_their_prefix() {
        use drumline::v1::task::State;
        let state = |text: &str| named(text, "STATE_", State::from_str_name);
        assert_eq!(state("timed-out"), Ok(State::TimedOut));
        assert_eq!(state("RUNNING"), Ok(State::Running));
        assert!(state("unspecified").is_err() && state("done").is_err());
    }
}
