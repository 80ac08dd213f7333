//! How an agent leaves: it drains or is stopped, says goodbye, and ends.
//!
//! Draining has no limit of its own: it lasts until every handler has ended and every result was answered, over any number
//! of reconnects. Stopping has one. A goodbye that is not answered is not waited for: the session's TTL does the rest.

use std::time::{Duration, Instant};

use drumline_proto::v1 as pb;
use pb::connect_request::Frame as Up;

use super::context::CancelCause;
use super::driver::Driver;
use crate::client::request_id;

/// How long results may take to be answered after the handlers of a stopping agent have ended or were aborted.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// How long a goodbye may take to be answered.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(2);

/// How far an agent has come in leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// Not at all.
    No,
    /// It takes no more work, and finishes what it has.
    Draining,
    /// Its handlers were told to stop.
    Stopping { until: Instant },
    /// It has said goodbye.
    Goodbye { number: u64, until: Instant },
    /// Its goodbye was answered.
    Gone,
}

impl Leaving {
    pub(crate) fn is_leaving(self) -> bool {
        self != Self::No
    }

    pub(crate) fn is_stopping(self) -> bool {
        !matches!(self, Self::No | Self::Draining)
    }

    pub(crate) fn until(&self) -> Option<Instant> {
        match *self {
            Self::Stopping { until } | Self::Goodbye { until, .. } => Some(until),
            _ => None,
        }
    }

    pub(crate) fn answered(&mut self, answered: u64) {
        if matches!(*self, Self::Goodbye { number, .. } if number == answered) {
            *self = Self::Gone;
        }
    }
}

impl Driver {
    pub(crate) fn drain(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Draining;
            self.say_status();
        }
    }

    pub(crate) fn stop(&mut self) {
        if matches!(self.leaving, Leaving::No | Leaving::Draining) {
            let until = Instant::now() + self.config.cancel_grace + STOP_PATIENCE;
            self.leaving = Leaving::Stopping { until };
            self.cancel_all(CancelCause::Stopping);
        }
    }

    fn has_nothing_left(&self) -> bool {
        self.attempts.is_empty() && self.outbox.is_empty()
    }

    /// Says goodbye once there is nothing left to do; whether the agent has left.
    pub(crate) fn has_left_online(&mut self, now: Instant) -> bool {
        let ready = match self.leaving {
            Leaving::No => false,
            Leaving::Draining => self.has_nothing_left(),
            Leaving::Stopping { until } => self.has_nothing_left() || until <= now,
            Leaving::Goodbye { until, .. } => return until <= now,
            Leaving::Gone => return true,
        };
        if !ready {
            return false;
        }
        if !self.config.deregister {
            return true;
        }
        let request_id = request_id();
        let goodbye = pb::DeregisterAgentRequest {
            request_id,
            ..Default::default()
        };
        let sent = self.outbox.push(Up::DeregisterAgent(goodbye), None);
        let number = sent.request_number;
        self.leaving = Leaving::Goodbye {
            number,
            until: now + GOODBYE_PATIENCE,
        };
        self.send(sent);
        false
    }

    /// Whether the agent has left without a stream to say goodbye on.
    pub(crate) fn has_left_offline(&self, now: Instant) -> bool {
        match self.leaving {
            Leaving::No => false,
            // Without a session there is nothing to finish and nobody to tell.
            Leaving::Draining => self.session.is_none() && self.attempts.is_empty(),
            Leaving::Stopping { until } => until <= now || (self.session.is_none() && self.attempts.is_empty()),
            Leaving::Goodbye { .. } | Leaving::Gone => true,
        }
    }
}
