//! Everything that there is in a run: servers and actors in their places, and what is between them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::actors::{ABLE, Actor, Phase, ROLES, Role};
use super::ledger::{Eye, Ledger};
use super::net::{self, Client, Doors, Net, Serving};
use super::plan::Plan;
use super::{faults, happens, settle};
use crate::app::App;
use crate::bus::Bus;
use crate::bus::simulated::{self as bus, Air};
use crate::config::Policy;
use crate::machine::{self, simulated::Process};
use crate::store::Store;
use crate::store::simulated::{self, Database, Simulated};

/// A server that was stopped for this long notices it.
const STOPPED: Duration = Duration::from_millis(1_600);
/// Servers notice that the store was silent for this long, also those that had nothing to ask it: each of them asks at least once in a
/// second, and waits for more than one.
const SILENT: Duration = Duration::from_millis(2_100);
/// Most of it happens in the first.
const NAMESPACES: [&str; 2] = ["default", "other"];

/// The world of a run.
pub struct World {
    pub plan: Plan,
    pub net: Arc<Net>,
    pub database: Database,
    pub air: Air,
    ledger: Arc<Mutex<Ledger>>,
    phase: watch::Sender<Phase>,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    servers: Vec<Server>,
    actors: Vec<Cast>,
    /// Servers that do not come back.
    gone: BTreeSet<usize>,
    lost_at: Option<Instant>,
}

struct Server {
    process: Arc<Process>,
    store: Simulated,
}

/// An actor in its place.
struct Cast {
    name: String,
    namespace: &'static str,
    role: Role,
    life: u32,
    process: Arc<Process>,
    runs: Option<JoinHandle<()>>,
}

impl World {
    /// The world of a plan, before anything happens.
    pub fn new(plan: Plan, ledger: &Arc<Mutex<Ledger>>) -> Arc<World> {
        let database = Database::new(plan.shared);
        database.watch(Box::new(Eye(Arc::clone(ledger))));
        database.set_weather(plan.store_weather.clone());
        let air = Air::new();
        air.set_weather(plan.bus_weather.clone());
        let net = Net::new(plan.servers, Arc::clone(ledger));
        net.set_weather(plan.net_weather.clone());
        let world = World {
            net,
            database,
            air,
            ledger: Arc::clone(ledger),
            phase: watch::Sender::new(Phase::Work),
            places: Mutex::default(),
            plan,
        };
        for _ in 0..world.plan.servers {
            let server = Server {
                process: Process::new(),
                store: world.database.connect(),
            };
            world.places().servers.push(server);
        }
        for ((role, _, run), count) in ROLES.iter().zip(&world.plan.actors) {
            for number in 0..*count {
                let namespace = if happens(0.8) { NAMESPACES[0] } else { NAMESPACES[1] };
                world.cast(format!("{role}-{number}"), namespace, *run);
            }
        }
        // Whatever is delegated, somebody can do it.
        for namespace in NAMESPACES {
            let places = world.places();
            let wanted = ["delegator", "starter"];
            let mut here = places.actors.iter().filter(|cast| cast.namespace == namespace);
            let is_wanted = here.any(|cast| wanted.iter().any(|role| cast.name.starts_with(role)));
            drop(places);
            if is_wanted {
                let (role, _, run) = ROLES[machine::random_range(4..6)];
                world.cast(format!("{role}-{ABLE}-{namespace}"), namespace, run);
            }
        }
        Arc::new(world)
    }

    fn cast(&self, name: String, namespace: &'static str, role: Role) {
        self.places().actors.push(Cast {
            name,
            namespace,
            role,
            life: 0,
            process: Process::new(),
            runs: None,
        });
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().expect("no panic under this lock")
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no panic under this lock")
    }

    /// Runs from the beginning to the end.
    pub async fn run(self: &Arc<Self>) {
        for server in 0..self.plan.servers {
            self.start_server(server);
        }
        for actor in 0..self.actors() {
            self.start_actor(actor);
        }
        faults::rage(self).await;
        self.database.set_weather(simulated::Weather {
            latency: Duration::from_micros(100)..Duration::from_millis(1),
            ..simulated::Weather::calm()
        });
        self.air.set_weather(bus::Weather::calm());
        self.net.set_weather(net::Weather::calm());
        self.net.join_all();
        self.phase.send_replace(Phase::Finish);
        settle::settle(self).await;
    }

    /// Ends every process.
    pub fn end(&self) {
        let places = self.places();
        let actors = places.actors.iter().map(|cast| &cast.process);
        for process in actors.chain(places.servers.iter().map(|server| &server.process)) {
            process.kill();
        }
    }

