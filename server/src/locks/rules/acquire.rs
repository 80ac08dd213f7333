//! Taking a lock: granted, queued, or found to be held already.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{held, in_the_way, is_current, queue, stale, task_of_attempt, want_may_act};
use crate::error::{Reason, Refusal};
use crate::events::Draft;
use crate::lane::{Decision, RequestRecord, World};
use crate::locks::{Lock, Waiter};
use crate::payload::{Form, Payload};
use crate::sessions;
use crate::store::row::Value;

/// The method that granted requests are remembered under.
const METHOD: &str = "AcquireLock";

/// A wish for a lock.
#[derive(Clone, Debug, Default)]
pub struct Acquire {
    /// The call, by an id of the server's own.
    pub call_id: String,
    /// The session that the caller acts under.
    pub session_id: Option<String>,
    /// The request; the same one again is the same lease. May be empty.
    pub request_id: String,
    /// What to lock.
    pub resource_id: String,
    /// Who holds it; empty: the attempt, else the request.
    pub holder_id: String,
    /// The lease's length.
    pub ttl: Duration,
    /// How long to queue; zero is not at all.
    pub wait: Duration,
    /// The token of a lease to extend.
    pub token: Option<i64>,
    /// The attempt that the lock ends with.
    pub attempt_token: Option<String>,
    /// Links the lock's events to others.
    pub correlation_id: String,
    /// W3C trace context.
    pub traceparent: String,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Acquired {
    /// The caller has it.
    Held(Lock),
    /// The caller waits in the queue.
    Queued {
        /// The agent that it waits as; empty without a session.
        agent_id: String,
    },
}

/// Says what [`acquire`] will read.
pub fn want_acquire(world: &mut World, wish: &Acquire) {
    world.locks.want(&wish.resource_id);
    want_may_act(world, &wish.session_id, &wish.attempt_token);
    if !wish.request_id.is_empty() && wish.token.is_none() {
        world.want_request(&request_key(&wish.request_id));
        if world.is_careful() {
            world
                .waiters
                .want_first(Waiter::BY_REQUEST, by_request(&wish.resource_id, &wish.request_id), 1);
        }
    }
}

/// Grants a lock, extends the lease that the caller has, or queues the caller.
///
/// A repeated `request_id` is not answered from the first answer, whose expiry would be old: a lease that is still held is extended,
/// a place in the queue is kept, and a lease that has ended is refused.
///
/// # Errors
/// LOCK_HELD, LEASE_ENDED, STALE_FENCING_TOKEN, STALE_ATTEMPT, REQUEST_ID_REUSED, OVERLOADED, SESSION_ENDED, SESSION_SUPERSEDED,
/// SESSION_REQUIRED.
pub fn acquire(world: &mut World, wish: &Acquire) -> Decision<Acquired> {
    let claim = claim(world, wish)?;
    if let Some(token) = wish.token {
        let lock = held(world, &wish.session_id, &wish.resource_id, token)?;
        let lock = lock.ok_or_else(|| stale(&wish.resource_id, token))?;
        return Ok(Acquired::Held(extend(world, &lock, wish.ttl)));
    }
    if let Some(acquired) = repeated(world, wish, &claim)? {
        return Ok(acquired);
    }
    match world.locks.get(&wish.resource_id)? {
        None => {
            let grant = Grant {
                claim: &claim,
                queue_length: 0,
                next_place: 1,
                waited: false,
                traceparent: &wish.traceparent,
            };
            Ok(Acquired::Held(grant.to(world)))
        }
        Some(lock) if wish.wait.is_zero() => Err(in_the_way(Reason::LockHeld, &wish.resource_id, Some(&lock)).into()),
        Some(lock) => {
            let agent_id = claim.agent_id.clone();
            queue::join(world, &lock, claim)?;
            Ok(Acquired::Queued { agent_id })
        }
    }
}

/// What the caller would hold or wait as, if it may act at all.
fn claim(world: &mut World, wish: &Acquire) -> Decision<Waiter> {
    let session = sessions::rules::caller(world, &wish.session_id)?;
    let mut holder_id = wish.holder_id.clone();
    if let Some(token) = &wish.attempt_token {
        if session.is_none() {
            let message = "a lock for an attempt needs the session that the attempt is assigned to";
            return Err(Refusal::new(Reason::SessionRequired, message).into());
        }
        let task = task_of_attempt(world, token)?;
        match task.filter(|task| is_current(task, token, &wish.session_id)) {
            // The attempt by its number: its token is a secret.
            Some(task) if holder_id.is_empty() => holder_id = format!("{}/{}", task.task_id, task.attempt),
            Some(_) => {}
            None => return Err(stale_attempt(world, token)?.into()),
        }
    }
    if holder_id.is_empty() {
        holder_id = match wish.request_id.as_str() {
            "" => world.new_id(),
            request_id => request_id.to_owned(),
        };
    }
    Ok(Waiter {
        resource_id: wish.resource_id.clone(),
        place: 0,
        call_id: wish.call_id.clone(),
        holder_id,
        agent_id: session.map(|session| session.agent_id.clone()).unwrap_or_default(),
        session_id: wish.session_id.clone(),
        attempt_token: wish.attempt_token.clone(),
        ttl: wish.ttl,
        request_id: wish.request_id.clone(),
        queued_at: world.now(),
        due_at: world.now() + wish.wait,
        correlation_id: wish.correlation_id.clone(),
    })
}

fn stale_attempt(world: &mut World, token: &str) -> Decision<Refusal> {
    let refusal = Refusal::new(Reason::StaleAttempt, "the attempt is over, or not this session's");
    Ok(match task_of_attempt(world, token)? {
        None => refusal,
        Some(task) => refusal
            .with("task_id", &task.task_id)
            .with("attempt", task.attempt)
            .with("state", task.state.name()),
    })
}

/// What an earlier call with the same `request_id` came to, if there was one.
fn repeated(world: &mut World, wish: &Acquire, claim: &Waiter) -> Decision<Option<Acquired>> {
    if claim.request_id.is_empty() {
        return Ok(None);
    }
    let fingerprint = fingerprint_of_waiter(claim);
    let lock = world.locks.get(&claim.resource_id)?;
    let key = request_key(&claim.request_id);
    if lock.is_none() && world.requests.is_unknown(&key) {
        // Nobody holds it nor waits. If the request was granted before, the store will not take a second answer to it.
        return Ok(None);
    }
    let record = world.requests.get(&key)?;
    if record.as_ref().is_some_and(|record| record.fingerprint != fingerprint) {
        return Err(reused(claim).into());
    }
    if let Some(lock) = lock.filter(|lock| lock.is_held() && lock.request_id == claim.request_id) {
        // Requests are forgotten before long leases end: the lock itself knows its own.
        if fingerprint_of_lock(&lock) != fingerprint {
            return Err(reused(claim).into());
        }
        return Ok(Some(Acquired::Held(find_held(world, &lock, claim))));
    }
    if let Some(record) = record {
        let message = "the lease that this request was granted has ended";
        let token = std::str::from_utf8(&record.answer).unwrap_or_default();
        return Err(Refusal::new(Reason::LeaseEnded, message)
            .with("resource_id", &claim.resource_id)
            .with("fencing_token", token)
            .into());
    }
    let prefix = by_request(&claim.resource_id, &claim.request_id);
    let waiters = world.waiters.select(Waiter::BY_REQUEST, &prefix, 1)?;
    let Some(waiter) = waiters.first() else {
        return Ok(None);
    };
    if fingerprint_of_waiter(waiter) != fingerprint {
        return Err(reused(claim).into());
    }
    if wish.wait.is_zero() {
        let lock = world.locks.get(&claim.resource_id)?;
        return Err(in_the_way(Reason::LockHeld, &claim.resource_id, lock.as_deref()).into());
    }
    // It keeps its place. From now on this call is the one that waits, and the older one waits in vain.
    world.waiters.put(Waiter {
        place: waiter.place,
        queued_at: waiter.queued_at,
        ..claim.clone()
    });
    let agent_id = claim.agent_id.clone();
    Ok(Some(Acquired::Queued { agent_id }))
}

/// The lease that a repeated request has already. What nobody had taken is this call's, and lapses if this call goes too; what an
/// earlier call may have been answered with is safe from the disappearance of any.
fn find_held(world: &mut World, lock: &Lock, claim: &Waiter) -> Lock {
    let call_id = if lock.untaken {
        claim.call_id.clone()
    } else {
        String::new()
    };
    let lock = Lock {
        call_id,
        ..lock.clone()
    };
    extend(world, &lock, claim.ttl)
}

/// Lets a lease run for its length from now on.
pub(super) fn extend(world: &mut World, lock: &Lock, ttl: Duration) -> Lock {
    let lock = Lock {
        ttl,
        due_at: world.now() + ttl,
        untaken: false,
        ..lock.clone()
    };
    world.locks.put(lock.clone());
    lock
}

/// A lock on its way to its next holder.
pub(super) struct Grant<'a> {
    pub(super) claim: &'a Waiter,
    pub(super) queue_length: i32,
    pub(super) next_place: i64,
    /// Whether the holder waited: its call must then take the grant.
    pub(super) waited: bool,
    pub(super) traceparent: &'a str,
}

