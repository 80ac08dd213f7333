//! Checks of what clients send. A [`Check`] collects every violation of a request, so that a client hears of all at once. Names of fields
//! are written out only where there is something to say about them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use crate::error::{Refusal, Violation};

pub use crate::MAX_ID;

/// The violations of a request so far.
#[derive(Debug, Default)]
pub struct Check {
    violations: Vec<Violation>,
    /// A violation that has a reason of its own.
    refusal: Option<Refusal>,
}

impl Check {
    /// Notes a violation.
    pub fn violation(&mut self, field: impl Display, description: impl Into<String>) {
        self.violations.push(Violation {
            field: field.to_string(),
            description: description.into(),
        });
    }

    /// Notes a refusal of a part of the request.
    pub fn refusal(&mut self, refusal: Refusal) {
        if refusal.violations().is_empty() {
            self.refusal.get_or_insert(refusal);
        } else {
            self.violations.extend(refusal.violations().iter().cloned());
        }
    }

    /// Takes the value of a part of the request, or notes why not.
    pub fn take<T>(&mut self, result: Result<T, Refusal>) -> Option<T> {
        result.map_err(|refusal| self.refusal(refusal)).ok()
    }

    /// An id: 1 to 255 bytes, no control characters.
    pub fn id(&mut self, field: impl Display, id: &str) -> String {
        if id.is_empty() {
            self.violation(&field, "must not be empty");
        }
        self.optional_id(field, id)
    }

    /// An id, or empty.
    pub fn optional_id(&mut self, field: impl Display, id: &str) -> String {
        self.text(&field, id, MAX_ID);
        if id.chars().any(char::is_control) {
            self.violation(field, "must not have control characters");
        }
        id.to_owned()
    }

    /// The session that the caller says that it acts under.
    pub fn session_id(&mut self, session_id: String) -> Option<String> {
        self.optional_id("session_id", &session_id);
        (!session_id.is_empty()).then_some(session_id)
    }

    /// Text of at most `most` bytes, without U+0000.
    pub fn text(&mut self, field: impl Display, text: &str, most: usize) -> String {
        if text.len() > most {
            self.violation(&field, format!("has {} bytes, at most {most} are allowed", text.len()));
        }
        if text.contains('\0') {
            self.violation(field, "must not have the character U+0000");
        }
        text.to_owned()
    }

    /// Labels: at most 64, with ids as names.
    pub fn labels(&mut self, field: impl Display, labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
        if labels.len() > 64 {
            self.violation(&field, format!("has {} labels, at most 64 are allowed", labels.len()));
        }
        for (name, value) in labels.iter().take(64) {
            self.id(format_args!("{field}.key"), name);
            self.text(format_args!("{field}[{name:.64}]"), value, MAX_ID);
        }
        labels
    }

    /// A duration in a range; `default` if absent or zero.
    pub fn duration(
        &mut self,
        field: impl Display,
        duration: Option<prost_types::Duration>,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        let Some(duration) = self
            .optional_duration(&field, duration)
            .filter(|duration| !duration.is_zero())
        else {
            return default;
        };
        if !range.contains(&duration) {
            self.violation(
                field,
                format!("is {duration:?}, must be from {:?} to {:?}", range.start(), range.end()),
            );
        }
        duration
    }

    /// A duration that may be absent, and is not negative.
    pub fn optional_duration(
        &mut self,
        field: impl Display,
        duration: Option<prost_types::Duration>,
    ) -> Option<Duration> {
        let duration = duration?;
        match Duration::try_from(duration) {
            Ok(duration) => Some(duration),
            Err(_) => {
                self.violation(field, "must not be negative, nor malformed");
                None
            }
        }
    }

    /// A number in a range; `default` if zero.
    pub fn number(
        &mut self,
        field: impl Display,
        number: i32,
        default: i32,
        range: std::ops::RangeInclusive<i32>,
    ) -> i32 {
        if number == 0 {
            return default;
        }
        if !range.contains(&number) {
            self.violation(
                field,
                format!("is {number}, must be from {} to {}", range.start(), range.end()),
            );
        }
        number
    }

    /// Ends the check.
    ///
    /// # Errors
    /// INVALID_REQUEST with every violation, or the refusal that a part had of its own.
    pub fn finish(self) -> Result<(), Refusal> {
        if !self.violations.is_empty() {
            return Err(Refusal::of_violations(self.violations));
        }
        self.refusal.map_or(Ok(()), Err)
    }
}
