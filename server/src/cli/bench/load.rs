//! Callers that do the same thing again and again, for a while or so many times.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;
use tonic::Status;

use super::pace::Pace;
use super::tally::{Checked, Tally};
use crate::cli::Failure;

/// How long after the end what has begun may take, and what should have begun may begin.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many callers are made at once.
const MADE_AT_ONCE: usize = 64;
/// Longer than any run.
const NO_END: Duration = Duration::from_secs(30 * 86_400);

/// How much load, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many callers there are.
    pub callers: usize,
    /// When it ends.
    pub length: Length,
    /// Open loop: how many operations a second are begun.
    pub rate: Option<f64>,
}

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// After a time.
    Time {
        /// How long to run before measuring.
        warm_up: Duration,
        /// How long to measure.
        duration: Duration,
    },
    /// After so many operations, all of which are measured.
    Operations(u64),
}

/// When what is measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The first call begins.
    pub start: Instant,
    /// The measurement begins.
    pub begin: Instant,
    /// It ends; no more calls begin.
    pub end: Instant,
}

impl Window {
    /// Whether a moment is measured.
    pub fn contains(&self, at: Instant) -> bool {
        at >= self.begin && at < self.end
    }
}

/// What an operation has done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// How many calls it made.
    pub calls: u64,
    /// How many of what is counted it got done.
    pub ops: u64,
}

/// What callers do.
pub trait Workload: Send + Sync + 'static {
    /// What callers work on: a client of the server, in most cases.
    type Target: Sync;
    /// What a caller keeps from one operation to the next.
    type Caller: Send + 'static;

    /// Makes one caller, and what it needs at its target.
    fn caller(&self, index: usize, target: &Self::Target) -> impl Future<Output = Result<Self::Caller, Status>> + Send;

    /// The callers are about to begin.
    fn begin(&self, _window: Window) {}

    /// One operation. `intended` is when it should have begun.
    fn operate(
        &self,
        caller: &mut Self::Caller,
        intended: Instant,
    ) -> impl Future<Output = Result<Done, Status>> + Send;

    /// Everything is over: checks that what was counted is right.
    fn check(self, callers: Vec<Self::Caller>, target: &Self::Target) -> impl Future<Output = Checked> + Send;
}

/// What a run has come to.
#[derive(Debug)]
pub struct Outcome {
    /// What was counted.
    pub counted: Tally,
    /// How long it was counted for.
    pub measured: Duration,
    /// What the workload makes of it.
    pub checked: Checked,
}

/// Runs a workload as planned, its callers spread over the targets.
pub async fn drive<W: Workload>(workload: W, plan: &Plan, targets: &[W::Target]) -> Result<Outcome, Failure> {
    let workload = Arc::new(workload);
    let made = (0..plan.callers).map(|index| workload.caller(index, &targets[index % targets.len()]));
    let callers: Vec<W::Caller> = stream::iter(made).buffered(MADE_AT_ONCE).try_collect().await?;
    let start = Instant::now() + Duration::from_millis(20);
    let (warm_up, duration) = match plan.length {
        Length::Time { warm_up, duration } => (warm_up, duration),
        Length::Operations(_) => (Duration::ZERO, NO_END),
    };
    let begin = start + warm_up;
    let window = Window {
        start,
        begin,
        end: begin + duration,
    };
    workload.begin(window);
    let turns = Turns::new(window, plan);

    let mut running = JoinSet::new();
    for caller in callers {
        running.spawn(keep_calling(workload.clone(), caller, window, turns.clone()));
    }
    let (mut counted, mut callers) = (Tally::new(), Vec::with_capacity(plan.callers));
    while let Some(ended) = running.join_next().await {
        let (caller, tally) = ended.map_err(|error| Failure::message(format!("a caller failed: {error}")))?;
        callers.push(caller);
        counted.add(&tally);
    }
    counted.not_begun(turns.left());
    let measured = match plan.length {
        Length::Time { duration, .. } => duration,
        Length::Operations(_) => start.elapsed(),
    };
    let workload = Arc::into_inner(workload).ok_or_else(|| Failure::message("a caller is still there"))?;
    let checked = workload.check(callers, &targets[0]).await;
    Ok(Outcome {
        counted,
        measured,
        checked,
    })
}

/// Whose turn it is, and when.
#[derive(Clone)]
enum Turns {
    /// Closed loop: whoever is free, until a moment.
    Until(Instant),
    /// Closed loop: whoever is free, so many times.
    Times(Arc<AtomicU64>),
    /// Open loop: when it is due.
    Due(Arc<Pace>),
}

impl Turns {
    fn new(window: Window, plan: &Plan) -> Turns {
        match (plan.rate, plan.length) {
            (Some(rate), _) => Turns::Due(Arc::new(Pace::start(window, rate))),
            (None, Length::Time { .. }) => Turns::Until(window.end),
            (None, Length::Operations(count)) => Turns::Times(Arc::new(AtomicU64::new(count))),
        }
    }

    /// When the next operation should begin: now, or earlier. None after the last.
    async fn next(&self) -> Option<Instant> {
        match self {
            Turns::Until(end) => Some(Instant::now()).filter(|now| now < end),
            Turns::Times(left) => {
                let relaxed = Ordering::Relaxed;
                let taken = left.fetch_update(relaxed, relaxed, |left| left.checked_sub(1));
                taken.ok().map(|_left| Instant::now())
            }
            Turns::Due(pace) => pace.next().await,
        }
    }

    /// How many that were due were not taken.
    fn left(&self) -> u64 {
        match self {
            Turns::Due(pace) => pace.left(),
            _ => 0,
        }
    }
}

async fn keep_calling<W: Workload>(
    workload: Arc<W>,
    mut caller: W::Caller,
    window: Window,
    turns: Turns,
) -> (W::Caller, Tally) {
    let mut tally = Tally::new();
    tokio::time::sleep_until(window.start.into()).await;
    while let Some(intended) = turns.next().await {
        if Instant::now() > window.end + PATIENCE {
            // It was taken from the pace and will not be done.
            tally.not_begun(1);
            break;
        }
        let done = workload.operate(&mut caller, intended).await;
        tally.record(window, intended, Instant::now(), done);
    }
    (caller, tally)
}
