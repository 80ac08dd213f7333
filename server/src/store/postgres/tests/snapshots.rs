//! A long snapshot beside the store, as of a `pg_dump` or a report: nothing that it could see is cleared away while it lasts.

use super::*;
use crate::store::Trim;
use crate::store::row::Value;

const COMMITS: i64 = 3_000;
/// More than an index of some levels and a page of its table.
const FEW: i64 = 10;

/// How many pages the server looks at to carry out a statement.
async fn pages(client: &Client, statement: &str) -> i64 {
    let statement = statement.replace("$1", "'a'");
    let lines = client
        .query(&format!("EXPLAIN (ANALYZE, BUFFERS) {statement}"), &[])
        .await
        .expect("a plan");
    let lines: Vec<String> = lines.iter().map(|line| line.get(0)).collect();
    // The first is of the whole.
    let buffers = lines.iter().find(|line| line.contains("Buffers: shared"));
    let numbers = buffers.expect("pages").split_whitespace().filter_map(|word| {
        let (what, number) = word.split_once('=')?;
        ["hit", "read"].contains(&what).then(|| number.parse::<i64>().ok())?
    });
    numbers.sum()
}

#[tokio::test]
async fn a_long_snapshot_does_not_make_the_head_costly() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = Postgres::connect(&schema.url).await.expect("a database");
    let client = schema.client().await;
    connection::set_up(&client).await.expect("settings");
    save(&store, Vec::new()).await.expect("a commit");
    // A row that changes as often, to see that the snapshot keeps what was there.
    let beside = "CREATE TABLE counted (id bigint PRIMARY KEY, number bigint, text text); INSERT INTO counted VALUES (1, 0, repeat('x', 200))";
    client.batch_execute(beside).await.expect("a table");

    let report = schema.client().await;
    report
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM batches")
        .await
        .expect("a snapshot");
    for _ in 0..COMMITS {
        save(&store, Vec::new()).await.expect("a commit");
    }
    let count = format!(
        "DO $$ BEGIN FOR i IN 1..{COMMITS} LOOP UPDATE counted SET number = i WHERE id = 1; COMMIT; END LOOP; END $$"
    );
    client.batch_execute(&count).await.expect("changes");

    for statement in [statements::LOCK_HEAD, statements::READ_HEAD, statements::HEADS] {
        let pages = pages(&client, statement).await;
        assert!(pages <= FEW, "{pages} pages: {statement}");
    }
    let kept = pages(&client, "SELECT number FROM counted WHERE id = 1").await;
    assert!(kept > 3 * FEW, "{kept} pages: the snapshot kept nothing");
    report.batch_execute("COMMIT").await.expect("the end of it");
}

#[tokio::test]
async fn the_oldest_row_is_found_at_once_where_the_beginning_is_known() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = Postgres::connect(&schema.url).await.expect("a database");
    let client = schema.client().await;
    connection::set_up(&client).await.expect("settings");
    let report = schema.client().await;
    report
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM events")
        .await
        .expect("a snapshot");
    let events = TABLES.iter().find(|table| table.name == "events").expect("a table");
    let inserts = TableSave {
        inserts: (1..=5_000).map(|position| row(events, position)).collect(),
        ..unchanged(events)
    };
    save(&store, vec![inserts]).await.expect("a save");
    for chunk in 0..9 {
        let (transaction, head, _) = store.begin("a", Plan::new()).await.expect("a transaction");
        let (from, up_to) = (chunk * 500 + 1, chunk * 500 + 500);
        let trim = Trim {
            table: events,
            index: 0,
            from: Value::Int(from),
            up_to: Value::Int(up_to),
            limit: 500,
        };
        let trimmed = next(Vec::new(), vec![trim], head);
        transaction.commit(trimmed).await.expect("a trim");
    }
    let oldest = "SELECT * FROM events WHERE namespace = $1 AND position > @ ORDER BY position LIMIT 1";
    let known = pages(&client, &oldest.replace('@', "4500")).await;
    assert!(known <= FEW, "{known} pages");
    let unknown = pages(&client, &oldest.replace('@', "0")).await;
    assert!(unknown > 3 * FEW, "{unknown} pages: the snapshot kept nothing");
    report.batch_execute("COMMIT").await.expect("the end of it");
}
