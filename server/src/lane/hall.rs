//! The loop of one lane: take, load, decide, save, answer.
//!
//! What a lane remembers from its last batch it need not load ([`memory`](super::memory)).

use std::sync::Arc;
use std::time::Duration;

use super::EpochRecord;
use super::batch::{Decided, Deciding, Failed, Outcome, Way, answer, fail, without_outcomes};
use super::job::{Job, internal};
use super::memory::{Newest, Remembering, is_still};
use super::queue::Queue;
use super::world::{Care, World};
use crate::config::Retention;
use crate::error::{Reason, Refusal};
use crate::machine::{self, Instant};
use crate::sessions::gap::{Asker, Gap};
use crate::store::{Head, Save, Store, StoreError};
use crate::tail::Tail;

/// A lane without jobs for this long stops.
const IDLE: Duration = Duration::from_secs(10);
/// What was decided so long before others decide is decided again with them: what it rests on may be long past.
const TOO_EARLY: Duration = Duration::from_secs(1);
/// How many times a batch may load more. What is decided by then is committed, and the other jobs are a batch of their own; if nothing is
/// decided, the jobs ask without end: a defect.
const MAX_LOADS: usize = 64;

pub(super) struct Hall {
    namespace: Arc<str>,
    store: Store,
    tail: Tail,
    /// If the store is silent for long, clients cannot make themselves heard: that is a gap, which is noted before any job decides on
    /// what it means that somebody was not heard of.
    asker: Asker,
    queue: Arc<Queue>,
    retention: Retention,
    remembering: Remembering,
}

impl Hall {
    pub(super) fn new(
        namespace: Arc<str>,
        store: Store,
        tail: Tail,
        gap: &Gap,
        queue: Arc<Queue>,
        retention: Retention,
    ) -> Hall {
        Hall {
            namespace,
            store,
            tail,
            asker: gap.asker(),
            queue,
            retention,
            remembering: Remembering::default(),
        }
    }

    /// Works until nothing comes for a while.
    pub(super) async fn run(mut self) {
        while let Some(jobs) = self.queue.take(IDLE).await {
            self.run_batch(wanted(jobs)).await;
        }
    }

    /// Runs a batch. If the store refuses it, once more with every request looked up, then job by job, so that only the guilty one fails.
    async fn run_batch(&mut self, mut jobs: Vec<Job>) {
        let mut care = Care::Hopeful;
        while !jobs.is_empty() {
            jobs = match self.try_batch(jobs, care).await {
                Ok(rest) => rest,
                Err(Failed { jobs, refused: false }) => jobs,
                Err(Failed { jobs, .. }) if care == Care::Hopeful => {
                    care = Care::Careful;
                    jobs
                }
                Err(Failed { jobs, .. }) => return self.run_each(jobs).await,
            };
        }
    }