impl Grant<'_> {
    /// Makes the claimant the holder.
    pub(super) fn to(self, world: &mut World) -> Lock {
        let claim = self.claim;
        let now = world.now();
        let lock = Lock {
            resource_id: claim.resource_id.clone(),
            holder_id: claim.holder_id.clone(),
            agent_id: claim.agent_id.clone(),
            session_id: claim.session_id.clone(),
            attempt_token: claim.attempt_token.clone(),
            token: world.next_token(),
            ttl: claim.ttl,
            acquired_at: now,
            due_at: now
                + if self.waited {
                    crate::locks::TAKE_WITHIN
                } else {
                    claim.ttl
                },
            request_id: claim.request_id.clone(),
            call_id: claim.call_id.clone(),
            queue_length: self.queue_length,
            next_place: self.next_place,
            untaken: self.waited,
            correlation_id: claim.correlation_id.clone(),
        };
        world.locks.put(lock.clone());
        let causation = if self.waited { claim.call_id.as_str() } else { "" };
        let draft = event("resource.locked", &lock, None)
            .source(&lock.agent_id)
            .causation(causation)
            .trace(self.traceparent);
        let position = world.emit(draft);
        if !claim.request_id.is_empty() {
            let record = RequestRecord {
                method: METHOD.to_owned(),
                request_id: claim.request_id.clone(),
                fingerprint: fingerprint_of_waiter(claim),
                answer: lock.token.to_string().into(),
                position,
                at: now,
            };
            // Who waited may have been granted something else by the same request meanwhile.
            match self.waited {
                true => world.requests.put(record),
                false => world.requests.add(record),
            }
        }
        lock
    }
}

