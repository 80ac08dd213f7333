//! What holds of the file: one server at a time, epochs that rise, patience with others, and no scans.

use std::time::Duration;

use rusqlite::Connection;

use super::*;
use crate::lane::TABLES;
use crate::store::TOKEN_COUNTER_BITS;
use crate::store::action::Action;
use crate::store::tests::next;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn file(directory: &Path) -> Connection {
    Connection::open(directory.join("drumline.db")).expect("the store's file")
}

/// Commits a head and nothing else.
async fn save(store: &Sqlite, change: impl FnOnce(&mut Head)) -> Result<(), StoreError> {
    let (transaction, mut head, _) = store.begin("a", Plan::new()).await?;
    change(&mut head);
    let save = next(Vec::new(), Vec::new(), head);
    transaction.commit(save).await
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused() {
    let directory = directory();
    let store = Sqlite::open(directory.path()).expect("a new store");
    let second = Sqlite::open(directory.path()).err().expect("a refusal");
    assert!(
        second
            .to_string()
            .contains("another server is using the data directory"),
        "{second}"
    );
    let clone = store.clone();
    drop(store);
    assert!(Sqlite::open(directory.path()).is_err());
    drop(clone);
    Sqlite::open(directory.path()).expect("the directory is free again");
}

#[tokio::test]
async fn opening_again_raises_the_epoch_and_keeps_what_was_committed() {
    let directory = directory();
    let store = Sqlite::open(directory.path()).expect("a new store");
    let first = store.epoch();
    save(&store, |head| head.position = 5).await.expect("a commit");
    drop(store);

    let store = Sqlite::open(directory.path()).expect("an old store");
    assert!(store.epoch() > first);
    assert_eq!(store.read("a", Plan::new()).await.expect("a read").0.position, 5);
    // As if the clock had been far ahead when this was given out.
    let token = (store.epoch() + 1_000) << TOKEN_COUNTER_BITS;
    save(&store, |head| head.last_token = token + 3)
        .await
        .expect("a commit");
    drop(store);

    let store = Sqlite::open(directory.path()).expect("an old store");
    assert!(store.epoch() << TOKEN_COUNTER_BITS > token + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_process_has_locked_makes_calls_wait_but_not_for_ever() {
    let directory = directory();
    let store = Sqlite::open(directory.path()).expect("a new store");
    save(&store, |head| head.position = 1).await.expect("a commit");

    let other = file(directory.path());
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { save(&store, |head| head.position = 2).await }
    });
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!waiting.is_finished());
    assert_eq!(store.read("a", Plan::new()).await.expect("reads go on").0.position, 1);
    other.execute_batch("COMMIT").expect("the lock is given back");
    waiting.await.expect("no panic").expect("a commit, later");

    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let blocked = [8, 9].map(|position| save(&store, move |head: &mut Head| head.position = position));
    for outcome in futures::future::join_all(blocked).await {
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    }
    other.execute_batch("COMMIT").expect("the lock is given back");
    save(&store, |head| head.position += 1).await.expect("a commit");
    assert_eq!(store.read("a", Plan::new()).await.expect("a read").0.position, 3);
}

