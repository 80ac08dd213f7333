//! Locks: leases on resources, with fencing tokens.
//!
//! Who is authoritative: the lock's row. A lease ends by a commit, not by a clock: until that commit, renewals and guards hold.
//! Release, expiry and the end of a session hand the lock to the next waiter in the same commit; only that waiter wakes up.
//! Tokens come from the head of the log, so they increase through crash, failover and restore.

pub mod rpc;
pub mod rules;
pub mod store;

use std::time::Duration;

use crate::time::Time;

/// The lease's length, unless it asks for another.
pub const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// The shortest lease.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// The longest lease.
pub const MAX_TTL: Duration = Duration::from_secs(86_400);
/// The longest wait in the queue.
pub const MAX_WAIT: Duration = Duration::from_secs(600);

/// How many may wait for one lock.
pub const MAX_QUEUE: i32 = 10_000;
/// How long a grant to a waiter stands without the waiting call's taking it.
pub const TAKE_WITHIN: Duration = Duration::from_secs(1);
/// How long a place in the queue, or a grant, is kept for the retry of a call that has gone.
pub const RETRY_WITHIN: Duration = Duration::from_secs(2);

/// The lock of a resource. It is there as long as somebody holds it or waits for it. While a long queue of the dead is cleared away
/// in bounded jobs nobody holds it: its token is then 0.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lock {
    /// What is locked.
    pub resource_id: String,
    /// Who holds it.
    pub holder_id: String,
    /// The agent behind the holder; empty without a session.
    pub agent_id: String,
    /// The session that it ends with.
    pub session_id: Option<String>,
    /// The attempt that it ends with.
    pub attempt_token: Option<String>,
    /// The fencing token of the grant.
    pub token: i64,
    /// The lease's length.
    pub ttl: Duration,
    /// When it was granted.
    pub acquired_at: Time,
    /// When it is to be looked at again: when the lease ends unless it is renewed, or the grant lapses unless it is taken.
    pub due_at: Time,
    /// The request that it was granted to.
    pub request_id: String,
    /// The call that it was granted to. Empty once a later call has found the lease held: no call's disappearance ends it then.
    pub call_id: String,
    /// How many wait for it.
    pub queue_length: i32,
    /// The place of the next who queues.
    pub next_place: i64,
    /// Granted to a caller who may be gone: it lapses soon unless the caller takes it.
    pub untaken: bool,
    /// Links its events to others.
    pub correlation_id: String,
}

/// Somebody who waits for a lock.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiter {
    /// What for.
    pub resource_id: String,
    /// Its place in the queue: first in, first out.
    pub place: i64,
    /// The call that waits; the grant's event names it as its cause.
    pub call_id: String,
    /// Who will hold it.
    pub holder_id: String,
    /// The agent behind the holder; empty without a session.
    pub agent_id: String,
    /// The session that it ends with.
    pub session_id: Option<String>,
    /// The attempt that it ends with.
    pub attempt_token: Option<String>,
    /// The lease's length, once granted.
    pub ttl: Duration,
    /// The request; a repetition of it finds its place again.
    pub request_id: String,
    /// Since when it waits.
    pub queued_at: Time,
    /// When it leaves the queue: its wait is over, or its call has gone and not come back.
    pub due_at: Time,
    /// Links the lock's events to others.
    pub correlation_id: String,
}

impl Lock {
    /// Whether somebody holds it.
    pub fn is_held(&self) -> bool {
        self.token != 0
    }

    /// When the lease ends unless it is renewed. A lease that is not taken yet begins when it is.
    pub fn expires_at(&self) -> Time {
        if self.untaken {
            self.due_at.max(self.acquired_at + self.ttl)
        } else {
            self.due_at
        }
    }
}