    /// Starts a server, if it is not there.
    pub fn start_server(&self, place: usize) {
        let (process, store) = (Process::new(), self.database.connect());
        {
            let mut places = self.places();
            if self.net.server(place).is_some() || places.gone.contains(&place) {
                return;
            }
            let server = &mut places.servers[place];
            // One that never came to serve is in the way.
            server.process.kill();
            server.process = Arc::clone(&process);
            server.store = store.clone();
        }
        let bus = match self.plan.shared && self.plan.bus {
            true => Bus::Simulated(self.air.radio()),
            false => Bus::Local,
        };
        let net = Arc::clone(&self.net);
        let own = Arc::clone(&process);
        let (ledger, is_alone) = (Arc::clone(&self.ledger), self.plan.servers == 1);
        process.spawn(async move {
            // Whoever starts it tries again.
            loop {
                if is_alone {
                    ledger.lock().expect("no panic under this lock").gap(Instant::now());
                }
                let store = Store::Simulated(store.clone());
                match App::start(store, bus.clone(), Policy::default()).await {
                    Ok(app) => {
                        let serving = Serving {
                            process: own,
                            doors: Arc::new(Doors::new(app)),
                        };
                        return net.serve(place, Some(serving));
                    }
                    Err(_) => sleep(Duration::from_millis(300)).await,
                }
            }
        });
    }

    pub fn kill_server(&self, place: usize) {
        self.net.serve(place, None);
        self.places().servers[place].process.kill();
    }

    /// Whether there are others than this server; then it may go for good.
    pub fn does_without(&self, place: usize) -> bool {
        let mut places = self.places();
        let is_spare = places.gone.len() + 1 < self.plan.servers;
        if is_spare {
            places.gone.insert(place);
        }
        is_spare
    }

    /// Whether a server has gone for good.
    pub fn has_gone(&self, place: usize) -> bool {
        self.places().gone.contains(&place)
    }

    /// A server that was stopped goes on.
    pub fn resume_server(&self, process: &Process) {
        if process.resume() >= STOPPED && self.plan.servers == 1 {
            self.ledger().gap(Instant::now());
        }
    }

    /// The store answers again.
    pub fn thaw(&self) {
        if self.database.thaw() >= SILENT {
            self.ledger().gap(Instant::now());
        }
    }

    /// Tells a server to stop.
    pub fn drain_server(&self, place: usize) {
        if let Some(serving) = self.net.server(place) {
            serving.doors.app.draining.cancel();
        }
    }

    pub fn server(&self, place: usize) -> Arc<Process> {
        Arc::clone(&self.places().servers[place].process)
    }

    pub fn store_of(&self, place: usize) -> Simulated {
        self.places().servers[place].store.clone()
    }

    /// How many actors there are.
    pub fn actors(&self) -> usize {
        self.places().actors.len()
    }

    /// An actor that runs.
    pub fn actor(&self, place: usize) -> Option<(String, Arc<Process>)> {
        let places = self.places();
        let cast = places.actors.get(place)?;
        (!cast.process.is_dead()).then(|| (cast.name.clone(), Arc::clone(&cast.process)))
    }

    pub fn start_actor(&self, place: usize) {
        let mut places = self.places();
        let cast = &mut places.actors[place];
        cast.life += 1;
        cast.process = Process::new();
        let client = Client::new(&self.net, &cast.name);
        let actor = Actor::new(&cast.name, cast.life, cast.namespace, client, self.phase.subscribe());
        cast.runs = Some(cast.process.spawn((cast.role)(actor)));
    }

    /// Kills an actor that runs.
    pub fn kill_actor(&self, place: usize) -> Option<String> {
        let (name, process) = self.actor(place)?;
        process.kill();
        Some(name)
    }

    /// The actors that have not come to their end, by name.
    pub fn unfinished(&self) -> Vec<String> {
        let places = self.places();
        let unfinished = places
            .actors
            .iter()
            .filter(|cast| cast.runs.as_ref().is_some_and(|runs| !runs.is_finished()));
        unfinished.map(|cast| cast.name.clone()).collect()
    }

    /// Whether it is long enough ago that something was lost; then it is now.
    pub fn may_lose(&self, between: Duration) -> bool {
        let mut places = self.places();
        let may = places.lost_at.is_none_or(|lost_at| lost_at.elapsed() > between);
        if may {
            places.lost_at = Some(Instant::now());
        }
        may
    }

    /// The store may have forgotten signs of life.
    pub fn doubt_beats(&self) {
        let mut ledger = self.ledger();
        for namespace in ledger.namespaces() {
            ledger.space(&namespace).lives.forget_beats();
        }
    }
}
