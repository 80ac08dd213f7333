//! A world with agents in it, and short words for what happens there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Refusal;
use crate::lane::World;
use crate::payload::Payload;
use crate::registry::{self, Agent, Capability, Offer, SaidStatus};
use crate::sessions::{Life, Session};
use crate::store::row::{Json, Row, Value};
use crate::tasks::rules::{self, Delegation, Word};
use crate::tasks::{DEFAULT_ACCEPT_TIMEOUT, DEFAULT_TIMEOUT, Queue, RetryPolicy, Task, TaskError, TaskState, dispatch};
use crate::time::Time;

pub struct Fleet {
    pub world: World,
    pub gap_end: Time,
    sessions: u64,
    /// How many events have been looked through for secrets.
    looked_through: usize,
}

pub fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// A task for a capability.
pub fn delegation(task_id: &str, capability: &str) -> Delegation {
    Delegation {
        task_id: task_id.to_owned(),
        capability: capability.to_owned(),
        timeout: DEFAULT_TIMEOUT,
        accept_timeout: DEFAULT_ACCEPT_TIMEOUT,
        retry: RetryPolicy::default(),
        ..Delegation::default()
    }
}

pub fn failure(kind: &str) -> TaskError {
    TaskError {
        kind: kind.to_owned(),
        message: "it broke".to_owned(),
        permanent: false,
    }
}

impl Fleet {
    pub fn new() -> Fleet {
        Fleet {
            world: World::whole(Time(1_000_000_000), 7),
            gap_end: Time(0),
            sessions: 0,
            looked_through: 0,
        }
    }

    /// Registers an agent on a stream; its older session ends.
    pub fn join(
        &mut self,
        agent_id: &str,
        capabilities: &[&str],
        labels: BTreeMap<String, String>,
        capacity: i32,
    ) -> String {
        if let Some(session_id) = self.session_of(agent_id) {
            self.end(&session_id, Life::Superseded);
        }
        self.sessions += 1;
        let session_id = format!("session-{}", self.sessions);
        let now = self.world.now();
        let capability = |name: &&str| Capability {
            name: (*name).to_owned(),
            ..Capability::default()
        };
        let incarnation = self.sessions as i64;
        self.world.agents.put(Agent {
            agent_id: agent_id.to_owned(),
            agent_name: String::new(),
            base_url: String::new(),
            labels: Json(labels),
            capabilities: Json(capabilities.iter().map(capability).collect()),
            max_concurrent_tasks: capacity,
            said_status: SaidStatus::Active,
            session_id: Some(session_id.clone()),
            incarnation,
            registered_at: now,
            offline_at: None,
            due_at: None,
        });
        let session = Session {
            session_id: session_id.clone(),
            agent_id: agent_id.to_owned(),
            incarnation,
            life: Life::Live,
            ttl: Duration::from_secs(3),
            generation: 1,
            connected: true,
            polling: 0,
            poll_id: None,
            capacity,
            in_flight: 0,
            last_assigned_at: Time(0),
            started_at: now,
            ended_at: None,
            due_at: None,
        };
        let opened = self.world.attempt(|world| {
            registry::rules::offer(world, session.clone())?;
            dispatch::fill(world, &session.session_id)
        });
        opened.expect("joining is never refused");
        session_id
    }

    pub fn session_of(&mut self, agent_id: &str) -> Option<String> {
        let agent = self
            .world
            .agents
            .known()
            .into_iter()
            .find(|agent| agent.agent_id == agent_id);
        agent.and_then(|agent| agent.session_id.clone())
    }

    pub fn session(&self, session_id: &str) -> Arc<Session> {
        let mut sessions = self.world.sessions.known().into_iter();
        sessions
            .find(|session| session.session_id == session_id)
            .expect("there is such a session")
    }

    /// A session ends: one commit, then bounded jobs that move its tasks.
    pub fn end(&mut self, session_id: &str, life: Life) {
        let mut session = (*self.session(session_id)).clone();
        session.life = life;
        let agent_id = session.agent_id.clone();
        self.world.sessions.put(session);
        for offer in self.world.offers.known() {
            if offer.agent_id == agent_id {
                self.world.offers.remove(&offer.key());
            }
        }
        let agent = self
            .world
            .agents
            .known()
            .into_iter()
            .find(|agent| agent.agent_id == agent_id);
        let mut agent = (*agent.expect("a session has an agent")).clone();
        agent.session_id = None;
        self.world.agents.put(agent);
        while !self
            .world
            .attempt(|world| rules::end_of_session(world, session_id, 2))
            .expect("the end of a session is never refused")
        {}
    }

    pub fn delegate(&mut self, delegation: Delegation) -> Result<Task, Refusal> {
        self.world.attempt(|world| rules::delegate(world, delegation.clone()))
    }

    pub fn task(&self, task_id: &str) -> Arc<Task> {
        let mut tasks = self.world.tasks.known().into_iter();
        tasks
            .find(|task| task.task_id == task_id)
            .expect("there is such a task")
    }

    /// The word that the current attempt's agent would say.
    pub fn word(&self, task_id: &str) -> Word {
        let task = self.task(task_id);
        Word {
            session_id: task.session_id.clone().unwrap_or_default(),
            task_id: task_id.to_owned(),
            attempt_token: task.attempt_token.clone(),
        }
    }

    pub fn accept(&mut self, word: &Word) -> Result<(), Refusal> {
        self.world.attempt(|world| rules::accept(world, word))
    }

    pub fn reject(&mut self, word: &Word) -> Result<(), Refusal> {
        self.world.attempt(|world| rules::reject(world, word, "no"))
    }

