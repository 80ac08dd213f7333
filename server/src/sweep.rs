//! Timers: what is due is looked at again, and nothing is done while nothing is due.
//!
//! Rows say when they want to be looked at (`due_at`), and commits say the earliest of what they changed, so the sweeper sleeps
//! until something is due. It finds the rows that are due in the store, and gives each to its room in a job of its own: one that fails
//! hinders no other. Old events and answered requests go the same way, in bounded chunks.
//!
//! Failure: a store that is not there is tried again; a job that finds its row changed does nothing.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Retention;
use crate::error::Refusal;
use crate::events::{self, Event};
use crate::lane::{BatchRecord, Call, Decision, Lanes, RequestRecord, Urgency, World, refusal_of};
use crate::locks::{self, Lock, Waiter};
use crate::machine::{self, HashMap};
use crate::registry::{self, Agent};
use crate::sessions::gap::{Asker, Gap};
use crate::sessions::{self, Session};
use crate::store::row::{Row, Value};
use crate::store::{Head, Selection, Store, TablePlan, TableRows};
use crate::tail::Observer;
use crate::tasks::{self, Task};
use crate::time::Time;
use crate::workflows::{self, Workflow};

/// How many rows of a table one round looks at.
const ROUND: usize = 256;
/// How long after something failed it is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How many chunks of old events one round deletes, before it is looked at what else is due.
const CHUNKS: usize = 8;
/// Old rows are deleted this much later than they could be, so that they go many at a time.
const LAZINESS: Duration = Duration::from_secs(60);
/// How much later than the server that committed it this one looks at what is due.
const HANDICAP: Duration = Duration::from_millis(300);
/// The sweeper never looks again sooner than this.
const BREATH: Duration = Duration::from_millis(2);

/// When each namespace is to be looked at again.
#[derive(Clone)]
pub struct Due {
    shared: Arc<Shared>,
    /// So long after a commit, at the latest, there is something old to delete.
    at_the_latest: Duration,
}

#[derive(Default)]
struct Shared {
    next: Mutex<HashMap<Arc<str>, Time>>,
    earlier: Notify,
}

impl Due {
    /// Nothing is due.
    pub fn new(retention: &Retention) -> Due {
        Due {
            shared: Arc::default(),
            at_the_latest: retention.events.min(retention.requests) + LAZINESS,
        }
    }

    /// What keeps the timers in step with what is committed.
    pub fn observer(&self) -> Observer {
        let due = self.clone();
        Box::new(move |commit| {
            let latest = commit.head.now + due.at_the_latest;
            // What another server committed it also looks after: only if it does not is there anything left to do.
            let handicap = if commit.own { Duration::ZERO } else { HANDICAP };
            let next = commit.next_due.unwrap_or(latest).min(latest);
            due.note(&commit.namespace, next + handicap);
        })
    }

    /// Notes that a namespace wants to be looked at now.
    pub fn now(&self, namespace: &Arc<str>) {
        self.note(namespace, Time(0));
    }

    /// Notes that a namespace wants to be looked at, at the latest by then.
    fn note(&self, namespace: &Arc<str>, at: Time) {
        let mut next = self.shared.next.lock().expect("no panic under this lock");
        let earlier = next.get(namespace).is_none_or(|known| at < *known);
        if earlier {
            next.insert(Arc::clone(namespace), at);
            drop(next);
            self.shared.earlier.notify_one();
        }
    }

    /// The namespaces that are due, which are then forgotten, and how long until the next is.
    fn take(&self, now: Time) -> (Vec<Arc<str>>, Option<Duration>) {
        let mut next = self.shared.next.lock().expect("no panic under this lock");
        let due: Vec<Arc<str>> = next
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(namespace, _)| Arc::clone(namespace))
            .collect();
        for namespace in &due {
            next.remove(namespace);
        }
        let wait = next.values().min().map(|at| at.since(now));
        (due, wait)
    }
}

/// The sweeper of a server.
#[derive(Clone)]
pub struct Sweep {
    due: Due,
    store: Store,
    lanes: Lanes,
    /// The last time in which clients could not reach the server. Asked inside the jobs: a process that was stopped since may wake there.
    gap: Gap,
    asker: Asker,
    retention: Retention,
    clock: Clock,
    beginnings: KnownBeginnings,
}

