//! Signs of life: when each live session was last heard of. Kept beside the lane, because a heartbeat decides nothing.
//!
//! Where servers share a store, what counts is in its table `beats` ([`super::pulse`] writes it, a job that decides on a death reads it
//! once more and holds it), and what is here is this server's view: whom to look for there, and when. A session whose last sign of life
//! another server heard (its home) is given twice its TTL: when its home is gone, so that it can find another.
//!
//! The sessions here are in step with what is committed: a lane's jobs let them in ([`Beats::revive`]), its commits update them and take
//! them out. A session that a job is about to declare dead is *condemned*: a heartbeat that comes after that does not count here any more,
//! but asks the lane how it ended. So nobody is told "alive" and is dead.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::{BeatRecord, Life, Session};
use crate::lane::{Commit, World};
use crate::machine::{self, HashMap, Instant};
use crate::tail::Observer;

/// The last signs of life. Cheap to clone.
#[derive(Clone)]
pub struct Beats {
    shared: Arc<Shared>,
}

struct Shared {
    /// What this server is called in the store.
    home: String,
    lives: Mutex<Lives>,
    /// A session may end earlier than the earliest that was known.
    earlier: Notify,
}

#[derive(Default)]
struct Lives {
    by_namespace: HashMap<Arc<str>, HashMap<String, Beat>>,
    /// Until when nobody needs to look; nothing if there was nobody.
    quiet_until: Option<Instant>,
    /// Somebody came who may end before that.
    is_earlier: bool,
}

struct Beat {
    agent_id: String,
    last: Instant,
    ttl: Duration,
    /// Whether the last sign of life was not heard here.
    elsewhere: bool,
    /// A job is about to declare it dead.
    condemned: bool,
    /// Somebody is looking whether it is dead.
    suspected: bool,
    generation: i64,
    follow: Option<watch::Sender<Sign>>,
}

/// What a stream must know of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// The generation of the newest stream.
    pub generation: i64,
    /// How it ended, once it has.
    pub ended: Option<Life>,
}

/// A session that was silent for its TTL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The session.
    pub session_id: String,
}

impl Default for Beats {
    fn default() -> Beats {
        Beats::new()
    }
}

impl Beats {
    /// No sign of life yet.
    pub fn new() -> Beats {
        let shared = Shared {
            home: machine::new_id(),
            lives: Mutex::default(),
            earlier: Notify::new(),
        };
        Beats {
            shared: Arc::new(shared),
        }
    }

    /// What this server is called in the store: made by chance when it starts.
    pub fn home(&self) -> &str {
        &self.shared.home
    }

    /// What keeps the sessions in step with what is committed.
    pub fn observer(&self) -> Observer {
        let beats = self.clone();
        Box::new(move |commit| beats.observe(commit, Instant::now()))
    }

    fn observe(&self, commit: &Commit, now: Instant) {
        if commit.sessions.is_empty() {
            return;
        }
        let mut lives = self.lock();
        for (session_id, session) in &commit.sessions {
            match session {
                Some(session) if session.is_live() => {
                    let is_new = !lives.has(&commit.namespace, session_id);
                    let beat = lives.let_in(&commit.namespace, session, now);
                    beat.elsewhere |= is_new && !commit.own;
                }
                session => {
                    let life = session.as_ref().map_or(Life::Expired, |session| session.life);
                    lives.take_out(&commit.namespace, session_id, life);
                }
            }
        }
        self.wake_if_earlier(lives);
    }

    /// Notes a sign of life, and tells the session's TTL. Nothing if that is not for this place to say: ask the lane
    /// ([`super::watch::beat`]).
    #[must_use]
    pub fn beat(&self, namespace: &str, session_id: &str) -> Option<Duration> {
        let mut lives = self.lock();
        let beat = lives.get(namespace, session_id).filter(|beat| !beat.condemned)?;
        beat.last = Instant::now();
        beat.elsewhere = false;
        Some(beat.ttl)
    }

