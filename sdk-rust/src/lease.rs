//! The arithmetic of leases, pure: every instant is a parameter.
//!
//! The server's clock is not ours. A lease is counted on this process's monotonic clock from *before* the request
//! was sent (plus the time that the grant says it waited in the queue), so that its end is never later here than at
//! the server; and its holder stops a margin before that.

use std::time::{Duration, Instant};

/// What is kept back at least at the end of a lease.
const LEAST_MARGIN: Duration = Duration::from_millis(250);

/// How long before its end a lease of this length must not be used any more: a tenth, at least 250 ms, at most half.
pub fn margin(ttl: Duration) -> Duration {
    (ttl / 10).max(LEAST_MARGIN).min(ttl / 2)
}

/// A lease as its holder counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    ttl: Duration,
    counted_from: Instant,
}

impl Lease {
    /// A lease granted by the answer to a request that was sent at `sent` and waited in the queue for `queued`.
    pub fn granted(sent: Instant, queued: Duration, ttl: Duration) -> Self {
        Self {
            ttl,
            counted_from: sent + queued,
        }
    }

    /// The same lease after a renewal that was sent at `sent` succeeded. Answers that overtake one another do no harm.
    pub fn renewed(&mut self, sent: Instant, ttl: Duration) {
        if sent >= self.counted_from {
            *self = Self {
                ttl,
                counted_from: sent,
            };
        }
    }

    /// The length of the lease.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The moment after which the holder must not act any more.
    pub fn usable_until(&self) -> Instant {
        self.counted_from + self.ttl.saturating_sub(margin(self.ttl))
    }

    /// When to renew it.
    pub fn renew_at(&self) -> Instant {
        self.counted_from + self.ttl / 3
    }

    /// Whether the holder may act at `now`.
    pub fn is_usable(&self, now: Instant) -> bool {
        now < self.usable_until()
    }

    /// How long the holder may still act.
    pub fn remaining(&self, now: Instant) -> Duration {
        self.usable_until().saturating_duration_since(now)
    }

    /// How long one try of a renewal may take: a third of what is left, so that a lost answer leaves time for others.
    pub fn renewal_timeout(&self, now: Instant) -> Duration {
        let left = self.remaining(now);
        (left / 3).max(Duration::from_millis(200)).min(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_margin_is_a_tenth_but_at_least_a_quarter_second() {
        assert_eq!(margin(MS(300_000)), MS(30_000));
        assert_eq!(margin(MS(1_000)), MS(250));
        assert_eq!(margin(MS(400)), MS(200));
    }

    #[test]
    fn a_lease_counts_from_before_it_was_asked_for_plus_the_queue() {
        let sent = Instant::now();
        let lease = Lease::granted(sent, MS(5_000), MS(10_000));
        assert_eq!(lease.usable_until(), sent + MS(14_000));
        assert!(lease.is_usable(sent + MS(13_999)));
        assert!(!lease.is_usable(sent + MS(14_000)));
        assert_eq!(lease.remaining(sent + MS(20_000)), Duration::ZERO);
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_sent_not_from_when_it_was_answered() {
        let sent = Instant::now();
        let mut lease = Lease::granted(sent, Duration::ZERO, MS(3_000));
        assert_eq!(lease.renew_at(), sent + MS(1_000));
        lease.renewed(sent + MS(1_000), MS(3_000));
        assert_eq!(lease.usable_until(), sent + MS(3_700));
        lease.renewed(sent + MS(500), MS(3_000));
        assert_eq!(
            lease.usable_until(),
            sent + MS(3_700),
            "an older answer changes nothing"
        );
    }

    #[test]
    fn a_failed_renewal_leaves_time_for_more() {
        let sent = Instant::now();
        let lease = Lease::granted(sent, Duration::ZERO, MS(3_000));
        let first = lease.renewal_timeout(lease.renew_at());
        assert!(lease.renew_at() + first * 2 < lease.usable_until());
        assert_eq!(lease.renewal_timeout(lease.usable_until()), Duration::ZERO);
    }
}
