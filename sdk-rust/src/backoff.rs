//! How long to wait before trying again: exponential, with full jitter above a floor, pure but for the dice, which the
//! caller may throw itself.

use std::time::Duration;

/// A growing wait between tries.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    /// Waits about `first` before the second try, twice that before the third, never more than `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, tries: 0 }
    }

    /// The next wait, by a throw of the dice.
    pub fn wait(&mut self) -> Duration {
        self.wait_at(rand::random::<f64>())
    }

    /// The next wait, for a `dice` between 0 and 1: between half of the step and the whole of it.
    pub fn wait_at(&mut self, dice: f64) -> Duration {
        let step = self.first.saturating_mul(1_u32 << self.tries.min(20)).min(self.most);
        self.tries = self.tries.saturating_add(1);
        step.mul_f64(0.5 + 0.5 * dice.clamp(0.0, 1.0))
    }

    /// The next wait, but not before the server asked for it.
    pub fn wait_after(&mut self, hint: Option<Duration>) -> Duration {
        let wait = self.wait();
        hint.map_or(wait, |hint| hint + wait.min(hint))
    }

    /// No wait from now on is longer than this, but for the server's hint.
    pub fn limit(&mut self, most: Duration) {
        self.most = most;
    }

    /// How many waits were taken since the last success.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let waits: Vec<u128> = (0..4).map(|_| backoff.wait_at(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        backoff.limit(Duration::from_millis(200));
        assert_eq!(backoff.wait_at(1.0), Duration::from_millis(200));
        backoff.limit(Duration::from_millis(350));
        assert_eq!(backoff.wait_at(1.0), Duration::from_millis(350));
        backoff.reset();
        assert_eq!(backoff.wait_at(0.0), Duration::from_millis(50));
    }

    #[test]
    fn many_tries_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for _ in 0..100 {
            assert!(backoff.wait() <= Duration::from_secs(5));
        }
    }

    #[test]
    fn the_servers_hint_is_a_floor() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        assert!(backoff.wait_after(Some(Duration::from_secs(2))) >= Duration::from_secs(2));
    }
}
