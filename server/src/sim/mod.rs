//! The simulation: servers, agents, a store, a bus and a network in one thread, in a time that only passes while nothing is to be done,
//! with chance that comes from a seed. Everything goes wrong that can, and after every step it is checked that what is promised holds.
//!
//! The servers are the program's own code from their doors to the store's seam. What is beside them is made for it: the store
//! ([`crate::store::simulated`]), the bus ([`crate::bus::simulated`]), the network ([`net`]), the agents ([`actors`]), what happens to all
//! of them ([`faults`]), and the [`ledger`] that is held against what was committed and against what everybody was told.
//!
//! Everybody who runs the tests runs the same seeds, so that what fails fails for everybody. Others are run by hand, as many as there is
//! time for, with `cargo test -p drumline-server --lib sim::` and what follows; `--profile sim` takes longer to build, and runs five times
//! as many in the same time.
//!
//! | variable | |
//! |---|---|
//! | `DRUMLINE_SIM_FIRST=n` | the first seed, 1 if nobody says |
//! | `DRUMLINE_SIM_SEEDS=n` | how many from there on |
//! | `DRUMLINE_SIM_SEED=n` | this one alone, with its trace: a seed that fails runs again exactly as before |
//! | `DRUMLINE_SIM_TRACE=n` | how many lines of a trace are printed, from its end |

mod actors;
mod faults;
mod ledger;
mod net;
mod plan;
mod settle;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::machine::{self, simulated::Simulated};
use ledger::Ledger;
use plan::Plan;
use world::World;

/// Whether something happens that has this chance.
fn happens(chance: f64) -> bool {
    chance > 0.0 && machine::random::<f64>() < chance
}

/// What came of a run.
struct Report {
    hash: u64,
    violation: Option<String>,
    counts: BTreeMap<&'static str, u64>,
    trace: Vec<String>,
}

/// Runs a seed.
fn run(seed: u64, traced: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let _machine = Simulated::new(seed);
        let ledger = Arc::new(Mutex::new(Ledger::new(traced)));
        let plan = Plan::by_chance();
        if traced {
            println!("{plan:#?}");
        }
        let world = World::new(plan, &ledger);
        let alarm = ledger.lock().expect("no panic under this lock").alarm();
        tokio::select! {
            biased;
            () = alarm.notified() => {}
            () = world.run() => {}
        }
        world.end();
        let mut ledger = ledger.lock().expect("no panic under this lock");
        Report {
            hash: ledger.hash(),
            violation: ledger.violated(),
            counts: ledger.counts.clone(),
            trace: ledger.trace(),
        }
    })
}

/// Runs a seed again and says how it fails.
fn explain(seed: u64) -> String {
    let report = run(seed, true);
    let violation = report.violation.as_deref();
    format!(
        "{}\n\nseed {seed}: {}\nDRUMLINE_SIM_SEED={seed} cargo test -p drumline-server --lib sim:: runs it again",
        end_of(&report.trace),
        violation.unwrap_or("holds, when it is run again"),
    )
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The end of a trace, as long as somebody wants it.
fn end_of(trace: &[String]) -> String {
    let most = setting("DRUMLINE_SIM_TRACE").map_or(150, |lines| usize::try_from(lines).unwrap_or(usize::MAX));
    trace[trace.len().saturating_sub(most)..].join("\n")
}

/// How many seeds are run if nobody says.
const SEEDS: u64 = 3_000;
/// After this many seeds that failed no more are run.
const ENOUGH: usize = 5;

/// What came of many runs.
#[derive(Default)]
struct Reports {
    failed: BTreeMap<u64, String>,
    counts: BTreeMap<&'static str, u64>,
}

/// Runs seeds, on every core.
fn run_all(seeds: std::ops::Range<u64>) -> Reports {
    let next = AtomicU64::new(seeds.start);
    let reports = Mutex::new(Reports::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let enough = reports.lock().expect("no panic under this lock").failed.len() >= ENOUGH;
            if enough || seed >= seeds.end {
                return;
            }
            let report = run(seed, false);
            let mut reports = reports.lock().expect("no panic under this lock");
            if let Some(violation) = report.violation {
                reports.failed.insert(seed, violation);
            }
            for (what, count) in report.counts {
                *reports.counts.entry(what).or_default() += count;
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    reports.into_inner().expect("no panic under this lock")
}

#[test]
fn what_is_promised_holds_whatever_happens() {
    if let Some(seed) = setting("DRUMLINE_SIM_SEED") {
        let report = run(seed, true);
        println!("{}\n{:#?}", end_of(&report.trace), report.counts);
        assert_eq!(report.violation, None, "seed {seed}");
        return;
    }
    let first = setting("DRUMLINE_SIM_FIRST").unwrap_or(1);
    let seeds = setting("DRUMLINE_SIM_SEEDS").unwrap_or(SEEDS);
    let Reports { failed, counts } = run_all(first..first + seeds);
    if let Some(seed) = failed.keys().next() {
        panic!("{}\n\n{failed:#?}", explain(*seed));
    }
    println!("{counts:#?}");
    // A run in which everything fails would hold everything.
    for what in EXPECTED {
        let count = counts.get(what).copied().unwrap_or(0);
        assert!(count >= seeds / 10, "{what} happened {count} times: {counts:#?}");
    }
}

/// What must have been done often enough, and what must have gone wrong.
const EXPECTED: [&str; 18] = [
    "accepted",
    "awaited",
    "beat",
    "completed",
    "counted",
    "delegated",
    "finished",
    "guarded",
    "kill server",
    "locked",
    "nonce",
    "published",
    "received",
    "refused",
    "registered",
    "renewed",
    "settled",
    "stop server",
];

/// Runs a seed while somebody listens to what the servers log.
fn run_logged(seed: u64) -> Report {
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
    let log = log.with_writer(std::io::sink).finish();
    tracing::subscriber::with_default(log, || run(seed, true))
}

#[test]
fn a_seed_runs_the_same_way_again() {
    let mut hashes = BTreeSet::new();
    let seeds = (1..20).chain([1_000_003, u64::MAX]);
    for seed in seeds.clone() {
        // Others run at the same time.
        let beside = std::thread::spawn(move || run_logged(seed));
        let traced = run(seed, true);
        let beside = beside.join().expect("no panic");
        let mut lines = traced.trace.iter().zip(&beside.trace);
        let differs = lines.find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(traced.counts, beside.counts, "seed {seed}");
        // Whether anybody looks makes no difference.
        let unseen = run(seed, false);
        assert_eq!([beside.hash, unseen.hash], [traced.hash; 2], "seed {seed}");
        hashes.insert(traced.hash);
    }
    assert_eq!(hashes.len(), seeds.count(), "another seed is another run");
}
