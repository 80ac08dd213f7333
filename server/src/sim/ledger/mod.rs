//! The ledger: everything that was committed, everything that clients were told, and what must hold of both after every step.
//!
//! The store tells it of each commit while nothing else happens; clients note what they are told when they are told it. What does not
//! hold is noted once, and ends the simulation.

mod lives;
mod locks;
mod log;
mod states;
mod tasks;
mod together;
mod workflows;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use lives::Beat;
pub use locks::Belief;
pub use log::{Claim, Log};

use crate::events::Event;
use crate::store::row::{Row, Value};
use crate::store::simulated::{Failover, Memory, Watcher};
use crate::store::{Head, Save};

/// What does not hold.
pub type Violation = String;
/// Whether something holds.
pub type Verdict = Result<(), Violation>;

/// How many lines of a trace are kept.
const KEPT: usize = 20_000;

/// A commit, as the checks see it.
pub struct Batch<'a> {
    pub head: &'a Head,
    pub events: Vec<Arc<Event>>,
    pub memory: &'a Memory,
    pub namespace: &'a str,
    /// When the last time ended in which nobody could make themselves heard.
    gap_end: Option<Instant>,
    save: &'a Save,
}

impl Batch<'_> {
    /// Whether it changed any row of a table.
    fn changes<R: Row>(&self) -> bool {
        let mut tables = self.save.tables.iter().filter(|table| table.table == R::TABLE);
        tables.any(|table| !(table.inserts.is_empty() && table.upserts.is_empty() && table.deletes.is_empty()))
    }

    /// Whether what was not said for so long may have been said and not been heard.
    fn is_in_a_gap(&self, span: Duration) -> bool {
        self.gap_end.is_some_and(|gap_end| gap_end + span > Instant::now())
    }

    /// The rows of a table that it put.
    pub fn put<R: Row>(&self) -> Vec<R> {
        let tables = self.save.tables.iter().filter(|table| table.table == R::TABLE);
        let rows = tables.flat_map(|table| table.upserts.iter().chain(&table.inserts));
        rows.map(|row| R::from_columns(row.clone()).expect("a row")).collect()
    }

    /// The keys of rows of a table that it deleted.
    pub fn deleted<R: Row>(&self) -> Vec<R::Key> {
        use crate::store::row::Key;
        let tables = self.save.tables.iter().filter(|table| table.table == R::TABLE);
        let keys = tables.flat_map(|table| &table.deletes);
        keys.map(|key| R::Key::from_columns(key.clone()).expect("a key"))
            .collect()
    }
}

/// Something that must hold of what is committed.
trait Check: Send {
    /// A batch was committed.
    fn committed(&mut self, batch: &Batch) -> Verdict;
    /// A standby took over: what is committed is what is in `memory`.
    fn failed_over(&mut self, namespace: &str, memory: &Memory);
}

/// The ledger of one namespace.
#[derive(Default)]
pub struct Space {
    pub log: Log,
    pub locks: locks::Locks,
    pub states: states::States,
    pub lives: lives::Lives,
    pub tasks: tasks::Tasks,
    workflows: workflows::Workflows,
}

impl Space {
    fn checks(&mut self) -> [&mut dyn Check; 6] {
        // The log first: the others look into it.
        let Space {
            log,
            locks,
            states,
            lives,
            tasks,
            workflows,
        } = self;
        [log, states, locks, lives, tasks, workflows]
    }
}

