//! The rows of locks and of those who wait for them.

use std::time::Duration;

use super::{Lock, Waiter};
use crate::row;
use crate::time::Time;

row! {
    Lock: String = "locks" (resource_id: String) {
        holder_id: String,
        agent_id: String,
        session_id: Option<String>,
        attempt_token: Option<String>,
        token: i64,
        ttl: Duration,
        acquired_at: Time,
        due_at: Time,
        request_id: String,
        call_id: String,
        queue_length: i32,
        next_place: i64,
        untaken: bool,
        correlation_id: String,
    }
    index BY_DUE = "locks_by_due": () -> (due_at, resource_id);
    index BY_SESSION = "locks_by_session": (session_id) -> (resource_id);
    index BY_ATTEMPT = "locks_by_attempt": (attempt_token) -> (resource_id);
}

row! {
    Waiter: (String, i64) = "lock_waiters" (resource_id: String, place: i64) {
        call_id: String,
        holder_id: String,
        agent_id: String,
        session_id: Option<String>,
        attempt_token: Option<String>,
        ttl: Duration,
        request_id: String,
        queued_at: Time,
        due_at: Time,
        correlation_id: String,
    }
    index BY_RESOURCE = "lock_waiters_by_resource": (resource_id) -> (place);
    index BY_DUE = "lock_waiters_by_due": () -> (due_at, resource_id, place);
    index BY_SESSION = "lock_waiters_by_session": (session_id) -> (resource_id, place);
    index BY_CALL = "lock_waiters_by_call": (call_id) -> (resource_id, place);
    index BY_REQUEST = "lock_waiters_by_request": (resource_id, request_id) -> (place);
}