/// An event about a lock. Its data is JSON text: a token has more digits than a double.
pub(super) fn event(event_type: &str, lock: &Lock, cause: Option<&str>) -> Draft {
    let mut data = serde_json::json!({
        "resource_id": lock.resource_id,
        "holder_id": lock.holder_id,
        "agent_id": lock.agent_id,
        "fencing_token": lock.token,
    });
    if let Some(cause) = cause {
        data["cause"] = cause.into();
    }
    let mut draft = Draft::new(event_type, &lock.resource_id).correlation(&lock.correlation_id);
    draft.payload = Some(Payload {
        form: Form::Json,
        ..Payload::of_json(&data)
    });
    draft
}

fn request_key(request_id: &str) -> (String, String) {
    (METHOD.to_owned(), request_id.to_owned())
}

fn by_request(resource_id: &str, request_id: &str) -> Vec<Value> {
    vec![Value::Text(resource_id.to_owned()), Value::Text(request_id.to_owned())]
}

/// What makes two requests the same: who wants what. How long to hold and to wait may differ, as the retry of a client whose
/// deadline comes nearer does.
fn fingerprint(resource_id: &str, holder_id: &str, session_id: &Option<String>, attempt: &Option<String>) -> Bytes {
    let mut hash = Sha256::new();
    let parts = [
        resource_id,
        holder_id,
        session_id.as_deref().unwrap_or_default(),
        attempt.as_deref().unwrap_or_default(),
    ];
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    Bytes::copy_from_slice(&hash.finalize()[..16])
}

fn fingerprint_of_waiter(waiter: &Waiter) -> Bytes {
    let Waiter {
        resource_id,
        holder_id,
        session_id,
        attempt_token,
        ..
    } = waiter;
    fingerprint(resource_id, holder_id, session_id, attempt_token)
}

fn fingerprint_of_lock(lock: &Lock) -> Bytes {
    fingerprint(
        &lock.resource_id,
        &lock.holder_id,
        &lock.session_id,
        &lock.attempt_token,
    )
}

fn reused(claim: &Waiter) -> Refusal {
    let message = "this request_id was used before with other contents";
    Refusal::new(Reason::RequestIdReused, message).with("request_id", &claim.request_id)
}
