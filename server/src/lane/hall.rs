//! The loop of one lane: take, load, decide, save, answer.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::EpochRecord;
use super::job::{Job, internal};
use super::queue::Queue;
use super::table::Halt;
use super::world::World;
use crate::config::Retention;
use crate::error::{Reason, Refusal};
use crate::machine::{self, Instant};
use crate::sessions::gap::Gap;
use crate::store::{Head, Store, StoreError, Transaction};
use crate::tail::Tail;

/// A lane without jobs for this long stops.
const IDLE: Duration = Duration::from_secs(10);
/// A store that does not answer for this long was silent.
const SILENCE: Duration = Duration::from_secs(1);
/// How many times a batch may load more. What is decided by then is committed, and the other jobs are a batch of their own; if nothing is
/// decided, the jobs ask without end: a defect.
const MAX_LOADS: usize = 64;

pub(super) struct Hall {
    namespace: Arc<str>,
    store: Store,
    tail: Tail,
    gap: Gap,
    queue: Arc<Queue>,
    retention: Retention,
    /// Since when the store was asked and has not answered.
    unanswered: Mutex<Option<Instant>>,
}

/// A batch on its way: the jobs that were decided, and the world that they made.
struct Decided {
    jobs: Vec<(Job, Result<(), Refusal>)>,
    /// Jobs that wait for rows that those before them made them need.
    rest: Vec<Job>,
    world: World,
    /// The head as it was stored.
    before: Head,
    transaction: Transaction,
}

impl Hall {
    pub(super) fn new(
        namespace: Arc<str>,
        store: Store,
        tail: Tail,
        gap: Gap,
        queue: Arc<Queue>,
        retention: Retention,
    ) -> Hall {
        Hall {
            namespace,
            store,
            tail,
            gap,
            queue,
            retention,
            unanswered: Mutex::default(),
        }
    }

    /// Works until nothing comes for a while.
    pub(super) async fn run(self) {
        while let Some(jobs) = self.queue.take(IDLE).await {
            let now = Instant::now();
            let mut batch = Vec::with_capacity(jobs.len());
            for job in jobs {
                if job.is_given_up() {
                    continue;
                }
                if job.is_late(now) {
                    job.answer(Err(Refusal::new(
                        Reason::DeadlineExceeded,
                        "the deadline passed in the queue",
                    )));
                    continue;
                }
                batch.push(job);
            }
            if !batch.is_empty() {
                self.run_batch(batch).await;
            }
        }
    }

    /// Runs a batch; if the store refuses it, job by job, so that only the guilty one fails.
    async fn run_batch(&self, mut jobs: Vec<Job>) {
        while !jobs.is_empty() {
            jobs = match self.try_batch(jobs).await {
                Ok(rest) => rest,
                Err(jobs) => return self.run_each(jobs).await,
            };
        }
    }

    async fn run_each(&self, jobs: Vec<Job>) {
        for job in jobs {
            if let Err(jobs) = self.try_batch(vec![job]).await {
                for job in jobs {
                    job.answer(Err(internal()));
                }
            }
        }
    }

    /// Runs a batch and answers its jobs, but for those that it returns; gives the jobs back if the store refused to save what they
    /// decided.
    async fn try_batch(&self, jobs: Vec<Job>) -> Result<Vec<Job>, Vec<Job>> {
        let Some(decided) = self.decide(jobs).await? else {
            return Ok(Vec::new());
        };
        let Decided {
            jobs,
            rest,
            mut world,
            before,
            transaction,
        } = decided;
        if world.is_unchanged() {
            drop(transaction);
            let head = world.head().clone();
            answer(jobs, &head);
            return Ok(rest);
        }
        sign(&mut world, &before);
        let batch_id = machine::new_id();
        let committed = self.heard(transaction.commit(world.save(&batch_id))).await;
        match committed {
            Ok(()) => {
                let commit = Arc::new(world.into_commit());
                // The tail first: a caller that is answered finds the answer's position in every feed, and what it subscribes to
                // from now on begins after it.
                self.tail.publish(Arc::clone(&commit));
                answer(jobs, &commit.head);
                Ok(rest)
            }
            Err(StoreError::Refused(cause)) => {
                tracing::error!(namespace = %self.namespace, %cause, jobs = jobs.len(), "the store refused a batch");
                Err(without_outcomes(jobs).into_iter().chain(rest).collect())
            }
            Err(error) => {
                fail(without_outcomes(jobs), &error);
                Ok(rest)
            }
        }
    }

    /// Waits for the store. If it was silent for long, clients could not make themselves heard: that is a gap, which is noted before any
    /// job decides on what it means that somebody was not heard of. What fails is no answer: the silence goes on.
    async fn heard<T>(&self, operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let unanswered = || self.unanswered.lock().expect("no panic under this lock");
        let since = *unanswered().get_or_insert_with(Instant::now);
        let outcome = operation.await;
        if since.elapsed() > SILENCE {
            self.gap.store_was_silent();
        }
        if !matches!(outcome, Err(StoreError::Unavailable(_) | StoreError::Unknown(_))) {
            *unanswered() = None;
        }
        outcome
    }

