//! How fast the stores are at what a lane asks of them, without the lane: batches of lock renewals with an event and a stored answer
//! each. Prints commits and jobs a second for several sizes of batch.
//!
//! `cargo run -p drumline-server --example store_speed -- [DIRECTORY | postgres://…]…`

use std::time::{Duration, Instant};

use drumline_server::lane::TABLES;
use drumline_server::store::row::{Kind, Table, Value};
use drumline_server::store::{Columns, Postgres, Save, Sqlite, Store, StoreError, TablePlan, TableSave, Trim};

/// How many jobs a batch holds.
const BATCHES: [i64; 3] = [1, 64, 256];
/// How many locks there are.
const LOCKS: i64 = 10_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for place in std::env::args().skip(1) {
        let store = if place.starts_with("postgres") {
            Store::Postgres(Postgres::connect(&place).await?)
        } else {
            Store::Sqlite(Sqlite::open(place.as_ref())?)
        };
        for batch in BATCHES {
            measure(&store, &place, batch).await?;
        }
    }
    Ok(())
}

async fn measure(store: &Store, place: &str, batch: i64) -> Result<(), StoreError> {
    let namespace = format!("speed-{}", uuid::Uuid::now_v7());
    let mut taken = Vec::new();
    let mut jobs = 0;
    let begun = Instant::now();
    let mut counted = begun;
    while begun.elapsed() < Duration::from_secs(12) {
        let start = Instant::now();
        run_batch(store, &namespace, jobs, batch).await?;
        jobs += batch;
        // The first seconds warm up.
        if begun.elapsed() < Duration::from_secs(2) {
            counted = Instant::now();
        } else {
            taken.push(start.elapsed());
        }
    }
    let seconds = counted.elapsed().as_secs_f64();
    taken.sort();
    let at = |part: f64| taken[((taken.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    let commits = taken.len() as f64 / seconds;
    println!(
        "{place}: batch {batch}: {commits:.0} commits/s, {:.0} jobs/s, p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms",
        commits * batch as f64,
        at(0.5),
        at(0.99),
        at(1.0)
    );
    Ok(())
}

async fn run_batch(store: &Store, namespace: &str, jobs: i64, batch: i64) -> Result<(), StoreError> {
    let (locks, requests, events, batches) = (table("locks"), table("requests"), table("events"), table("batches"));
    let id = || Value::Text(uuid::Uuid::new_v4().to_string());
    let resources: Vec<_> = (jobs..jobs + batch)
        .map(|job| Value::Text(format!("resource-{}", job % LOCKS)))
        .collect();
    let ids: Vec<_> = resources.iter().map(|_| id()).collect();
    let method = || Value::Text("AcquireLock".to_owned());
    let read = |table, keys| TablePlan {
        table,
        keys,
        selections: Vec::new(),
    };
    let plan = vec![
        read(locks, resources.iter().map(|id| vec![id.clone()]).collect()),
        read(requests, ids.iter().map(|id| vec![method(), id.clone()]).collect()),
    ];
    let (transaction, mut head, _) = store.begin(namespace, plan).await?;

    let numbers = head.position + 1..=head.position + batch;
    let change = |table, inserts, upserts| TableSave {
        table,
        inserts,
        upserts,
        deletes: Vec::new(),
    };
    let renewed = resources
        .iter()
        .map(|id| row(locks, vec![id.clone()], head.now.0))
        .collect();
    let answered = ids
        .iter()
        .map(|id| row(requests, vec![method(), id.clone()], head.now.0))
        .collect();
    let happened = numbers
        .clone()
        .map(|number| row(events, vec![Value::Int(number)], head.now.0))
        .collect();
    let tables = vec![
        change(locks, Vec::new(), renewed),
        change(requests, answered, Vec::new()),
        change(events, happened, Vec::new()),
        change(batches, vec![row(batches, vec![id()], head.position)], Vec::new()),
    ];
    // As much as comes goes, once there are some.
    let up_to = head.position - 20_000;
    let trims = (up_to > 0).then(|| Trim {
        table: events,
        index: 0,
        up_to: Value::Int(up_to),
        limit: 1_000,
    });
    head.position += batch;
    let save = Save {
        tables,
        trims: trims.into_iter().collect(),
        head,
    };
    transaction.commit(save).await
}

fn table(name: &str) -> &'static Table {
    TABLES
        .iter()
        .find(|table| table.name == name)
        .expect("a table of that name")
}

/// A row of about the usual size.
fn row(table: &Table, key: Columns, now: i64) -> Columns {
    let rest = table.columns.iter().skip(key.len()).map(|column| match column.kind {
        _ if column.nullable && column.kind != Kind::Blob => Value::Null,
        Kind::Int => Value::Int(now),
        Kind::Text => Value::Text("about-20-letters-long".to_owned()),
        Kind::Blob => Value::Blob(vec![b'x'; 200].into()),
    });
    key.into_iter().chain(rest).collect()
}
