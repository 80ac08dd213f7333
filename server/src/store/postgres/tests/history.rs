//! Which history a server has, and which is believed.

use super::*;

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
async fn no_commit_has_a_timeout_that_could_cut_its_wait_for_a_standby_short() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = Postgres::connect(&schema.url).await.expect("a database");
    let client = schema.client().await;
    // Looks at each commit in the moment in which it is made.
    client
        .batch_execute(
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF current_setting('statement_timeout') <> '0' THEN RAISE EXCEPTION 'a timeout'; END IF; RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER look AFTER INSERT OR UPDATE ON meta DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION look(); \
             CREATE CONSTRAINT TRIGGER look AFTER INSERT ON batches DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION look(); \
             SET statement_timeout = '60s'",
        )
        .await
        .expect("a watch over commits");
    let change = "UPDATE meta SET value = value WHERE name = 'timeline'";
    client.execute(change, &[]).await.expect_err("it sees a timeout");
    client
        .batch_execute(&format!("BEGIN; SET LOCAL statement_timeout = 0; {change}; COMMIT"))
        .await
        .expect("it sees that there is none");

    save(&store, Vec::new()).await.expect("a batch");
    Postgres::raise_epoch(&schema.url).await.expect("an epoch");
    client
        .batch_execute("BEGIN; SET LOCAL statement_timeout = 0; UPDATE meta SET value = '00000000' WHERE name = 'timeline'; COMMIT")
        .await
        .expect("another history");
    let promoted = Postgres::connect(&schema.url).await.expect("a database");
    assert!(promoted.epoch() > store.epoch() + 1);
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

/// What is noted of the database as a whole.
async fn note(client: &Client, name: &str, value: &str) {
    let note = "UPDATE meta SET value = $2 WHERE name = $1";
    let noted = client.execute(note, &[&name, &value]).await.expect("a change");
    assert_eq!(noted, 1);
}

fn assert_unavailable<T>(outcome: Result<T, StoreError>, when: &str) {
    match outcome {
        Err(StoreError::Unavailable(_)) => {}
        Err(error) => panic!("{when}: {error}"),
        Ok(_) => panic!("{when}: it was done"),
    }
}

#[tokio::test]
async fn nothing_is_committed_below_an_epoch_that_was_heard_of() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = Postgres::connect(&schema.url).await.expect("a database");
    let client = schema.client().await;
    save(&store, Vec::new()).await.expect("a commit");
    let epoch = store.epoch();
    let store_id = "SELECT value FROM meta WHERE name = 'store_id'";
    let store_id: String = client.query_one(store_id, &[]).await.expect("a row").get(0);
    let (open, head, _) = store.begin("a", Plan::new()).await.expect("a transaction");

    store.heard_of(epoch + 3);
    let outcome = open.commit(next(Vec::new(), Vec::new(), head)).await;
    assert_unavailable(outcome, "a transaction that was open");
    let (written, read) = tokio::join!(save(&store, Vec::new()), store.read("a", Plan::new()));
    assert_unavailable(written, "a new transaction");
    assert_unavailable(read, "a read");
    let batches = client.query_one("SELECT count(*) FROM batches", &[]).await;
    assert_eq!(batches.expect("a count").get::<_, i64>(0), 1, "nothing was committed");

    // Another database that has come so far is not this one.
    note(&client, "epoch", &(epoch + 3).to_string()).await;
    note(&client, "store_id", "another").await;
    assert_unavailable(save(&store, Vec::new()).await, "another database");

    // What was heard of is found.
    note(&client, "store_id", &store_id).await;
    save(&store, Vec::new()).await.expect("a commit");
    assert_eq!(store.epoch(), epoch + 3);
    assert_eq!(position(&store).await, 2);
    // What is old says nothing new.
    store.heard_of(epoch + 1);
    save(&store, Vec::new()).await.expect("a commit");
}

#[tokio::test]
async fn a_copy_made_of_a_dump_is_another_store_and_a_promoted_standby_is_not() {
    let (Some(schema), Some(copied)) = (Schema::new().await, Schema::new().await) else {
        return;
    };
    let store = Postgres::connect(&schema.url).await.expect("a database");
    assert_eq!(Postgres::connect(&schema.url).await.expect("again").id(), store.id());
    drop(Postgres::connect(&copied.url).await.expect("its tables"));
    let dump = "SELECT name, value FROM meta";
    for row in schema.client().await.query(dump, &[]).await.expect("rows") {
        note(&copied.client().await, row.get(0), row.get(1)).await;
    }
    let copy = Postgres::connect(&copied.url).await.expect("the copy");
    assert_eq!(copy.epoch(), store.epoch(), "it is a copy");
    assert_ne!(copy.id(), store.id());

    note(&schema.client().await, "timeline", "00000000").await;
    let promoted = Postgres::connect(&schema.url)
        .await
        .expect("a standby that was promoted");
    assert!(promoted.epoch() > store.epoch());
    assert_eq!(promoted.id(), store.id());
}

#[tokio::test]
async fn a_head_of_a_later_epoch_tells_of_a_later_history() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = Postgres::connect(&schema.url).await.expect("a database");
    let client = schema.client().await;
    save(&store, Vec::new()).await.expect("a commit");
    let epoch = store.epoch() + 7;
    note(&client, "epoch", &epoch.to_string()).await;
    client
        .execute("UPDATE batches SET epoch = $1", &[&epoch])
        .await
        .expect("a change");
    save(&store, Vec::new()).await.expect("a commit");
    assert_eq!(store.epoch(), epoch);
}

#[tokio::test]
async fn a_server_that_does_not_know_of_a_lost_epoch_begins_above_it() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let store = Postgres::connect(&schema.url).await.expect("a database");
    let client = schema.client().await;
    save(&store, Vec::new()).await.expect("a commit");
    let heard_of = store.epoch() + 1_000;
    note(&client, "timeline", "00000000").await;
    store.heard_of(heard_of);
    save(&store, Vec::new()).await.expect("a commit");
    assert!(store.epoch() > heard_of);
}
