//! The simulation: servers, agents, a store, a bus and a network in one thread, in a time that only passes while nothing is to be done,
//! with chance that comes from a seed. Everything goes wrong that can, and after every step it is checked that what is promised holds.
//!
//! The servers are the program's own code from their doors to the store's seam. What is beside them is made for it: the store
//! ([`crate::store::simulated`]), the bus ([`crate::bus::simulated`]), the network ([`net`]), the agents ([`actors`]), what happens to all
//! of them ([`faults`]), and the [`ledger`] that is held against what was committed and against what everybody was told.
//!
//! A seed that fails is printed with what does not hold and how it came to that. `DRUMLINE_SIM_SEED=n cargo test -p drumline-server --lib
//! sim::` runs one seed again, exactly as before, and prints its trace. `DRUMLINE_SIM_SEEDS=n` says how many are run, `DRUMLINE_SIM_FIRST=n`
//! from which one on.

mod actors;
mod faults;
mod ledger;
mod net;
mod plan;
mod settle;
mod world;

use std::collections::BTreeMap;
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
    let lines = &report.trace[report.trace.len().saturating_sub(trace_length())..];
    format!(
        "{}\n\nseed {seed}: {}\nDRUMLINE_SIM_SEED={seed} cargo test -p drumline-server --lib sim:: runs it again",
        lines.join("\n"),
        report
            .violation
            .unwrap_or_else(|| "holds, when it is run again".to_owned()),
    )
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn trace_length() -> usize {
    setting("DRUMLINE_SIM_TRACE").map_or(150, |lines| usize::try_from(lines).unwrap_or(usize::MAX))
}

/// How many seeds are run if nobody says.
const SEEDS: u64 = 200;

#[test]
fn what_is_promised_holds_whatever_happens() {
    if let Some(seed) = setting("DRUMLINE_SIM_SEED") {
        let report = run(seed, true);
        let lines = &report.trace[report.trace.len().saturating_sub(trace_length())..];
        println!("{}\n{:#?}", lines.join("\n"), report.counts);
        assert_eq!(report.violation, None, "seed {seed}");
        return;
    }
    let first = setting("DRUMLINE_SIM_FIRST").unwrap_or(1);
    let end = first + setting("DRUMLINE_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(u64::MAX);
    let counts = Mutex::new(BTreeMap::<&str, u64>::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failed.load(Ordering::Relaxed) < seed {
                        return;
                    }
                    let report = run(seed, false);
                    if report.violation.is_some() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                    let mut counts = counts.lock().expect("no panic under this lock");
                    for (what, count) in report.counts {
                        *counts.entry(what).or_default() += count;
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(failed == u64::MAX, "{}", explain(failed));
    let counts = counts.into_inner().expect("no panic under this lock");
    println!("{counts:#?}");
    // A run in which everything fails would hold everything.
    for what in EXPECTED {
        let count = counts.get(what).copied().unwrap_or(0);
        assert!(
            count >= (end - first) / 10,
            "{what} happened {count} times: {counts:#?}"
        );
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

#[test]
fn a_seed_runs_the_same_way_again() {
    for seed in [3, 1_000_003, u64::MAX] {
        let (first, second) = (run(seed, false), run(seed, true));
        assert_eq!((first.hash, first.counts), (second.hash, second.counts), "seed {seed}");
    }
}
