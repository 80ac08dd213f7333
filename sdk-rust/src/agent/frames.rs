//! What the driver makes of each command from below and each frame from above.

use std::time::{Duration, Instant};

use drumline_proto::v1 as pb;
use pb::connect_notice::Notice;
use pb::connect_request::Frame as Up;
use pb::connect_response::Frame as Down;
use tokio::sync::oneshot;

use super::attempt::Attempt;
use super::attempts::AttemptKey;
use super::context::{Cancel, CancelCause, Inner, TaskContext};
use super::driver::{Command, Driver, End, Running};
use crate::client::request_id;
use crate::error::{Error, Reason, Result};
use crate::time;

impl Driver {
    pub(crate) fn command(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Send {
                session_id,
                frame,
                reply,
            }) => {
                self.say(&session_id, frame, reply);
            }
            Some(Command::Progress(context)) => self.progress(&context),
            Some(Command::Over { key }) => {
                self.outbox.attempt_over(&key);
                self.attempts.end(key);
            }
            Some(Command::Busy(busy)) => {
                self.busy = busy;
                self.say_status();
            }
            Some(Command::Drain) => self.drain(),
            // The driver has a sender itself, so the channel does not close.
            Some(Command::Stop) | None => self.stop(),
        }
    }

    fn is_session(&self, session_id: &str) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.scope.id() == session_id)
    }

    fn say(&mut self, session_id: &str, frame: Up, reply: Option<oneshot::Sender<Result<()>>>) {
        if self.is_session(session_id) {
            let sent = self.outbox.push(frame, reply);
            self.send(sent);
        } else if let Some(reply) = reply {
            // Who waited may have been dropped.
            let _told = reply.send(Err(Error::lost("the session is over")));
        }
    }

    fn progress(&mut self, context: &TaskContext) {
        let report = context.take_report();
        let key = &context.inner.key;
        let session_id = context.client().session_id();
        if self.is_session(&session_id) && self.attempts.get(key).is_some() {
            let sent = self.outbox.progress(key, report);
            sent.into_iter().for_each(|frame| self.send(frame));
        }
    }

    /// Says the agent's own status.
    pub(crate) fn say_status(&mut self) {
        if self.session.is_none() {
            return;
        }
        let status = match (self.leaving.is_leaving(), self.busy) {
            (true, _) => pb::agent::Status::Draining,
            (false, true) => pb::agent::Status::Busy,
            (false, false) => pb::agent::Status::Active,
        };
        let frame = Up::UpdateAgent(pb::UpdateAgentRequest {
            request_id: request_id(),
            agent: Some(pb::Agent {
                status: status as i32,
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["status".into()],
            }),
            ..Default::default()
        });
        let sent = self.outbox.push(frame, None);
        self.send(sent);
    }

    /// After a registration: says the agent's own status where it is not what registering made it.
    pub(crate) fn tell_own_status(&mut self) {
        if self.busy || self.leaving.is_leaving() {
            self.say_status();
        }
    }

    pub(crate) fn response(&mut self, response: pb::ConnectResponse) -> Option<End> {
        let number = response.request_number;
        match response.frame {
            Some(Down::Nonce(nonce)) => {
                self.nonce = nonce.nonce;
                if let Some(session) = &mut self.session {
                    session.watch.nonce(number);
                }
            }
            Some(Down::Assignment(assignment)) => self.assigned(assignment),
            Some(Down::Cancellation(cancellation)) => self.cancelled(cancellation),
            Some(Down::Notice(notice)) => self.notice(notice),
            Some(Down::Error(error)) => return self.refused(number, Error::from_frame(error)),
            None | Some(Down::Welcome(_)) => {}
            Some(_answer) => self.answered(number, Ok(())),
        }
        None
    }

    fn answered(&mut self, number: u64, answer: Result<()>) {
        let (entry, next) = self.outbox.answered(number);
        if let Some(frame) = next {
            self.send(frame);
        }
        if let Some(reply) = entry.and_then(|mut entry| entry.reply()) {
            // Who waited may have been dropped.
            let _told = reply.send(answer);
        }
        self.leaving.answered(number);
    }

    /// A frame was refused. What may be said again is kept for later.
    fn refused(&mut self, number: u64, error: Error) -> Option<End> {
        if error.is_session_over() || error.reason() == Reason::StreamSuperseded {
            return Some(End::Broken(error));
        }
        if error.is_retryable() {
            tracing::debug!(%error, number, "a frame is put off");
            self.outbox.put_off(number, Instant::now(), error.retry_after());
            return None;
        }
        if error.is_stale_attempt()
            && let Some(token) = self.outbox.attempt_token(number)
        {
            let stale = self.attempts.iter().filter(|attempt| attempt.attempt_token == token);
            stale.for_each(|attempt| attempt.cancel.fire(CancelCause::Reassigned));
        }
        self.answered(number, Err(error));
        None
    }

    fn notice(&mut self, notice: pb::ConnectNotice) {
        match notice.notice {
            Some(Notice::LockLost(lost)) => {
                if let Some(session) = &self.session {
                    session.scope.lease_lost(&lost.resource_id, lost.fencing_token);
                }
            }
            Some(Notice::Drain(drain)) => {
                self.move_at = Some(Instant::now() + time::from_proto(drain.reconnect_delay));
            }
            None => {}
        }
    }

    fn cancelled(&mut self, cancellation: pb::TaskCancellation) {
        let key = AttemptKey {
            task_id: cancellation.task_id,
            attempt: cancellation.attempt,
        };
        let cause = match cancellation.cause.as_str() {
            "TIMED_OUT" => CancelCause::TimedOut,
            "REASSIGNED" => CancelCause::Reassigned,
            _ => CancelCause::Cancelled,
        };
        if let Some(attempt) = self.attempts.get(&key) {
            attempt.cancel.fire(cause);
        }
    }

    /// A task is assigned: begins the attempt, unless it was begun before.
    fn assigned(&mut self, assignment: pb::TaskAssignment) {
        let Some(session) = &self.session else { return };
        let task = assignment.task.unwrap_or_default();
        let key = AttemptKey {
            task_id: task.task_id.clone(),
            attempt: assignment.attempt,
        };
        if self.attempts.knows(&key) {
            tracing::debug!(task = task.task_id, "an attempt that is known is not begun again");
            return;
        }
        let Some(handler) = self.config.handler(&task.capability) else {
            return self.unable(&task, assignment.attempt_token);
        };
        let client = self.config.client.with_scope(session.scope.clone());
        let client = match task.traceparent.as_str() {
            "" => client,
            trace => client.with_traceparent(trace),
        };
        let expires = assignment.expires_in.map(|length| time::from_proto(Some(length)));
        let cancel = Cancel::default();
        let attempt_token = assignment.attempt_token;
        let inner = Inner {
            client,
            task,
            key: key.clone(),
            attempt_token: attempt_token.clone(),
            deadline: expires.map(|length| self.received() + length),
            cancel: cancel.clone(),
            commands: self.own.clone(),
            told: Default::default(),
        };
        let attempt = Attempt {
            context: TaskContext { inner: inner.into() },
            handler,
            slots: self.config.slots.clone(),
            grace: self.config.cancel_grace,
        };
        if self.leaving.is_stopping() {
            cancel.fire(CancelCause::Stopping);
        }
        self.attempts.begin(key, Running { cancel, attempt_token });
        self.config.runtime.spawn(attempt.run());
    }

    /// When a frame that was just read may have come at the earliest: if this process was stopped, it may have waited.
    fn received(&self) -> Instant {
        let now = Instant::now();
        let usual = self
            .session
            .as_ref()
            .map_or(Duration::ZERO, |session| session.watch.interval());
        if now.duration_since(self.awake) > usual + usual / 2 {
            self.awake
        } else {
            now
        }
    }

    /// A task that this agent has no handler for.
    fn unable(&mut self, task: &pb::Task, attempt_token: String) {
        let cause = format!("this agent has no handler for {:?}", task.capability);
        let (task_id, request_id) = (task.task_id.clone(), request_id());
        let frame = if task.target_agent.is_empty() {
            Up::RejectTask(pb::RejectTaskRequest {
                request_id,
                task_id,
                attempt_token,
                cause,
                ..Default::default()
            })
        } else {
            let kind = "unsupported".to_owned();
            let error = Some(pb::TaskError {
                kind,
                message: cause,
                permanent: true,
            });
            let fail = pb::FailTaskRequest {
                request_id,
                task_id,
                attempt_token,
                error,
                ..Default::default()
            };
            Up::FailTask(fail)
        };
        let sent = self.outbox.push(frame, None);
        self.send(sent);
    }
}
