//! The rows of sessions.

use std::time::Duration;

use super::{BeatRecord, Life, Session};
use crate::row;
use crate::time::Time;

row! {
    Session: String = "sessions" (session_id: String) {
        agent_id: String,
        incarnation: i64,
        life: Life,
        ttl: Duration,
        generation: i64,
        connected: bool,
        polling: i32,
        poll_id: Option<String>,
        capacity: i32,
        in_flight: i32,
        last_assigned_at: Time,
        started_at: Time,
        ended_at: Option<Time>,
        due_at: Option<Time>,
    }
    index BY_DUE = "sessions_by_due": () -> (due_at, session_id);
    index BY_LIFE = "sessions_by_life": (life) -> (session_id);
}

row! {
    #[beside]
    BeatRecord: String = "beats" (session_id: String) {
        home: String,
        at: Time,
    }
}