/// Where what is kept of a namespace begins: nothing is before, and nothing comes there any more. Rows that were deleted lie in the way
/// of whoever reads from the very beginning of an index.
#[derive(Clone, Copy, Default)]
struct Beginnings {
    /// Another history may begin earlier.
    epoch: i64,
    event: i64,
    request_at: i64,
    batch: i64,
}

/// The beginnings of all namespaces, as far as they are known.
#[derive(Clone, Default)]
struct KnownBeginnings {
    of: Arc<Mutex<HashMap<Arc<str>, Beginnings>>>,
}

impl KnownBeginnings {
    fn of(&self, namespace: &Arc<str>, epoch: i64) -> Beginnings {
        let known = self.of.lock().expect("no panic under this lock");
        let known = known.get(namespace).filter(|known| known.epoch == epoch);
        known.copied().unwrap_or(Beginnings {
            epoch,
            ..Beginnings::default()
        })
    }

    fn note(&self, namespace: &Arc<str>, beginnings: Beginnings) {
        let mut known = self.of.lock().expect("no panic under this lock");
        known.insert(Arc::clone(namespace), beginnings);
    }
}

/// The store's clock, by which rows are due, as far as it is known: its last reading, moved on by the machine's.
#[derive(Clone, Default)]
struct Clock {
    /// How many microseconds it is ahead of the machine's.
    ahead: Arc<AtomicI64>,
}

impl Clock {
    fn set(&self, now: Time) {
        self.ahead.store(now.0 - Time::of_this_machine().0, Ordering::Relaxed);
    }

    fn now(&self) -> Time {
        Time(Time::of_this_machine().0 + self.ahead.load(Ordering::Relaxed))
    }
}

/// What one round found.
struct Round {
    /// When the next row is due.
    next: Option<Time>,
    /// Whether something failed.
    failed: bool,
}

impl Sweep {
    /// Starts sweeping, until the server is draining.
    pub fn start(due: Due, store: Store, lanes: Lanes, gap: Gap, retention: Retention, draining: CancellationToken) {
        let sweep = Sweep {
            due,
            store,
            lanes,
            asker: gap.asker(),
            gap,
            retention,
            clock: Clock::default(),
            beginnings: KnownBeginnings::default(),
        };
        machine::spawn(async move {
            crate::select! {
                () = sweep.run() => {}
                () = draining.cancelled() => {}
            }
        });
    }

