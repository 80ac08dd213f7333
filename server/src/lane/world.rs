//! The working set that rules decide on: the rows that a batch of jobs reads and changes, and the events that it makes.
//!
//! Rules see no store, no clock and no chance: time comes with the head, ids from the job's seed. Where the rows come from
//! is not their business, so a world can be loaded for one batch, kept in memory, or be all there is (tests, simulation).

use std::sync::Arc;

use super::table::{Decision, Halt, WorkTable};
use super::{Changed, Commit, EpochRecord, RequestRecord};
use crate::config::Retention;
use crate::error::Refusal;
use crate::events::{Draft, Event, EventIdRecord};
use crate::locks::{Lock, Waiter};
use crate::machine::HashMap;
use crate::payload::Payload;
use crate::registry::{Agent, Offer};
use crate::sessions::{BeatRecord, Session};
use crate::state::{Document, Version};
use crate::store::row::{Corrupt, Row};
use crate::store::{Head, Note, Plan, Rows, Save, TOKEN_COUNTER_BITS, TablePlan, TableRows, TableSave, Trim};
use crate::tasks::{Queue, StoredPayload, Task};
use crate::time::Time;
use crate::workflows::{Item, StepDefinition, StepRecord, Stretch, Transition, Workflow};

/// Whether a request is taken for a new one until something speaks against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// It is: a repetition is found when its answer cannot be stored beside the first, or when it is about to be refused.
    Hopeful,
    /// It is looked up first.
    Careful,
}

/// Documents are kept for the next batch while their payloads have no more bytes than this.
const MAX_KEPT_BYTES: usize = 4 << 20;

macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident: $row:ty),+ $(,)?) => {
        /// The tables of a working set.
        pub struct World {
            $($(#[$doc])* pub $table: WorkTable<$row>,)+
            /// Whose world it is.
            pub namespace: Arc<str>,
            /// How long things are kept.
            retention: Retention,
            care: Care,
            /// The head as it is with what was decided so far.
            head: Head,
            events: Vec<Arc<Event>>,
            trims: Vec<Trim>,
            seed: u128,
            ids: u64,
        }

        /// How much of a world there is to undo.
        pub(super) struct Mark { $($table: usize,)+ head: Head, events: usize, trims: usize }

        impl World {
            fn of(namespace: Arc<str>, retention: Retention, head: Head, whole: bool) -> World {
                World {
                    $($table: WorkTable::new(whole),)+
                    namespace,
                    retention,
                    care: Care::Careful,
                    head,
                    events: Vec::new(),
                    trims: Vec::new(),
                    seed: 0,
                    ids: 0,
                }
            }

            pub(super) fn mark(&self) -> Mark {
                Mark {
                    $($table: self.$table.mark(),)+
                    head: self.head.clone(),
                    events: self.events.len(),
                    trims: self.trims.len(),
                }
            }

            pub(super) fn undo_to(&mut self, mark: Mark) {
                $(self.$table.undo_to(mark.$table);)+
                self.head = mark.head;
                self.events.truncate(mark.events);
                self.trims.truncate(mark.trims);
            }

            /// What rules asked for and is not loaded.
            pub(super) fn take_plan(&mut self) -> Plan {
                let mut plan = Plan::new();
                $(plan.extend(self.$table.take_plan());)+
                plan
            }

            /// Takes in what was loaded.
            pub(super) fn fill(&mut self, plan: &Plan, rows: Rows) -> Result<(), Corrupt> {
                for (plan, rows) in plan.iter().zip(rows) {
                    self.fill_table(plan, rows)?;
                }
                Ok(())
            }

            fn fill_table(&mut self, plan: &TablePlan, rows: TableRows) -> Result<(), Corrupt> {
                $(if plan.table == <$row as Row>::TABLE { return self.$table.fill(plan, rows); })+
                unreachable!("every plan is of a table of the world")
            }

            fn has_changed_rows(&self) -> bool {
                $(self.$table.changed().next().is_some())||+
            }

            /// Makes the tables those of the next batch, once this one is committed.
            fn settle_tables(&mut self, trims: &[Trim]) {
                $(
                    self.$table.settle();
                    if trims.iter().any(|trim| trim.table == <$row as Row>::TABLE) {
                        self.$table.clear();
                    }
                )+
            }

            fn saves(&self) -> Vec<TableSave> {
                let mut saves = Vec::new();
                $(saves.extend(self.$table.save());)+
                saves
            }
        }

        /// Every table that a batch can change, beside its own row in `batches`.
        pub const TABLES: &[&crate::store::row::Table] = &[$(<$row as Row>::TABLE,)+ Event::TABLE];
    };
}

tables! {
    /// Answers to requests that carried a `request_id`.
    requests: RequestRecord,
    /// The epochs of the log.
    epochs: EpochRecord,
    /// Ids that clients gave their events.
    event_ids: EventIdRecord,
    /// Registrations.
    agents: Agent,
    /// What live sessions have to offer, by capability.
    offers: Offer,
    /// Lives of agents.
    sessions: Session,
    /// When they were last heard of.
    beats: BeatRecord,
    /// Leases.
    locks: Lock,
    /// Who waits for a lock.
    waiters: Waiter,
    /// Documents.
    documents: Document,
    /// Versions of documents.
    versions: Version,
    /// Tasks.
    tasks: Task,
    /// Inputs, results and checkpoints of tasks, and inputs of workflows and items.
    payloads: StoredPayload,
    /// Queues in which a task waits.
    queues: Queue,
    /// Workflows.
    workflows: Workflow,
    /// Their steps, as they were given.
    definitions: StepDefinition,
    /// Their steps, and what has become of them.
    steps: StepRecord,
    /// Parts of their lists that have no items yet.
    stretches: Stretch,
    /// The items of their steps.
    items: Item,
    /// Their histories.
    transitions: Transition,
}

impl World {
    /// An empty working set over a store; its head follows with what is loaded first.
    pub(super) fn over_a_store(namespace: Arc<str>, retention: Retention) -> World {
        World::of(namespace, retention, Head::new(Time(0)), false)
    }

    /// A world that is all there is, for tests of rules: nothing is ever loaded. `seed` makes its ids.
    pub fn whole(now: Time, seed: u128) -> World {
        let head = Head {
            epoch: 1,
            ..Head::new(now)
        };
        World {
            seed,
            ..World::of("default".into(), Retention::default(), head, true)
        }
    }

    /// Runs a rule on a whole world: what it refuses leaves no trace.
    pub fn attempt<T>(&mut self, rule: impl FnOnce(&mut World) -> Decision<T>) -> Result<T, Refusal> {
        let mark = self.mark();
        match rule(self) {
            Ok(answer) => Ok(answer),
            Err(Halt::Refuse(refusal)) => {
                self.undo_to(mark);
                Err(refusal)
            }
            Err(Halt::Load) => unreachable!("a whole world has nothing to load"),
        }
    }

    /// Moves the time of a whole world on.
    pub fn set_now(&mut self, now: Time) {
        self.head.now = self.head.now.max(now);
    }

    pub(super) fn set_care(&mut self, care: Care) {
        self.care = care;
    }

    /// Whether a rule should say beforehand that it will look for an earlier answer to a request.
    pub fn is_careful(&self) -> bool {
        self.care == Care::Careful
    }

    /// Says before a rule runs that it will look for the answer to a request, if it is not taken for a new one.
    pub fn want_request(&mut self, key: &(String, String)) {
        if self.is_careful() {
            self.requests.want(key);
        }
    }

    pub(super) fn set_head(&mut self, head: Head) {
        self.head = head;
    }

    /// The time of the batch, by the store's clock.
    pub fn now(&self) -> Time {
        self.head.now
    }

    /// The head of the log, with what was decided so far.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// How long things are kept.
    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    pub(super) fn begin_job(&mut self, seed: u128) {
        self.seed = seed;
        self.ids = 0;
    }

    /// A new id, UUIDv7. A job that runs again gets the same ones.
    pub fn new_id(&mut self) -> String {
        self.ids += 1;
        let mixed = self
            .seed
            .wrapping_add(u128::from(self.ids).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let random = mixed.to_be_bytes();
        let random: [u8; 10] = random[6..].try_into().expect("16 - 6 bytes");
        let millis = u64::try_from(self.now().millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random)
            .into_uuid()
            .to_string()
    }

    /// A fencing token greater than any that was given out in this namespace: the epoch in the high bits, a counter below.
    pub fn next_token(&mut self) -> i64 {
        let token = (self.head.last_token + 1).max(self.head.epoch << TOKEN_COUNTER_BITS);
        self.head.last_token = token;
        token
    }

    /// Appends an event to the log and tells its position.
    pub fn emit(&mut self, draft: Draft) -> i64 {
        self.head.position += 1;
        let event = draft.at(self.head.position, self.head.now);
        self.events.push(Arc::new(event));
        self.head.position
    }

    /// The events that this batch made so far.
    pub fn events(&self) -> &[Arc<Event>] {
        &self.events
    }

    /// Says that the log begins at `position` from now on; the events before it are deleted by [`World::trim`].
    pub fn begin_log_at(&mut self, position: i64) {
        self.head.first_position = self.head.first_position.max(position);
    }

    /// Deletes old rows in bulk, with the commit.
    pub fn trim(&mut self, trim: Trim) {
        self.trims.push(trim);
    }

    /// Whether nothing was changed.
    pub(super) fn is_unchanged(&self) -> bool {
        self.events.is_empty() && self.trims.is_empty() && !self.has_changed_rows()
    }

    /// What is to be saved.
    pub(super) fn save(&self, batch_id: &str) -> Save {
        let mut tables = self.saves();
        if !self.events.is_empty() {
            let inserts = self.events.iter().map(|event| event.columns()).collect();
            tables.push(TableSave {
                table: Event::TABLE,
                inserts,
                upserts: Vec::new(),
                deletes: Vec::new(),
            });
        }
        Save {
            tables,
            trims: self.trims.clone(),
            head: self.head.clone(),
            note: Note {
                batch_id: batch_id.to_owned(),
                events: self.events.len() as i64,
                next_due: self.next_due(),
                changed: self.changed(),
            },
        }
    }

    /// The agents and sessions that changed, if any did.
    fn changed(&self) -> Option<String> {
        let changed = Changed {
            agents: self.agents.changed().map(|(key, _)| key.clone()).collect(),
            sessions: self.sessions.changed().map(|(key, _)| key.clone()).collect(),
        };
        (changed != Changed::default()).then(|| serde_json::to_string(&changed).expect("lists of strings are JSON"))
    }

    /// What is told to the tail once it is saved.
    pub(super) fn commit(&self) -> Commit {
        let next_due = self.next_due();
        let mut commit = Commit::new(Arc::clone(&self.namespace), &self.head, self.events.clone());
        fn rows<R: Row>(table: &WorkTable<R>) -> HashMap<R::Key, Option<Arc<R>>> {
            table.changed().map(|(key, row)| (key.clone(), row.cloned())).collect()
        }
        commit.agents = rows(&self.agents);
        commit.sessions = rows(&self.sessions);
        commit.locks = rows(&self.locks);
        commit.documents = rows(&self.documents);
        commit.tasks = rows(&self.tasks);
        commit.payloads = rows(&self.payloads);
        commit.workflows = rows(&self.workflows);
        commit.next_due = next_due;
        commit.own = true;
        commit
    }

    /// Becomes the world that the next batch begins with, once this one is committed: it knows what was loaded and what was changed.
    ///
    /// It does not know what is large, what is hardly needed twice, and what is also written beside the lane.
    pub(super) fn settle(&mut self) {
        self.events.clear();
        let trims = std::mem::take(&mut self.trims);
        self.settle_tables(&trims);
        self.requests.clear();
        self.event_ids.clear();
        self.beats.clear();
        self.versions.clear();
        self.payloads.clear();
        self.definitions.clear();
        self.stretches.clear();
        self.transitions.clear();
        let payloads = self.documents.rows().filter_map(|row| row.payload.as_ref());
        if payloads.map(Payload::len).sum::<usize>() > MAX_KEPT_BYTES {
            self.documents.clear();
        }
    }

    /// When the earliest of the changed rows wants to be looked at again.
    fn next_due(&self) -> Option<Time> {
        fn least<R: Row>(table: &WorkTable<R>, due: fn(&R) -> Option<Time>) -> Option<Time> {
            table
                .changed()
                .filter_map(|(_, row)| row.and_then(|row| due(row)))
                .min()
        }
        [
            least(&self.agents, |row| row.due_at),
            least(&self.sessions, |row| row.due_at),
            least(&self.locks, |row| Some(row.due_at)),
            least(&self.waiters, |row| Some(row.due_at)),
            least(&self.tasks, |row| row.due_at),
            least(&self.workflows, |row| row.due_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
