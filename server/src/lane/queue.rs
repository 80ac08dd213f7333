//! The jobs that wait for a lane's next batch: bounded, the urgent before the rest.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;

use super::job::Job;

/// How many jobs may wait.
const MAX_WAITING: usize = 16_384;
/// How many jobs a batch may hold.
const MAX_BATCH: usize = 512;
/// How many bytes of payload a batch may hold, but for its first job.
const MAX_BATCH_BYTES: usize = 8 << 20;

/// Which jobs go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Liveness and completions: what frees something.
    High,
    /// The rest.
    Normal,
    /// Bulk publishing.
    Low,
}

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    by_urgency: [VecDeque<Job>; 3],
    /// The lane has stopped: a new queue is needed.
    closed: bool,
}

/// The queue did not take a job.
pub(super) enum NotTaken {
    /// It takes no more.
    Full,
    /// Its lane has stopped meanwhile: the job needs another queue.
    Closed(Job),
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue {
            waiting: Mutex::new(Waiting::default()),
            arrived: Notify::new(),
        }
    }

    /// Whether the lane behind this queue is there to stay for another job.
    pub(super) fn join(&self) -> bool {
        !self.lock().closed
    }

    /// Adds a job.
    pub(super) fn push(&self, job: Job, urgency: Urgency) -> Result<(), NotTaken> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(NotTaken::Closed(job));
        }
        let count: usize = waiting.by_urgency.iter().map(VecDeque::len).sum();
        // What frees something is never turned away for those who want something.
        if count >= MAX_WAITING && urgency != Urgency::High {
            return Err(NotTaken::Full);
        }
        waiting.by_urgency[urgency as usize].push_back(job);
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes the next batch, waiting for its first job. Nothing if none comes for `idle`: the queue is then closed.
    pub(super) async fn take(&self, idle: Duration) -> Option<Vec<Job>> {
        loop {
            let batch = self.lock().take();
            if !batch.is_empty() {
                return Some(batch);
            }
            if tokio::time::timeout(idle, self.arrived.notified()).await.is_err() {
                let mut waiting = self.lock();
                if waiting.by_urgency.iter().all(VecDeque::is_empty) {
                    waiting.closed = true;
                    return None;
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panic under this lock")
    }
}

impl Waiting {
    fn take(&mut self) -> Vec<Job> {
        let mut batch: Vec<Job> = Vec::new();
        let mut bytes = 0;
        for queue in &mut self.by_urgency {
            while let Some(job) = queue.front() {
                bytes += job.bytes;
                if batch.len() == MAX_BATCH || (!batch.is_empty() && bytes > MAX_BATCH_BYTES) {
                    return batch;
                }
                batch.extend(queue.pop_front());
            }
        }
        batch
    }
}
