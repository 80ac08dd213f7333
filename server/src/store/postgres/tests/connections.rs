//! Connections and calls that end in the middle of something.

use super::*;

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
