//! The beat of an open loop: operations are due at a rate, whoever is free takes the next.
//!
//! A thread of its own lets them out, since the runtime's timers are too coarse for this: they tick once a millisecond.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::load::Window;

/// The longest that the thread sleeps.
const NAP: Duration = Duration::from_millis(5);

/// Operations that are due at a rate.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    rate: f64,
    total: u64,
    taken: AtomicU64,
    due: Arc<Semaphore>,
}

impl Pace {
    /// Begins to let them out.
    pub fn start(window: Window, rate: f64) -> Pace {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Positive, and far from the limit.
        let total = ((window.end - window.start).as_secs_f64() * rate) as u64;
        let due = Arc::new(Semaphore::new(0));
        let pace = Pace {
            start: window.start,
            rate,
            total,
            taken: AtomicU64::new(0),
            due: due.clone(),
        };
        std::thread::spawn(move || let_out(&due, window.start, rate, total));
        pace
    }

    /// When the next operation should begin; returns then, or at once if that is past. `None` after the last.
    pub async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        (number < self.total).then(|| at(self.start, self.rate, number))
    }

    /// How many were not taken.
    pub fn left(&self) -> u64 {
        self.total.saturating_sub(self.taken.load(Ordering::Relaxed))
    }
}

fn at(start: Instant, rate: f64, number: u64) -> Instant {
    #[allow(clippy::cast_precision_loss)] // Exact for any run that ends.
    let seconds = number as f64 / rate;
    start + Duration::from_secs_f64(seconds)
}

fn let_out(due: &Semaphore, start: Instant, rate: f64, total: u64) {
    let mut out = 0;
    while out < total {
        let now = Instant::now();
        let before = out;
        while out < total && at(start, rate, out) <= now {
            out += 1;
        }
        due.add_permits(usize::try_from(out - before).unwrap_or(0));
        std::thread::sleep(at(start, rate, out).saturating_duration_since(Instant::now()).min(NAP));
    }
    // Whoever asks for more is told that there is none.
    due.add_permits(1 << 20);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn operations_are_due_at_the_rate_and_no_more_than_planned() {
        let start = Instant::now();
        let window = Window {
            start,
            begin: start,
            end: start + Duration::from_millis(100),
        };
        let pace = Pace::start(window, 1_000.0);
        let mut count = 0;
        while let Some(intended) = pace.next().await {
            assert_eq!(intended, start + Duration::from_millis(count));
            assert!(Instant::now() >= intended, "not before its time");
            count += 1;
        }
        assert_eq!((count, pace.left()), (100, 0));
    }
}
