//! What a lane remembers of its namespace from one batch to the next: the rows that it loaded and changed, as long as nobody else changes
//! anything there. Then a batch that needs no other rows costs one round trip instead of two.
//!
//! Nothing is believed: whatever is decided on what is remembered is committed only if the newest batch is still the one that it is
//! remembered from, which the store makes sure of while it has the head locked.
//!
//! Failure: where another replica's batch came between, the batch is decided again on what is stored, and it takes some batches without
//! another's among them until the lane relies on its memory again. Where replicas take turns it costs nothing, therefore, and is of no use.

use std::time::Duration;

use super::world::World;
use crate::machine::Instant;
use crate::store::Head;
use crate::time::Time;

/// How old the store's last word of the time may be for a batch that does not ask for it.
const MAX_AGE: Duration = Duration::from_secs(1);
/// How many batches of one's own have to follow each other after another's came between.
const DISTRUST: u32 = 8;

/// A batch of one's own that is the newest, as far as is known.
pub(super) struct Newest {
    /// Which it is.
    pub(super) batch_id: String,
    /// The head that it left.
    pub(super) head: Head,
}

/// A lane's memory.
#[derive(Default)]
pub(super) struct Remembering {
    /// The rows, as the newest batch left them.
    memory: Option<(World, Newest)>,
    /// The store's time, and when it was asked for that.
    told: Option<(Time, Instant)>,
    /// The number of the last batch of one's own.
    last: i64,
    /// How many batches have yet to follow each other.
    distrust: u32,
}

/// Whether the store still has a head that is remembered.
pub(super) fn is_still(remembered: &Head, stored: &Head) -> bool {
    *remembered
        == Head {
            now: remembered.now,
            ..stored.clone()
        }
}

impl Remembering {
    /// What may be decided on, if it proves to be true: the rows, the newest batch, and its head with the store's time as it may be by
    /// now. It is that or a little less: a lease that begins with a time that is past is over before its holder thinks so. Nothing ends
    /// too early for it: what is due is looked for by the store's own time.
    pub(super) fn take(&mut self) -> Option<(World, Newest, Head)> {
        let (world, newest) = self.memory.take()?;
        let (time, asked) = self.told?;
        let age = asked.elapsed();
        let now = Head {
            now: newest.head.now.max(time + age),
            ..newest.head.clone()
        };
        (self.distrust == 0 && age < MAX_AGE).then_some((world, newest, now))
    }

    /// Notes the store's time, which it has told since it was asked.
    pub(super) fn told(&mut self, time: Time, asked: Instant) {
        self.told = Some((time, asked));
    }

    /// Notes that somebody else's batch came between.
    pub(super) fn was_wrong(&mut self) {
        self.distrust = DISTRUST;
    }

    /// Notes a batch that was committed, with the world that made it.
    pub(super) fn keep(&mut self, mut world: World, newest: Newest) {
        let batch = newest.head.batch;
        self.distrust = match batch == self.last + 1 || self.last == 0 {
            true => self.distrust.saturating_sub(1),
            false => DISTRUST,
        };
        self.last = batch;
        world.settle();
        self.memory = Some((world, newest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Retention;

    #[tokio::test(start_paused = true)]
    async fn the_time_that_is_remembered_is_not_behind_the_stores() {
        let mut remembering = Remembering::default();
        let world = World::over_a_store("default".into(), Retention::default());
        let (batch_id, head) = (String::new(), Head::new(Time(0)));
        remembering.keep(world, Newest { batch_id, head });
        let (asked, time, travels) = (Instant::now(), Time(1_000_000), Duration::from_millis(20));
        // The store looks at its clock as soon as it is asked, and its answer is long under way.
        tokio::time::sleep(travels).await;
        remembering.told(time, asked);
        let (.., head) = remembering.take().expect("it is remembered");
        assert_eq!(head.now, time + travels);
    }
}
