//! The server's addresses: which to use now, and which failed lately.
//!
//! Any replica answers any call, so a client stays with one address while that works and leaves it at the first sign that it
//! does not. A failed address is shunned for a time that doubles with each failure. Who begins and who leaves goes by
//! chance, so that many clients spread over what is there; from time to time all choose anew, so that a replica that
//! comes back gets its share.
//!
//! How it fails: where every address is shunned, the one whose time is up first is used. Shunning decides where a call
//! goes, never how long it waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};

use crate::backoff::Backoff;
use crate::error::Error;

/// How long an address is shunned after its first failure in a row.
const SHUNNED_FIRST: Duration = Duration::from_secs(1);
/// How long an address is shunned at most.
const SHUNNED_MOST: Duration = Duration::from_secs(30);
/// How long a client stays with an address that works, on average.
const STAY: Duration = Duration::from_secs(300);

/// One address.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// For connections of one's own.
    pub(crate) endpoint: Endpoint,
    /// The connection that calls share.
    pub(crate) channel: Channel,
}

impl Address {
    /// The address as people write it.
    pub(crate) fn place(&self) -> String {
        place(&self.endpoint)
    }
}

/// An endpoint as people write it.
pub(crate) fn place(endpoint: &Endpoint) -> String {
    endpoint.uri().to_string().trim_end_matches('/').to_owned()
}

/// The addresses of a client, shared by its clones and its agents.
#[derive(Clone, Debug)]
pub(crate) struct Addresses(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: Vec<Address>,
    book: Mutex<Book>,
}

impl Addresses {
    /// These addresses, at least one, the one at `current` first.
    pub(crate) fn new(all: Vec<Address>, current: usize) -> Self {
        let book = Book::new(all.len(), current, Instant::now(), rand::random());
        Self(Arc::new(Shared {
            all,
            book: Mutex::new(book),
        }))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.all.len()
    }

    pub(crate) fn get(&self, index: usize) -> &Address {
        &self.0.all[index]
    }

    /// The address for the next call.
    pub(crate) fn current(&self) -> usize {
        self.book().current(Instant::now(), rand::random())
    }

    /// An address for a connection of one's own: another than the one that was left, if there is one that may work.
    pub(crate) fn choose(&self, left: Option<usize>) -> usize {
        self.book().choose(Instant::now(), left, rand::random())
    }

    /// Whether there is an address, other than this one, that did not fail lately.
    pub(crate) fn has_well(&self, except: Option<usize>) -> bool {
        self.book().has_well(Instant::now(), except)
    }