    pub fn complete(&mut self, word: &Word, result: i64) -> Result<(), Refusal> {
        let result = Payload::of_json(&result.into());
        self.world
            .attempt(|world| rules::complete(world, word, Some(result.clone()), &[]))
    }

    pub fn fail(&mut self, word: &Word, error: &TaskError) -> Result<(), Refusal> {
        self.world.attempt(|world| rules::fail(world, word, error.clone()))
    }

    pub fn cancel(&mut self, task_id: &str) -> Result<(), Refusal> {
        self.world
            .attempt(|world| rules::cancel_by_caller(world, task_id, "enough"))
    }

    /// Time passes, and what is due by then is looked at, in bounded jobs, until nothing is.
    pub fn pass(&mut self, time: Duration) {
        self.world.set_now(self.world.now() + time);
        self.settle();
    }

    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let now = self.world.now();
            let due = |task: &Arc<Task>| task.due_at.is_some_and(|due_at| due_at <= now);
            let Some(task) = self.world.tasks.known().into_iter().find(due) else {
                return;
            };
            let gap_end = self.gap_end;
            let looked = self.world.attempt(|world| rules::due(world, &task.task_id, gap_end));
            looked.expect("what is due is never refused");
        }
        panic!("something is due without end");
    }

    /// The types of the events since a position, with what they are about.
    pub fn events(&self) -> Vec<(String, String)> {
        let events = self.world.events().iter();
        events
            .map(|event| (event.event_type.clone(), event.subject.clone()))
            .collect()
    }

    /// Checks everything that must hold whenever a job is done and no look goes on.
    pub fn check(&mut self) {
        let tasks = self.world.tasks.known();
        self.check_slots(&tasks);
        self.check_queues(&tasks);
        self.check_nobody_waits_in_vain(&tasks);
        let events = self.world.events();
        for event in &events[self.looked_through..] {
            let said = event
                .payload
                .as_ref()
                .map(|payload| String::from_utf8_lossy(&payload.body).into_owned());
            let said = said.unwrap_or_default();
            assert!(
                !said.contains("session-") && !said.contains('#'),
                "a secret is in {said}"
            );
        }
        self.looked_through = events.len();
    }

    fn check_slots(&self, tasks: &[Arc<Task>]) {
        for task in tasks {
            let has_session = matches!(task.state, TaskState::Assigned | TaskState::Running);
            assert_eq!(task.session_id.is_some(), has_session, "{task:?}");
            if let Some(session_id) = &task.session_id {
                assert!(
                    self.session(session_id).is_live(),
                    "a dead session has {}",
                    task.task_id
                );
            }
            assert_eq!(task.ended_at.is_some(), task.state.is_ended());
        }
        for session in self.world.sessions.known() {
            let has = |task: &&Arc<Task>| task.session_id.as_ref() == Some(&session.session_id);
            let count = tasks.iter().filter(has).count();
            assert_eq!(session.in_flight as usize, count, "slots of {}", session.session_id);
            assert!(session.in_flight <= session.capacity);
        }
    }

    fn check_queues(&mut self, tasks: &[Arc<Task>]) {
        let mut waiting: BTreeMap<String, Vec<&Arc<Task>>> = BTreeMap::new();
        for task in tasks {
            let is_ready = task.state == TaskState::Pending && task.ready_at <= self.world.now();
            assert_eq!(task.queue_id.is_some(), is_ready, "{task:?}");
            if let Some(queue_id) = &task.queue_id {
                waiting.entry(queue_id.clone()).or_default().push(task);
            }
        }
        let queues: BTreeMap<String, Arc<Queue>> = self
            .world
            .queues
            .known()
            .into_iter()
            .map(|queue| (queue.queue_id.clone(), queue))
            .collect();
        assert!(
            queues.keys().eq(waiting.keys()),
            "a queue is there if and only if a task waits in it"
        );
        for (queue_id, queue) in queues {
            let tasks = &waiting[&queue_id];
            assert_eq!(queue.waiting as usize, tasks.len());
            let first = tasks
                .iter()
                .min_by_key(|task| (task.rank, task.ready_at, task.task_id.clone()));
            let first = first.expect("it is not empty");
            assert_eq!(queue.first_task_id, first.task_id);
            assert_eq!((queue.first_rank, queue.first_ready_at), (first.rank, first.ready_at));
            assert_eq!(queue.look.0, None, "no look is left over");
        }
    }

    fn check_nobody_waits_in_vain(&mut self, tasks: &[Arc<Task>]) {
        for offer in self.world.offers.known() {
            if offer.load.is_none() {
                continue;
            }
            let waits_in_vain = tasks
                .iter()
                .find(|task| task.queue_id.is_some() && could_take(&offer, task));
            assert!(
                waits_in_vain.is_none(),
                "{waits_in_vain:?} waits while {offer:?} is free"
            );
        }
        let open = [Value::Text(String::new())];
        let free = self.world.attempt(|world| world.offers.select(Offer::OPEN, &open, 100));
        for offer in free.expect("a selection is never refused") {
            let session = self.session(&offer.session_id);
            assert!(session.is_live() && session.in_flight < session.capacity);
        }
    }
}

fn could_take(offer: &Offer, task: &Task) -> bool {
    offer.capability == task.capability
        && (task.target_agent.is_empty() || task.target_agent == offer.agent_id)
        && task
            .requirements
            .iter()
            .all(|(name, value)| offer.labels.get(name) == Some(value))
        && !task.excluded.contains(&offer.agent_id)
}
