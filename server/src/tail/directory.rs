//! The directory: every agent of a namespace in memory, so that discovery costs no look at the store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::error::Refusal;
use crate::lane::{Commit, refusal_of};
use crate::registry::Agent;
use crate::sessions::Session;
use crate::store::row::{Row, Value};
use crate::store::{Selection, Store};

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

/// The agents of a namespace.
#[derive(Default)]
pub struct Directory {
    /// Whether commits are taken in. Until then nobody has asked.
    open: bool,
    /// What commits changed before the store was read: newer than what it had.
    newer: HashSet<String>,
    /// Whether the store was read.
    begun: bool,
    agents: BTreeMap<String, Arc<Agent>>,
    sessions: HashMap<String, Arc<Session>>,
    by_capability: HashMap<String, HashSet<String>>,
    /// What the directory has seen.
    position: i64,
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
                self.put_agent(Arc::new(agent));
            }
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
        for (session_id, session) in &commit.sessions {
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
            self.remove_agent(agent_id);
            if let Some(agent) = agent {
                self.put_agent(Arc::clone(agent));
            }
        }
        self.position = self.position.max(commit.head.position);
    }

    fn put_agent(&mut self, agent: Arc<Agent>) {
        for capability in agent.capabilities.iter() {
            self.by_capability
                .entry(capability.name.clone())
                .or_default()
                .insert(agent.agent_id.clone());
        }
        self.agents.insert(agent.agent_id.clone(), agent);
    }

    fn remove_agent(&mut self, agent_id: &str) {
        let Some(agent) = self.agents.remove(agent_id) else {
            return;
        };
        for capability in agent.capabilities.iter() {
            if let Some(agents) = self.by_capability.get_mut(&capability.name) {
                agents.remove(agent_id);
                if agents.is_empty() {
                    self.by_capability.remove(&capability.name);
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

    /// Every agent, or every one with a capability, in no order that matters.
    pub fn entries<'a>(&'a self, capability: Option<&'a str>) -> Box<dyn Iterator<Item = Entry> + 'a> {
        match capability {
            None => Box::new(self.agents.values().map(|agent| self.entry(agent))),
            Some(capability) => {
                let ids = self.by_capability.get(capability).into_iter().flatten();
                Box::new(ids.filter_map(|id| self.agents.get(id)).map(|agent| self.entry(agent)))
            }
        }
    }

    /// One agent.
    pub fn get(&self, agent_id: &str) -> Option<Entry> {
        self.agents.get(agent_id).map(|agent| self.entry(agent))
    }

    /// What the directory has seen.
    pub fn position(&self) -> i64 {
        self.position
    }
}
