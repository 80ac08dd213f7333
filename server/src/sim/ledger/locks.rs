//! Locks: tokens only rise, whatever happens; what is written under a guard is written by the current holder; two holders never both
//! have reason to believe that they are the one.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Batch, Check, Verdict};
use crate::events::Event;
use crate::locks::{Lock, Waiter};
use crate::state::Version;
use crate::store::simulated::Memory;

/// The locks of a namespace.
#[derive(Default)]
pub struct Locks {
    resources: BTreeMap<String, Resource>,
    beliefs: BTreeMap<(String, i64), Belief>,
    /// Who waits, by resource and place.
    waiting: BTreeMap<(String, i64), Waiter>,
    /// Until when those wait who said so, by who they are as holders.
    patience: BTreeMap<String, Instant>,
    /// Whether anybody may have left a queue because what it listened to was lost.
    has_failed_over: bool,
}

#[derive(Default)]
struct Resource {
    /// The token of the current holder; 0 if there is none.
    current: i64,
    /// The greatest that was ever given out, also in histories that were lost.
    greatest: i64,
    /// The token of the last write under a guard.
    written: i64,
    /// The length of the lease.
    ttl: Duration,
    /// The attempt that it ends with.
    attempt: Option<String>,
}

/// That a client believes to hold a lock, with reason: it was told so, and counts the lease from before it asked.
#[derive(Clone, Debug)]
pub struct Belief {
    pub who: String,
    pub until: Instant,
}

impl Locks {
    /// A client is told that it holds a lock.
    pub fn believe(&mut self, resource: &str, token: i64, belief: Belief) -> Verdict {
        let now = Instant::now();
        let greatest = self.resources.get(resource).map_or(0, |known| known.greatest);
        if token > greatest {
            return Err(format!(
                "token {token} of {resource}, of which {greatest} is the greatest"
            ));
        }
        let mut others = self.beliefs.iter();
        let other = others.find(|((other, held), belief)| other == resource && *held != token && belief.until > now);
        if let Some(((_, other), of)) = other {
            return Err(format!(
                "{resource} is held with {token}, and with {other} by {}",
                of.who
            ));
        }
        self.beliefs.insert((resource.to_owned(), token), belief);
        Ok(())
    }

    /// Whether a client still has reason to believe.
    pub fn is_believed(&self, resource: &str, token: i64) -> bool {
        self.beliefs.contains_key(&(resource.to_owned(), token))
    }

    /// A client has no reason to believe any more.
    pub fn doubt(&mut self, resource: &str, token: i64) {
        self.beliefs.remove(&(resource.to_owned(), token));
    }

    /// A client wants a lock, and waits for it until then, as nobody else does under this name.
    pub fn wants(&mut self, holder: &str, until: Instant) {
        self.patience.insert(holder.to_owned(), until);
    }

    /// A client is told that it holds a lock for an attempt. It is noted so, if it is not over.
    pub fn is_of_attempt(&self, resource: &str, token: i64, attempt: &str) -> Verdict {
        let known = self.resources.get(resource).filter(|known| known.current == token);
        match known.map(|known| known.attempt.as_deref()) {
            Some(of) if of != Some(attempt) => Err(format!("{token} of {resource} is of {of:?}, not of {attempt}")),
            _ => Ok(()),
        }
    }

    /// Nobody leaves a queue in which it would still wait, as the next gets what it waits for.
    fn passed_over(&self, batch: &Batch) -> Verdict {
        if self.has_failed_over {
            return Ok(());
        }
        let left: Vec<&Waiter> = batch
            .deleted::<Waiter>()
            .iter()
            .filter_map(|key| self.waiting.get(key))
            .collect();
        for lock in batch.put::<Lock>() {
            let of_lock = left.iter().filter(|waiter| waiter.resource_id == lock.resource_id);
            let Some(next) = of_lock.clone().find(|waiter| waiter.call_id == lock.call_id) else {
                continue;
            };
            let mut grants = batch
                .events
                .iter()
                .filter(|event| event.event_type == "resource.locked" && event.subject == lock.resource_id);
            let is_only = grants.next().is_some() && grants.next().is_none();
            let waits = |waiter: &&&Waiter| {
                let until = self.patience.get(&waiter.holder_id);
                let is_patient = until.is_some_and(|until| *until > Instant::now());
                is_patient && waiter.due_at > batch.head.now && !waiter.request_id.is_empty()
            };
            let mut before = of_lock.clone().filter(|waiter| waiter.place < next.place);
            if let Some(waiter) = before.find(waits).filter(|_| is_only) {
                return Err(format!("{waiter:?} was passed over for {lock:?}"));
            }
        }
        Ok(())
    }

