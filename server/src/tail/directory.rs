//! The directory: every agent of a namespace in memory, so that discovery costs no look at the store.
//!
//! The agents of each capability are kept in the order of their fitness, so that the first page costs a page, however many there are.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use crate::error::Refusal;
use crate::lane::{Commit, refusal_of};
use crate::machine::{HashMap, HashSet};
use crate::registry::Agent;
use crate::sessions::Session;
use crate::store::row::{Row, Value};
use crate::store::{Selection, Store};
use crate::time::Time;

/// How many rows are read at a time.
const PAGE: usize = 5_000;

/// An agent with its session, if it is there.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The registration.
    pub agent: Arc<Agent>,
    /// The session, while it lives.
    pub session: Option<Arc<Session>>,
}

impl Entry {
    /// How many more tasks the agent would take now.
    pub fn free_slots(&self) -> i32 {
        self.agent.free_slots(self.session.as_deref())
    }

    fn place(&self) -> Place {
        let there = self.session.as_ref();
        Place {
            free: Reverse(there.map_or(-1, |_| self.free_slots())),
            last_assigned_at: there.map_or(Time::default(), |session| session.last_assigned_at),
            agent_id: self.agent.agent_id.as_str().into(),
        }
    }
}

/// An agent's place in the order of fitness: most free slots, then least recently assigned, then by id. Those who are OFFLINE come last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// How many free slots it has; -1 if it is OFFLINE.
    pub free: Reverse<i32>,
    /// When it was last given a task.
    pub last_assigned_at: Time,
    /// The agent.
    pub agent_id: Arc<str>,
}

/// The agents of a namespace.
#[derive(Default)]
pub struct Directory {
    /// Whether commits are taken in. Until then nobody has asked.
    open: bool,
    /// What commits changed before the store was read: newer than what it had.
    newer: HashSet<String>,
    /// Whether the store was read.
    begun: bool,
    agents: HashMap<String, Known>,
    sessions: HashMap<String, Arc<Session>>,
    /// The agents of each capability, the fittest first; under the empty name every agent.
    ranks: HashMap<String, BTreeSet<Place>>,
    watches: Vec<Weak<Changed>>,
    /// What the directory has seen.
    position: i64,
}

struct Known {
    agent: Arc<Agent>,
    place: Place,
}

/// Which agents changed since somebody looked last: a set, so that it does not grow with the number of changes.
#[derive(Default)]
struct Changed {
    agents: Mutex<HashSet<String>>,
    /// Whether nothing more comes.
    retired: AtomicBool,
    notify: Notify,
}

/// Follows the changes of a directory.
pub struct Watch(Arc<Changed>);

impl Watch {
    /// Waits until an agent has changed, or is gone, since the last [`Watch::take`]; or until the feed has ended.
    pub async fn changed(&mut self) {
        while self.is_empty() && !self.0.retired.load(Ordering::Acquire) {
            self.0.notify.notified().await;
        }
    }

    /// The agents that changed, or are gone, since the last call.
    pub fn take(&mut self) -> HashSet<String> {
        std::mem::take(&mut *self.0.lock())
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Changed {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.agents.lock().expect("no panic under this lock")
    }
}

/// What the store had when the directory was opened.
pub(super) struct Snapshot {
    agents: Vec<Agent>,
    sessions: Vec<Session>,
    position: i64,
}

/// Reads every agent and every live session, in pages.
pub(super) async fn read(store: &Store, namespace: &str) -> Result<Snapshot, Refusal> {
    let (position, agents) = read_all::<Agent>(store, namespace, Agent::PRIMARY, Vec::new()).await?;
    let live = vec![Value::Text("LIVE".to_owned())];
    let (_, sessions) = read_all::<Session>(store, namespace, Session::BY_LIFE, live).await?;
    Ok(Snapshot {
        agents,
        sessions,
        position,
    })
}

async fn read_all<R: Row>(
    store: &Store,
    namespace: &str,
    index: usize,
    prefix: Vec<Value>,
) -> Result<(i64, Vec<R>), Refusal> {
    let mut all: Vec<R> = Vec::new();
    let mut first_position = None;
    loop {
        let after = all
            .last()
            .and_then(|row| row.place(&R::TABLE.indexes[index]))
            .map(|(_, place)| place);
        let selection = Selection {
            index,
            prefix: prefix.clone(),
            after,
            limit: PAGE,
            backwards: false,
        };
        let (head, page) = store
            .select::<R>(namespace, selection)
            .await
            .map_err(|error| refusal_of(&error))?;
        // Commits since the first page have been taken in: only what was there before it counts as seen.
        let position = *first_position.get_or_insert(head.position);
        let last = page.len() < PAGE;
        all.extend(page);
        if last {
            return Ok((position, all));
        }
    }
}

impl Directory {
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn open(&mut self) {
        self.open = true;
    }

    /// Wakes those who follow it: nothing more comes.
    pub(super) fn retire(&mut self) {
        for watch in self.watches.drain(..).filter_map(|watch| watch.upgrade()) {
            watch.retired.store(true, Ordering::Release);
            watch.notify.notify_one();
        }
    }