    /// Takes in what the store has of a session: that it was last heard of so long ago, here or elsewhere. Tells how long it may still be
    /// silent; nothing if that is over.
    pub(super) fn saw(&self, suspect: &Suspect, ago: Duration, elsewhere: bool, gap_end: Instant) -> Option<Duration> {
        let now = Instant::now();
        let mut lives = self.lock();
        let beat = lives.get(&suspect.namespace, &suspect.session_id)?;
        if let Some(last) = now.checked_sub(ago) {
            beat.last = last;
        }
        beat.elsewhere = elsewhere;
        let left = beat
            .end(gap_end)
            .checked_duration_since(now)
            .filter(|left| !left.is_zero());
        if left.is_some() {
            beat.suspected = false;
            lives.is_earlier = true;
        }
        self.wake_if_earlier(lives);
        left
    }

    /// Notes a sign of life of a session of which a lane's job knows that it is alive. To be called inside that job: what the lane decides
    /// later comes later here too.
    pub fn revive(&self, world: &mut World, session: &Session) {
        world.beats.put(BeatRecord {
            session_id: session.session_id.clone(),
            home: self.shared.home.clone(),
            at: world.now(),
        });
        let now = Instant::now();
        let mut lives = self.lock();
        let beat = lives.let_in(&world.namespace, session, now);
        beat.last = now;
        beat.elsewhere = false;
        beat.condemned = false;
        self.wake_if_earlier(lives);
    }

    /// Declares a session silent, if it still is: to be called inside the job that ends it. `gap_end` is the end of the last gap.
    pub fn condemn(&self, namespace: &str, session_id: &str, gap_end: Instant) -> bool {
        match self.lock().get(namespace, session_id) {
            Some(beat) => {
                beat.condemned = beat.end(gap_end) <= Instant::now();
                beat.condemned
            }
            // Whoever was never heard of here was not let in yet: its commit is under way.
            None => false,
        }
    }

    /// Declares a session dead because its stream broke: to be called inside the job that ends it.
    pub fn condemn_broken(&self, namespace: &str, session_id: &str) {
        if let Some(beat) = self.lock().get(namespace, session_id) {
            beat.condemned = true;
        }
    }

    /// Takes back what was not confirmed: the session lives on.
    pub fn pardon(&self, namespace: &str, session_id: &str) {
        let mut lives = self.lock();
        if let Some(beat) = lives.get(namespace, session_id) {
            beat.condemned = false;
            beat.suspected = false;
            lives.is_earlier = true;
        }
        self.wake_if_earlier(lives);
    }

    /// Forgets which streams the sessions of a namespace have had, where that was lost: the store knows how many it still knows of.
    pub(super) fn forget_streams(&self, namespace: &str) {
        if let Some(sessions) = self.lock().by_namespace.get_mut(namespace) {
            sessions.values_mut().for_each(|beat| beat.generation = 0);
        }
    }

    /// Forgets a session that is not alive.
    pub fn forget(&self, namespace: &str, session_id: &str, life: Life) {
        self.lock().take_out(namespace, session_id, life);
    }

    /// Lets a live session in that was heard of at another time, as if it were heard of now. To be called inside a lane's job.
    pub(super) fn let_in(&self, namespace: &Arc<str>, session: &Session) {
        let mut lives = self.lock();
        lives.let_in(namespace, session, Instant::now());
        self.wake_if_earlier(lives);
    }

    /// Whose a session is; nothing if it is not known here.
    pub fn agent_of(&self, namespace: &str, session_id: &str) -> Option<String> {
        self.lock().get(namespace, session_id).map(|beat| beat.agent_id.clone())
    }

    /// When a session was last heard of.
    pub fn last(&self, namespace: &str, session_id: &str) -> Option<Instant> {
        self.lock().get(namespace, session_id).map(|beat| beat.last)
    }

