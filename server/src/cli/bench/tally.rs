//! What is counted while a bench runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tonic::Status;

use super::load::{Done, Window};

/// The longest latency that is told apart.
const LONGEST_US: u64 = 600_000_000;

/// Latencies, in microseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub fn new() -> Latencies {
        // Three digits of precision at any length; the bounds are constants that fit.
        Latencies(Histogram::new_with_max(LONGEST_US, 3).unwrap_or_else(|_error| unreachable!("constant bounds")))
    }

    /// One more.
    pub fn record(&mut self, latency: Duration) {
        self.0
            .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US).max(1));
    }

    /// Those of another.
    pub fn add(&mut self, other: &Latencies) {
        // Both have the same bounds.
        let _added = self.0.add(&other.0);
    }

    /// A quantile, in microseconds; 0 if there are none.
    pub fn quantile(&self, quantile: f64) -> u64 {
        if self.0.is_empty() {
            0
        } else {
            self.0.value_at_quantile(quantile)
        }
    }

    /// The longest, in microseconds.
    pub fn longest(&self) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.max() }
    }
}

/// What callers have counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Calls that were answered within the window.
    pub calls: u64,
    /// Operations that were done within the window.
    pub ops: u64,
    /// Latencies of operations that should have begun within the window.
    pub latencies: Latencies,
    /// Errors, whenever they came.
    pub errors: BTreeMap<String, u64>,
    /// One of them, in full.
    pub example: Option<String>,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Tally {
        Tally {
            calls: 0,
            ops: 0,
            latencies: Latencies::new(),
            errors: BTreeMap::new(),
            example: None,
        }
    }

    /// The end of an operation.
    pub fn record(&mut self, window: Window, intended: Instant, ended: Instant, done: Result<Done, Status>) {
        match done {
            Ok(done) => {
                if window.contains(ended) {
                    self.calls += done.calls;
                    self.ops += done.ops;
                }
                if window.contains(intended) {
                    self.latencies.record(ended - intended);
                }
            }
            Err(status) => self.error(status),
        }
    }

    fn error(&mut self, status: Status) {
        let error = drumline::Error::from(status);
        let kind = match error.reason() {
            drumline::Reason::Unspecified => format!("{:?}", error.code()),
            reason => reason.as_str_name().trim_start_matches("REASON_").to_owned(),
        };
        *self.errors.entry(kind).or_default() += 1;
        self.example
            .get_or_insert_with(|| format!("{:?}: {error}", error.code()));
    }

    /// Operations that should have begun and never did.
    pub fn not_begun(&mut self, count: u64) {
        if count > 0 {
            *self.errors.entry("NOT_BEGUN".into()).or_default() += count;
        }
    }

    /// What another has counted.
    pub fn add(&mut self, other: &Tally) {
        self.calls += other.calls;
        self.ops += other.ops;
        self.latencies.add(&other.latencies);
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        if self.example.is_none() {
            self.example.clone_from(&other.example);
        }
    }

    /// How many errors there were.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// What a workload makes of its end.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is not right.
    pub problems: Vec<String>,
    /// What was checked, for people.
    pub checked: String,
    /// Where the operations and their latencies are not those of the callers: theirs.
    pub instead: Option<(u64, Latencies)>,
    /// Other figures.
    pub figures: Vec<(&'static str, u64)>,
}

impl Checked {
    /// A check that found these problems.
    pub fn new(checked: impl Into<String>, problems: Vec<String>) -> Checked {
        Checked {
            checked: checked.into(),
            problems,
            ..Checked::default()
        }
    }
}

/// Whether it cannot be known what has become of a call.
pub fn is_unknown(status: &Status) -> bool {
    drumline::Error::from(status.clone()).is_indeterminate()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_counts_ends_and_latency_counts_intended_beginnings() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let window = Window {
            start,
            begin: at(100),
            end: at(200),
        };
        let done = || Ok(Done { calls: 2, ops: 1 });
        let mut tally = Tally::new();
        tally.record(window, at(50), at(150), done());
        tally.record(window, at(150), at(160), done());
        tally.record(window, at(199), at(999), done());
        assert_eq!((tally.calls, tally.ops), (4, 2));
        assert_eq!(tally.latencies.quantile(0.5), 10_007, "within three digits");
        assert!(tally.latencies.longest() >= 800_000);
        tally.record(window, at(150), at(160), Err(Status::aborted("no")));
        tally.not_begun(2);
        assert_eq!(tally.error_count(), 3);
    }
}
