//! Points in time as the store tells them. Rules get them as parameters and never look at a clock.

use std::ops::{Add, Sub};
use std::time::{Duration, UNIX_EPOCH};

use crate::machine;

/// A point in time: microseconds since the Unix epoch, by the store's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Time(pub i64);

impl Time {
    /// What the machine's clock says. For stores and tests: rules are told the time.
    pub fn of_this_machine() -> Time {
        let since = machine::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// As people and JSON have it: RFC 3339, in UTC, with microseconds.
    pub fn rfc3339(self) -> String {
        let seconds = self.0.div_euclid(1_000_000);
        let micros = self.0.rem_euclid(1_000_000);
        let (year, month, day) = civil_date(seconds.div_euclid(86_400));
        let second = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }

    /// Milliseconds since the Unix epoch.
    pub fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }
}

/// The date of a day counted from 1970-01-01. Years are counted from March, so that the leap day is a year's last.
fn civil_date(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let day_of_era = day.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// A duration in microseconds; one too long to count is the longest.
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The units of durations, the largest first, in microseconds.
const UNITS: [(&str, u32); 3] = [("s", 1_000_000), ("ms", 1_000), ("us", 1)];
/// Those that are longer, in seconds.
const LONG_UNITS: [(&str, u32); 3] = [("d", 86_400), ("h", 3_600), ("m", 60)];

/// A duration as people write it: `10s`, `1.5s`, `250ms`, `1h30m`; a number alone is in seconds.
pub fn duration_of(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let (mut rest, mut micros) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |at| digits + at);
        let unit = &rest[digits..unit_end];
        let long = LONG_UNITS
            .iter()
            .map(|(name, seconds)| (*name, f64::from(*seconds) * 1e6));
        let mut units = UNITS
            .iter()
            .map(|(name, micros)| (*name, f64::from(*micros)))
            .chain(long);
        let (_, size) = units.find(|(name, _)| *name == unit)?;
        micros += number * size;
        rest = &rest[unit_end..];
    }
    if text.is_empty() {
        return None;
    }
    Duration::try_from_secs_f64(micros / 1e6).ok()
}

/// A duration as [`duration_of`] reads it.
pub fn duration_text(duration: Duration) -> String {
    let (mut seconds, mut micros) = (duration.as_secs(), duration.subsec_micros());
    let mut text = String::new();
    for (unit, size) in LONG_UNITS {
        let size = u64::from(size);
        if seconds >= size {
            text.push_str(&format!("{}{unit}", seconds / size));
            seconds %= size;
        }
    }
    if seconds > 0 {
        text.push_str(&format!("{seconds}s"));
    }
    for (unit, size) in &UNITS[1..] {
        if micros >= *size {
            text.push_str(&format!("{}{unit}", micros / size));
            micros %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(micros(duration)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, duration: Duration) -> Time {
        Time(self.0.saturating_sub(micros(duration)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in [
            "0s",
            "10s",
            "250ms",
            "1h30m",
            "7d",
            "1s500ms",
            "3m20s",
            "333ms334us",
            "1d1us",
        ] {
            let duration = duration_of(text).expect("a duration");
            assert_eq!(duration_text(duration), text);
        }
        assert_eq!(duration_text(Duration::from_secs(3_600)), "1h");
    }

    #[test]
    fn a_time_is_written_as_its_date() {
        assert_eq!(Time(0).rfc3339(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Time(-1).rfc3339(), "1969-12-31T23:59:59.999999Z");
        assert_eq!(Time(951_825_600_000_000).rfc3339(), "2000-02-29T12:00:00.000000Z");
        assert_eq!(Time(1_798_761_599_000_001).rfc3339(), "2026-12-31T23:59:59.000001Z");
    }
}
