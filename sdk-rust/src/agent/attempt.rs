//! One attempt from its acceptance to the answer to its outcome, on the runtime of whoever started the agent.
//!
//! The handler runs in a task of its own, so that its panic is a failed attempt and nothing more. Once it is told to stop it has
//! a grace; then it is aborted. What it returned within the grace is still said: the server decides whether it
//! counts, by the attempt's token.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1 as pb;
use pb::connect_request::Frame;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::sleep_until;

use super::capability::{Handler, Outcome, TaskFailure};
use super::context::{CancelCause, TaskContext};
use super::driver::{Command, LARGEST_FRAME};
use crate::client::request_id;
use crate::error::{Error, Reason};

/// All that one attempt needs.
pub(crate) struct Attempt {
    pub(crate) context: TaskContext,
    pub(crate) handler: Handler,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) grace: Duration,
}

/// Tells the driver that the attempt is over, also where its task is dropped.
struct Over(TaskContext);

impl Drop for Over {
    fn drop(&mut self) {
        let key = self.0.inner.key.clone();
        let _sent = self.0.inner.commands.send(Command::Over { key });
    }
}

/// Aborts the handler's task where the attempt's is dropped.
struct AbortOnDrop(JoinHandle<Outcome>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Attempt {
    /// Runs it to the end.
    pub(crate) async fn run(self) {
        let over = Over(self.context.clone());
        let context = self.context.clone();
        let outcome = self.work().await;
        let silent = match context.cancel_cause() {
            Some(CancelCause::Cancelled | CancelCause::Reassigned) => true,
            // The goodbye that follows gives it to others at once.
            Some(CancelCause::Stopping) => outcome.is_err(),
            _ => false,
        };
        if !silent {
            say(&context, outcome).await;
        }
        drop(over);
    }

    /// Waits for a slot, accepts, and runs the handler. The slot is free again before the outcome is said.
    async fn work(self) -> Outcome {
        let Self {
            context,
            handler,
            slots,
            grace,
        } = self;
        let _slot = tokio::select! {
            biased;
            () = context.cancelled() => return Err(unfinished(&context)),
            slot = slots.acquire_owned() => slot,
        };
        let inner = &context.inner;
        inner.tell(Frame::AcceptTask(pb::AcceptTaskRequest {
            request_id: request_id(),
            task_id: inner.key.task_id.clone(),
            attempt_token: inner.attempt_token.clone(),
            ..Default::default()
        }));
        let input = inner.task.input.clone().unwrap_or_default();
        let (own, whose) = (context.clone(), handler);
        let mut task = AbortOnDrop(tokio::spawn(async move { whose(own, input).await }));
        let deadline = async {
            match context.deadline() {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = &mut task.0 => return outcome(ended, &context),
            () = context.cancelled() => {}
            () = deadline => context.inner.cancel.fire(CancelCause::TimedOut),
        }
        match tokio::time::timeout(grace, &mut task.0).await {
            Ok(ended) => outcome(ended, &context),
            Err(_) => Err(unfinished(&context)),
        }
    }
}

/// What the end of the handler's task means. That a handler failed which was told to stop means that it stopped.
fn outcome(ended: Result<Outcome, JoinError>, context: &TaskContext) -> Outcome {
    match ended {
        Ok(Err(_)) if context.cancel_cause().is_some() => Err(unfinished(context)),
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Err(TaskFailure::new("panic", panic_message(panic.as_ref()))),
            Err(_aborted) => Err(TaskFailure::new("agent_lost", "the handler was aborted")),
        },
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the handler panicked".to_owned())
}

/// The failure of a handler that was told to stop.
fn unfinished(context: &TaskContext) -> TaskFailure {
    match context.cancel_cause() {
        Some(CancelCause::TimedOut) => TaskFailure::new("timeout", "the attempt's time was up"),
        _ => TaskFailure::new("agent_lost", "the agent could not know that its session lived"),
    }
}

/// Says the outcome until it is answered for good.
async fn say(context: &TaskContext, outcome: Outcome) {
    let (guards, locks) = context.inner.take_guards();
    let failure = match outcome {
        Ok(result) => match complete(context, result, guards).await {
            Ok(()) => return,
            Err(failure) => failure,
        },
        Err(failure) => Some(failure),
    };
    drop(locks);
    let Some(failure) = failure else { return };
    let frame = Frame::FailTask(pb::FailTaskRequest {
        request_id: request_id(),
        task_id: context.inner.key.task_id.clone(),
        attempt_token: context.inner.attempt_token.clone(),
        error: Some(failure.0),
        ..Default::default()
    });
    if let Err(error) = context.inner.send(frame).await {
        tracing::debug!(%error, task = context.task_id(), "a failure was not taken");
    }
}

/// Says the result. What is refused otherwise than for good becomes the failure to say instead.
async fn complete(
    context: &TaskContext,
    result: pb::Payload,
    guards: Vec<pb::Guard>,
) -> Result<(), Option<TaskFailure>> {
    let request = pb::CompleteTaskRequest {
        request_id: request_id(),
        task_id: context.inner.key.task_id.clone(),
        attempt_token: context.inner.attempt_token.clone(),
        result: Some(result),
        guards,
        ..Default::default()
    };
    if request.encoded_len() > LARGEST_FRAME {
        let message = "the result is larger than a message may be";
        return Err(Some(TaskFailure::new("result_too_large", message).permanent()));
    }
    let answer = context.inner.send(Frame::CompleteTask(request)).await;
    answer.map_err(|error| {
        tracing::debug!(%error, task = context.task_id(), "a result was not taken");
        instead_of_result(&error)
    })
}

/// The failure to say where a result was refused; none where the attempt is over anyway.
fn instead_of_result(error: &Error) -> Option<TaskFailure> {
    let over = error.is_stale_attempt() || error.is_session_over();
    if over || error.kind() == crate::Kind::Lost {
        return None;
    }
    let failure = TaskFailure::from(error.clone());
    let hopeless = matches!(error.reason(), Reason::PayloadTooLarge | Reason::InvalidRequest);
    Some(if hopeless { failure.permanent() } else { failure })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: Reason) -> Error {
        Error::from_frame(pb::Error {
            reason: reason as i32,
            code: 9,
            ..Default::default()
        })
    }

    #[test]
    fn a_refused_result_becomes_a_failure_unless_the_attempt_is_over() {
        assert_eq!(instead_of_result(&refused(Reason::StaleAttempt)), None);
        assert_eq!(instead_of_result(&refused(Reason::SessionEnded)), None);
        assert_eq!(instead_of_result(&Error::lost("gone")), None);
        let fenced = instead_of_result(&refused(Reason::StaleFencingToken)).expect("a failure");
        assert_eq!((fenced.kind(), fenced.is_permanent()), ("stale_fencing_token", false));
        let large = instead_of_result(&refused(Reason::PayloadTooLarge)).expect("a failure");
        assert!(large.is_permanent());
    }
}
