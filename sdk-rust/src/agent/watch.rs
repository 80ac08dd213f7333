//! The death watch: when this agent must assume that its session is over. Pure: every instant is a parameter.
//!
//! A heartbeat counts when the server has written it, which it says with the next nonce. The session surely lives
//! until a TTL after the last heartbeat that was confirmed so, counted from *before that heartbeat was sent*. Past that, the server
//! may have given everything to others, and the agent must stop acting, whatever its connection looks like.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is known of a session's life.
#[derive(Debug)]
pub(crate) struct DeathWatch {
    ttl: Duration,
    /// When the last sign of life that is known to be written was sent.
    confirmed: Instant,
    /// Heartbeats of the present stream that are not confirmed: request number and when each was sent.
    pending: VecDeque<(u64, Instant)>,
}

impl DeathWatch {
    /// A session whose hello, sent at `sent`, was welcomed.
    pub(crate) fn new(sent: Instant, ttl: Duration) -> Self {
        Self {
            ttl,
            confirmed: sent,
            pending: VecDeque::new(),
        }
    }

    /// After this long without a heartbeat the session is over.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How often to send heartbeats.
    pub(crate) fn interval(&self) -> Duration {
        self.ttl / 3
    }

    /// A heartbeat is about to be sent.
    pub(crate) fn beat(&mut self, number: u64, at: Instant) {
        self.pending.push_back((number, at));
    }

    /// A nonce came: the heartbeat of that number is written, and those before it; the oldest, if it names none.
    pub(crate) fn nonce(&mut self, number: u64) {
        let count = match self.pending.iter().position(|(sent, _)| *sent == number) {
            Some(index) => index + 1,
            None if number == 0 => 1,
            None => 0,
        };
        for (_, at) in self.pending.drain(..count.min(self.pending.len())) {
            self.confirmed = self.confirmed.max(at);
        }
    }

    /// The stream is gone: what was sent on it and not confirmed may never have arrived.
    pub(crate) fn stream_lost(&mut self) {
        self.pending.clear();
    }

    /// When the silence is suspicious: time to try another connection, while the session can still be saved.
    pub(crate) fn suspect_at(&self) -> Instant {
        self.confirmed + self.ttl * 2 / 3
    }

    /// When the session must be assumed to be over.
    pub(crate) fn dead_at(&self) -> Instant {
        self.confirmed + self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3);
    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn life_counts_from_before_the_confirmed_heartbeat_was_sent() {
        let start = Instant::now();
        let mut watch = DeathWatch::new(start, TTL);
        assert_eq!(watch.interval(), S(1));
        watch.beat(2, start + S(1));
        assert_eq!(watch.dead_at(), start + S(3), "sent is not confirmed");
        watch.nonce(0);
        assert_eq!(watch.dead_at(), start + S(4));
        assert_eq!(watch.suspect_at(), start + S(3));
    }

    #[test]
    fn a_nonce_confirms_the_beat_it_names_and_those_before() {
        let start = Instant::now();
        let mut watch = DeathWatch::new(start, TTL);
        (2..5).for_each(|number| watch.beat(number, start + S(number)));
        watch.nonce(3);
        assert_eq!(watch.dead_at(), start + S(3) + TTL);
        watch.nonce(99);
        assert_eq!(
            watch.dead_at(),
            start + S(3) + TTL,
            "a stranger's number confirms nothing"
        );
        watch.nonce(0);
        assert_eq!(watch.dead_at(), start + S(4) + TTL);
    }

    #[test]
    fn a_nonce_that_was_not_asked_for_confirms_nothing() {
        let start = Instant::now();
        let mut watch = DeathWatch::new(start, TTL);
        watch.beat(2, start + S(1));
        watch.stream_lost();
        watch.nonce(0);
        assert_eq!(watch.dead_at(), start + TTL);
    }
}
