//! A batch on its way through a lane: its jobs, and the world that they decide on.

use std::panic::AssertUnwindSafe;

use super::hall::refusal_of;
use super::job::{Job, internal};
use super::table::Halt;
use super::world::{Care, World};
use crate::error::Refusal;
use crate::store::{Head, Plan, StoreError, Transaction};

/// A job with what came of it.
pub(super) type Outcome = (Job, Result<(), Refusal>);

/// A batch while its jobs decide.
pub(super) struct Deciding {
    /// Those that have not.
    pub(super) jobs: Vec<Job>,
    pub(super) decided: Vec<Outcome>,
    pub(super) world: World,
    /// What has to be loaded before it goes on.
    pub(super) plan: Plan,
    pub(super) care: Care,
}

/// A batch whose jobs have decided.
pub(super) struct Decided {
    pub(super) jobs: Vec<Outcome>,
    /// Jobs that wait for rows that those before them made them need.
    pub(super) rest: Vec<Job>,
    pub(super) world: World,
    /// The head as it was stored.
    pub(super) before: Head,
    pub(super) way: Way,
}

/// How a batch comes into the store.
pub(super) enum Way {
    /// By the transaction that read for it.
    Transaction(Transaction),
    /// At once, if this is still the newest batch.
    After(String),
}

/// A batch that was not committed; its jobs can be run again.
pub(super) struct Failed {
    pub(super) jobs: Vec<Job>,
    /// Whether the store refused it; else it has only to be decided again.
    pub(super) refused: bool,
}

impl Deciding {
    /// A batch on a world. What its jobs say that they will read, and the world does not have, is in the plan.
    pub(super) fn new(mut world: World, jobs: Vec<Job>, care: Care) -> Deciding {
        world.set_care(care);
        for job in &jobs {
            job.reads(&mut world);
        }
        Deciding {
            decided: Vec::with_capacity(jobs.len()),
            jobs,
            plan: world.take_plan(),
            world,
            care,
        }
    }

    /// Lets each job decide in turn; those that need rows that are not loaded are left, with a plan.
    pub(super) fn decide_each(&mut self) {
        let world = &mut self.world;
        for mut job in std::mem::take(&mut self.jobs) {
            let mark = world.mark();
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| job.decide(world)));
            match outcome {
                Ok(Ok(())) => self.decided.push((job, Ok(()))),
                Ok(Err(Halt::Load)) => {
                    world.undo_to(mark);
                    self.jobs.push(job);
                }
                Ok(Err(Halt::Refuse(refusal))) => {
                    world.undo_to(mark);
                    self.decided.push((job, Err(refusal)));
                }
                Err(panic) => {
                    world.undo_to(mark);
                    let cause = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                    let cause = cause.or_else(|| panic.downcast_ref::<String>().cloned());
                    tracing::error!(cause = cause.as_deref().unwrap_or("unknown"), "a rule panicked");
                    self.decided.push((job, Err(internal())));
                }
            }
        }
        self.plan = self.world.take_plan();
    }

    /// Every job of the batch, in the order in which they would decide.
    pub(super) fn into_jobs(self) -> Vec<Job> {
        without_outcomes(self.decided).into_iter().chain(self.jobs).collect()
    }

    /// The batch with what is decided by now.
    pub(super) fn done(self, before: Head, way: Way) -> Decided {
        Decided {
            jobs: self.decided,
            rest: self.jobs,
            world: self.world,
            before,
            way,
        }
    }

    /// A batch that cannot go on: back to the caller if the store refused it, else answered.
    pub(super) fn give_up(self, error: StoreError) -> Result<Option<Decided>, Failed> {
        let jobs = self.into_jobs();
        if let StoreError::Refused(cause) = &error {
            tracing::error!(%cause, jobs = jobs.len(), "the store refused to read for a batch");
            return Err(Failed { jobs, refused: true });
        }
        fail(jobs, &error);
        Ok(None)
    }
}

impl Failed {
    /// It has to be decided again, and has nothing to do with why.
    pub(super) fn again(jobs: Vec<Job>) -> Failed {
        Failed { jobs, refused: false }
    }
}

/// Answers jobs whose outcomes are committed.
pub(super) fn answer(jobs: Vec<Outcome>, head: &Head) {
    for (job, outcome) in jobs {
        job.answer(outcome.map(|()| head));
    }
}

pub(super) fn without_outcomes(jobs: Vec<Outcome>) -> Vec<Job> {
    jobs.into_iter().map(|(job, _)| job).collect()
}

/// Answers jobs with a failure of the store.
pub(super) fn fail(jobs: Vec<Job>, error: &StoreError) {
    tracing::warn!(%error, jobs = jobs.len(), "a batch failed");
    let refusal = refusal_of(error);
    for job in jobs {
        job.answer(Err(refusal.clone()));
    }
}
