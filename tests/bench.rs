//! `drumline bench`, briefly: every workload runs on every composition, says what it is asked to say, and finds nothing wrong. How fast
//! it is here is nobody's business.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::server::{self, Composition};
use crate::support::wait::soon;
use crate::support::{Stage, on_every_composition};

const BRIEFLY: &[&str] = &["--duration", "1s", "--warm-up", "200ms", "-o", "json"];
/// What programs may rely on.
const FIGURES: [&str; 7] = [
    "calls_per_s",
    "ops_per_s",
    "p50_us",
    "p95_us",
    "p99_us",
    "p999_us",
    "errors",
];

/// Runs a bench, which must find everything right; tells what it found.
async fn bench(arguments: &[&str]) -> Value {
    let mut command = Command::new(server::binary());
    command
        .arg("bench")
        .args(arguments)
        .args(BRIEFLY)
        .env_remove("DRUMLINE_SESSION_ID")
        .env_remove("DRUMLINE_DATABASE_URL")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let done = soon("the bench's end", command.output()).await.expect("it runs");
    let (out, err) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert_eq!(done.status.code(), Some(0), "{arguments:?}: {out} {err}");
    let found: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    is_in_order(&found);
    assert_eq!(found["problems"], Value::Array(Vec::new()), "{found}");
    assert!(!found["checked"].as_str().expect("a sentence").is_empty(), "{found}");
    found
}

/// Whether the figures are all there, and can be.
fn is_in_order(found: &Value) {
    for name in FIGURES {
        assert!(found[name].is_number(), "no {name} in {found}");
    }
    assert_eq!(found["errors"], 0, "{found}");
    assert!(found["calls_per_s"].as_f64() > Some(0.0), "{found}");
    assert!(found["ops_per_s"].as_f64() > Some(0.0), "{found}");
    let quantiles = ["p50_us", "p95_us", "p99_us", "p999_us", "max_us"].map(|name| found[name].as_u64());
    assert!(quantiles.is_sorted() && quantiles[0] > Some(0), "{found}");
}

/// Runs a bench against a stage's server, in the stage's namespace.
async fn bench_at(stage: &Stage, workload: &str) -> Value {
    let mut arguments: Vec<&str> = workload.split(' ').collect();
    arguments.extend(["--server", &stage.servers, "--namespace", &stage.namespace]);
    bench(&arguments).await
}

#[tokio::test]
async fn the_simple_workloads_run_everywhere() {
    on_every_composition(|stage| async move {
        for workload in [
            "ping --callers 4",
            "lock --callers 4",
            "lock --callers 4 --hot",
            "cas --callers 4",
            "cas --callers 4 --hot",
            "publish --callers 4",
            "publish --callers 2 --batch 10",
            "publish --callers 4 --rate 50",
            "heartbeat --callers 4",
        ] {
            bench_at(&stage, workload).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_workloads_that_need_others_run_everywhere() {
    on_every_composition(|stage| async move {
        for workload in [
            "discover --callers 4 --agents 230 --page-size 50",
            "deliver --callers 2 --subscribers 2 --rate 50",
            "task --callers 4 --agents 2",
            "task --callers 4 --agents 0",
            "workflow --callers 4 --size 3",
            "workflow --callers 2 --size 5 --shape map-reduce",
        ] {
            bench_at(&stage, workload).await;
        }
    })
    .await;
}

#[tokio::test]
async fn as_many_operations_run_as_are_asked_for() {
    on_every_composition(|stage| async move {
        let found = bench_at(&stage, "publish --callers 3 --batch 10 --operations 25").await;
        assert_eq!((&found["calls"], &found["ops"]), (&25.into(), &250.into()), "{found}");
    })
    .await;
}

#[tokio::test]
async fn callers_are_spread_over_all_servers() {
    on_every_composition(|stage| async move {
        // One server under two addresses: each has connections of its own.
        let servers = format!("{0},{0}", stage.address);
        let spread = ["--server", &servers, "--namespace", &stage.namespace];
        for workload in [&["lock", "--callers", "4"][..], &["deliver", "--rate", "50"]] {
            let found = bench(&[workload, &spread].concat()).await;
            let connections = if workload[0] == "lock" { 2 } else { 1 };
            assert_eq!(found["connections"], connections, "{found}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_store_is_measured_without_a_server_and_left_as_it_was() {
    for composition in [Composition::Sqlite, Composition::Postgres] {
        if !server::compositions().contains(&composition) {
            continue;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let url = match composition {
            Composition::Sqlite => format!("sqlite:{}", directory.path().display()),
            _ => server::new_database(),
        };
        let found = bench(&["store", "--callers", "4", "--operations", "20", "--database-url", &url]).await;
        for part in [
            "fsync",
            "commit",
            "commit_alone",
            "rows_by_10",
            "rows_by_100",
            "rows_by_1000",
        ] {
            is_in_order(&found["parts"][part]);
        }
        assert!(
            found["database"].is_string() && found["fsync_of"].is_string(),
            "{found}"
        );
        match composition {
            Composition::Sqlite => {
                let left = std::fs::read_dir(directory.path()).expect("readable").count();
                assert_eq!(left, 0, "the file that was measured with is gone");
            }
            _ => assert_eq!(tables(&url).await, 0, "the table that was measured with is gone"),
        }
    }
}

/// How many tables of its own somebody has made in a database.
async fn tables(url: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    let count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    client.query_one(count, &[]).await.expect("a count").get(0)
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_and_no_figure() {
    let mut command = Command::new(server::binary());
    let nowhere = ["bench", "ping", "--server", "http://127.0.0.1:1"];
    command.args(nowhere).args(BRIEFLY).stdin(Stdio::null());
    let done = soon("the bench's end", command.output()).await.expect("it runs");
    assert_eq!((done.status.code(), done.stdout.len()), (Some(3), 0));
}
