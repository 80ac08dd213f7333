//! What a handler knows of its attempt, and how it speaks to the server about it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use drumline_proto::v1 as pb;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::attempts::AttemptKey;
use super::capability::truncate;
use super::driver::{Command, LARGEST_FRAME};
use crate::client::{Client, request_id};
use crate::error::{Error, Result};
use crate::lock_guard::LockGuard;
use crate::locks::Acquire;
use crate::payload;

/// Why a handler was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelCause {
    /// The task was cancelled: nobody waits for its result any more.
    Cancelled,
    /// The attempt's time is up.
    TimedOut,
    /// The task was given to another.
    Reassigned,
    /// The session is over, or may be: another may have the task already.
    SessionLost,
    /// The agent is being stopped.
    Stopping,
}

/// The order to stop, with its cause. The first one counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancel {
    token: CancellationToken,
    cause: Arc<OnceLock<CancelCause>>,
}

impl Cancel {
    pub(crate) fn fire(&self, cause: CancelCause) {
        // Only the first cause is told.
        let _first = self.cause.set(cause);
        self.token.cancel();
    }

    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    pub(crate) fn cause(&self) -> Option<CancelCause> {
        self.cause.get().copied()
    }
}

/// One attempt at a task, as its handler sees it. Clones are the same attempt.
#[derive(Clone, Debug)]
pub struct TaskContext {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) task: pb::Task,
    pub(crate) key: AttemptKey,
    pub(crate) attempt_token: String,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: Cancel,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) told: Mutex<Told>,
}

/// What the handler has said so far.
#[derive(Debug, Default)]
pub(crate) struct Told {
    progress: f64,
    message: String,
    /// Whether the driver was told that there is progress to say, and has not looked yet.
    announced: bool,
    pub(crate) guards: Vec<pb::Guard>,
    pub(crate) locks: Vec<LockGuard>,
}

impl TaskContext {
    /// The task, all that the server said of it.
    pub fn task(&self) -> &pb::Task {
        &self.inner.task
    }

    /// The task's id.
    pub fn task_id(&self) -> &str {
        &self.inner.task.task_id
    }

    /// The capability that was asked for; empty if the task is for this agent whatever the capability.
    pub fn capability(&self) -> &str {
        &self.inner.task.capability
    }

    /// Links events of one undertaking.
    pub fn correlation_id(&self) -> &str {
        &self.inner.task.correlation_id
    }

    /// The number of this attempt, 1 for the first. Effects outside happen at least once; give it to whom they concern.
    pub fn attempt(&self) -> i32 {
        self.inner.key.attempt
    }

    /// The secret of this attempt.
    pub fn attempt_token(&self) -> &str {
        &self.inner.attempt_token
    }

    /// When the attempt times out, on this process's monotonic clock; `None` if it does not.
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.deadline
    }

    /// How long the attempt may still take.
    pub fn remaining(&self) -> Option<Duration> {
        self.inner
            .deadline
            .map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// What an earlier attempt left to go on from.
    pub fn last_checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.inner.task.checkpoint.as_ref().map(payload::decode).transpose()
    }

    /// Ready once the handler should stop. It is dropped a while after.
    pub async fn cancelled(&self) {
        self.inner.cancel.token().cancelled().await;
    }

    /// Fires when the handler should stop.
    pub fn cancellation(&self) -> CancellationToken {
        self.inner.cancel.token().child_token()
    }

    /// Whether the handler should stop.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancel.token().is_cancelled()
    }

    /// Why the handler should stop.
    pub fn cancel_cause(&self) -> Option<CancelCause> {
        self.inner.cancel.cause()
    }

    /// A client that acts under the agent's session, and with the task's trace: what it changes is refused once the session is over.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Asks for a lock that belongs to this attempt, and ends with it.
    pub fn lock(&self, resource_id: &str) -> Acquire {
        let acquire = self.inner.client.locks().acquire(resource_id);
        acquire
            .attempt_token(self.attempt_token())
            .correlation_id(self.correlation_id())
    }

    /// Has the completion refused unless this lock is still held then. The lock is kept until the completion is answered.
    pub fn complete_under(&self, lock: LockGuard) {
        let mut told = self.told();
        told.guards.push(lock.guard());
        told.locks.push(lock);
    }

    /// Has the completion refused unless the lock of this guard is still held then.
    pub fn complete_with_guard(&self, guard: pb::Guard) {
        self.told().guards.push(guard);
    }

    /// Says how far the task has come, 0 to 1. Returns at once; of several that follow fast, the newest is sent.
    pub fn progress(&self, fraction: f64, message: impl Into<String>) {
        let mut message = message.into();
        truncate(&mut message, 1_024);
        let mut told = self.told();
        told.progress = if fraction.is_nan() {
            0.0
        } else {
            fraction.clamp(0.0, 1.0)
        };
        told.message = message;
        if !std::mem::replace(&mut told.announced, true) {
            // Without a driver nobody is there to hear it, and the attempt is being cancelled.
            let _sent = self.inner.commands.send(Command::Progress(self.clone()));
        }
    }

    /// What the handler last said, for the driver.
    pub(crate) fn take_report(&self) -> pb::ReportProgressRequest {
        self.told().announced = false;
        self.report(None)
    }

    /// Leaves something for the next attempt to go on from, in case this one does not end well. Returns once it is kept.
    pub async fn checkpoint<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        let report = self.report(Some(payload::json(value)?));
        if prost::Message::encoded_len(&report) > LARGEST_FRAME {
            return Err(Error::payload("the checkpoint is larger than a message may be"));
        }
        let frame = pb::connect_request::Frame::ReportProgress(report);
        tokio::select! {
            biased;
            () = self.cancelled() => Err(Error::lost("the attempt was cancelled")),
            answer = self.inner.send(frame) => answer,
        }
    }

    fn report(&self, checkpoint: Option<pb::Payload>) -> pb::ReportProgressRequest {
        let told = self.told();
        pb::ReportProgressRequest {
            request_id: request_id(),
            task_id: self.inner.key.task_id.clone(),
            attempt_token: self.inner.attempt_token.clone(),
            progress: told.progress,
            progress_message: told.message.clone(),
            checkpoint,
            ..Default::default()
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.inner.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Says something that must arrive, and waits for the answer, over any number of reconnects.
    pub(crate) async fn send(&self, frame: pb::connect_request::Frame) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let session_id = self.client.session_id();
        let stopped = || Error::lost("the agent has stopped");
        let command = Command::Send {
            session_id,
            frame,
            reply: Some(reply),
        };
        self.commands.send(command).map_err(|_closed| stopped())?;
        answer.await.unwrap_or_else(|_closed| Err(stopped()))
    }

    /// Says something that need not be waited for.
    pub(crate) fn tell(&self, frame: pb::connect_request::Frame) {
        let session_id = self.client.session_id();
        let _sent = self.commands.send(Command::Send {
            session_id,
            frame,
            reply: None,
        });
    }

    /// Takes what the completion is to be guarded with.
    pub(crate) fn take_guards(&self) -> (Vec<pb::Guard>, Vec<LockGuard>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut told.guards), std::mem::take(&mut told.locks))
    }
}
