//! The database: what it has, who has what locked, and what can happen to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::memory::Memory;
use super::{Link, Weather, gone};
use crate::machine;
use crate::machine::simulated::Switch;
use crate::sessions::BeatRecord;
use crate::store::{Save, StoreError, epoch};
use crate::time::Time;

/// How long anything but a commit is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long before a crash signs of life may not have been written yet.
const LAX: Duration = Duration::from_millis(600);

/// Who is told of every commit, while nothing else happens.
pub trait Watcher: Send {
    /// A save was made; `memory` is as it left it.
    fn committed(&mut self, namespace: &str, save: &Save, memory: &Memory);
    /// Another server has it for itself from now on.
    fn opened(&mut self, epoch: i64);
    /// A standby took over.
    fn failed_over(&mut self, failover: &Failover, memory: &Memory);
}

/// What became of the history when a standby took over.
#[derive(Clone, Debug)]
pub struct Failover {
    /// The commits that it had not heard of, oldest first.
    pub lost: Vec<(Arc<str>, Arc<Save>)>,
    /// The epoch that begins with it.
    pub epoch: i64,
}

pub(super) struct Server {
    pub(super) shared: bool,
    state: Mutex<State>,
    /// Whether it answers.
    frozen: Switch<bool>,
    /// How often it has crashed: a transaction of a life before is over.
    life: Switch<u64>,
}

pub(super) struct State {
    pub(super) memory: Memory,
    pub(super) weather: Weather,
    pub(super) watcher: Option<Box<dyn Watcher>>,
    /// Everything that was written, oldest first: what a standby is made of.
    log: Vec<Entry>,
    epoch: i64,
    frozen_at: Option<Instant>,
    turns: BTreeMap<String, Arc<tokio::sync::Mutex<()>>>,
    /// Rows of tables beside the lane that transactions hold, by namespace and key.
    held: BTreeSet<(String, String)>,
}

#[derive(Clone)]
enum Entry {
    Save(Arc<str>, Arc<Save>),
    Beat {
        sessions: Vec<(Arc<str>, String)>,
        home: String,
        at: Time,
    },
}

/// What a transaction has: its turn in a namespace, and rows that it holds.
pub(super) struct Turn {
    server: Arc<Server>,
    namespace: String,
    /// The life of the server that it began in.
    pub(super) life: u64,
    held: Vec<String>,
    _turn: OwnedMutexGuard<()>,
}

/// The database's clock.
pub(super) fn now() -> Time {
    Time::of_this_machine()
}