#[test]
fn tables_of_a_newer_version_are_refused() {
    let directory = directory();
    drop(Sqlite::open(directory.path()).expect("a new store"));
    let other = file(directory.path());
    let change = |sql: &str| other.execute(sql, []).expect("a change");
    change("INSERT INTO migrations (number, name, checksum) VALUES (9999, '9999_future', '')");
    let refused = Sqlite::open(directory.path()).err().expect("a refusal");
    assert!(refused.to_string().contains("newer version"), "{refused}");

    change("DELETE FROM migrations WHERE number = 9999");
    change("UPDATE migrations SET checksum = 'other' WHERE number = 1");
    let refused = Sqlite::open(directory.path()).err().expect("a refusal");
    assert!(refused.to_string().contains("another version"), "{refused}");
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let parent = directory();
    let path = parent.path().join("data");
    let _store = Sqlite::open(&path).expect("a new store");
    let mode = |path: &Path| path.metadata().expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in path.read_dir().expect("a directory") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_beside_the_file_stays_small() {
    let directory = directory();
    let store = Sqlite::open(directory.path()).expect("a new store");
    let table = TABLES
        .iter()
        .find(|table| table.name == "payloads")
        .expect("the payloads");
    let log = || {
        directory
            .path()
            .join("drumline.db-wal")
            .metadata()
            .map_or(0, |log| log.len())
    };
    let mut largest = 0;
    // Three times as much as the log may hold.
    for batch in 0..50 {
        let (transaction, head, _) = store.begin("a", Plan::new()).await.expect("a transaction");
        let rows = (0..16).map(|number| {
            let mut row = crate::store::tests::row(table, batch * 16 + number);
            row[table.key] = crate::store::row::Value::Blob(vec![b'x'; 128 << 10].into());
            row
        });
        let inserts = crate::store::TableSave {
            inserts: rows.collect(),
            ..crate::store::tests::unchanged(table)
        };
        let save = next(vec![inserts], Vec::new(), head);
        transaction.commit(save).await.expect("a commit");
        largest = largest.max(log());
    }
    assert!(largest > 4 << 20 && largest < 80 << 20, "{largest}");
    // And it is cut when there is nothing to do.
    for _ in 0..200 {
        if log() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the log still holds {} bytes", log());
}

#[test]
fn a_full_disk_changes_nothing() {
    let directory = Directory::temporary().expect("a temporary directory");
    let mut session = directory.connect(1_024).expect("a connection");
    file::prepare(&mut session.connection, Migrating::Auto).expect("tables");
    session
        .connection
        .pragma_update(None, "max_page_count", 200)
        .expect("a limit");
    let table = TABLES.iter().find(|table| table.name == "events").expect("the log");
    let row = |salt| crate::store::tests::row(table, salt);
    let save = |count| {
        let inserts = crate::store::TableSave {
            inserts: (0..count).map(row).collect(),
            ..crate::store::tests::unchanged(table)
        };
        next(vec![inserts], Vec::new(), Head::new(crate::time::Time(1)))
    };
    session.run("BEGIN IMMEDIATE").expect("a transaction");
    let full = session.save("a", &save(20_000));
    assert!(matches!(full, Err(StoreError::Unavailable(_))), "{full:?}");
    if !session.connection.is_autocommit() {
        session.run("ROLLBACK").expect("a rollback");
    }
    session.run("BEGIN IMMEDIATE").expect("a transaction");
    session.save("a", &save(1)).expect("a little fits");
    session.run("COMMIT").expect("a commit");
}

#[test]
fn every_statement_goes_by_an_index() {
    let directory = Directory::temporary().expect("a temporary directory");
    let mut session = directory.connect(1_024).expect("a connection");
    file::prepare(&mut session.connection, Migrating::Auto).expect("tables");
    for table in TABLES {
        for action in Action::all(table) {
            let sql = sql::text(table, action);
            let mut statement = session
                .connection
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .unwrap_or_else(|error| panic!("{error}: {sql}"));
            let plan: Vec<String> = statement
                .raw_query()
                .mapped(|row| row.get("detail"))
                .collect::<rusqlite::Result<_>>()
                .expect("a plan");
            let plan = plan.join("; ");
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
            if let Action::Select {
                after: Some(count),
                index,
                backwards,
            } = action
            {
                // Begins at the place itself, not at the beginning of the prefix.
                let column = table.columns[table.indexes[index].order[0]].name;
                let compare = if backwards { '<' } else { '>' };
                let begins = if count > 1 {
                    format!("({column},")
                } else {
                    format!("{column}{compare}?")
                };
                assert!(plan.contains(&begins), "{sql}\n{plan}");
            }
        }
    }
}
