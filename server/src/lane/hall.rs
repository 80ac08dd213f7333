//! The loop of one lane: take, load, decide, save, answer.
//!
//! What a lane remembers from its last batch it need not load ([`memory`](super::memory)). While a batch is being committed the next is
//! decided on what this one leaves, as far as no other rows are needed; it is sent when this one is committed, and decided again if that
//! fails.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::EpochRecord;
use super::batch::{Decided, Deciding, Failed, Next, Outcome, Owed, Start, Way, answer, fail, without_outcomes};
use super::job::{Job, internal};
use super::memory::{Newest, Remembering, is_still};
use super::queue::{MAX_BATCH, MAX_BATCH_BYTES, Queue};
use super::world::{Care, World};
use crate::config::Retention;
use crate::error::{Reason, Refusal};
use crate::machine::{self, Instant};
use crate::sessions::gap::Gap;
use crate::store::{Head, Save, Store, StoreError};
use crate::tail::Tail;
use crate::time::Time;

/// A lane without jobs for this long stops.
const IDLE: Duration = Duration::from_secs(10);
/// A store that does not answer for this long was silent.
const SILENCE: Duration = Duration::from_secs(1);
/// For how long the next batch is decided while one is being committed. Less than a silence: what that means is decided after it.
const AHEAD: Duration = Duration::from_millis(250);
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
    remembering: Remembering,
    /// What the last batch still owes.
    owed: Option<Owed>,
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
            remembering: Remembering::default(),
            owed: None,
        }
    }

    /// Works until nothing comes for a while.
    pub(super) async fn run(mut self) {
        let mut ahead = None;
        loop {
            let start = match ahead.take() {
                Some((batch, newest)) => Start::Ahead(batch, newest),
                None => {
                    self.pay();
                    match self.queue.take(IDLE).await {
                        Some(jobs) => Start::Jobs(wanted(jobs)),
                        None => return,
                    }
                }
            };
            ahead = self.run_batch(start).await;
        }
    }

    /// Runs a batch, and returns the next if some of it is decided. If the store refuses it, once more with every request looked up, then
    /// job by job, so that only the guilty one fails.
    async fn run_batch(&mut self, mut start: Start) -> Option<(Deciding, Newest)> {
        let mut care = Care::Hopeful;
        loop {
            let jobs = match self.try_batch(start, care).await {
                Ok(Next { rest, ahead }) if rest.is_empty() => return ahead,
                Ok(Next { rest, ahead }) => rest.into_iter().chain(jobs_of(ahead)).collect(),
                Err(Failed { jobs, refused: None }) => jobs,
                Err(Failed { jobs, .. }) if care == Care::Hopeful => {
                    care = Care::Careful;
                    jobs
                }
                Err(Failed { jobs, .. }) => {
                    self.run_each(jobs).await;
                    return None;
                }
            };
            if jobs.is_empty() {
                return None;
            }
            start = Start::Jobs(jobs);
        }
    }

    async fn run_each(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            if let Err(failed) = self.try_batch(Start::Jobs(vec![job]), Care::Careful).await {
                for job in failed.jobs {
                    job.answer(Err(internal()));
                }
            }
        }
    }

    /// Tells everybody of the last batch. The tail first: a caller that is answered finds the answer's position in every feed, and what it
    /// subscribes to from now on begins after it.
    fn pay(&mut self) {
        if let Some(Owed { commit, jobs }) = self.owed.take() {
            self.tail.publish(Arc::clone(&commit));
            answer(jobs, &commit.head);
        }
    }

    /// Runs a batch, answers its jobs, and begins to decide the next meanwhile; gives the jobs back if what they decided was not saved and
    /// they can be run again.
    async fn try_batch(&mut self, start: Start, care: Care) -> Result<Next, Failed> {
        let Some(decided) = self.decide(start, care).await? else {
            return Ok(Next::of(Vec::new()));
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
            return Ok(Next::of(rest));
        }
        sign(&mut world, &before);
        let newest = Newest {
            batch_id: machine::new_id(),
            head: world.head().clone(),
        };
        let save = world.save(&newest.batch_id);
        let commit = Arc::new(world.commit());
        world.settle();
        let (saved, ahead) = self.save(save, way, world, &newest, care).await;
        match saved {
            Ok(()) => {
                self.remembering.committed(&newest.head);
                self.owed = Some(Owed { commit, jobs });
                if ahead.is_empty() {
                    self.pay();
                    self.remembering.keep(ahead.world, newest);
                    return Ok(Next::of(rest));
                }
                let ahead = Some((ahead, newest));
                Ok(Next { rest, ahead })
            }
            Err(error) => self.not_saved(error, jobs, rest.into_iter().chain(ahead.into_jobs()).collect(), care),
        }
    }

    /// What becomes of the jobs of a batch that was not saved, and of those behind them.
    fn not_saved(&mut self, error: NotSaved, jobs: Vec<Outcome>, behind: Vec<Job>, care: Care) -> Result<Next, Failed> {
        match error {
            NotSaved::Overtaken => {
                self.remembering.was_wrong();
                Err(Failed::again(
                    without_outcomes(jobs).into_iter().chain(behind).collect(),
                ))
            }
            NotSaved::Error(StoreError::Refused(cause)) => {
                if care == Care::Careful {
                    tracing::error!(namespace = %self.namespace, %cause, jobs = jobs.len(), "the store refused a batch");
                }
                Err(Failed {
                    jobs: without_outcomes(jobs).into_iter().chain(behind).collect(),
                    refused: Some(cause),
                })
            }
            NotSaved::Error(error) => {
                fail(without_outcomes(jobs), &error);
                Ok(Next::of(behind))
            }
        }
    }

    /// Saves what a batch has changed. Meanwhile answers the batch before it, and decides what comes on the world that it leaves.
    async fn save(
        &mut self,
        save: Save,
        way: Way,
        world: World,
        newest: &Newest,
        care: Care,
    ) -> (Result<(), NotSaved>, Deciding) {
        let mut ahead = Deciding::new(world, Care::Hopeful);
        let (store, gap, namespace) = (self.store.clone(), self.gap.clone(), Arc::clone(&self.namespace));
        let mut flight = pin!(heard(&gap, send(&store, &namespace, save, way)));
        // It is under way before anything else is done.
        let mut landed = match futures::poll!(&mut flight) {
            Poll::Ready(saved) => Some(saved),
            Poll::Pending => None,
        };
        self.pay();
        let until = Instant::now() + AHEAD;
        let mut takes = care == Care::Hopeful;
        let saved = loop {
            if let Some(saved) = landed.take() {
                break saved;
            }
            takes &= ahead.plan.is_empty() && ahead.decided.len() < MAX_BATCH && ahead.bytes < MAX_BATCH_BYTES;
            let Some(head) = self.remembering.now_after(&newest.head).filter(|_| takes) else {
                break flight.await;
            };
            crate::select! {
                saved = &mut flight => landed = Some(saved),
                () = tokio::time::sleep_until(until) => takes = false,
                jobs = self.queue.more() => self.decide_ahead(&mut ahead, jobs, &head),
            }
        };
        let saved = saved.map(|told| told.into_iter().for_each(|time| self.remembering.told(time)));
        (saved, ahead)
    }

    /// Lets jobs decide on the world of a batch that is being committed.
    fn decide_ahead(&self, ahead: &mut Deciding, jobs: Vec<Job>, head: &Head) {
        match ahead.is_empty() {
            true => ahead.world.set_head(self.next_head(head)),
            false => ahead.world.set_now(head.now),
        }
        ahead.take_in(wanted(jobs));
        if ahead.plan.is_empty() {
            ahead.decide_each();
        }
    }

    /// Lets the jobs decide: on what is remembered, if that has all that they read, else in a transaction. A refusal too is answered
    /// after the commit: it may rest on what an earlier job of the batch decided.
    async fn decide(&mut self, start: Start, care: Care) -> Result<Option<Decided>, Failed> {
        let (mut batch, newest) = match start {
            Start::Ahead(batch, newest) => (batch, newest),
            Start::Jobs(jobs) => {
                let remembered = self.remembering.take().filter(|_| care == Care::Hopeful);
                let Some((world, newest)) = remembered else {
                    let mut batch = Deciding::new(self.new_world(), care);
                    batch.take_in(jobs);
                    return self.decide_in_a_transaction(batch, None).await;
                };
                let mut batch = Deciding::new(world, care);
                batch.take_in(jobs);
                (batch, newest)
            }
        };
        if batch.plan.is_empty()
            && let Some(head) = self.remembering.now_after(&newest.head)
        {
            match batch.decided.is_empty() {
                true => batch.world.set_head(self.next_head(&head)),
                false => batch.world.set_now(head.now),
            }
            batch.decide_each();
            if batch.jobs.is_empty() {
                return Ok(Some(batch.done(newest.head, Way::After(newest.batch_id))));
            }
        }
        self.decide_in_a_transaction(batch, Some(newest.head)).await
    }

    /// Opens a transaction and lets the jobs decide that have not. If what was remembered is not so any more, all decide anew.
    async fn decide_in_a_transaction(
        &mut self,
        mut batch: Deciding,
        remembered: Option<Head>,
    ) -> Result<Option<Decided>, Failed> {
        self.pay();
        let plan = std::mem::take(&mut batch.plan);
        let begun = heard(&self.gap, self.store.begin(&self.namespace, plan.clone())).await;
        let (mut transaction, head, rows) = match begun {
            Ok(begun) => begun,
            Err(error) => return batch.give_up(error),
        };
        self.remembering.told(head.now);
        let mut loaded = Some((plan, rows));
        if remembered.is_some_and(|remembered| !is_still(&remembered, &head)) {
            self.remembering.was_wrong();
            let care = batch.care;
            let jobs = batch.into_jobs();
            batch = Deciding::new(self.new_world(), care);
            batch.take_in(jobs);
            loaded = None;
        }
        match batch.decided.is_empty() {
            true => batch.world.set_head(self.next_head(&head)),
            false => batch.world.set_now(head.now),
        }
        for _ in 0..MAX_LOADS {
            let (plan, rows) = match loaded.take() {
                Some(loaded) => loaded,
                None => {
                    let plan = std::mem::take(&mut batch.plan);
                    match transaction.load(plan.clone()).await {
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

/// Waits for the store. If it was silent for long, clients could not make themselves heard: that is a gap, which is noted before any
/// job decides on what it means that somebody was not heard of.
async fn heard<T>(gap: &Gap, operation: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let outcome = operation.await;
    if began.elapsed() > SILENCE {
        gap.store_was_silent();
    }
    outcome
}

/// Sends what a batch has changed; tells the store's time, if that was told.
async fn send(store: &Store, namespace: &str, save: Save, way: Way) -> Result<Option<Time>, NotSaved> {
    match way {
        Way::Transaction(transaction) => {
            let committed = transaction.commit(save).await;
            committed.map(|()| None).map_err(NotSaved::Error)
        }
        Way::After(newest) => match store.append(namespace, &newest, save).await {
            Ok(time) => Ok(Some(time)),
            Err(StoreError::Unavailable(cause)) => {
                tracing::debug!(%namespace, %cause, "a batch has to be decided again");
                Err(NotSaved::Overtaken)
            }
            Err(error) => Err(NotSaved::Error(error)),
        },
    }
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

fn jobs_of(ahead: Option<(Deciding, Newest)>) -> Vec<Job> {
    ahead.map(|(batch, _)| batch.into_jobs()).unwrap_or_default()
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