    async fn run_each(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            if let Err(failed) = self.try_batch(vec![job], Care::Careful).await {
                for job in failed.jobs {
                    job.answer(Err(internal()));
                }
            }
        }
    }

    /// Runs a batch and answers its jobs, but for those that it returns; gives the jobs back if what they decided was not saved and
    /// they can be run again.
    async fn try_batch(&mut self, jobs: Vec<Job>, care: Care) -> Result<Vec<Job>, Failed> {
        let Some(decided) = self.decide(jobs, care).await? else {
            return Ok(Vec::new());
        };
        let Decided {
            jobs,
            rest,
            mut world,
            before,
            way,
        } = decided;
        if world.is_unchanged() {
            if let Way::After(_) = way {
                // Nothing is saved, so nobody would make sure that what was decided on is still so.
                return Err(Failed::again(without_outcomes(jobs)));
            }
            answer(jobs, world.head());
            return Ok(rest);
        }
        sign(&mut world, &before);
        let batch_id = machine::new_id();
        match self.save(world.save(&batch_id), way).await {
            Ok(()) => {
                let commit = Arc::new(world.commit());
                // The tail first: a caller that is answered finds the answer's position in every feed, and what it subscribes to
                // from now on begins after it.
                self.tail.publish(Arc::clone(&commit));
                answer(jobs, &commit.head);
                let head = commit.head.clone();
                self.remembering.keep(world, Newest { batch_id, head });
                Ok(rest)
            }
            Err(error) => self.not_saved(error, jobs, rest, care),
        }
    }

    /// What becomes of the jobs of a batch that was not saved, and of those behind them.
    fn not_saved(
        &mut self,
        error: NotSaved,
        jobs: Vec<Outcome>,
        rest: Vec<Job>,
        care: Care,
    ) -> Result<Vec<Job>, Failed> {
        let jobs = without_outcomes(jobs);
        match error {
            NotSaved::Overtaken => {
                self.remembering.was_wrong();
                Err(Failed::again(jobs.into_iter().chain(rest).collect()))
            }
            NotSaved::Error(StoreError::Refused(cause)) => {
                if care == Care::Careful {
                    tracing::error!(namespace = %self.namespace, %cause, jobs = jobs.len(), "the store refused a batch");
                }
                Err(Failed {
                    jobs: jobs.into_iter().chain(rest).collect(),
                    refused: true,
                })
            }
            NotSaved::Error(error) => {
                fail(jobs, &error);
                Ok(rest)
            }
        }
    }

    /// Saves what a batch has changed.
    async fn save(&mut self, save: Save, way: Way) -> Result<(), NotSaved> {
        match way {
            Way::Transaction(transaction) => {
                let committed = self.asker.heard(transaction.commit(save)).await;
                committed.map_err(NotSaved::Error)
            }
            Way::After(newest) => {
                let asked = Instant::now();
                let appended = self.store.append(&self.namespace, &newest, save);
                match self.asker.heard(appended).await {
                    Ok(time) => {
                        self.remembering.told(time, asked);
                        Ok(())
                    }
                    Err(StoreError::Unavailable(cause)) => {
                        tracing::debug!(namespace = %self.namespace, %cause, "a batch has to be decided again");
                        Err(NotSaved::Overtaken)
                    }
                    Err(error) => Err(NotSaved::Error(error)),
                }
            }
        }
    }

    /// Lets the jobs decide: on what is remembered, if that has all that they read, else in a transaction. A refusal too is answered
    /// after the commit: it may rest on what an earlier job of the batch decided.
    async fn decide(&mut self, jobs: Vec<Job>, care: Care) -> Result<Option<Decided>, Failed> {
        let remembered = self.remembering.take().filter(|_| care == Care::Hopeful);
        let Some((world, newest, now)) = remembered else {
            let batch = Deciding::new(self.new_world(), jobs, care);
            return self.decide_in_a_transaction(batch, None).await;
        };
        let mut batch = Deciding::new(world, jobs, care);
        if batch.plan.is_empty() {
            batch.world.set_head(self.next_head(&now));
            batch.decide_each();
            if batch.jobs.is_empty() {
                return Ok(Some(batch.done(newest.head, Way::After(newest.batch_id))));
            }
        }
        self.decide_in_a_transaction(batch, Some(newest.head)).await
    }

    /// Opens a transaction and lets the jobs decide that have not. If what was remembered is not so any more, or
    /// others have decided on it long ago, all decide anew.
    async fn decide_in_a_transaction(
        &mut self,
        mut batch: Deciding,
        remembered: Option<Head>,
    ) -> Result<Option<Decided>, Failed> {
        let plan = std::mem::take(&mut batch.plan);
        let asked = Instant::now();
        let begun = self.store.begin(&self.namespace, plan.clone());
        let (mut transaction, head, rows) = match self.asker.heard(begun).await {
            Ok(begun) => begun,
            Err(error) => return batch.give_up(error),
        };
        self.remembering.told(head.now, asked);
        let mut loaded = Some((plan, rows));
        let is_late = head.now.since(batch.world.now()) > TOO_EARLY && !batch.decided.is_empty();
        // Nobody commits below an epoch that has begun.
        let is_of_before = self.store.epoch() > batch.world.head().epoch;
        let is_wrong = remembered.is_some_and(|remembered| is_of_before || !is_still(&remembered, &head));
        if is_wrong {
            self.remembering.was_wrong();
        }
        if is_wrong || is_late {
            let care = batch.care;
            batch = Deciding::new(self.new_world(), batch.into_jobs(), care);
            loaded = None;
        }
        // A batch has one time: that of its first decision.
        if batch.decided.is_empty() {
            batch.world.set_head(self.next_head(&head));
        }
        for _ in 0..MAX_LOADS {
            let (plan, rows) = match loaded.take() {
                Some(loaded) => loaded,
                None => {
                    let plan = std::mem::take(&mut batch.plan);
                    match self.asker.heard(transaction.load(plan.clone())).await {
                        Ok(rows) => (plan, rows),
                        Err(error) => return batch.give_up(error),
                    }
                }
            };
            if let Err(error) = batch.world.fill(&plan, rows) {
                return batch.give_up(error.into());
            }
            batch.decide_each();
            if batch.jobs.is_empty() {
                return Ok(Some(batch.done(head, Way::Transaction(transaction))));
            }
        }
        if batch.decided.is_empty() {
            tracing::error!(namespace = %self.namespace, jobs = batch.jobs.len(), "jobs ask for more rows without end");
            let jobs = std::mem::take(&mut batch.jobs);
            batch.decided.extend(jobs.into_iter().map(|job| (job, Err(internal()))));
        }
        Ok(Some(batch.done(head, Way::Transaction(transaction))))
    }

    fn new_world(&self) -> World {
        World::over_a_store(Arc::clone(&self.namespace), self.retention)
    }

    /// The head of a new commit, with the epoch that rules make tokens of.
    fn next_head(&self, stored: &Head) -> Head {
        Head {
            epoch: self.store.epoch().max(stored.epoch),
            ..stored.clone()
        }
    }
}

/// Why a batch was not saved.
enum NotSaved {
    /// What it was decided on is not known to be so any more. Nothing was changed.
    Overtaken,
    Error(StoreError),
}

/// Jobs without those that nobody waits for any more.
fn wanted(jobs: Vec<Job>) -> Vec<Job> {
    let now = Instant::now();
    let mut wanted = Vec::with_capacity(jobs.len());
    for job in jobs {
        if job.is_late(now) {
            job.answer(Err(Refusal::new(
                Reason::DeadlineExceeded,
                "the deadline passed in the queue",
            )));
        } else if !job.is_given_up() {
            wanted.push(job);
        }
    }
    wanted
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
