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

/// A lock that is held.
#[derive(Clone, Debug, PartialEq)]
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
    /// When the lease ends unless it is renewed.
    pub due_at: Time,
    /// The request that it was granted to.
    pub request_id: String,
    /// How many wait for it.
    pub queue_length: i32,
    /// Granted to a waiter whose call has not taken it yet: it lapses soon unless that happens.
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
    /// The call's own id; the grant's event names it as its cause.
    pub waiter_id: String,
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
