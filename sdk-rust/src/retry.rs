//! How something that failed is tried again, and what is told of the tries when it cannot be.
//!
//! Another address that may work is turned to at once; each in turn, but not more often than there are addresses
//! before a wait, which is jittered and grows.

use std::time::Duration;

use crate::addresses::Addresses;
use crate::backoff::Backoff;
use crate::error::{Error, Kind};

/// The waits between the tries of one thing.
#[derive(Debug)]
pub(crate) struct Tries {
    backoff: Backoff,
    /// How many addresses were turned to since the last wait.
    turns: usize,
}

impl Tries {
    /// The first wait is about `first`, none is more than `most`.
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self {
            backoff: Backoff::new(first, most),
            turns: 0,
        }
    }

    /// How long to wait before the next try, after this error: not at all where there is another address to try.
    pub(crate) fn wait(&mut self, addresses: &Addresses, error: &Error) -> Duration {
        if error.is_of_address() && self.turns + 1 < addresses.count() && addresses.has_well(None) {
            self.turns += 1;
            return Duration::ZERO;
        }
        self.turns = 0;
        self.backoff.wait_after(error.retry_after())
    }

    /// No wait from now on is longer than this, unless the server asks for it.
    pub(crate) fn limit(&mut self, most: Duration) {
        self.backoff.limit(most);
    }

    /// Begins anew after a success.
    pub(crate) fn reset(&mut self) {
        self.backoff.reset();
        self.turns = 0;
    }
}

/// Where a call was tried, and why it failed there last.
#[derive(Debug, Default)]
pub(crate) struct Tried(Vec<(usize, String)>);

impl Tried {
    pub(crate) fn note(&mut self, index: usize, error: &Error) {
        self.0.retain(|(tried, _)| *tried != index);
        self.0.push((index, error.why()));
    }

    /// The error that ends it: where no server decided it, it names every address that was tried.
    pub(crate) fn tell(&self, addresses: &Addresses, error: Error) -> Error {
        let tried = self.0.iter();
        let told: Vec<String> = tried
            .map(|(index, why)| format!("{}: {why}", addresses.get(*index).place()))
            .collect();
        match error.kind() {
            _ if told.is_empty() => error,
            Kind::Transport => error.with_message(told.join("; ")),
            Kind::Deadline if !error.is_decided() => {
                error.with_message(format!("the call's time was up ({})", told.join("; ")))
            }
            _ => error,
        }
    }
}