    /// Takes in what the store had. What commits changed since then is newer and stays.
    pub(super) fn begin(&mut self, snapshot: Snapshot) {
        let newer = std::mem::take(&mut self.newer);
        for session in snapshot.sessions {
            if !newer.contains(&session.session_id) {
                self.sessions.insert(session.session_id.clone(), Arc::new(session));
            }
        }
        for agent in snapshot.agents {
            if !newer.contains(&agent.agent_id) {
                self.put_agent(&agent.agent_id.clone(), Some(Arc::new(agent)));
            }
        }
        // Those that commits put in meanwhile did not find their sessions, where these have not changed.
        for agent_id in newer {
            self.rank(&agent_id);
        }
        self.begun = true;
        self.position = self.position.max(snapshot.position);
    }

    /// Takes in what a commit changed.
    pub(super) fn apply(&mut self, commit: &Commit) {
        if !self.begun {
            self.newer
                .extend(commit.sessions.keys().chain(commit.agents.keys()).cloned());
        }
        let mut changed: HashSet<&str> = commit.agents.keys().map(String::as_str).collect();
        for (session_id, session) in &commit.sessions {
            match session {
                Some(session) if session.is_live() => {
                    self.sessions.insert(session_id.clone(), Arc::clone(session));
                    changed.insert(&session.agent_id);
                }
                _ => {
                    self.sessions.remove(session_id);
                }
            }
        }
        for (agent_id, agent) in &commit.agents {
            self.put_agent(agent_id, agent.clone());
        }
        for agent_id in &changed {
            self.rank(agent_id);
        }
        self.position = self.position.max(commit.head.position);
        self.tell(&changed);
    }

    fn tell(&mut self, changed: &HashSet<&str>) {
        if changed.is_empty() {
            return;
        }
        self.watches.retain(|watch| {
            let Some(watch) = watch.upgrade() else {
                return false;
            };
            let agents = changed.iter().map(|agent_id| (*agent_id).to_owned());
            watch.lock().extend(agents);
            watch.notify.notify_one();
            true
        });
    }

    /// Replaces what is known of an agent, and gives it its place.
    fn put_agent(&mut self, agent_id: &str, agent: Option<Arc<Agent>>) {
        if let Some(known) = self.agents.remove(agent_id) {
            self.unrank(&known);
        }
        if let Some(agent) = agent.filter(|agent| agent.is_listed()) {
            let place = self.entry(&agent).place();
            let known = Known { agent, place };
            for name in names(&known.agent) {
                match self.ranks.get_mut(name) {
                    Some(rank) => rank.insert(known.place.clone()),
                    None => self
                        .ranks
                        .entry(name.to_owned())
                        .or_default()
                        .insert(known.place.clone()),
                };
            }
            self.agents.insert(agent_id.to_owned(), known);
        }
    }

    /// Gives an agent its place anew, if its session has changed it.
    fn rank(&mut self, agent_id: &str) {
        if let Some(known) = self.agents.get(agent_id)
            && self.entry(&known.agent).place() != known.place
        {
            let agent = Arc::clone(&known.agent);
            self.put_agent(agent_id, Some(agent));
        }
    }

    fn unrank(&mut self, known: &Known) {
        for name in names(&known.agent) {
            if let Some(rank) = self.ranks.get_mut(name) {
                rank.remove(&known.place);
                if rank.is_empty() {
                    self.ranks.remove(name);
                }
            }
        }
    }

    fn entry(&self, agent: &Arc<Agent>) -> Entry {
        let session = agent.session_id.as_ref().and_then(|id| self.sessions.get(id)).cloned();
        Entry {
            agent: Arc::clone(agent),
            session,
        }
    }

    /// Every agent, or every one with a capability, the fittest first, after a place or from the beginning.
    pub fn ranked<'a>(
        &'a self,
        capability: Option<&str>,
        after: Option<&Place>,
    ) -> impl Iterator<Item = (&'a Place, Entry)> + use<'a> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let rank = self.ranks.get(capability.unwrap_or_default());
        let places = rank
            .into_iter()
            .flat_map(move |rank| rank.range((from.clone(), Bound::Unbounded)));
        places.filter_map(|place| Some((place, self.get(&place.agent_id)?)))
    }

    /// Every agent, or every one with a capability, the fittest first.
    pub fn entries<'a>(&'a self, capability: Option<&str>) -> impl Iterator<Item = Entry> + use<'a> {
        self.ranked(capability, None).map(|(_, entry)| entry)
    }

    /// One agent.
    pub fn get(&self, agent_id: &str) -> Option<Entry> {
        self.agents.get(agent_id).map(|known| self.entry(&known.agent))
    }

    /// Follows what changes from now on.
    pub fn watch(&mut self) -> Watch {
        let changed = Arc::new(Changed::default());
        self.watches.push(Arc::downgrade(&changed));
        Watch(changed)
    }

    /// What the directory has seen.
    pub fn position(&self) -> i64 {
        self.position
    }
}

/// The names that an agent is found under: its capabilities', and the empty one.
fn names(agent: &Agent) -> impl Iterator<Item = &str> {
    let names = agent.capabilities.iter().map(|capability| capability.name.as_str());
    names.chain([""])
}

#[cfg(test)]
mod tests;