    async fn run(&self) {
        // What became due while no server was there is due now.
        loop {
            match self.store.namespaces().await {
                Ok(namespaces) => {
                    for namespace in namespaces {
                        self.due.note(&namespace.into(), Time(0));
                    }
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "the sweeper cannot read the namespaces");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        loop {
            let (namespaces, wait) = self.due.take(self.clock.now());
            let rounds = namespaces.iter().map(|namespace| self.sweep(namespace));
            futures::future::join_all(rounds).await;
            if namespaces.is_empty() {
                let wait = wait.unwrap_or(Duration::from_secs(3_600)).max(BREATH);
                crate::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.due.shared.earlier.notified() => {}
                }
            }
        }
    }

    /// Looks at what is due in a namespace, and notes when to look again.
    async fn sweep(&self, namespace: &Arc<str>) {
        let outcome = self.round(namespace).await;
        let now = self.clock.now();
        match outcome {
            Ok(Round { failed: true, .. }) => self.due.note(namespace, now + RETRY),
            Ok(Round { next: Some(next), .. }) => self.due.note(namespace, next.max(now + BREATH)),
            Ok(Round { next: None, .. }) => {}
            Err(refusal) => {
                tracing::warn!(%namespace, %refusal, "a sweep failed");
                self.due.note(namespace, now + RETRY);
            }
        }
    }

    async fn round(&self, namespace: &Arc<str>) -> Result<Round, Refusal> {
        let (lock_gap, task_gap) = (self.gap.clone(), self.gap.clone());
        let beginnings = self.beginnings.of(namespace, self.store.epoch());
        let plan = vec![
            first::<Session>(Session::BY_DUE, ROUND + 1),
            first::<Lock>(Lock::BY_DUE, ROUND + 1),
            first::<Waiter>(Waiter::BY_DUE, ROUND + 1),
            first::<Task>(Task::BY_DUE, ROUND + 1),
            first::<Workflow>(Workflow::BY_DUE, ROUND + 1),
            first::<Agent>(Agent::BY_DUE, ROUND + 1),
            oldest::<Event>(Event::PRIMARY, beginnings.event),
            oldest::<RequestRecord>(RequestRecord::BY_AGE, beginnings.request_at),
            oldest::<BatchRecord>(BatchRecord::PRIMARY, beginnings.batch),
        ];
        let read = self.asker.heard(self.store.read(namespace, plan)).await;
        let (head, rows) = read.map_err(|error| refusal_of(&error))?;
        let now = head.now;
        self.clock.set(now);
        let mut rows = rows.into_iter();
        let sessions = self.rows(
            namespace,
            now,
            decode::<Session>(rows.next())?,
            |row| row.due_at,
            |world, key| world.sessions.want(key),
            move |world, row| sessions::rules::due(world, &row.session_id),
        );
        let locks = self.rows(
            namespace,
            now,
            decode::<Lock>(rows.next())?,
            |row| Some(row.due_at),
            |world, key| world.locks.want(key),
            move |world, row| locks::rules::lock_due(world, &row.resource_id, lock_gap.end_at(world.now())),
        );
        let waiters = self.rows(
            namespace,
            now,
            decode::<Waiter>(rows.next())?,
            |row| Some(row.due_at),
            |world, key| world.waiters.want(key),
            move |world, row| locks::rules::waiter_due(world, &row.resource_id, row.place),
        );
        let tasks = self.rows(
            namespace,
            now,
            decode::<Task>(rows.next())?,
            |row| row.due_at,
            |world, key| world.tasks.want(key),
            move |world, row| tasks::rules::due(world, &row.task_id, task_gap.end_at(world.now())),
        );
        let workflows = self.rows(
            namespace,
            now,
            decode::<Workflow>(rows.next())?,
            |row| row.due_at,
            |world, key| world.workflows.want(key),
            move |world, row| workflows::rules::due(world, &row.workflow_id),
        );
        let agents = self.rows(
            namespace,
            now,
            decode::<Agent>(rows.next())?,
            |row| row.due_at,
            |world, key| world.agents.want(key),
            move |world, row| registry::rules::due(world, &row.agent_id),
        );
        let event = decode::<Event>(rows.next())?.pop();
        let request = decode::<RequestRecord>(rows.next())?.pop().map(|row| row.at);
        // The newest batch is the head, and stays.
        let batch = decode::<BatchRecord>(rows.next())?.pop();
        let batch = batch.filter(|row| row.batch < head.batch);
        let found = Beginnings {
            event: event.as_ref().map_or(beginnings.event, |row| row.position),
            request_at: request.map_or(beginnings.request_at, |at| at.0),
            batch: batch.as_ref().map_or(beginnings.batch, |row| row.batch),
            ..beginnings
        };
        self.beginnings.note(namespace, found);
        let batch = batch.map(|row| row.at);
        let (sessions, locks, waiters, tasks, workflows, agents) =
            futures::join!(sessions, locks, waiters, tasks, workflows, agents);
        let rounds = [
            sessions,
            locks,
            waiters,
            tasks,
            workflows,
            agents,
            self.old_events(namespace, now, &head, event).await?,
            self.old_requests(namespace, now, [request, batch].into_iter().flatten().min())
                .await?,
        ];
        Ok(Round {
            next: rounds.iter().filter_map(|round| round.next).min(),
            failed: rounds.iter().any(|round| round.failed),
        })
    }

    /// Gives each row of a table that is due to its room.
    async fn rows<R: Row>(
        &self,
        namespace: &Arc<str>,
        now: Time,
        rows: Vec<R>,
        due_at: impl Fn(&R) -> Option<Time>,
        want: fn(&mut World, &R::Key),
        rule: impl Fn(&mut World, &R) -> Decision<()> + Clone + Send + 'static,
    ) -> Round {
        let (due, later): (Vec<R>, Vec<R>) = rows
            .into_iter()
            .partition(|row| due_at(row).is_some_and(|at| at <= now));
        // If there are more than one round takes, the next begins at once.
        let next = if due.len() > ROUND {
            Some(now)
        } else {
            later.first().and_then(&due_at)
        };
        let jobs = due.into_iter().take(ROUND).map(|row| {
            let (rule, key) = (rule.clone(), row.key());
            self.lanes.run(
                Call::internal(namespace, Urgency::High),
                move |world| want(world, &key),
                move |world| rule(world, &row),
            )
        });
        let outcomes = futures::future::join_all(jobs).await;
        let mut failed = false;
        for refusal in outcomes.into_iter().filter_map(Result::err) {
            tracing::warn!(%namespace, table = R::TABLE.name, %refusal, "a row that is due could not be looked at");
            failed = true;
        }
        Round { next, failed }
    }

    /// Deletes events that are no longer kept, of which `oldest` may be one.
    async fn old_events(
        &self,
        namespace: &Arc<str>,
        now: Time,
        head: &Head,
        oldest: Option<Event>,
    ) -> Result<Round, Refusal> {
        let retention = self.retention.events;
        let at = oldest.as_ref().map(|event| event.at);
        let Some(oldest) = oldest.filter(|event| event.at + retention + LAZINESS <= now) else {
            return Ok(Round {
                next: oldest_due(at, retention),
                failed: false,
            });
        };
        let before = oldest.position - 1;
        let last =
            events::list::position_before(&self.store, namespace, now - retention, before, head.position).await?;
        for _ in 0..CHUNKS {
            let call = Call::internal(namespace, Urgency::Low);
            let forgotten = self
                .lanes
                .run(call, |_| {}, move |world| events::rules::forget(world, last))
                .await?;
            if forgotten.answer {
                return Ok(Round {
                    next: Some(now + LAZINESS),
                    failed: false,
                });
            }
        }
        // What else is due comes first.
        Ok(Round {
            next: Some(now),
            failed: false,
        })
    }

    /// Deletes what lanes noted for themselves and no longer keep, of which the oldest is from `at`.
    async fn old_requests(&self, namespace: &Arc<str>, now: Time, at: Option<Time>) -> Result<Round, Refusal> {
        let retention = self.retention.requests;
        let Some(oldest) = at.filter(|at| *at + retention + LAZINESS <= now) else {
            return Ok(Round {
                next: oldest_due(at, retention),
                failed: false,
            });
        };
        let before = now - retention;
        let call = Call::internal(namespace, Urgency::Low);
        self.lanes
            .run(
                call,
                |_| {},
                move |world| events::rules::forget_requests(world, oldest, before),
            )
            .await?;
        // There may be more than one job deletes.
        Ok(Round {
            next: Some(now),
            failed: false,
        })
    }
}

/// The first rows of an index.
fn first<R: Row>(index: usize, limit: usize) -> TablePlan {
    let selection = Selection {
        index,
        prefix: Vec::new(),
        after: None,
        limit,
        backwards: false,
    };
    TablePlan {
        table: R::TABLE,
        keys: Vec::new(),
        selections: vec![selection],
    }
}

/// The first row of an index that is not before a value of its first column.
fn oldest<R: Row>(index: usize, beginning: i64) -> TablePlan {
    let mut plan = first::<R>(index, 1);
    plan.selections[0].after = Some(vec![Value::Int(beginning.saturating_sub(1))]);
    plan
}

fn decode<R: Row>(rows: Option<TableRows>) -> Result<Vec<R>, Refusal> {
    let rows = rows.and_then(|mut rows| rows.selected.pop()).unwrap_or_default();
    let rows: Result<Vec<R>, _> = rows.into_iter().map(R::from_columns).collect();
    rows.map_err(|corrupt| refusal_of(&corrupt.into()))
}

fn oldest_due(at: Option<Time>, retention: Duration) -> Option<Time> {
    at.map(|at| at + retention + LAZINESS)
}
