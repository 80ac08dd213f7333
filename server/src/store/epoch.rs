//! Epochs: raised whenever history may have been lost, and part of every fencing token and cursor.

use crate::time::Time;

/// How many bits of a fencing token count grants; the epoch is above them. If the counter runs over, it carries into the epoch's
/// bits, and the next epoch begins above that.
pub const TOKEN_COUNTER_BITS: u32 = 36;

/// 2026-01-01, in seconds since the Unix epoch.
const FIRST: i64 = 1_767_225_600;
/// A new database's epoch tells the time of its making, in steps of this many seconds: so it is greater than that of a database that it
/// replaces, unless that one's was raised more often than this.
const STEP_SECONDS: i64 = 16;

/// The greatest token that was given out, in the words of both stores: the newest batch of each namespace knows its own.
pub(super) const LAST_TOKEN: &str = "\
    SELECT coalesce(max((SELECT last_token FROM batches WHERE batches.namespace = heads.namespace ORDER BY batch DESC LIMIT 1)), 0) \
    FROM heads";

/// An epoch greater than the one before and than that of every token that was given out.
pub(super) fn next(before: Option<i64>, last_token: i64) -> i64 {
    let by_clock = (Time::of_this_machine().0 / 1_000_000 - FIRST) / STEP_SECONDS;
    let by_token = (last_token >> TOKEN_COUNTER_BITS) + 1;
    by_clock.max(by_token).max(before.unwrap_or(0) + 1)
}
