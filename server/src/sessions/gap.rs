//! Gaps: times in which clients could not reach the server, or the server could not see that they did.
//!
//! A cold start, a process that was stopped, a store that was silent, clocks that moved apart: what an agent did not say in such a
//! time says nothing of the agent. So after a gap nobody is declared dead, and no lease timer fires, until a full TTL has passed.
//!
//! Whether the store is silent notices whoever asks it ([`Asker`]): after more than a second without an answer. Who could not make
//! themselves heard may have asked another server, of which this one sees nothing; but where servers share a store each of them asks it at
//! least every second what is new, so none overlooks a silence of a little over two.
//!
//! Who asks [`Gap::end`] finds a gap that ended this very moment too: a process that was stopped may wake in the middle of a sweep,
//! before anything else has noticed. And a silence that goes on for somebody is one for all, even if others have been answered again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::machine::{self, Instant};
use crate::store::StoreError;
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
    /// What the store was asked and has not answered: since when, and a number that makes it unique.
    unanswered: BTreeSet<(Instant, u64)>,
    /// How many questions there have been.
    questions: u64,
}

/// Somebody who asks the store. Cheap to clone; clones are the same somebody.
#[derive(Clone)]
pub struct Asker {
    gap: Gap,
    /// Since when the store fails, if its last word was no answer.
    failing: Arc<Mutex<Option<Instant>>>,
}

/// A question that is under way, until it is dropped.
struct Question<'a> {
    asker: &'a Asker,
    since: Instant,
    number: u64,
}

impl Default for Gap {
    fn default() -> Gap {
        Gap::new()
    }
}

impl Gap {
    /// A server's start is the end of a gap.
    pub fn new() -> Gap {
        let seen = Seen::new(Instant::now(), machine::wall());
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

    /// A gap ends now.
    pub fn ends(&self) {
        self.lock().end = Instant::now();
    }

    /// Somebody new who asks the store.
    pub fn asker(&self) -> Asker {
        Asker {
            gap: self.clone(),
            failing: Arc::default(),
        }
    }

    /// When the last gap ended, on the monotonic clock.
    pub fn end(&self) -> Instant {
        let (mut seen, now) = (self.lock(), Instant::now());
        seen.look(now, machine::wall());
        let longest = seen.unanswered.first().map(|(since, _)| *since);
        if let Some(since) = longest {
            seen.waited(since, now);
        }
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

impl Asker {
    /// Asks the store, and notes a gap if it was silent: before anybody decides on what it says. What fails is no answer: the silence
    /// goes on until the same somebody is answered.
    ///
    /// # Errors
    /// What the store says.
    pub async fn heard<T>(&self, asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let question = self.question();
        let outcome = asked.await;
        let failed = matches!(outcome, Err(StoreError::Unavailable(_) | StoreError::Unknown(_)));
        let mut failing = self.failing();
        *failing = failed.then(|| failing.map_or(question.since, |since| since.min(question.since)));
        drop(failing);
        outcome
    }

    fn question(&self) -> Question<'_> {
        let since = self.failing().unwrap_or_else(Instant::now);
        let mut seen = self.gap.lock();
        seen.questions += 1;
        let number = seen.questions;
        seen.unanswered.insert((since, number));
        Question {
            asker: self,
            since,
            number,
        }
    }

    fn failing(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.failing.lock().expect("no panic under this lock")
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut seen = self.asker.gap.lock();
        seen.unanswered.remove(&(self.since, self.number));
        seen.waited(self.since, Instant::now());
    }
}

impl Seen {
    fn new(now: Instant, wall: SystemTime) -> Seen {
        Seen {
            end: now,
            looked: now,
            wall,
            ticking: false,
            unanswered: BTreeSet::new(),
            questions: 0,
        }
    }

    /// Somebody has waited for the store: too long, that is a gap until now. It is told of when it begins.
    fn waited(&mut self, since: Instant, now: Instant) {
        let silence = now.saturating_duration_since(since);
        if silence <= LEAST {
            return;
        }
        if now.saturating_duration_since(self.end) > LEAST {
            tracing::warn!(
                ?silence,
                "the store was silent: nobody is declared dead before a full TTL has passed"
            );
        }
        self.end = now;
    }

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
    use tokio::time::sleep;

    use super::*;
    use crate::machine::simulated::Simulated;

    fn seen(now: Instant, wall: SystemTime) -> Seen {
        Seen {
            ticking: true,
            ..Seen::new(now, wall)
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
    fn a_gap_that_ends_now_ends_now_by_the_store_too() {
        let gap = Gap::new();
        let start = gap.end();
        gap.ends();
        assert!(gap.end() >= start);
        let now = Time::of_this_machine();
        assert!(now.since(gap.end_at(now)) < Duration::from_secs(1));
    }

    /// Asks and is answered after a while, or told that the store cannot be reached.
    async fn ask(asker: &Asker, takes: Duration, answers: bool) {
        let asked = async {
            sleep(takes).await;
            answers.then_some(()).ok_or(StoreError::unavailable("not now"))
        };
        let _ = asker.heard(asked).await;
    }

    const MOMENT: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn a_store_that_answers_late_ends_a_gap() {
        let _machine = Simulated::new(1);
        let gap = Gap::new();
        let (asker, start) = (gap.asker(), gap.end());
        ask(&asker, LEAST, true).await;
        assert_eq!(gap.end(), start, "that is late, and no silence");
        ask(&asker, LEAST + MOMENT, true).await;
        let end = Instant::now();
        sleep(MOMENT).await;
        assert_eq!(gap.end(), end);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gap_goes_on_while_anybody_waits_for_the_store() {
        let _machine = Simulated::new(1);
        let gap = Gap::new();
        let (waits, answered) = (gap.asker(), gap.asker());
        let waiting = tokio::spawn(async move { ask(&waits, LEAST * 3, true).await });
        sleep(LEAST + MOMENT).await;
        ask(&answered, MOMENT, true).await;
        assert_eq!(gap.end(), Instant::now());
        waiting.await.expect("no panic");
        let end = Instant::now();
        sleep(LEAST).await;
        assert_eq!(gap.end(), end);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_asking_waits_no_more() {
        let _machine = Simulated::new(1);
        let gap = Gap::new();
        let asker = gap.asker();
        let given_up = tokio::time::timeout(LEAST * 2, ask(&asker, LEAST * 3, true)).await;
        given_up.expect_err("it takes longer");
        let end = Instant::now();
        sleep(LEAST * 5).await;
        assert_eq!(gap.end(), end);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_no_answer() {
        let _machine = Simulated::new(1);
        let gap = Gap::new();
        let (asker, start) = (gap.asker(), gap.end());
        for _ in 0..9 {
            ask(&asker, MOMENT, false).await;
        }
        assert_eq!(gap.end(), start, "not yet for longer than a second");
        ask(&gap.asker(), MOMENT, true).await;
        sleep(MOMENT).await;
        assert_eq!(gap.end(), start, "somebody else was not silent for");
        ask(&asker, MOMENT, true).await;
        assert_eq!(gap.end(), Instant::now(), "it ends with the answer");
        sleep(LEAST * 2).await;
        let end = gap.end();
        ask(&asker, MOMENT, true).await;
        assert_eq!(gap.end(), end, "it has ended");
    }
}
