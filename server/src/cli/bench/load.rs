//! Callers that do the same thing again and again, for a while.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drumline::Client;
use tokio::task::JoinSet;
use tonic::Status;

use super::pace::Pace;
use super::tally::{Checked, Tally};
use crate::cli::Failure;

/// How long after the end what has begun may take, and what should have begun may begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much load, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many callers there are.
    pub callers: usize,
    /// How long to run before measuring.
    pub warm_up: Duration,
    /// How long to measure.
    pub duration: Duration,
    /// Open loop: how many operations a second are begun.
    pub rate: Option<f64>,
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
    /// What a caller keeps from one operation to the next.
    type Caller: Send + 'static;

    /// Makes one caller, and what it needs at the server.
    fn caller(&self, index: usize, client: &Client) -> impl Future<Output = Result<Self::Caller, Status>> + Send;

    /// The callers are about to begin.
    fn begin(&self, _window: Window) {}

    /// One operation. `intended` is when it should have begun.
    fn operate(
        &self,
        caller: &mut Self::Caller,
        intended: Instant,
    ) -> impl Future<Output = Result<Done, Status>> + Send;

    /// Everything is over: checks that what was counted is right.
    fn check(self, callers: Vec<Self::Caller>, client: &Client) -> impl Future<Output = Checked> + Send;
}

/// Runs a workload as planned; returns what was counted, and what the workload makes of it.
pub async fn drive<W: Workload>(workload: W, plan: &Plan, clients: &[Client]) -> Result<(Tally, Checked), Failure> {
    let workload = Arc::new(workload);
    let mut callers = Vec::with_capacity(plan.callers);
    for index in 0..plan.callers {
        callers.push(workload.caller(index, &clients[index % clients.len()]).await?);
    }
    let start = Instant::now() + Duration::from_millis(20);
    let begin = start + plan.warm_up;
    let window = Window {
        start,
        begin,
        end: begin + plan.duration,
    };
    workload.begin(window);
    let pace = plan.rate.map(|rate| Arc::new(Pace::start(window, rate)));

    let mut running = JoinSet::new();
    for caller in callers {
        running.spawn(keep_calling(workload.clone(), caller, window, pace.clone()));
    }
    let (mut total, mut callers) = (Tally::new(), Vec::with_capacity(plan.callers));
    while let Some(ended) = running.join_next().await {
        let (caller, tally) = ended.map_err(|error| Failure::message(format!("a caller failed: {error}")))?;
        callers.push(caller);
        total.add(&tally);
    }
    if let Some(pace) = pace {
        total.not_begun(pace.left());
    }
    let workload = Arc::into_inner(workload).ok_or_else(|| Failure::message("a caller is still there"))?;
    let checked = workload.check(callers, &clients[0]).await;
    Ok((total, checked))
}

async fn keep_calling<W: Workload>(
    workload: Arc<W>,
    mut caller: W::Caller,
    window: Window,
    pace: Option<Arc<Pace>>,
) -> (W::Caller, Tally) {
    let mut tally = Tally::new();
    tokio::time::sleep_until(window.start.into()).await;
    loop {
        let intended = match &pace {
            Some(pace) => pace.next().await,
            None => Some(Instant::now()).filter(|now| *now < window.end),
        };
        let Some(intended) = intended else { break };
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