impl Server {
    pub(super) fn new(shared: bool) -> Server {
        let state = State {
            memory: Memory::default(),
            weather: Weather::calm(),
            watcher: None,
            log: Vec::new(),
            epoch: epoch::next(None, 0),
            frozen_at: None,
            turns: BTreeMap::new(),
            held: BTreeSet::new(),
        };
        Server {
            shared,
            state: Mutex::new(state),
            frozen: Switch::new(false),
            life: Switch::new(0),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// The epoch of a server that opens it: one that has it for itself raises it.
    pub(super) fn open(&self) -> i64 {
        if !self.shared {
            // Whoever had it before is gone, and so is what it had open.
            self.end_transactions();
            let mut state = self.state();
            let epoch = state.raise();
            if let Some(watcher) = &mut state.watcher {
                watcher.opened(epoch);
            }
        }
        self.state().epoch
    }

    pub(super) fn freeze(&self) {
        self.frozen.change(|frozen| *frozen = true);
        self.state().frozen_at.get_or_insert_with(Instant::now);
    }

    pub(super) fn thaw(&self) -> Duration {
        self.frozen.change(|frozen| *frozen = false);
        let frozen_at = self.state().frozen_at.take();
        frozen_at.map_or(Duration::ZERO, |frozen_at| frozen_at.elapsed())
    }

    fn end_transactions(&self) {
        let mut state = self.state();
        state.turns.clear();
        state.held.clear();
        drop(state);
        self.life.change(|life| *life += 1);
    }

    pub(super) fn crash(&self) {
        self.end_transactions();
        let mut state = self.state();
        let written = now() - LAX.mul_f64(machine::random());
        let before = state.log.len();
        state
            .log
            .retain(|entry| !matches!(entry, Entry::Beat { at, .. } if *at > written));
        if state.log.len() < before {
            state.replay();
        }
    }

    pub(super) fn fail_over(&self, lost: usize) {
        self.end_transactions();
        let mut state = self.state();
        let is_save = |entry: &Entry| matches!(entry, Entry::Save(..));
        let saves = (0..state.log.len()).filter(|place| is_save(&state.log[*place]));
        let first_lost = saves.rev().take(lost).last().unwrap_or(state.log.len());
        let lost = state.log.split_off(first_lost);
        state.replay();
        let epoch = state.raise();
        let lost = lost.into_iter().filter_map(|entry| match entry {
            Entry::Save(namespace, save) => Some((namespace, save)),
            Entry::Beat { .. } => None,
        });
        let failover = Failover {
            lost: lost.collect(),
            epoch,
        };
        let State { watcher, memory, .. } = &mut *state;
        if let Some(watcher) = watcher {
            watcher.failed_over(&failover, memory);
        }
    }

    /// How often it has crashed.
    pub(super) fn life(&self) -> u64 {
        self.life.look(|life| *life)
    }

    /// Waits for the end of a life.
    pub(super) async fn outlives(&self, life: u64) {
        self.life.wait_for(|now| *now != life).await;
    }

    /// A message is on its way.
    pub(super) async fn travel(&self) {
        let latency = self.state().weather.latency.clone();
        if !latency.is_empty() {
            tokio::time::sleep(machine::random_range(latency)).await;
        }
    }

    /// A message from a server comes, when it can.
    pub(super) async fn deliver(&self, link: &Link) -> Result<(), StoreError> {
        self.travel().await;
        if self.happens(|weather| weather.lost) {
            return Err(gone());
        }
        loop {
            self.frozen.wait_for(|frozen| !frozen).await;
            link.cut.wait_for(|cut| !cut).await;
            if !self.frozen.look(|frozen| *frozen) {
                break;
            }
        }
        link.epoch.fetch_max(self.state().epoch, Ordering::AcqRel);
        Ok(())
    }

    /// Whether something happens, by the weather.
    pub(super) fn happens(&self, chance: impl FnOnce(&Weather) -> f64) -> bool {
        let chance = chance(&self.state().weather);
        chance > 0.0 && machine::random::<f64>() < chance
    }

    /// Waits for a turn in a namespace, behind those who came before.
    pub(super) async fn turn(self: &Arc<Self>, namespace: &str) -> Turn {
        let (turn, life) = {
            let mut state = self.state();
            let turn = Arc::clone(state.turns.entry(namespace.to_owned()).or_default());
            (turn, self.life())
        };
        Turn {
            _turn: turn.lock_owned().await,
            server: Arc::clone(self),
            namespace: namespace.to_owned(),
            life,
            held: Vec::new(),
        }
    }

    /// Notes signs of life; says which.
    pub(super) fn beat(&self, sessions: &[(Arc<str>, String)], home: &str) -> Vec<bool> {
        let mut state = self.state();
        let at = now();
        let is_held = |state: &State, namespace: &str, session_id: &str| {
            state.held.contains(&(namespace.to_owned(), session_id.to_owned()))
        };
        let noted: Vec<bool> = sessions
            .iter()
            .map(|(namespace, session_id)| {
                !is_held(&state, namespace, session_id) && state.memory.note(namespace, session_id, home, at)
            })
            .collect();
        let there = sessions.iter().zip(&noted).filter(|(_, noted)| **noted);
        let entry = Entry::Beat {
            sessions: there.map(|(session, _)| session.clone()).collect(),
            home: home.to_owned(),
            at,
        };
        state.log.push(entry);
        noted
    }
}

impl State {
    /// Makes a save, all or nothing.
    pub(super) fn commit(&mut self, namespace: &str, save: Save) -> Result<(), StoreError> {
        self.memory.apply(namespace, &save).map_err(StoreError::refused)?;
        let save = Arc::new(save);
        self.log.push(Entry::Save(namespace.into(), Arc::clone(&save)));
        if let Some(watcher) = &mut self.watcher {
            watcher.committed(namespace, &save, &self.memory);
        }
        Ok(())
    }

    fn raise(&mut self) -> i64 {
        let last_token = self.memory.last_token();
        self.epoch = epoch::next(Some(self.epoch), last_token);
        self.epoch
    }

    /// Makes the tables anew of what was written.
    fn replay(&mut self) {
        self.memory = Memory::default();
        for entry in &self.log {
            match entry {
                Entry::Save(namespace, save) => self.memory.apply(namespace, save).expect("it was made before"),
                Entry::Beat { sessions, home, at } => {
                    for (namespace, session_id) in sessions {
                        self.memory.note(namespace, session_id, home, *at);
                    }
                }
            }
        }
    }
}

impl Memory {
    fn note(&mut self, namespace: &str, session_id: &str, home: &str, at: Time) -> bool {
        self.update::<BeatRecord>(namespace, &session_id.to_owned(), |beat| {
            home.clone_into(&mut beat.home);
            beat.at = beat.at.max(at);
        })
    }

    fn last_token(&self) -> i64 {
        let heads = self.namespaces().into_iter();
        heads
            .map(|namespace| self.head(&namespace, Time(0)).last_token)
            .max()
            .unwrap_or(0)
    }
}

impl Turn {
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Keeps those who write beside the lane away from a row until the transaction ends.
    pub(super) fn hold(&mut self, key: &str) {
        let is_new = self
            .server
            .state()
            .held
            .insert((self.namespace.clone(), key.to_owned()));
        if is_new {
            self.held.push(key.to_owned());
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.server.state();
        // After a crash nothing is held, or somebody else holds it.
        if self.life == self.server.life() {
            for key in std::mem::take(&mut self.held) {
                state.held.remove(&(self.namespace.clone(), key));
            }
        }
    }
}
