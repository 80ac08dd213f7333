//! What callers did and were told, and whether a sequential object could have told them so.
//!
//! Every operation has the time at which it was sent and, if it was answered, the time at which it was; one clock measures all. An
//! operation without an answer may have happened at any time since it was sent, or never: [`Model::forget`] makes it one whose outcome
//! nobody knows. The search for an order that explains a history is done by `todc-utils`; here are the models, and what makes a finding
//! readable: a history that cannot be explained is cut down to its shortest beginning that cannot.

pub mod document;
pub mod lock;
pub mod task;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

/// How long the search for an order may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many of the last operations of a wrong history are shown.
const SHOWN: usize = 24;

/// An object as it would be if only one operation were under way at a time.
pub trait Model: Specification {
    /// The same operation, without what is known of its outcome.
    fn forget(operation: &Self::Operation) -> Self::Operation;
}

/// The one clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Clock {
        Clock { began: Instant::now() }
    }

    /// How late it is.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// An operation with its times.
#[derive(Clone, Debug)]
pub struct Recorded<O> {
    /// What was asked, and what was answered.
    pub operation: O,
    /// When it was sent.
    pub sent: Duration,
    /// When it was answered; nothing if it never was, and may yet happen.
    pub answered: Option<Duration>,
}

/// Fails unless some order explains the history.
pub fn assert_linearizable<M>(what: &str, history: &[Recorded<M::Operation>])
where
    M: Model,
    M::Operation: Send + 'static,
{
    if is_linearizable::<M>(what, history) {
        return;
    }
    let mut times: Vec<Duration> = history.iter().filter_map(|one| one.answered).collect();
    times.sort_unstable();
    // Every beginning of an explained history can be explained, so the shortest that cannot is found by halving.
    let short = times.partition_point(|time| is_linearizable::<M>(what, &until::<M>(history, *time)));
    let time = times.get(short).copied().unwrap_or(Duration::MAX);
    let mut seen = until::<M>(history, time);
    seen.sort_by_key(|one| one.answered.unwrap_or(one.sent));
    let last: Vec<String> = seen[seen.len().saturating_sub(SHOWN)..]
        .iter()
        .map(|one| format!("  {:?} to {:?}: {:?}", one.sent, one.answered, one.operation))
        .collect();
    panic!(
        "no order explains the history of {what} up to {time:?}, the {} of {} answers. Its end:\n{}",
        short + 1,
        times.len(),
        last.join("\n")
    );
}

/// What was known of a history at a time.
fn until<M: Model>(history: &[Recorded<M::Operation>], time: Duration) -> Vec<Recorded<M::Operation>> {
    let begun = history.iter().filter(|one| one.sent <= time);
    begun
        .map(|one| match one.answered {
            Some(answered) if answered <= time => one.clone(),
            _ => Recorded {
                operation: M::forget(&one.operation),
                sent: one.sent,
                answered: None,
            },
        })
        .collect()
}

/// Whether some order explains the history.
///
/// # Panics
/// If that is not found out in time.
pub fn is_linearizable<M>(what: &str, history: &[Recorded<M::Operation>]) -> bool
where
    M: Model,
    M::Operation: Send + 'static,
{
    if history.is_empty() {
        return true;
    }
    let actions = actions(history);
    let (found, finding) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody listens any more if it took too long.
        let _ = found.send(WGLChecker::<Ending<M>>::is_linearizable(History::from_actions(actions)));
    });
    let found = finding.recv_timeout(PATIENCE);
    found.unwrap_or_else(|error| {
        panic!(
            "the history of {what}, {} operations, was not decided: {error}",
            history.len()
        )
    })
}

/// An object whose history ends: then whatever was never answered can be said not to have happened. Before that it counts only where it
/// changes something, or the search would try all the places at which it does nothing.
struct Ending<M> {
    model: PhantomData<M>,
}

#[derive(Clone, Debug)]
enum Step<O> {
    Answered(O),
    Unanswered(O),
    End,
}

impl<M: Model> Specification for Ending<M> {
    type State = (M::State, bool);
    type Operation = Step<M::Operation>;

    fn init() -> Self::State {
        (M::init(), false)
    }

    fn apply(step: &Self::Operation, (state, has_ended): &Self::State) -> (bool, Self::State) {
        let (fits, next) = match step {
            Step::Answered(operation) => M::apply(operation, state),
            Step::Unanswered(_) if *has_ended => (true, state.clone()),
            Step::Unanswered(operation) => {
                let (fits, next) = M::apply(operation, state);
                (fits && next != *state, next)
            }
            Step::End => (true, state.clone()),
        };
        (fits, (next, *has_ended || matches!(step, Step::End)))
    }
}

/// The calls and answers in their order. At the same time calls come first: what is not certainly one after the other is beside it.
fn actions<O: Clone>(history: &[Recorded<O>]) -> Vec<(usize, Action<Step<O>>)> {
    const END: Duration = Duration::MAX;
    let mut actions = Vec::with_capacity(2 * history.len() + 2);
    for (process, one) in history.iter().enumerate() {
        let step = match one.answered {
            Some(_) => Step::Answered(one.operation.clone()),
            None => Step::Unanswered(one.operation.clone()),
        };
        actions.push(((one.sent, 0), (process, Action::Call(step.clone()))));
        let place = one.answered.map_or((END, 3), |answered| (answered, 1));
        actions.push((place, (process, Action::Response(step))));
    }
    let process = history.len();
    actions.push(((END, 1), (process, Action::Call(Step::End))));
    actions.push(((END, 2), (process, Action::Response(Step::End))));
    actions.sort_by_key(|(place, _)| *place);
    actions.into_iter().map(|(_, action)| action).collect()
}