/// The ledger.
pub struct Ledger {
    began: Instant,
    spaces: BTreeMap<String, Space>,
    violation: Option<Violation>,
    violated: Arc<Notify>,
    hash: DefaultHasher,
    trace: Option<Vec<String>>,
    gap_end: Option<Instant>,
    /// The streams that are open, by session, and since when.
    pub links: BTreeMap<String, (String, Instant)>,
    /// How far subscribers have come since nothing new is begun, by name.
    reached: BTreeMap<String, (String, i64)>,
    /// What was done, by name: a simulation in which nothing succeeds proves nothing.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// An empty ledger, with or without the lines of a trace.
    pub fn new(traced: bool) -> Ledger {
        Ledger {
            began: Instant::now(),
            spaces: BTreeMap::new(),
            violation: None,
            violated: Arc::default(),
            hash: DefaultHasher::new(),
            trace: traced.then(Vec::new),
            gap_end: None,
            links: BTreeMap::new(),
            reached: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// The ledger of a namespace.
    pub fn space(&mut self, namespace: &str) -> &mut Space {
        self.spaces.entry(namespace.to_owned()).or_default()
    }

    /// Notes what does not hold.
    pub fn violation(&mut self, violation: Violation) {
        self.note("violation", || violation.clone());
        if self.violation.is_none() {
            self.violation = Some(violation);
            self.violated.notify_one();
        }
    }

    /// A time has ended in which nobody could make themselves heard.
    pub fn gap(&mut self, end: Instant) {
        self.gap_end = self.gap_end.max(Some(end));
    }

    /// A subscriber has come this far.
    pub fn reached(&mut self, who: &str, namespace: &str, position: i64) {
        self.reached.insert(who.to_owned(), (namespace.to_owned(), position));
    }

    /// Whether a subscriber has come to the end of its log.
    pub fn is_up_to_date(&self, who: &str) -> bool {
        let reached = self.reached.get(who);
        reached.is_some_and(|(namespace, position)| self.spaces[namespace].log.position() <= *position)
    }

    /// Every namespace in which something happened.
    pub fn namespaces(&self) -> Vec<String> {
        self.spaces.keys().cloned().collect()
    }

    /// Notes a verdict on what somebody was told.
    pub fn judge(&mut self, who: &str, verdict: Verdict) {
        if let Err(violation) = verdict {
            self.violation(format!("{who}: {violation}"));
        }
    }

    /// What did not hold, if anything.
    pub fn violated(&self) -> Option<Violation> {
        self.violation.clone()
    }

    /// Follows whether something does not hold.
    pub fn alarm(&self) -> Arc<Notify> {
        Arc::clone(&self.violated)
    }

    /// Notes something that happened: it counts for the hash of the run, and makes a line of the trace.
    pub fn note(&mut self, what: &'static str, detail: impl FnOnce() -> String) {
        *self.counts.entry(what).or_default() += 1;
        let at = self.began.elapsed();
        (what, at).hash(&mut self.hash);
        if let Some(trace) = &mut self.trace {
            if trace.len() == KEPT {
                trace.drain(..KEPT / 2);
            }
            trace.push(format!("{:>10.6} {what:<10} {}", at.as_secs_f64(), detail()));
        }
    }

    /// A number that two runs share only if they were the same.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// The lines of the trace.
    pub fn trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    fn committed(&mut self, namespace: &str, save: &Save, memory: &Memory) {
        let events = save.tables.iter().filter(|table| table.table == Event::TABLE);
        let events = events.flat_map(|table| &table.inserts);
        let events: Vec<Arc<Event>> = events
            .map(|row| Arc::new(Event::from_columns(row.clone()).expect("an event")))
            .collect();
        let batch = Batch {
            head: &save.head,
            events,
            memory,
            namespace,
            gap_end: self.gap_end,
            save,
        };
        (save.head.batch, save.head.position, save.head.last_token).hash(&mut self.hash);
        for event in &batch.events {
            (&event.event_type, &event.subject).hash(&mut self.hash);
        }
        self.note("commit", || line(&batch));
        let verdicts: Vec<Violation> = self
            .space(namespace)
            .checks()
            .into_iter()
            .filter_map(|check| check.committed(&batch).err())
            .collect();
        let dead = self.space(namespace).check_dead(&batch);
        let together = self.space(namespace).check_together(&batch);
        for violation in verdicts.into_iter().chain(dead.err()).chain(together.err()) {
            self.violation(format!("batch {} of {namespace}: {violation}", save.head.batch));
        }
    }

    fn failed_over(&mut self, failover: &Failover, memory: &Memory) {
        self.note("failover", || {
            format!("{} commits lost, epoch {}", failover.lost.len(), failover.epoch)
        });
        for (namespace, space) in &mut self.spaces {
            space.log.begin_epoch(failover.epoch);
            for check in space.checks() {
                check.failed_over(namespace, memory);
            }
        }
    }
}

/// A batch as a line.
fn line(batch: &Batch) -> String {
    let event = |event: &Arc<Event>| format!("{}({})", event.event_type, event.subject);
    let events: Vec<String> = batch.events.iter().map(event).collect();
    let rows = |table: &crate::store::TableSave| {
        let key = |row: &Vec<Value>| {
            let key = row[..table.table.key].iter().map(|value| match value {
                Value::Text(text) => text.clone(),
                value => format!("{value:?}"),
            });
            key.collect::<Vec<_>>().join("/")
        };
        let put: Vec<String> = table.inserts.iter().chain(&table.upserts).map(key).collect();
        let gone: Vec<String> = table.deletes.iter().map(key).collect();
        format!("{}{put:?}-{gone:?}", table.table.name)
    };
    let shown = batch.save.tables.iter().filter(|table| table.table != Event::TABLE);
    let rows: Vec<String> = shown.map(rows).collect();
    format!(
        "{} {} epoch {} position {}: {} | {}",
        batch.namespace,
        batch.head.batch,
        batch.head.epoch,
        batch.head.position,
        events.join(" "),
        rows.join(" ")
    )
}

/// What tells a ledger of commits.
pub struct Eye(pub Arc<Mutex<Ledger>>);

impl Watcher for Eye {
    fn committed(&mut self, namespace: &str, save: &Save, memory: &Memory) {
        self.0
            .lock()
            .expect("no panic under this lock")
            .committed(namespace, save, memory);
    }

    fn opened(&mut self, epoch: i64) {
        let mut ledger = self.0.lock().expect("no panic under this lock");
        for space in ledger.spaces.values_mut() {
            space.log.begin_epoch(epoch);
        }
    }

    fn failed_over(&mut self, failover: &Failover, memory: &Memory) {
        self.0
            .lock()
            .expect("no panic under this lock")
            .failed_over(failover, memory);
    }
}
