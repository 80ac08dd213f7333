//! A disk that is full: Postgres cannot write, and may die of it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::{ENOUGH, EVERYTHING, Kind, Props, TURN};
use crate::support::keeper::Place;
use crate::support::postgres::{Postgres, programs};
use crate::support::wait::until;

/// The size of the disk, in megabytes.
const DISK: usize = 160;

/// Takes all that is left of a disk.
fn fill(ballast: &Path) {
    let mut file = File::create(ballast).expect("a file");
    for size in [64 * 1024, 4 * 1024] {
        let block = vec![1; size];
        while file.write_all(&block).is_ok() {}
    }
}

#[tokio::test]
async fn a_disk_that_is_full_stops_changes_and_loses_nothing_that_was_acknowledged() {
    if programs().is_none() {
        eprintln!("DRUMLINE_TEST_PG_BINDIR is not set: nothing is tried");
        return;
    }
    let Some(place) = Place::of_size(DISK) else {
        eprintln!("only root may mount a small disk: nothing is tried");
        return;
    };
    let ballast = place.path().join("ballast");
    let turn = TURN.lock().await;
    let postgres = Postgres::start_in(place, &["max_wal_size=32MB", "min_wal_size=32MB"]).await;
    let props = Props::with(turn, postgres).await;
    let urls = [props.urls(), props.urls()];
    let mut scene = props.play(&urls).await;
    let load = scene.load().await;

    fill(&ballast);
    let postgres = &scene.postgres;
    until("the end of the disk", || async {
        postgres.printed().contains("No space left on device")
    })
    .await;
    // By now it cannot write, or has died of it and cannot come back.
    let full = load.now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let changes = load.count(Kind::Lock, full, load.now());
    eprintln!(
        "{changes} locks were granted on a full disk; Postgres runs: {}",
        postgres.runs()
    );
    std::fs::remove_file(&ballast).expect("it was there");
    if !scene.postgres.runs() {
        scene.postgres.go().await;
    }
    let took = load.succeeds(&EVERYTHING, ENOUGH).await;
    eprintln!("{took:.2?} after there was room again, everything had succeeded {ENOUGH} times");
    let report = load.end().await;
    report.assert_all_is_well();
    assert_eq!(report.sessions_lost(), 0, "an outage of the store kills nobody");
}
