//! A machine for tests: its time is the runtime's, which a test can pause; its chance comes from a seed; and its processes can be
//! stopped, continued and killed, each with everything that it has spawned.
//!
//! There is at most one on a thread. Whatever the thread does while it is there is a function of the seed.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

thread_local! {
    static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) };
    static PROCESS: RefCell<Option<Arc<Process>>> = const { RefCell::new(None) };
}

/// When every simulation begins, by the clock on the wall: in January 2027.
const BEGINNING: Duration = Duration::from_secs(1_800_000_000);

struct Machine {
    began: Instant,
    chance: StdRng,
}

/// The machine that a thread simulates, until it is dropped.
pub struct Simulated;

impl Simulated {
    /// Puts a machine in place of the thread's own. To be called in a runtime whose clock is paused.
    pub fn new(seed: u64) -> Simulated {
        let machine = Machine {
            began: Instant::now(),
            chance: StdRng::seed_from_u64(seed),
        };
        MACHINE.with_borrow_mut(|slot| {
            assert!(slot.is_none(), "one machine at a time");
            *slot = Some(machine);
        });
        Simulated
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        MACHINE.with_borrow_mut(Option::take);
    }
}

/// Whether the thread simulates a machine.
pub(super) fn is_running() -> bool {
    MACHINE.with_borrow(Option::is_some)
}

pub(super) fn wall() -> Option<SystemTime> {
    MACHINE.with_borrow(|machine| {
        let machine = machine.as_ref()?;
        Some(UNIX_EPOCH + BEGINNING + machine.began.elapsed())
    })
}

pub(super) fn with_chance<T>(take: impl FnOnce(&mut dyn RngCore) -> T) -> T {
    MACHINE.with_borrow_mut(|machine| take(&mut machine.as_mut().expect("a machine is simulated").chance))
}

/// The process whose code is running, if any.
pub(super) fn process() -> Option<Arc<Process>> {
    PROCESS.with_borrow(Clone::clone)
}

/// A process: whatever is spawned in it, or by what was spawned in it.
#[derive(Default)]
pub struct Process {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    condition: Condition,
    stopped_at: Option<Instant>,
    tasks: Vec<AbortHandle>,
    /// Those that wait until the process goes on.
    stopped: Vec<Waker>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Condition {
    #[default]
    Running,
    Stopped,
    Dead,
}

impl Process {
    /// A process in which nothing runs yet.
    pub fn new() -> Arc<Process> {
        Arc::default()
    }

    /// Runs something as a part of it.
    pub fn enter<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let _entered = Entered::into(self);
        work()
    }

    /// Spawns a task of it.
    pub fn spawn<F>(self: &Arc<Self>, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let gate = Gate {
            process: Arc::clone(self),
            work: Some(Box::pin(work)),
        };
        let task = tokio::spawn(gate);
        let mut state = self.lock();
        if state.tasks.len() == state.tasks.capacity() {
            state.tasks.retain(|task| !task.is_finished());
        }
        state.tasks.push(task.abort_handle());
        task
    }

    /// SIGSTOP: nothing of it runs until it is continued.
    pub fn stop(&self) {
        let mut state = self.lock();
        if state.condition == Condition::Running {
            state.condition = Condition::Stopped;
            state.stopped_at = Some(Instant::now());
        }
    }

    /// SIGCONT. Tells how long it was stopped.
    pub fn resume(&self) -> Duration {
        let mut state = self.lock();
        let stopped_at = state.stopped_at.take();
        if state.condition == Condition::Stopped {
            state.condition = Condition::Running;
        }
        let stopped = std::mem::take(&mut state.stopped);
        drop(state);
        stopped.into_iter().for_each(Waker::wake);
        stopped_at.map_or(Duration::ZERO, |stopped_at| stopped_at.elapsed())
    }

    /// SIGKILL: nothing of it runs any more.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.condition = Condition::Dead;
        state.stopped_at = None;
        state.stopped.clear();
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        tasks.into_iter().for_each(|task| task.abort());
    }

    /// Whether it was killed.
    pub fn is_dead(&self) -> bool {
        self.lock().condition == Condition::Dead
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}

/// A value that can be waited for. Those who wait go on in the order in which they came; of [`tokio::sync::watch`] chance decides that.
#[derive(Default)]
pub struct Switch<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T> Switch<T> {
    /// A switch that is set to this.
    pub fn new(value: T) -> Switch<T> {
        Switch {
            value: Mutex::new(value),
            changed: Notify::new(),
        }
    }

    /// Changes it.
    pub fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.value.lock().expect("no panic under this lock"));
        self.changed.notify_waiters();
    }

    /// Looks at it.
    pub fn look<A>(&self, look: impl FnOnce(&T) -> A) -> A {
        look(&self.value.lock().expect("no panic under this lock"))
    }

    /// Waits until it is as wanted.
    pub async fn wait_for(&self, wanted: impl Fn(&T) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.look(&wanted) {
                return;
            }
            changed.await;
        }
    }
}

/// While it is there, what is spawned belongs to a process.
struct Entered(Option<Arc<Process>>);

impl Entered {
    fn into(process: &Arc<Process>) -> Entered {
        Entered(PROCESS.replace(Some(Arc::clone(process))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        PROCESS.set(self.0.take());
    }
}

/// A task that runs while its process does.
struct Gate<F> {
    process: Arc<Process>,
    work: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Gate<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut state = self.process.lock();
        match state.condition {
            Condition::Running => {}
            Condition::Stopped => {
                if !state.stopped.iter().any(|waker| waker.will_wake(context.waker())) {
                    state.stopped.push(context.waker().clone());
                }
                return Poll::Pending;
            }
            Condition::Dead => {
                drop(state);
                self.end();
                return Poll::Pending;
            }
        }
        drop(state);
        let Gate { process, work } = &mut *self;
        let Some(work) = work else {
            return Poll::Pending;
        };
        let _entered = Entered::into(process);
        work.as_mut().poll(context)
    }
}

impl<F> Gate<F> {
    /// What the work does when it is dropped belongs to its process too.
    fn end(&mut self) {
        let _entered = Entered::into(&self.process);
        drop(self.work.take());
    }
}

impl<F> Drop for Gate<F> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;

    #[tokio::test(start_paused = true)]
    async fn a_seed_makes_the_same_chance_again() {
        let draw = || {
            let _simulated = Simulated::new(7);
            (0..4)
                .map(|_| (machine::random::<u64>(), machine::new_id()))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_process_goes_on_where_it_was_and_a_dead_one_does_not() {
        let process = Process::new();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        process.spawn(async move {
            let child = sender.clone();
            machine::spawn(async move {
                for number in 0.. {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    child.send(number).unwrap();
                }
            });
            std::future::pending::<()>().await;
            drop(sender);
        });
        assert_eq!(receiver.recv().await, Some(0));
        process.stop();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(receiver.is_empty(), "what a process has spawned stops with it");
        process.resume();
        assert_eq!(receiver.recv().await, Some(1));
        process.kill();
        assert_eq!(receiver.recv().await, None, "a dead process has dropped everything");
    }
}
