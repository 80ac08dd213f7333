//! The directory: every agent of a namespace in memory, so that discovery costs no look at the store.
//!
//! The agents of each capability are kept in the order of their fitness, so that the first page costs a page, however many there are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
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

    /// Its place in the order of fitness.
    pub fn place(&self) -> Place {
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
    /// The agents of each capability; under the empty name every agent.
    ranks: HashMap<String, Rank>,
    watches: Vec<Weak<Changed>>,
    /// What the directory has seen.
    position: i64,
}

struct Known {
    entry: Entry,
    place: Place,
}

/// The agents of a capability.
#[derive(Default)]
struct Rank {
    /// The fittest first. They are here whole, so that a page is read from one place.
    entries: BTreeMap<Place, Entry>,
    /// By what they want as input, those who are there: a schema that thousands share is checked once.
    schemas: HashMap<String, BTreeSet<Arc<str>>>,
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
            changed.extend(session.as_ref().map(|session| session.agent_id.as_str()));
            match session {
                Some(session) if session.is_live() => {
                    self.sessions.insert(session_id.clone(), Arc::clone(session));
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
            let entry = self.entry(agent);
            let place = entry.place();
            for (name, schema) in names(&entry.agent) {
                match self.ranks.get_mut(name) {
                    Some(rank) => rank.put(&place, &entry, schema),
                    None => self
                        .ranks
                        .entry(name.to_owned())
                        .or_default()
                        .put(&place, &entry, schema),
                }
            }
            self.agents.insert(agent_id.to_owned(), Known { entry, place });
        }
    }

    /// Gives an agent its place anew, if its session has changed.
    fn rank(&mut self, agent_id: &str) {
        if let Some(known) = self.agents.get(agent_id) {
            let entry = self.entry(Arc::clone(&known.entry.agent));
            let as_it_was = match (&entry.session, &known.entry.session) {
                (Some(new), Some(old)) => Arc::ptr_eq(new, old),
                (new, old) => new.is_none() && old.is_none(),
            };
            if !as_it_was {
                self.put_agent(agent_id, Some(entry.agent));
            }
        }
    }

    fn unrank(&mut self, known: &Known) {
        for (name, schema) in names(&known.entry.agent) {
            if let Some(rank) = self.ranks.get_mut(name) {
                rank.take(&known.place, schema);
                if rank.entries.is_empty() {
                    self.ranks.remove(name);
                }
            }
        }
    }

    fn entry(&self, agent: Arc<Agent>) -> Entry {
        let session = agent.session_id.as_ref().and_then(|id| self.sessions.get(id)).cloned();
        Entry { agent, session }
    }

    /// Every agent, or every one with a capability, the fittest first, after a place or from the beginning.
    pub fn ranked<'a>(
        &'a self,
        capability: Option<&str>,
        after: Option<&Place>,
    ) -> impl Iterator<Item = (&'a Place, &'a Entry)> + use<'a> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let rank = self.ranks.get(capability.unwrap_or_default());
        rank.into_iter()
            .flat_map(move |rank| rank.entries.range((from.clone(), Bound::Unbounded)))
    }

    /// What agents that are there want as input of a capability: each schema, with the first agent, by name, that has it.
    pub fn schemas(&self, capability: &str) -> impl Iterator<Item = (&str, &str)> {
        let rank = self.ranks.get(capability);
        let schemas = rank.into_iter().flat_map(|rank| &rank.schemas);
        schemas.filter_map(|(schema, agents)| Some((schema.as_str(), agents.first()?.as_ref())))
    }

    /// One agent.
    pub fn get(&self, agent_id: &str) -> Option<&Entry> {
        self.agents.get(agent_id).map(|known| &known.entry)
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

impl Rank {
    fn put(&mut self, place: &Place, entry: &Entry, schema: Option<&str>) {
        self.entries.insert(place.clone(), entry.clone());
        if let Some(schema) = schema.filter(|_| entry.session.is_some()) {
            let agent_id = Arc::clone(&place.agent_id);
            match self.schemas.get_mut(schema) {
                Some(agents) => {
                    agents.insert(agent_id);
                }
                None => {
                    self.schemas.insert(schema.to_owned(), BTreeSet::from([agent_id]));
                }
            }
        }
    }

    fn take(&mut self, place: &Place, schema: Option<&str>) {
        self.entries.remove(place);
        if let Some((schema, agents)) = schema.and_then(|schema| Some((schema, self.schemas.get_mut(schema)?))) {
            agents.remove(&place.agent_id);
            if agents.is_empty() {
                self.schemas.remove(schema);
            }
        }
    }
}

/// The names that an agent is found under, with what it wants as input there: its capabilities', and the empty one.
fn names(agent: &Agent) -> impl Iterator<Item = (&str, Option<&str>)> {
    let capabilities = agent.capabilities.iter();
    let names = capabilities.map(|capability| (capability.name.as_str(), Some(capability.input_schema.as_str())));
    names.chain([("", None)])
}

#[cfg(test)]
mod tests;