    /// Takes note of how a try that began then went: an error that is not the address's fault is an answer.
    pub(crate) fn note(&self, index: usize, began: Instant, error: Option<&Error>) {
        if error.is_some_and(Error::is_of_address) {
            self.book().failed(index, began, Instant::now(), rand::random());
        } else {
            self.book().worked(index, began);
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of each address. Pure: the time and the dice, between 0 and 1, are parameters.
#[derive(Debug)]
struct Book {
    marks: Vec<Mark>,
    current: usize,
    anew_at: Instant,
}

#[derive(Debug)]
struct Mark {
    backoff: Backoff,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    at: Instant,
    until: Instant,
}

impl Book {
    fn new(count: usize, current: usize, now: Instant, dice: f64) -> Self {
        let mark = || Mark {
            backoff: Backoff::new(SHUNNED_FIRST, SHUNNED_MOST),
            failed: None,
        };
        Self {
            marks: std::iter::repeat_with(mark).take(count).collect(),
            current,
            anew_at: now + stay(dice),
        }
    }

    fn is_well(&self, index: usize, now: Instant) -> bool {
        let failed = self.marks[index].failed.as_ref();
        failed.is_none_or(|failed| failed.until <= now)
    }

    fn well(&self, now: Instant, except: Option<usize>) -> impl Iterator<Item = usize> {
        let others = (0..self.marks.len()).filter(move |&index| Some(index) != except);
        others.filter(move |&index| self.is_well(index, now))
    }

    fn has_well(&self, now: Instant, except: Option<usize>) -> bool {
        self.well(now, except).next().is_some()
    }

    fn choose(&self, now: Instant, left: Option<usize>, dice: f64) -> usize {
        let well: Vec<usize> = self.well(now, left).collect();
        let until = |&index: &usize| self.marks[index].failed.as_ref().map(|failed| failed.until);
        match well.len() {
            0 => (0..self.marks.len()).min_by_key(until).unwrap_or_default(),
            count => well[((count as f64 * dice) as usize).min(count - 1)],
        }
    }

    fn current(&mut self, now: Instant, dice: f64) -> usize {
        let left = (!self.is_well(self.current, now)).then_some(self.current);
        if left.is_some() || self.anew_at <= now {
            self.current = self.choose(now, left, dice);
            self.anew_at = now + stay(dice);
        }
        self.current
    }

    /// A try that began before the last failure says nothing new.
    fn failed(&mut self, index: usize, began: Instant, now: Instant, dice: f64) {
        let mark = &mut self.marks[index];
        if mark.failed.as_ref().is_none_or(|failed| failed.at <= began) {
            let until = now + mark.backoff.wait_at(dice);
            mark.failed = Some(Failed { at: now, until });
        }
    }

    /// The same holds here: calls that are under way at a server that is stopping are still answered.
    fn worked(&mut self, index: usize, began: Instant) {
        let mark = &mut self.marks[index];
        if mark.failed.as_ref().is_some_and(|failed| failed.at <= began) {
            mark.failed = None;
            mark.backoff.reset();
        }
    }
}

fn stay(dice: f64) -> Duration {
    STAY.mul_f64(0.5 + dice)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_failed_address_is_left_at_once_and_taken_again_only_when_its_time_is_up() {
        let now = Instant::now();
        let mut book = Book::new(2, 0, now, 0.0);
        assert_eq!(book.current(now, 0.9), 0, "it stays with what works");
        book.failed(0, now, now, 1.0);
        assert_eq!(book.current(now, 0.0), 1);
        assert!(!book.has_well(now, Some(1)) && book.has_well(now + S(1), Some(1)));
        assert_eq!(book.current(now + S(2), 0.0), 1, "it does not go back without need");
        book.failed(1, now + S(2), now + S(2), 1.0);
        assert_eq!(book.current(now + S(2), 0.9), 0);
    }

    #[test]
    fn many_calls_that_fail_together_are_one_failure() {
        let now = Instant::now();
        let mut book = Book::new(2, 0, now, 0.0);
        (0..10).for_each(|_| book.failed(0, now, now + S(1), 1.0));
        assert!(book.has_well(now + S(2), Some(1)));
        book.failed(0, now + S(2), now + S(2), 1.0);
        assert!(
            !book.has_well(now + S(3), Some(1)),
            "a second one in a row counts double"
        );
        book.worked(0, now);
        assert!(!book.has_well(now + S(3), Some(1)), "an old answer clears nothing");
        book.worked(0, now + S(3));
        assert!(book.has_well(now + S(3), Some(1)));
    }

    #[test]
    fn where_all_failed_they_take_turns() {
        let now = Instant::now();
        let mut book = Book::new(3, 0, now, 0.0);
        let mut used = Vec::new();
        for turn in 0..6 {
            let at = now + Duration::from_millis(turn);
            let index = book.current(at, 0.0);
            used.push(index);
            book.failed(index, at, at, 0.0);
        }
        assert_eq!(used, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn chance_reaches_every_address_but_the_one_that_was_left() {
        let now = Instant::now();
        let book = Book::new(4, 0, now, 0.0);
        let at = |dice: f64| book.choose(now, Some(1), dice);
        assert_eq!([at(0.0), at(0.4), at(0.99), at(1.0)], [0, 2, 3, 3]);
        assert_eq!(
            Book::new(1, 0, now, 0.0).choose(now, Some(0), 0.5),
            0,
            "the only one is better than none"
        );
    }

    #[test]
    fn after_a_while_it_chooses_anew() {
        let now = Instant::now();
        let mut book = Book::new(2, 0, now, 0.5);
        assert_eq!(book.current(now + STAY - S(1), 0.9), 0);
        assert_eq!(book.current(now + STAY, 0.9), 1);
        assert_eq!(book.current(now + STAY, 0.0), 1, "and stays there");
    }
}
