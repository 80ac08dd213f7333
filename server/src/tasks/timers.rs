//! When a task is to be looked at again.

use std::time::Duration;

use super::{Task, TaskState};
use crate::config::Retention;
use crate::time::Time;

/// Why an attempt's time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    /// It was not accepted in time.
    Accept,
    /// It took too long.
    Attempt,
    /// Its agent said nothing for too long.
    Progress,
}

impl Timeout {
    /// The kind of the error.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Timeout::Accept => "accept_timeout",
            Timeout::Attempt => "timeout",
            Timeout::Progress => "progress_timeout",
        }
    }

    /// A sentence for people.
    pub(super) fn message(self) -> &'static str {
        match self {
            Timeout::Accept => "the agent did not accept it in time",
            Timeout::Attempt => "the attempt took too long",
            Timeout::Progress => "the agent did not say for too long how far it has come",
        }
    }
}

impl Task {
    /// When the time of the current attempt is over, and why. No timer of an attempt runs before `gap_end`: until then its agent
    /// could not have been heard.
    pub(super) fn attempt_end(&self, gap_end: Time) -> Option<(Time, Timeout)> {
        let assigned_at = self.assigned_at?;
        let from = |start: Time, length: Duration| start.max(gap_end) + length;
        let attempt = (from(assigned_at, self.timeout), Timeout::Attempt);
        let other = match self.state {
            TaskState::Assigned => Some((from(assigned_at, self.accept_timeout), Timeout::Accept)),
            TaskState::Running => self.progress_timeout.map(|length| {
                let heard_at = self.progressed_at.or(self.accepted_at).unwrap_or(assigned_at);
                (from(heard_at, length), Timeout::Progress)
            }),
            _ => return None,
        };
        Some(other.filter(|other| other.0 < attempt.0).unwrap_or(attempt))
    }

    /// The earliest of its timers.
    pub(super) fn next_due(&self, gap_end: Time, retention: &Retention) -> Option<Time> {
        let own = match self.state {
            TaskState::Pending => self.queue_id.is_none().then_some(self.ready_at),
            TaskState::Assigned | TaskState::Running => self.attempt_end(gap_end).map(|(at, _)| at),
            // A workflow's tasks are deleted with it.
            _ if self.workflow_id.is_some() => return None,
            _ => return self.ended_at.map(|ended_at| ended_at + retention.tasks),
        };
        [own, self.deadline_at].into_iter().flatten().min()
    }

    /// When the current attempt times out.
    pub(super) fn expires_at(&self) -> Option<Time> {
        let end = self.assigned_at? + self.timeout;
        Some(self.deadline_at.map_or(end, |deadline| deadline.min(end)))
    }
}
