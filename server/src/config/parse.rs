//! Values from text, and back. What is wrong says what is allowed.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::LogFormat;
use crate::store::Migrating;
use crate::time::{duration_of, duration_text as show};

/// The units of sizes, the largest first, in bytes.
const SIZES: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A duration such as `90s` or `1h30m`; a number alone is in seconds.
pub(super) fn duration(text: &str, allowed: RangeInclusive<Duration>) -> Result<Duration, String> {
    let range = format!("from {} to {}", show(*allowed.start()), show(*allowed.end()));
    let value = duration_of(text).ok_or_else(|| {
        format!("{text:?} is no duration: write it like 10s, 250ms or 1h30m (a number alone is in seconds), {range}")
    })?;
    if allowed.contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text:?} is out of range: it must be {range}"))
    }
}

/// A size in bytes such as `1MiB`.
pub(super) fn size(text: &str, allowed: RangeInclusive<usize>) -> Result<usize, String> {
    let range = format!("from {} to {}", show_size(*allowed.start()), show_size(*allowed.end()));
    let (number, unit) = SIZES
        .iter()
        .find_map(|(unit, size)| Some((text.strip_suffix(unit)?.trim_end(), *size)))
        .unwrap_or((text, 1));
    let value = number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    let value = value.ok_or_else(|| {
        format!("{text:?} is no size: write it like 512KiB or 4MiB (a number alone is in bytes), {range}")
    })?;
    if allowed.contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text:?} is out of range: it must be {range}"))
    }
}

/// A size as [`size`] reads it.
pub(super) fn show_size(bytes: usize) -> String {
    let unit = SIZES
        .iter()
        .find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size));
    match unit {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => bytes.to_string(),
    }
}

/// A whole number.
pub(super) fn count(text: &str, allowed: RangeInclusive<i32>) -> Result<i32, String> {
    let value = text.parse().ok().filter(|value| allowed.contains(value));
    value.ok_or_else(|| {
        let (least, most) = (allowed.start(), allowed.end());
        format!("{text:?} must be a whole number from {least} to {most}")
    })
}

/// True or false.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} must be true or false")),
    }
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let with_host = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let address = with_host.as_deref().unwrap_or(text).parse();
    address.map_err(|_| format!("{text:?} is no address: write IP:PORT, such as 127.0.0.1:7400 or [::]:7400"))
}

/// When tables are made what this version needs.
pub(super) fn migrating(text: &str) -> Result<Migrating, String> {
    match text {
        "auto" => Ok(Migrating::Auto),
        "check" => Ok(Migrating::Check),
        _ => Err(format!("{text:?} must be auto or check")),
    }
}

/// How the log looks.
pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} must be auto, text or json")),
    }
}

/// What is logged.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!(
            "{text:?} is no filter: write error, warn, info, debug or trace, or MODULE=LEVEL, with commas between them"
        )),
    }
}
