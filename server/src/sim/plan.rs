//! What a seed makes of a run: how many there are of everything, how bad the weather is, and what can happen. Each run has only some of
//! it, so that what hides behind one kind of trouble is found by a run without that. Runs are short: many beginnings find more than a
//! long life.

use std::ops::Range;
use std::time::Duration;

use super::actors::ROLES;
use super::faults::Kind;
use super::{happens, net};
use crate::machine::random_range;
use crate::{bus, store};

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether servers share the store; else there is one, which has it for itself.
    pub shared: bool,
    pub servers: usize,
    /// Whether servers hear of each other.
    pub bus: bool,
    /// How many there are of each role.
    pub actors: Vec<usize>,
    /// How long things go wrong.
    pub work: Duration,
    pub store_weather: store::simulated::Weather,
    pub bus_weather: bus::simulated::Weather,
    pub net_weather: net::Weather,
    /// What happens, and how often.
    pub faults: Vec<Kind>,
    pub between_faults: Range<Duration>,
}

/// How long a run may be, in milliseconds: one of these. Some are longer than every TTL and every patience.
const LONGEST: [u64; 3] = [3_000, 6_000, 12_000];

/// How many there are of a role.
fn some(most: usize) -> usize {
    if happens(0.5) { random_range(1..=most) } else { 0 }
}

fn micros(range: Range<u64>) -> Range<Duration> {
    Duration::from_micros(range.start)..Duration::from_micros(range.end)
}

impl Plan {
    /// A plan by chance.
    pub fn by_chance() -> Plan {
        let shared = happens(0.7);
        let servers = if shared { random_range(1..4) } else { 1 };
        let rough = |most: f64| if happens(0.5) { random_range(0.0..most) } else { 0.0 };
        let kinds = Kind::ALL.iter().filter(|kind| shared || !kind.is_of_a_shared_store());
        let eager = happens(0.3);
        Plan {
            shared,
            servers,
            bus: happens(0.8),
            actors: ROLES.iter().map(|(_, most, _)| some(*most)).collect(),
            work: Duration::from_millis(random_range(1_000..LONGEST[random_range(0..LONGEST.len())])),
            store_weather: store::simulated::Weather {
                latency: micros(100..random_range(500..20_000)),
                lost: rough(0.02),
                ended: rough(0.05),
                unanswered: rough(0.03),
            },
            bus_weather: bus::simulated::Weather {
                latency: micros(50..random_range(500..100_000)),
                lost: rough(0.5),
                doubled: rough(0.3),
                bare: rough(0.5),
            },
            net_weather: net::Weather {
                latency: micros(100..random_range(500..30_000)),
                lost: rough(0.05),
                unanswered: rough(0.05),
                broken: rough(0.05),
            },
            faults: kinds.copied().filter(|_| happens(0.4)).collect(),
            between_faults: if eager {
                Duration::from_millis(50)..Duration::from_millis(700)
            } else {
                Duration::from_millis(300)..Duration::from_secs(3)
            },
        }
    }
}
