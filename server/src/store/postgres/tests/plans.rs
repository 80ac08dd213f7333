//! Statements walk an index whatever is in the tables, and whatever is known of them.

use super::*;
use crate::store::action::{Action, columns};
use crate::store::epoch;
use crate::store::row::Kind;
use crate::store::tests::all_tables;

/// How a statement is carried out, now that its table is as it is.
async fn explain(client: &Client, sql: &str) -> String {
    let parameters = (1..)
        .take_while(|place| sql.contains(&format!("${place}")))
        .map(|_| "NULL");
    let parameters = parameters.collect::<Vec<_>>().join(", ");
    let parameters = if parameters.is_empty() {
        parameters
    } else {
        format!("({parameters})")
    };
    client
        .batch_execute(&format!("PREPARE tried AS {sql}"))
        .await
        .expect("a statement");
    let lines = client
        .query(&format!("EXPLAIN EXECUTE tried {parameters}"), &[])
        .await
        .expect("a plan");
    client.batch_execute("DEALLOCATE tried").await.expect("a statement");
    lines.iter().map(|line| line.get(0)).collect::<Vec<String>>().join("\n")
}

/// Fails if a statement is not carried out along an index.
async fn check(client: &Client, when: &str, sql: &str, expected: &[&str]) {
    let plan = explain(client, sql).await;
    let wrong = ["Seq Scan", "Sort", "Bitmap", "Hash", "Merge"]
        .iter()
        .find(|wrong| plan.contains(**wrong));
    let is_expected = expected.iter().all(|part| plan.contains(part));
    assert!(
        is_expected && wrong.is_none(),
        "{when}, {wrong:?}, {expected:?}: {sql}\n{plan}"
    );
}

async fn check_table(client: &Client, table: &'static Table, when: &str) {
    for action in Action::all(table) {
        let arbiter = format!("Conflict Arbiter Indexes: {}", table.indexes[0].name);
        let index = match action {
            Action::Insert => None,
            Action::Upsert => {
                check(client, when, &sql::text(table, action), &[&arbiter]).await;
                continue;
            }
            Action::Get | Action::GetAndHold | Action::Delete => Some(0),
            Action::Select { index, .. } | Action::Trim { index } => Some(index),
        };
        let index = index.map(|index| &table.indexes[index]);
        let index = index.map(|index| {
            if index.is_primary(table) {
                &table.indexes[0]
            } else {
                index
            }
        });
        let walks = index.map_or_else(String::new, |index| format!("using {} on", index.name));
        check(client, when, &sql::text(table, action), &[&walks]).await;
    }
}

/// The statements that are not made from a list of columns.
async fn check_others(client: &Client, when: &str) {
    for (sql, expected) in [
        (statements::LOCK_HEAD, &["using heads_pkey on"] as &[&str]),
        (statements::MAKE_HEAD, &["Conflict Arbiter Indexes: heads_pkey"]),
        (statements::READ_HEAD, &["using batches_pkey on"]),
        (statements::SAVE_HEAD, &["Insert on batches"]),
        (statements::FIND_BATCH, &["using batches_pkey on"]),
        (statements::HEADS, &["using heads_pkey on", "using batches_pkey on"]),
        (statements::NAMESPACES, &["using heads_pkey on"]),
        (statements::BEAT, &["using beats_pkey on", "Tid Scan on beats"]),
        (epoch::LAST_TOKEN, &["using heads_pkey on", "using batches_pkey on"]),
    ] {
        check(client, when, sql, expected).await;
    }
}

async fn check_plans(client: &Client, when: &str) {
    for table in all_tables() {
        check_table(client, table, when).await;
    }
    check_others(client, when).await;
}

