//! Takes locks, writes under them, renews them, gives them back or not, and sometimes goes on after it should.

use std::time::Duration;

use drumline_proto::v1;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Actor, PATIENCE, duration, millis, one_of, standing};
use crate::sim::happens;
use crate::sim::ledger::{Belief, Claim};
use crate::sim::net::{Failure, door, payload};

const RESOURCES: [&str; 2] = ["gate", "well"];

/// A lease, as its holder counts it.
struct Lease {
    resource: &'static str,
    token: i64,
    ttl: Duration,
    until: Instant,
}

impl Lease {
    fn is_believed(&self) -> bool {
        Instant::now() < self.until
    }
}

pub(super) async fn run(mut actor: Actor) {
    while actor.works() {
        if let Some(lease) = acquire(&mut actor).await {
            hold(&mut actor, lease).await;
        }
        actor.rest(800).await;
    }
}

async fn acquire(actor: &mut Actor) -> Option<Lease> {
    let resource = one_of(&RESOURCES);
    let ttl = millis(1_000..4_000);
    let op = actor.op();
    let request = v1::AcquireLockRequest {
        namespace: actor.namespace.clone(),
        request_id: if happens(0.8) { op.clone() } else { String::new() },
        resource_id: resource.to_owned(),
        holder_id: op,
        ttl: duration(ttl),
        wait_timeout: duration(millis(0..5_000)).filter(|_| happens(0.8)),
        ..Default::default()
    };
    let asked_at = Instant::now();
    let wait = request.wait_timeout.and_then(|wait| wait.try_into().ok());
    let until = asked_at + wait.unwrap_or(Duration::ZERO);
    let namespace = &actor.namespace;
    actor.ledger().space(namespace).locks.wants(&request.holder_id, until);
    let acquired = if request.request_id.is_empty() {
        actor.client.once(PATIENCE, request, door!(locks.acquire_lock)).await
    } else {
        actor.client.ask(PATIENCE, request, door!(locks.acquire_lock)).await
    };
    let acquired = match acquired {
        Ok(acquired) => acquired,
        Err(failure) => {
            actor.failed("acquire", &failure);
            return None;
        }
    };
    let token = acquired.lock.map_or(0, |lock| lock.fencing_token);
    let queued = acquired.queued.and_then(|queued| queued.try_into().ok());
    let mut lease = Lease {
        resource,
        token,
        ttl,
        until: asked_at,
    };
    let (cursor, position) = (acquired.cursor, acquired.position);
    believe(
        actor,
        &mut lease,
        asked_at + queued.unwrap_or_default(),
        &cursor,
        position,
    );
    actor.done("locked", &format!("{resource} with {token}"), |space| {
        standing(space, &cursor, position, |_| Ok(()))
    });
    Some(lease)
}

/// Counts a lease from when it was asked for, as a commit has it that may have been lost since.
fn believe(actor: &Actor, lease: &mut Lease, from: Instant, cursor: &str, position: i64) {
    lease.until = from + lease.ttl;
    let claim = Claim { cursor, position };
    let stands = actor.ledger().space(&actor.namespace).log.stands(&claim);
    if lease.is_believed() && stands.is_ok_and(|stands| stands.is_some()) {
        let belief = Belief {
            who: actor.name.clone(),
            until: lease.until,
        };
        let mut ledger = actor.ledger();
        let locks = &mut ledger.space(&actor.namespace).locks;
        let verdict = locks.believe(lease.resource, lease.token, belief);
        ledger.judge(&actor.name, verdict);
    }
}

async fn hold(actor: &mut Actor, mut lease: Lease) {
    for _ in 0..crate::machine::random_range(0..4) {
        actor.rest(600).await;
        if happens(0.3) && !renew(actor, &mut lease).await {
            return;
        }
        if happens(0.1) {
            // It does not look at the clock: what it does then must be refused, or nobody else has it yet.
            sleep(lease.ttl).await;
        }
        if !write(actor, &lease).await {
            return;
        }
    }
    if happens(0.15) {
        // Forgets to give it back.
        return;
    }
    actor
        .ledger()
        .space(&actor.namespace)
        .locks
        .doubt(lease.resource, lease.token);
    let request = v1::ReleaseLockRequest {
        namespace: actor.namespace.clone(),
        request_id: actor.op(),
        resource_id: lease.resource.to_owned(),
        fencing_token: lease.token,
        ..Default::default()
    };
    match actor.client.ask(PATIENCE, request, door!(locks.release_lock)).await {
        Ok(released) => actor.done("unlocked", lease.resource, |space| {
            let claim = (released.cursor.as_str(), released.position);
            standing(space, claim.0, claim.1, |_| Ok(()))
        }),
        Err(failure) => actor.failed("release", &failure),
    }
}

async fn renew(actor: &mut Actor, lease: &mut Lease) -> bool {
    let request = v1::RenewLockRequest {
        namespace: actor.namespace.clone(),
        resource_id: lease.resource.to_owned(),
        fencing_token: lease.token,
        ttl: duration(lease.ttl),
        ..Default::default()
    };
    let asked_at = Instant::now();
    match actor.client.once(PATIENCE, request, door!(locks.renew_lock)).await {
        Ok(renewed) => {
            believe(actor, lease, asked_at, &renewed.cursor, renewed.position);
            actor.done("renewed", lease.resource, |space| {
                standing(space, &renewed.cursor, renewed.position, |_| Ok(()))
            });
            true
        }
        Err(failure) => {
            actor.failed("renew", &failure);
            check_refusal(actor, lease, &failure)
        }
    }
}

/// Writes what says under which token it was written.
async fn write(actor: &mut Actor, lease: &Lease) -> bool {
    let op = actor.op();
    let state_id = format!("behind-{}", lease.resource);
    let content = json!({ "op": op, "resource": lease.resource, "token": lease.token });
    let request = v1::PutStateRequest {
        namespace: actor.namespace.clone(),
        request_id: op.clone(),
        state_id: state_id.clone(),
        payload: payload(&content),
        guards: vec![v1::Guard {
            resource_id: lease.resource.to_owned(),
            fencing_token: lease.token,
        }],
        ..Default::default()
    };
    match actor.client.ask(PATIENCE, request, door!(states.put_state)).await {
        Ok(put) => {
            let detail = format!("{state_id} {} under {}", put.version, lease.token);
            actor.done("guarded", &detail, |space| {
                standing(space, &put.cursor, put.position, |space| {
                    space.states.made(&op, &state_id, put.version)
                })
            });
            true
        }
        Err(failure) => {
            actor.failed("guarded write", &failure);
            check_refusal(actor, lease, &failure)
        }
    }
}

/// Whether to go on after a refusal. A holder that has reason to believe in its lease is not told that it has none.
fn check_refusal(actor: &Actor, lease: &Lease, failure: &Failure) -> bool {
    let is_over = matches!(failure.reason(), "STALE_FENCING_TOKEN" | "LOCK_NOT_FOUND");
    if is_over && lease.is_believed() {
        let mut ledger = actor.ledger();
        let locks = &ledger.space(&actor.namespace).locks;
        if locks.is_believed(lease.resource, lease.token) {
            let token = lease.token;
            ledger.violation(format!("{} lost {token} before its time: {failure:?}", actor.name));
        }
    }
    !is_over
}
