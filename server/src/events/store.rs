//! The rows of the log.

use super::{Event, EventIdRecord};
use crate::payload::Payload;
use crate::row;
use crate::time::Time;

row! {
    Event: i64 = "events" (position: i64) {
        given_id: Option<String>,
        event_type: String,
        schema_version: String,
        source_agent: String,
        target_agent: String,
        subject: String,
        payload: Option<Payload>,
        at: Time,
        correlation_id: Option<String>,
        causation_id: String,
        priority: i32,
        expire_at: Option<Time>,
        traceparent: String,
    }
    index BY_CORRELATION = "events_by_correlation": (correlation_id) -> (position);
}

row! {
    EventIdRecord: String = "event_ids" (event_id: String) {
        position: i64,
    }
    index BY_POSITION = "event_ids_by_position": () -> (position, event_id);
}