/// Many rows that share the values of each index's prefix, or few.
async fn fill(store: &Postgres, table: &'static Table, count: i64, spread: i64) {
    let rows = (0..count).map(|salt| {
        let mut row = row(table, salt);
        let shared = super::row(table, salt % spread);
        let prefixed = table
            .indexes
            .iter()
            .flat_map(|index| index.prefix)
            .filter(|column| **column >= table.key);
        for column in prefixed {
            row[*column] = shared[*column].clone();
        }
        row
    });
    let upserts = TableSave {
        upserts: rows.collect(),
        ..unchanged(table)
    };
    save(store, vec![upserts]).await.expect("a save");
}

async fn analyze(client: &Client) {
    for table in TABLES {
        client
            .batch_execute(&format!("ANALYZE {}", table.name))
            .await
            .expect("statistics");
    }
}

#[tokio::test]
async fn every_statement_walks_an_index_whatever_is_in_the_tables() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = Postgres::connect(&schema.url).await.expect("a database");
    let client = schema.client().await;
    connection::set_up(&client).await.expect("settings");
    check_plans(&client, "new tables").await;
    analyze(&client).await;
    check_plans(&client, "empty tables").await;
    for table in TABLES {
        fill(&store, table, 10, 2).await;
    }
    analyze(&client).await;
    check_plans(&client, "ten rows").await;
    for table in TABLES {
        fill(&store, table, 5_000, 2).await;
    }
    check_plans(&client, "many rows, old statistics").await;
    analyze(&client).await;
    check_plans(&client, "many rows").await;
}

/// The tables that grow with the work that is done and kept.
const GROWING: [&str; 11] = [
    "batches",
    "requests",
    "events",
    "event_ids",
    "documents",
    "document_versions",
    "tasks",
    "payloads",
    "workflow_steps",
    "workflow_items",
    "workflow_transitions",
];

/// Makes many rows on the server, which share the values of an index's prefix where its key allows that.
async fn grow(client: &Client, table: &Table, count: i64) {
    let prefixes = table.indexes.iter().flat_map(|index| index.prefix);
    let shared: Vec<_> = prefixes.filter(|column| **column >= table.key).collect();
    let value = |(place, kind): (usize, Kind)| {
        let number = if shared.contains(&&place) {
            "number % 2"
        } else {
            "number"
        };
        match kind {
            Kind::Int => number.to_owned(),
            Kind::Text => format!("lpad(({number})::text, 8, '0')"),
            Kind::Blob => format!("convert_to(({number})::text, 'UTF8')"),
        }
    };
    let values = table.columns.iter().map(|column| column.kind).enumerate().map(value);
    let grow = format!(
        "INSERT INTO {} (\"namespace\", {}) SELECT 'a', {} FROM generate_series(1, {count}) AS number",
        table.name,
        columns(table),
        values.collect::<Vec<_>>().join(", ")
    );
    client.batch_execute(&grow).await.expect("rows");
}

#[tokio::test]
async fn statements_keep_to_their_indexes_when_tables_grow_large() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let count = match std::env::var_os("DRUMLINE_TEST_LONG") {
        Some(_) => 1_000_000,
        None => 100_000,
    };
    let _store = Postgres::connect(&schema.url).await.expect("a database");
    let client = schema.client().await;
    connection::set_up(&client).await.expect("settings");
    client
        .batch_execute("SET statement_timeout = 0")
        .await
        .expect("settings");
    let growing = all_tables().filter(|table| GROWING.contains(&table.name));
    let mut grown = 0;
    for table in growing {
        grow(&client, table, count).await;
        check_table(&client, table, "many rows, no statistics").await;
        check_others(&client, "many rows, no statistics").await;
        client
            .batch_execute(&format!("ANALYZE {}", table.name))
            .await
            .expect("statistics");
        check_table(&client, table, "many rows").await;
        check_others(&client, "many rows").await;
        // So that there is room for the next.
        client
            .batch_execute(&format!("TRUNCATE {}", table.name))
            .await
            .expect("room");
        grown += 1;
    }
    assert_eq!(grown, GROWING.len());
}
