//! A bus for simulations: hints are late, overtake each other, come twice, without what they are about, or not at all.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc;

use super::hint::{Seal, Sender, Word};
use super::{Heard, Hint};
use crate::lane::Commit;
use crate::machine;

/// How many hints wait for a listener.
const WAITING: usize = 64;

/// What the weather is like on the bus. Chances are of 1.
#[derive(Clone, Debug)]
pub struct Weather {
    /// How long a hint takes.
    pub latency: Range<Duration>,
    /// That a hint does not come.
    pub lost: f64,
    /// That it comes twice.
    pub doubled: f64,
    /// That it comes without what it is about.
    pub bare: f64,
}

impl Weather {
    /// Everything arrives soon.
    pub fn calm() -> Weather {
        Weather {
            latency: Duration::from_micros(50)..Duration::from_micros(200),
            lost: 0.0,
            doubled: 0.0,
            bare: 0.0,
        }
    }
}

/// What is between the servers. Cheap to clone.
#[derive(Clone)]
pub struct Air {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    seal: Seal,
    weather: Weather,
    down: bool,
    listeners: Vec<(Sender, mpsc::Sender<Heard>)>,
}

/// One server's end of the bus. Cheap to clone.
#[derive(Clone)]
pub struct Radio {
    air: Air,
    me: Sender,
}

impl Default for Air {
    fn default() -> Air {
        Air::new()
    }
}

impl Air {
    /// A bus in calm weather.
    pub fn new() -> Air {
        let shared = Shared {
            seal: Seal::new("a simulated store"),
            weather: Weather::calm(),
            down: false,
            listeners: Vec::new(),
        };
        Air {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// Another server.
    pub fn radio(&self) -> Radio {
        Radio {
            air: self.clone(),
            me: machine::random(),
        }
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Takes it down, so that nothing comes through, or up again.
    pub fn set_down(&self, down: bool) {
        let mut shared = self.lock();
        if shared.down && !down {
            shared.listeners.retain(|(_, listener)| !listener.is_closed());
            for (_, listener) in &shared.listeners {
                let _ = listener.try_send(Heard::Interrupted);
            }
        }
        shared.down = down;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no panic under this lock")
    }
}

impl Radio {
    pub(super) fn publish(&self, commit: &Arc<Commit>) {
        let shared = self.air.lock();
        if shared.down {
            return;
        }
        let happens = |chance: f64| chance > 0.0 && machine::random::<f64>() < chance;
        for (me, listener) in shared.listeners.iter().filter(|(sender, _)| *sender != self.me) {
            if happens(shared.weather.lost) {
                continue;
            }
            let hint = Hint::of(commit, !happens(shared.weather.bare));
            // As it comes through the real one: sealed, and opened again.
            let message = shared.seal.close(&self.me, 0, Some(&hint));
            for _ in 0..1 + usize::from(happens(shared.weather.doubled)) {
                let latency = machine::random_range(shared.weather.latency.clone());
                let Ok(Word::Hint(hint)) = shared.seal.open(me, &message) else {
                    unreachable!("it was just sealed");
                };
                let listener = listener.clone();
                // What is in the air does not stop with the process that sent it.
                tokio::spawn(async move {
                    tokio::time::sleep(latency).await;
                    if listener.try_send(Heard::Hint(hint)).is_err() && !listener.is_closed() {
                        // There is room again when it has listened, and it learns then that it lacks something.
                        let _ = listener.send(Heard::Interrupted).await;
                    }
                });
            }
        }
    }

    pub(super) fn listen(&self) -> mpsc::Receiver<Heard> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.air.lock().listeners.push((self.me, sender));
        receiver
    }

    pub(super) fn is_connected(&self) -> bool {
        !self.air.lock().down
    }
}