    /// Opens a transaction and lets the jobs decide. A refusal too is answered after the commit: it may rest on what an earlier job
    /// of the batch decided.
    async fn decide(&self, mut jobs: Vec<Job>) -> Result<Option<Decided>, Vec<Job>> {
        let mut world = World::over_a_store(Arc::clone(&self.namespace), self.retention);
        for job in &jobs {
            job.reads(&mut world);
        }
        let plan = world.take_plan();
        let (mut transaction, head, rows) = match self.heard(self.store.begin(&self.namespace, plan.clone())).await {
            Ok(opened) => opened,
            Err(error) => return give_up(jobs, error),
        };
        // The epoch of a new commit; rules make tokens of it.
        world.set_head(Head {
            epoch: self.store.epoch().max(head.epoch),
            ..head.clone()
        });
        if let Err(error) = world.fill(&plan, rows) {
            return give_up(jobs, error.into());
        }

        let mut decided = Vec::with_capacity(jobs.len());
        for _ in 0..MAX_LOADS {
            jobs = decide_each(jobs, &mut world, &mut decided);
            if jobs.is_empty() {
                return Ok(Some(Decided {
                    jobs: decided,
                    rest: jobs,
                    world,
                    before: head,
                    transaction,
                }));
            }
            let plan = world.take_plan();
            let loaded = match self.heard(transaction.load(plan.clone())).await {
                Ok(rows) => world.fill(&plan, rows).map_err(StoreError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = loaded {
                jobs.extend(without_outcomes(decided));
                return give_up(jobs, error);
            }
        }
        if decided.is_empty() {
            tracing::error!(namespace = %self.namespace, jobs = jobs.len(), "jobs ask for more rows without end");
            decided.extend(jobs.drain(..).map(|job| (job, Err(internal()))));
        }
        Ok(Some(Decided {
            jobs: decided,
            rest: jobs,
            world,
            before: head,
            transaction,
        }))
    }
}

/// Numbers the batch, and notes its epoch where it is a new one.
fn sign(world: &mut World, before: &Head) {
    let epoch = world.head().epoch;
    let batch = before.batch + 1;
    if epoch > before.epoch {
        world.epochs.put(EpochRecord {
            epoch,
            first_position: before.position + 1,
            first_batch: batch,
        });
    }
    world.set_head(Head {
        batch,
        ..world.head().clone()
    });
}

/// Answers jobs whose outcomes are committed.
fn answer(jobs: Vec<(Job, Result<(), Refusal>)>, head: &Head) {
    for (job, outcome) in jobs {
        job.answer(outcome.map(|()| head));
    }
}

fn without_outcomes(jobs: Vec<(Job, Result<(), Refusal>)>) -> Vec<Job> {
    jobs.into_iter().map(|(job, _)| job).collect()
}

/// Lets each job decide in turn; returns those that need rows that are not loaded.
fn decide_each(jobs: Vec<Job>, world: &mut World, decided: &mut Vec<(Job, Result<(), Refusal>)>) -> Vec<Job> {
    let mut unfinished = Vec::new();
    for mut job in jobs {
        let mark = world.mark();
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| job.decide(world)));
        match outcome {
            Ok(Ok(())) => decided.push((job, Ok(()))),
            Ok(Err(Halt::Load)) => {
                world.undo_to(mark);
                unfinished.push(job);
            }
            Ok(Err(Halt::Refuse(refusal))) => {
                world.undo_to(mark);
                decided.push((job, Err(refusal)));
            }
            Err(panic) => {
                world.undo_to(mark);
                let cause = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let cause = cause.or_else(|| panic.downcast_ref::<String>().cloned());
                tracing::error!(cause = cause.as_deref().unwrap_or("unknown"), "a rule panicked");
                decided.push((job, Err(internal())));
            }
        }
    }
    unfinished
}

/// A batch that cannot go on: back to the caller if the store refused it, else answered.
fn give_up(jobs: Vec<Job>, error: StoreError) -> Result<Option<Decided>, Vec<Job>> {
    if let StoreError::Refused(cause) = &error {
        tracing::error!(%cause, jobs = jobs.len(), "the store refused to read for a batch");
        return Err(jobs);
    }
    fail(jobs, &error);
    Ok(None)
}

fn fail(jobs: Vec<Job>, error: &StoreError) {
    tracing::warn!(%error, jobs = jobs.len(), "a batch failed");
    let refusal = refusal_of(error);
    for job in jobs {
        job.answer(Err(refusal.clone()));
    }
}

/// What a client is told of a store's failure: never the driver's words.
pub fn refusal_of(error: &StoreError) -> Refusal {
    match error {
        StoreError::Unavailable(_) => Refusal::new(Reason::StoreUnavailable, "the store cannot be reached now")
            .retry_after(Duration::from_millis(250)),
        StoreError::Refused(_) => internal(),
        StoreError::Unknown(_) => Refusal::new(
            Reason::OutcomeUnknown,
            "it is not known whether the change was committed",
        )
        .retry_after(Duration::from_millis(250)),
    }
}
