//! Gaps: times in which clients could not reach the server, or the server could not see that they did.
//!
//! A cold start, a process that was stopped, a store that was silent, clocks that moved apart: what an agent did not say in such a
//! time says nothing of the agent. So after a gap nobody is declared dead, and no lease timer fires, until a full TTL has passed.
//!
//! Who asks [`Gap::end`] finds a gap that ended this very moment too: a process that was stopped may wake in the middle of a sweep,
//! before anything else has noticed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::machine::{self, Instant};
use crate::time::Time;

/// How often the clocks are looked at.
const TICK: Duration = Duration::from_millis(250);
/// From this long on a silence is a gap.
const LEAST: Duration = Duration::from_secs(1);

/// The end of the last gap. Cheap to clone.
#[derive(Clone)]
pub struct Gap {
    seen: Arc<Mutex<Seen>>,
}

struct Seen {
    /// When the last gap ended.
    end: Instant,
    /// When the clocks were last looked at.
    looked: Instant,
    /// What the machine's clock said then.
    wall: SystemTime,
    /// Whether somebody looks regularly: else it means nothing that nobody did.
    ticking: bool,
}

impl Default for Gap {
    fn default() -> Gap {
        Gap::new()
    }
}

impl Gap {
    /// A server's start is the end of a gap.
    pub fn new() -> Gap {
        let now = Instant::now();
        let seen = Seen {
            end: now,
            looked: now,
            wall: machine::wall(),
            ticking: false,
        };
        Gap {
            seen: Arc::new(Mutex::new(seen)),
        }
    }

    /// Looks at the clocks from now on, until the server stops.
    pub fn start(&self, draining: CancellationToken) {
        let gap = self.clone();
        {
            let mut seen = gap.lock();
            seen.look(Instant::now(), machine::wall());
            seen.ticking = true;
        }
        machine::spawn(async move {
            while draining.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
                gap.lock().look(Instant::now(), machine::wall());
            }
        });
    }

    /// To be called when the store has answered after more than a second, or answers again: before anything is decided on what it said.
    pub fn store_was_silent(&self) {
        let mut seen = self.lock();
        seen.end = Instant::now();
        tracing::warn!("the store was silent: nobody is declared dead before a full TTL has passed");
    }

    /// When the last gap ended, on the monotonic clock.
    pub fn end(&self) -> Instant {
        let mut seen = self.lock();
        seen.look(Instant::now(), machine::wall());
        seen.end
    }

    /// When the last gap ended, by the store's clock, of which `now` is the reading of the batch that asks.
    pub fn end_at(&self, now: Time) -> Time {
        now - self.end().elapsed()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic under this lock")
    }
}

impl Seen {
    fn look(&mut self, now: Instant, wall: SystemTime) {
        let since = now.saturating_duration_since(self.looked);
        let by_wall = match wall.duration_since(self.wall) {
            Ok(forward) => forward.abs_diff(since),
            Err(backward) => backward.duration() + since,
        };
        let late = self.ticking && since > TICK + LEAST;
        if late || by_wall > LEAST {
            self.end = now;
            tracing::warn!(?since, apart = ?by_wall, "a gap: nobody is declared dead before a full TTL has passed");
        }
        self.looked = now;
        self.wall = wall;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(now: Instant, wall: SystemTime) -> Seen {
        Seen {
            end: now,
            looked: now,
            wall,
            ticking: true,
        }
    }

    #[test]
    fn regular_looks_make_no_gap() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let mut seen = seen(start, wall);
        for tick in 1..100 {
            seen.look(start + TICK * tick, wall + TICK * tick);
        }
        assert_eq!(seen.end, start);
    }

    #[test]
    fn a_late_look_ends_a_gap() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let mut seen = seen(start, wall);
        let late = Duration::from_secs(4);
        seen.look(start + late, wall + late);
        assert_eq!(seen.end, start + late);
    }

    #[test]
    fn clocks_that_move_apart_end_a_gap() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        for wall_now in [wall + Duration::from_secs(60), wall - Duration::from_secs(60)] {
            let mut seen = seen(start, wall);
            seen.look(start + TICK, wall_now);
            assert_eq!(seen.end, start + TICK);
        }
    }

    #[test]
    fn a_silent_store_ends_a_gap() {
        let gap = Gap::new();
        let start = gap.end();
        gap.store_was_silent();
        assert!(gap.end() >= start);
        let now = Time::of_this_machine();
        assert!(now.since(gap.end_at(now)) < Duration::from_secs(1));
    }
}
