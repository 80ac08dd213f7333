//! The bus: hints between replicas, so that what one commits the others need not ask the database for.
//!
//! The database is the only truth. A hint may be lost, come twice, late or never: nothing but latency changes. So nobody waits for the
//! bus, nothing is kept for it, and whoever listens is told when something may have been missed ([`Heard::Interrupted`]) and reads it
//! in the store.
//!
//! ```text
//!  lane ──commit──▶ publish ──queue──▶ speaker ──PUBLISH──▶ Redis ──message──▶ hearer ──▶ listen
//!                   drops when full    encodes, pipelines   one channel       opens, decodes
//! ```
//!
//! Whom to believe: a hint is sealed with a key made of the store's id, which only those know who can read the database. What another
//! installation, a mistake or an intruder puts on the channel is not opened, and counts as an interruption. What is opened may still
//! be old or repeated: the reader compares batch numbers.
//!
//! Failure: a connection counts as alive while this process hears its own words on it, at least one every two seconds. That proves the
//! whole way: a cluster's nodes, both directions, the subscription. When they are not heard the connection is dropped and made again,
//! for ever, with growing pauses. It takes at most four seconds to notice.

mod codec;
mod ear;
mod hint;
mod redis;
#[cfg(test)]
pub mod simulated;
#[cfg(test)]
mod tests;
mod url;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::lane::Commit;
pub use hint::Hint;
pub use redis::Redis;
pub use url::{BusError, check_url};

/// What a listener hears.
#[derive(Clone, Debug)]
pub enum Heard {
    /// Another replica has committed.
    Hint(Hint),
    /// Hints may have been missed before this: the connection was lost or is there again, the listener did not keep up, or something
    /// came that could not be opened. What matters has to be read in the store.
    Interrupted,
}

/// How replicas tell each other what they have committed. Cheap to clone; when the last clone is gone the connection is closed.
#[derive(Clone)]
pub enum Bus {
    /// There is one process: nothing is said, and nothing is heard.
    Local,
    /// Through Redis.
    Redis(Redis),
    /// In memory, for simulations.
    #[cfg(test)]
    Simulated(simulated::Radio),
}

impl Bus {
    /// A bus through Redis for the replicas over one store. Connecting goes on in the background, for ever: the server works without.
    ///
    /// `store_id` names the store and where it is, and keys the seal of the hints, so it is as secret as what is in the database; it is not
    /// sent to Redis.
    /// Whole hints hold what was committed, payloads included. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// As [`check_url`].
    pub fn redis(url: &str, store_id: &str) -> Result<Bus, BusError> {
        Ok(Bus::Redis(Redis::start(url::parse(url)?, store_id)))
    }

    /// Tells the other replicas. Never waits and never fails: when Redis is away or slow the hint is dropped. A hint that is too large,
    /// or that nobody seems to hear, goes without its events and rows.
    pub fn publish(&self, commit: &Arc<Commit>) {
        match self {
            Bus::Local => {}
            Bus::Redis(redis) => redis.publish(commit),
            #[cfg(test)]
            Bus::Simulated(radio) => radio.publish(commit),
        }
    }

    /// What the other replicas say from now on; this process's own hints are not in it. Closed at once if there are no others.
    ///
    /// A listener that does not keep up loses hints, and finds [`Heard::Interrupted`] in their place.
    pub fn listen(&self) -> mpsc::Receiver<Heard> {
        match self {
            Bus::Local => mpsc::channel(1).1,
            Bus::Redis(redis) => redis.listen(),
            #[cfg(test)]
            Bus::Simulated(radio) => radio.listen(),
        }
    }

    /// Whether hints get through now, as far as this process can tell. Always, where there is nobody else.
    pub fn is_connected(&self) -> bool {
        match self {
            Bus::Local => true,
            Bus::Redis(redis) => redis.is_connected(),
            #[cfg(test)]
            Bus::Simulated(radio) => radio.is_connected(),
        }
    }
}