    /// Nobody knows any more what they hold.
    fn doubt_all(&mut self) {
        self.beliefs.clear();
    }

    fn event(&mut self, batch: &Batch, event: &Event, versions: &[Version]) -> Verdict {
        match event.event_type.as_str() {
            "resource.locked" => self.granted(event),
            "resource.unlocked" | "resource.expired" => {
                let resource = self.resources.entry(event.subject.clone()).or_default();
                if event.event_type == "resource.expired" && batch.is_in_a_gap(resource.ttl) {
                    return Err(format!("nobody could renew {} for its TTL", event.subject));
                }
                if resource.current == token_of(event) {
                    resource.current = 0;
                }
                Ok(())
            }
            "state.changed" => self.written(event, versions),
            _ => Ok(()),
        }
    }

    fn granted(&mut self, event: &Event) -> Verdict {
        let token = token_of(event);
        let resource = self.resources.entry(event.subject.clone()).or_default();
        if token <= resource.greatest {
            return Err(format!(
                "token {token} of {} is not above {}",
                event.subject, resource.greatest
            ));
        }
        if resource.current != 0 {
            return Err(format!(
                "{} is granted while {} holds it",
                event.subject, resource.current
            ));
        }
        resource.current = token;
        resource.greatest = token;
        Ok(())
    }

    fn written(&mut self, event: &Event, versions: &[Version]) -> Verdict {
        let version = versions.iter().find(|version| version.position == event.position);
        let json = version.and_then(|version| version.payload.as_ref()?.json());
        let Some((json, token)) = json.and_then(|json| {
            let token = json["token"].as_i64()?;
            Some((json, token))
        }) else {
            return Ok(());
        };
        let resource_id = json["resource"].as_str().unwrap_or_default();
        let resource = self.resources.entry(resource_id.to_owned()).or_default();
        if resource.current != token {
            return Err(format!(
                "a write under token {token} of {resource_id}, which {} holds",
                resource.current
            ));
        }
        if token < resource.written {
            return Err(format!("a write under {token} after one under {}", resource.written));
        }
        resource.written = token;
        Ok(())
    }
}

fn token_of(event: &Event) -> i64 {
    let json = event.payload.as_ref().and_then(|payload| payload.json());
    json.and_then(|json| json["fencing_token"].as_i64()).unwrap_or(0)
}

impl Check for Locks {
    fn committed(&mut self, batch: &Batch) -> Verdict {
        let versions: Vec<Version> = batch.put();
        for event in &batch.events {
            self.event(batch, event, &versions)?;
        }
        self.passed_over(batch)?;
        for key in batch.deleted::<Waiter>() {
            self.waiting.remove(&key);
        }
        for waiter in batch.put::<Waiter>() {
            self.waiting.insert((waiter.resource_id.clone(), waiter.place), waiter);
        }
        for lock in batch.put::<Lock>() {
            let resource = self.resources.entry(lock.resource_id.clone()).or_default();
            resource.ttl = lock.ttl;
            resource.attempt.clone_from(&lock.attempt_token);
            if lock.token != resource.current {
                return Err(format!("{lock:?} is not what its events say: {}", resource.current));
            }
        }
        for resource_id in batch.deleted::<Lock>() {
            let current = self.resources.get(&resource_id).map_or(0, |resource| resource.current);
            if current != 0 {
                return Err(format!("{resource_id} is gone while {current} holds it"));
            }
        }
        Ok(())
    }

    fn failed_over(&mut self, namespace: &str, memory: &Memory) {
        for (resource_id, resource) in &mut self.resources {
            let lock = memory.row::<Lock>(namespace, resource_id);
            resource.current = lock.as_ref().map_or(0, |lock| lock.token);
            resource.ttl = lock.as_ref().map_or(Duration::ZERO, |lock| lock.ttl);
            resource.attempt = lock.and_then(|lock| lock.attempt_token);
            resource.written = resource.written.min(resource.current);
        }
        self.has_failed_over = true;
        self.doubt_all();
    }
}