    /// When each of these was last heard of.
    pub fn last_of_each<'a>(
        &self,
        namespace: &str,
        sessions: impl Iterator<Item = Option<&'a Session>>,
    ) -> Vec<Option<Instant>> {
        let lives = self.lock();
        let known = lives.by_namespace.get(namespace);
        let last = |session: &Session| known?.get(&session.session_id).map(|beat| beat.last);
        sessions.map(|session| session.and_then(last)).collect()
    }

    /// Follows what becomes of a live session; nothing if it is not known here.
    pub fn follow(&self, namespace: &str, session_id: &str) -> Option<watch::Receiver<Sign>> {
        let mut lives = self.lock();
        let beat = lives.get(namespace, session_id)?;
        let sign = Sign {
            generation: beat.generation,
            ended: None,
        };
        Some(beat.follow.get_or_insert_with(|| watch::Sender::new(sign)).subscribe())
    }

    /// The sessions that were silent for their TTL, at most `limit`, and when to look again: nothing if nobody is alive.
    pub(super) fn suspects(&self, gap_end: Instant, now: Instant, limit: usize) -> (Vec<Suspect>, Option<Instant>) {
        let mut lives = self.lock();
        let mut suspects = Vec::new();
        let mut earliest: Option<Instant> = None;
        for (namespace, sessions) in &mut lives.by_namespace {
            for (session_id, beat) in sessions.iter_mut().filter(|(_, beat)| !beat.suspected) {
                let end = beat.end(gap_end);
                if end <= now && suspects.len() < limit {
                    beat.suspected = true;
                    suspects.push(Suspect {
                        namespace: Arc::clone(namespace),
                        session_id: session_id.clone(),
                    });
                } else {
                    earliest = Some(earliest.map_or(end, |earliest| earliest.min(end)));
                }
            }
        }
        lives.quiet_until = earliest;
        (suspects, earliest)
    }

    /// Waits until somebody may end earlier than [`Beats::suspects`] last said.
    pub(super) async fn earlier(&self) {
        self.shared.earlier.notified().await;
    }

    fn wake_if_earlier(&self, mut lives: MutexGuard<'_, Lives>) {
        if std::mem::take(&mut lives.is_earlier) {
            drop(lives);
            self.shared.earlier.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lives> {
        self.shared.lives.lock().expect("no panic under this lock")
    }
}

impl Lives {
    fn get(&mut self, namespace: &str, session_id: &str) -> Option<&mut Beat> {
        self.by_namespace.get_mut(namespace)?.get_mut(session_id)
    }

    /// Lets a live session in, or brings it up to date.
    fn let_in(&mut self, namespace: &Arc<str>, session: &Session, now: Instant) -> &mut Beat {
        let is_new = !self.knows(namespace, &session.session_id, session.ttl);
        if is_new && self.quiet_until.is_none_or(|until| now + session.ttl < until) {
            self.is_earlier = true;
        }
        let sessions = self.by_namespace.entry(Arc::clone(namespace)).or_default();
        let beat = sessions.entry(session.session_id.clone()).or_insert_with(|| Beat {
            agent_id: session.agent_id.clone(),
            last: now,
            ttl: session.ttl,
            elsewhere: false,
            condemned: false,
            suspected: false,
            generation: session.generation,
            follow: None,
        });
        beat.ttl = session.ttl;
        if session.generation > beat.generation {
            beat.generation = session.generation;
            if let Some(follow) = &beat.follow {
                follow.send_modify(|sign| sign.generation = session.generation);
            }
        }
        beat
    }

    fn has(&self, namespace: &str, session_id: &str) -> bool {
        let sessions = self.by_namespace.get(namespace);
        sessions.is_some_and(|sessions| sessions.contains_key(session_id))
    }

    fn knows(&self, namespace: &str, session_id: &str, ttl: Duration) -> bool {
        let sessions = self.by_namespace.get(namespace);
        sessions
            .and_then(|sessions| sessions.get(session_id))
            .is_some_and(|beat| beat.ttl <= ttl)
    }

    fn take_out(&mut self, namespace: &str, session_id: &str, life: Life) {
        let Some(sessions) = self.by_namespace.get_mut(namespace) else {
            return;
        };
        if let Some(follow) = sessions.remove(session_id).and_then(|beat| beat.follow) {
            follow.send_modify(|sign| sign.ended = Some(life));
        }
        if sessions.is_empty() {
            self.by_namespace.remove(namespace);
        }
    }
}

impl Beat {
    /// When it counts as dead without another sign of life: a full TTL after the last, and after the last gap; where its home is another
    /// server, twice that.
    fn end(&self, gap_end: Instant) -> Instant {
        self.last.max(gap_end) + patience(self.ttl, self.elsewhere)
    }
}

/// How long a session may be silent.
pub(super) fn patience(ttl: Duration, elsewhere: bool) -> Duration {
    if elsewhere { ttl * 2 } else { ttl }
}

#[cfg(test)]
mod tests;
