//! The rows that lanes keep for themselves: answered requests, epochs, batches.

use bytes::Bytes;

use super::{BatchRecord, EpochRecord, RequestRecord};
use crate::row;
use crate::time::Time;

row! {
    RequestRecord: (String, String) = "requests" (method: String, request_id: String) {
        fingerprint: Bytes,
        answer: Bytes,
        position: i64,
        at: Time,
    }
    index BY_AGE = "requests_by_age": () -> (at, method, request_id);
}

row! {
    EpochRecord: i64 = "epochs" (epoch: i64) {
        first_position: i64,
        first_batch: i64,
    }
}

row! {
    BatchRecord: i64 = "batches" (batch: i64) {
        batch_id: String,
        events: i64,
        position: i64,
        first_position: i64,
        epoch: i64,
        last_token: i64,
        at: Time,
        next_due: Option<Time>,
        changed: Option<String>,
    }
    index BY_AGE = "batches_by_age": () -> (at, batch);
}
