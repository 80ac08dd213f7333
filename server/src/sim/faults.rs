//! What happens to servers, agents, the store, the bus and the network. Whatever begins ends again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::happens;
use super::world::World;
use crate::machine::random_range;

/// How long things are away: short, longer than a TTL, longer than everything's patience.
const SPANS: [u64; 5] = [200, 700, 2_500, 5_000, 12_000];
/// At least this long after a loss before the next: epochs tell the time in such steps.
const BETWEEN_LOSSES: Duration = Duration::from_secs(40);

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    KillServer,
    StopServer,
    DrainServer,
    KillActor,
    StopActor,
    FreezeStore,
    CrashStore,
    FailOver,
    LoseCommits,
    CutServer,
    CutLink,
    BusDown,
}

impl Kind {
    pub const ALL: [Kind; 12] = [
        Kind::KillServer,
        Kind::StopServer,
        Kind::DrainServer,
        Kind::KillActor,
        Kind::StopActor,
        Kind::FreezeStore,
        Kind::CrashStore,
        Kind::FailOver,
        Kind::LoseCommits,
        Kind::CutServer,
        Kind::CutLink,
        Kind::BusDown,
    ];

    /// Whether it can only happen to a store that servers share.
    pub fn is_of_a_shared_store(self) -> bool {
        use Kind::{BusDown, CrashStore, CutServer, FailOver, LoseCommits};
        matches!(self, CrashStore | FailOver | LoseCommits | CutServer | BusDown)
    }

    fn name(self) -> &'static str {
        match self {
            Kind::KillServer => "kill server",
            Kind::StopServer => "stop server",
            Kind::DrainServer => "drain server",
            Kind::KillActor => "kill actor",
            Kind::StopActor => "stop actor",
            Kind::FreezeStore => "freeze store",
            Kind::CrashStore => "crash store",
            Kind::FailOver => "fail over",
            Kind::LoseCommits => "lose commits",
            Kind::CutServer => "cut server",
            Kind::CutLink => "cut link",
            Kind::BusDown => "bus down",
        }
    }
}

fn span() -> Duration {
    let most = SPANS[random_range(0..SPANS.len())];
    Duration::from_millis(random_range(most / 2..=most))
}

/// Lets things happen for a while, and ends when everything has ended that happened.
pub async fn rage(world: &Arc<World>) {
    let plan = &world.plan;
    let until = Instant::now() + plan.work;
    let mut under_way = Vec::new();
    loop {
        let pause = random_range(plan.between_faults.clone());
        if plan.faults.is_empty() || Instant::now() + pause >= until {
            break;
        }
        sleep(pause).await;
        let kind = plan.faults[random_range(0..plan.faults.len())];
        let world = Arc::clone(world);
        under_way.push(tokio::spawn(async move { happen(&world, kind, until).await }));
    }
    sleep_until(until).await;
    for fault in under_way {
        fault.await.expect("no panic");
    }
}

/// Something begins, and ends after a while, at the latest when everything does.
async fn happen(world: &Arc<World>, kind: Kind, until: Instant) {
    let (server, actor, span) = (
        random_range(0..world.plan.servers),
        random_range(0..world.actors().max(1)),
        span().min(until - Instant::now()),
    );
    let note = |detail: String| world.ledger().note(kind.name(), || detail);
    match kind {
        Kind::KillServer => {
            if happens(0.2) && world.does_without(server) {
                note(format!("{server} for good"));
                return world.kill_server(server);
            }
            note(format!("{server} for {span:?}"));
            world.kill_server(server);
            sleep(span).await;
            world.start_server(server);
        }
        Kind::StopServer => {
            note(format!("{server} for {span:?}"));
            let process = world.server(server);
            process.stop();
            sleep(span).await;
            note(format!("{server} goes on"));
            world.resume_server(&process);
        }
        Kind::DrainServer => {
            note(format!("{server}"));
            world.drain_server(server);
            sleep(span).await;
            world.kill_server(server);
            world.start_server(server);
        }
        Kind::KillActor => {
            if let Some(name) = world.kill_actor(actor) {
                note(format!("{name} for {span:?}"));
                sleep(span).await;
                world.start_actor(actor);
            }
        }
        Kind::StopActor => {
            if let Some((name, process)) = world.actor(actor) {
                note(format!("{name} for {span:?}"));
                process.stop();
                sleep(span).await;
                note(format!("{name} goes on"));
                process.resume();
            }
        }
        Kind::FreezeStore => {
            note(format!("for {span:?}"));
            world.database.freeze();
            sleep(span).await;
            world.thaw();
        }
        Kind::CrashStore => {
            note(format!("for {span:?}"));
            world.database.freeze();
            world.database.crash();
            world.doubt_beats();
            sleep(span).await;
            world.thaw();
        }
        Kind::FailOver => {
            note(String::new());
            world.database.fail_over(0);
            world.doubt_beats();
        }
        Kind::LoseCommits => {
            if world.may_lose(BETWEEN_LOSSES) {
                world.database.fail_over(random_range(1..20));
                world.doubt_beats();
                note(String::new());
            }
        }
        Kind::CutServer => {
            note(format!("{server} for {span:?}"));
            let store = world.store_of(server);
            store.set_cut(true);
            sleep(span).await;
            note(format!("{server} is joined"));
            store.set_cut(false);
        }
        Kind::CutLink => {
            if let Some((name, _)) = world.actor(actor) {
                note(format!("{name} {server} for {span:?}"));
                world.net.set_cut(&name, server, true);
                sleep(span).await;
                world.net.set_cut(&name, server, false);
            }
        }
        Kind::BusDown => {
            note(format!("for {span:?}"));
            world.air.set_down(true);
            sleep(span).await;
            world.air.set_down(false);
        }
    }
}
