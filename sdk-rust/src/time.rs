//! Durations and times as the contract writes them.

use std::time::{Duration, SystemTime};

/// A length of time for a request. What is longer than protobuf can say is cut to the longest.
pub(crate) fn to_proto(duration: Duration) -> prost_types::Duration {
    const LONGEST: i64 = 315_576_000_000;
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(LONGEST).min(LONGEST);
    prost_types::Duration {
        seconds,
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

/// A length of time from an answer; absent or negative is zero.
pub(crate) fn from_proto(duration: Option<prost_types::Duration>) -> Duration {
    duration
        .and_then(|duration| duration.try_into().ok())
        .unwrap_or_default()
}

/// A point in time for a request.
pub(crate) fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}
