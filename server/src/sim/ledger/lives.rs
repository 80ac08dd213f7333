//! Sessions: whoever is dead stays dead and does nothing more, and nobody is declared dead who was heard of.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Batch, Check, Space, Verdict};
use crate::registry::Offer;
use crate::sessions::{Life, Session};
use crate::store::simulated::Memory;

/// The sessions of a namespace.
#[derive(Default)]
pub struct Lives {
    sessions: BTreeMap<String, Known>,
    /// The greatest incarnation of each agent.
    incarnations: BTreeMap<String, i64>,
    /// Signs of life that were given before may have been lost.
    doubted: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Known {
    agent_id: String,
    life: Life,
    ttl: Duration,
    /// The batch and the moment of its end.
    ended: Option<(i64, Instant)>,
    /// Whether it was said to be silent.
    silent: bool,
    /// When the last sign of life was given that was answered.
    heard: Option<Instant>,
}

/// A sign of life that was answered.
pub struct Beat<'a> {
    pub session_id: &'a str,
    /// When it was given.
    pub at: Instant,
}

impl Lives {
    /// A sign of life was answered.
    pub fn beat(&mut self, beat: &Beat) -> Verdict {
        self.acted(beat.session_id, beat.at)?;
        let Some(known) = self.sessions.get_mut(beat.session_id) else {
            return Ok(());
        };
        if self.doubted.is_some_and(|doubted| beat.at <= doubted) {
            return Ok(());
        }
        let (until, ended) = (beat.at + known.ttl, known.ended.filter(|_| known.silent));
        if let Some((batch, _)) = ended.filter(|(_, ended_at)| *ended_at < until) {
            let id = beat.session_id;
            return Err(format!(
                "{id} was told that it lives, and was silent in batch {batch}: {known:?}"
            ));
        }
        known.heard = known.heard.max(Some(beat.at));
        Ok(())
    }

    /// Something that was asked under a session was done.
    pub fn acted(&self, session_id: &str, asked_at: Instant) -> Verdict {
        let known = self.sessions.get(session_id);
        match known.and_then(|known| known.ended) {
            Some((batch, ended_at)) if ended_at < asked_at => Err(format!(
                "{session_id} of {} acted {:?} after it had ended in batch {batch}",
                known.map_or("nobody", |known| &known.agent_id),
                asked_at - ended_at
            )),
            _ => Ok(()),
        }
    }

    /// Signs of life may have been lost, or not seen: they prove nothing any more.
    pub fn forget_beats(&mut self) {
        self.doubted = Some(Instant::now());
        self.sessions.values_mut().for_each(|known| known.heard = None);
    }

    fn ended_before(&self, session_id: &str, batch: i64) -> bool {
        let ended = self.sessions.get(session_id).and_then(|known| known.ended);
        ended.is_some_and(|(ended, _)| ended < batch)
    }

    fn session(&mut self, batch: &Batch, session: &Session) -> Verdict {
        let now = Instant::now();
        let number = batch.head.batch;
        if let Some(known) = self.sessions.get_mut(&session.session_id) {
            if known.life != session.life {
                if known.life != Life::Live {
                    return Err(format!("{known:?} becomes {session:?}"));
                }
                // One with a stream dies of the stream's end.
                let silent = session.generation == 0 && session.life == Life::Expired;
                let heard = known.heard.filter(|heard| silent && *heard + known.ttl > now);
                if let Some(heard) = heard {
                    return Err(format!("{session:?} was heard of {:?} ago", now - heard));
                }
                if silent && batch.is_in_a_gap(known.ttl) {
                    return Err(format!("{session:?} could not make itself heard for its TTL"));
                }
                known.life = session.life;
                known.ended = Some((number, now));
                known.silent = silent;
            }
            known.ttl = session.ttl;
            return Ok(());
        }
        let last = self.incarnations.entry(session.agent_id.clone()).or_default();
        let is_newer = session.incarnation > *last;
        *last = session.incarnation.max(*last);
        let ended = (session.life != Life::Live).then_some((number, now));
        let known = Known {
            agent_id: session.agent_id.clone(),
            life: session.life,
            ttl: session.ttl,
            ended,
            silent: false,
            heard: None,
        };
        self.sessions.insert(session.session_id.clone(), known);
        if is_newer {
            Ok(())
        } else {
            Err(format!("{session:?} is no newer incarnation"))
        }
    }
}

impl Check for Lives {
    fn committed(&mut self, batch: &Batch) -> Verdict {
        let mut sessions: Vec<Session> = batch.put();
        sessions.sort_by_key(|session| (session.agent_id.clone(), session.incarnation));
        for session in &sessions {
            self.session(batch, session)?;
        }
        for agent_id in sessions.iter().map(|session| &session.agent_id) {
            let of_agent = sessions.iter().filter(|session| session.agent_id == *agent_id);
            if of_agent.filter(|session| session.is_live()).count() > 1 {
                return Err(format!("{agent_id} lives twice"));
            }
        }
        for offer in batch.put::<Offer>() {
            let lives = self.sessions.get(&offer.session_id);
            if lives.is_none_or(|known| known.life != Life::Live) {
                return Err(format!("{offer:?} is not of a live session: {lives:?}"));
            }
        }
        Ok(())
    }

    fn failed_over(&mut self, namespace: &str, memory: &Memory) {
        let now = Instant::now();
        self.sessions.clear();
        self.incarnations.clear();
        for session in memory.rows::<Session>(namespace) {
            let last = self.incarnations.entry(session.agent_id.clone()).or_default();
            *last = session.incarnation.max(*last);
            let known = Known {
                agent_id: session.agent_id,
                life: session.life,
                ttl: session.ttl,
                // When, is not known; from now on.
                ended: (session.life != Life::Live).then_some((0, now)),
                silent: false,
                heard: None,
            };
            self.sessions.insert(session.session_id, known);
        }
    }
}

impl Space {
    /// Whether a session did something in a batch that had ended in one before.
    pub(super) fn check_dead(&mut self, batch: &Batch) -> Verdict {
        for (session_id, what) in self.tasks.take_acted() {
            if self.lives.ended_before(&session_id, batch.head.batch) {
                return Err(format!("{session_id} is dead, and yet {what}"));
            }
        }
        let granted = batch
            .events
            .iter()
            .filter(|event| event.event_type == "resource.locked");
        for lock in batch.put::<crate::locks::Lock>() {
            let is_new = granted.clone().any(|event| event.subject == lock.resource_id);
            if let Some(session_id) = lock.session_id.as_ref().filter(|_| is_new)
                && self.lives.ended_before(session_id, batch.head.batch)
            {
                return Err(format!("{lock:?} was granted to a dead session"));
            }
        }
        Ok(())
    }
}
