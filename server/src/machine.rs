//! What the server takes from the machine that it runs on: time, chance, and somebody to do the work.
//!
//! Everything above the store's seam asks here and nowhere else, so that a test can put another machine in its place: one whose time
//! stands still between events, whose chance comes from a seed, and whose processes can be stopped and killed (`simulated`). Nothing of
//! that is in the program that is built.

use std::hash::BuildHasher;
use std::time::SystemTime;

use rand::distr::uniform::{SampleRange, SampleUniform};
use rand::distr::{Distribution, StandardUniform};
use rand::{Rng, RngCore};
use tokio::task::JoinHandle;
pub use tokio::time::Instant;

#[cfg(test)]
pub mod simulated;

/// A map. Its order is different in every process, but for tests.
pub type HashMap<K, V> = std::collections::HashMap<K, V, Hashing>;
/// A set. Its order is different in every process, but for tests.
pub type HashSet<T> = std::collections::HashSet<T, Hashing>;

#[cfg(not(test))]
type Keys = ahash::RandomState;
#[cfg(test)]
type Keys = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// How [`HashMap`] and [`HashSet`] hash: fast, and with keys that nobody outside can know, for clients choose what is hashed.
#[derive(Clone, Debug, Default)]
pub struct Hashing(Keys);

impl BuildHasher for Hashing {
    type Hasher = <Keys as BuildHasher>::Hasher;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

/// What the clock on the wall says.
pub fn wall() -> SystemTime {
    #[cfg(test)]
    if let Some(wall) = simulated::wall() {
        return wall;
    }
    SystemTime::now()
}

/// Calls something with the source of chance.
fn with_chance<T>(take: impl FnOnce(&mut dyn RngCore) -> T) -> T {
    #[cfg(test)]
    if simulated::is_running() {
        return simulated::with_chance(take);
    }
    take(&mut rand::rng())
}

/// A random value.
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    with_chance(|chance| chance.random())
}

/// A random value of a range.
pub fn random_range<T: SampleUniform>(range: impl SampleRange<T>) -> T {
    with_chance(|chance| chance.random_range(range))
}

/// A new id, UUIDv7.
pub fn new_id() -> String {
    let since = wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    uuid::Builder::from_unix_timestamp_millis(millis, &random())
        .into_uuid()
        .to_string()
}

/// Does work beside the caller's.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    #[cfg(test)]
    if let Some(process) = simulated::process() {
        return process.spawn(work);
    }
    tokio::spawn(work)
}

/// Does work beside the caller's, for those who are dropped: where nothing runs any more it is not done.
pub fn spawn_if_running(work: impl Future<Output = ()> + Send + 'static) {
    if tokio::runtime::Handle::try_current().is_ok() {
        spawn(work);
    }
}

/// Computes something that takes long, where it holds nobody up; nothing if it panicked.
pub async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    #[cfg(test)]
    if simulated::is_running() {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}

/// [`tokio::select!`], which begins with any of the branches; in tests always with the first.
#[macro_export]
macro_rules! select {
    (biased; $($branches:tt)*) => { tokio::select! { biased; $($branches)* } };
    ($($branches:tt)*) => {{
        #[cfg(not(test))]
        { tokio::select! { $($branches)* } }
        #[cfg(test)]
        { tokio::select! { biased; $($branches)* } }
    }};
}
