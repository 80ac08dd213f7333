//! What holds of the server side: plans that walk indexes, transactions that never stay open, commits that are found again.

use std::time::Duration;

use tokio_postgres::Client;

use super::*;
use crate::lane::TABLES;
use crate::store::action::Action;
use crate::store::row::Table;
use crate::store::tests::{Schema, all_tables, next, row, unchanged};
use crate::store::{TOKEN_COUNTER_BITS, TableSave};

async fn save(store: &Postgres, tables: Vec<TableSave>) -> Result<(), StoreError> {
    let (transaction, mut head, _) = store.begin("a", Plan::new()).await?;
    head.position += 1;
    let trims = Vec::new();
    transaction.commit(next(tables, trims, head)).await
}

async fn position(store: &Postgres) -> i64 {
    store.read("a", Plan::new()).await.expect("a read").0.position
}

/// How a statement is carried out, now that its table is as it is.
async fn explain(client: &Client, sql: &str) -> String {
    let parameters = (1..)
        .take_while(|place| sql.contains(&format!("${place}")))
        .map(|_| "NULL");
    let parameters = parameters.collect::<Vec<_>>().join(", ");
    client
        .batch_execute(&format!("PREPARE tried AS {sql}"))
        .await
        .expect("a statement");
    let lines = client
        .query(&format!("EXPLAIN EXECUTE tried ({parameters})"), &[])
        .await
        .expect("a plan");
    client.batch_execute("DEALLOCATE tried").await.expect("a statement");
    lines.iter().map(|line| line.get(0)).collect::<Vec<String>>().join("\n")
}

async fn check_plans(client: &Client, when: &str) {
    for table in all_tables() {
        for action in Action::all(table) {
            let index = match action {
                Action::Insert | Action::Upsert => continue,
                Action::Get | Action::GetAndHold | Action::Delete => 0,
                Action::Select { index, .. } | Action::Trim { index } => index,
            };
            let index = &table.indexes[index];
            let index = if index.is_primary(table) {
                &table.indexes[0]
            } else {
                index
            };
            let sql = sql::text(table, action);
            let plan = explain(client, &sql).await;
            let walks = plan.contains(&format!("using {} on", index.name))
                || plan.contains(&format!("Backward using {} on", index.name));
            let wrong = ["Seq Scan", "Sort", "Bitmap", "Hash", "Merge"]
                .iter()
                .find(|wrong| plan.contains(**wrong));
            assert!(walks && wrong.is_none(), "{when}, {wrong:?}: {sql}\n{plan}");
        }
    }
    for (sql, index) in [
        (statements::LOCK_HEAD, "heads_pkey"),
        (statements::READ_HEAD, "batches_pkey"),
        (statements::FIND_BATCH, "batches_pkey"),
    ] {
        let plan = explain(client, sql).await;
        assert!(plan.contains(&format!("using {index} on")), "{when}: {sql}\n{plan}");
    }
}

/// Many rows that share the values of each index's prefix, or few.
async fn fill(store: &Postgres, table: &'static Table, count: i64, spread: i64) {
    let rows = (0..count).map(|salt| {
        let mut row = row(table, salt);
        let shared = super::super::tests::row(table, salt % spread);
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

/// The transactions that are open, but for the one that asks.
async fn open_transactions(client: &Client, schema: &Schema) -> i64 {
    let open = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND xact_start IS NOT NULL AND state <> 'active'";
    client
        .query_one(open, &[&schema.name()])
        .await
        .expect("activity")
        .get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_leaves_no_transaction_open() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = Postgres::connect(&schema.url).await.expect("a database");
    let client = schema.client().await;
    for number in 0..200u64 {
        let begin = store.begin("a", Plan::new());
        let given_up = tokio::time::timeout(Duration::from_micros(number * 10), begin).await;
        drop(given_up);
        let read = tokio::time::timeout(Duration::from_micros(number * 10), store.read("a", Plan::new())).await;
        drop(read);
    }
    // The namespace is free at once, whatever the tasks behind the calls are still at.
    save(&store, Vec::new()).await.expect("a commit");
    let mut open = i64::MAX;
    for _ in 0..100 {
        open = open_transactions(&client, &schema).await;
        if open == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(open, 0);
}

#[tokio::test]
async fn a_connection_that_the_server_ends_costs_nothing_that_was_committed() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = Postgres::connect(&schema.url).await.expect("a database");
    let client = schema.client().await;
    let end_all = || async {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()";
        client.query_one(end, &[&schema.name()]).await.expect("an end")
    };
    save(&store, Vec::new()).await.expect("a commit");
    end_all().await;
    save(&store, Vec::new())
        .await
        .expect("a commit over another connection");
    assert_eq!(position(&store).await, 2);

    let (transaction, mut head, _) = store.begin("a", Plan::new()).await.expect("a transaction");
    end_all().await;
    head.position = 99;
    let save_one = next(Vec::new(), Vec::new(), head);
    let outcome = transaction.commit(save_one).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    assert_eq!(position(&store).await, 2);
}

#[tokio::test]
async fn a_commit_that_is_not_answered_is_found_again() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    for (arrives, namespace_is_new) in [(true, true), (true, false), (false, true), (false, false)] {
        let proxy = proxy::Proxy::before(&schema.url).await;
        let store = Postgres::connect(&proxy.url).await.expect("a database");
        let namespace = format!("{arrives} {namespace_is_new}");
        let commit = |position, tables| {
            let (store, namespace, proxy) = (&store, &namespace, &proxy);
            async move {
                let (transaction, mut head, _) = store.begin(namespace, Plan::new()).await.expect("a transaction");
                head.position = position;
                let save = next(tables, Vec::new(), head);
                if position == 7 {
                    proxy.cut(arrives);
                }
                transaction.commit(save).await
            }
        };
        // So that the connection has its statements.
        let (transaction, head, _) = store.begin("warm", Plan::new()).await.expect("a transaction");
        let warm = next(Vec::new(), Vec::new(), head);
        transaction.commit(warm).await.expect("a commit");
        if !namespace_is_new {
            commit(1, Vec::new()).await.expect("a commit");
        }
        let outcome = commit(7, Vec::new()).await;
        let (head, _) = store.read(&namespace, Plan::new()).await.expect("a read");
        if arrives {
            assert!(outcome.is_ok(), "{outcome:?}");
            assert_eq!(head.position, 7);
        } else {
            assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
            assert_ne!(head.position, 7);
        }
    }
}

#[tokio::test]
async fn another_history_raises_the_epoch() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let first = Postgres::connect(&schema.url).await.expect("a database");
    save(&first, Vec::new()).await.expect("a commit");
    let again = Postgres::connect(&schema.url).await.expect("a database");
    assert_eq!(again.epoch(), first.epoch());

    let client = schema.client().await;
    let token = ((first.epoch() + 1_000) << TOKEN_COUNTER_BITS) + 5;
    client
        .execute("UPDATE batches SET last_token = $1", &[&token])
        .await
        .expect("a change");
    client
        .batch_execute("UPDATE meta SET value = '00000000' WHERE name = 'timeline'")
        .await
        .expect("a change");
    let promoted = Postgres::connect(&schema.url).await.expect("a database");
    assert!(promoted.epoch() << TOKEN_COUNTER_BITS > token);
    let again = Postgres::connect(&schema.url).await.expect("a database");
    assert_eq!(again.epoch(), promoted.epoch());
}

#[tokio::test]
async fn servers_that_start_together_make_the_tables_once() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let stores = futures::future::join_all((0..4).map(|_| Postgres::connect(&schema.url))).await;
    let epochs: Vec<_> = stores
        .into_iter()
        .map(|store| store.expect("a database").epoch())
        .collect();
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");

    let client = schema.client().await;
    client
        .batch_execute("INSERT INTO migrations (number, name, checksum) VALUES (9999, '9999_future', '')")
        .await
        .expect("a change");
    let refused = Postgres::connect(&schema.url).await.err().expect("a refusal");
    assert!(refused.to_string().contains("newer version"), "{refused}");
}

/// A proxy that can cut connections at a chosen moment.
mod proxy {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const PASS: u8 = 0;
    const CUT_ANSWERS: u8 = 1;
    const CUT_REQUESTS: u8 = 2;

    pub(super) struct Proxy {
        pub(super) url: String,
        mode: Arc<AtomicU8>,
    }

    impl Proxy {
        /// A proxy to the server of a URL like `postgres://user@host:port/…`.
        pub(super) async fn before(url: &str) -> Proxy {
            let (start, rest) = url.split_once('@').expect("a user in the URL");
            let (server, end) = rest.split_once('/').expect("a database in the URL");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let mode = Arc::new(AtomicU8::new(PASS));
            tokio::spawn(accept(listener, server.to_owned(), Arc::clone(&mode)));
            Proxy {
                url: format!("{start}@127.0.0.1:{port}/{end}"),
                mode,
            }
        }

        /// Cuts the connection over which the next bytes come; if `arrives`, only once the server has answered them.
        pub(super) fn cut(&self, arrives: bool) {
            let mode = if arrives { CUT_ANSWERS } else { CUT_REQUESTS };
            self.mode.store(mode, Ordering::SeqCst);
        }
    }

    async fn accept(listener: TcpListener, server: String, mode: Arc<AtomicU8>) {
        while let Ok((client, _)) = listener.accept().await {
            if let Ok(server) = TcpStream::connect(&server).await {
                tokio::spawn(pass(client, server, Arc::clone(&mode)));
            }
        }
    }

    async fn pass(mut client: TcpStream, mut server: TcpStream, mode: Arc<AtomicU8>) {
        let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            let (cut, bytes, to) = tokio::select! {
                read = client.read(&mut asked) => (CUT_REQUESTS, &asked[..read.unwrap_or(0)], &mut server),
                read = server.read(&mut answered) => (CUT_ANSWERS, &answered[..read.unwrap_or(0)], &mut client),
            };
            if mode.load(Ordering::SeqCst) == cut {
                let mut last = bytes.to_vec();
                while cut == CUT_ANSWERS && !last.windows(7).any(|word| word == b"COMMIT\0") {
                    // The commit may not have been asked for yet.
                    tokio::select! {
                        read = client.read(&mut asked) => {
                            let _ = server.write_all(&asked[..read.unwrap_or(0)]).await;
                        }
                        _ = server.read_buf(&mut last) => {}
                    }
                }
                mode.store(PASS, Ordering::SeqCst);
                return;
            }
            if bytes.is_empty() || to.write_all(bytes).await.is_err() {
                return;
            }
        }
    }
}
