//! What holds of every store, tried through the seam on all tables there are. Rows are made from the lists of columns, so that a table
//! that changes is tried as it is.

mod model;
mod schema;
mod transactions;

use std::collections::BTreeMap;
use std::ops::Deref;

use super::row::{Index, Kind, Table, Value};
use super::*;
use crate::lane::{BatchRecord, TABLES};

/// The stores to try: the embedded one, that of simulations, and Postgres if there is a server for tests.
async fn stores() -> Vec<Tried> {
    let alone = [
        Store::Sqlite(Sqlite::open_ephemeral().expect("a temporary directory")),
        Store::Simulated(simulated::Database::new(true).connect()),
    ];
    let mut stores = Vec::from(alone.map(|store| Tried { store, _schema: None }));
    if let Some(schema) = Schema::new().await {
        let store = Postgres::connect(&schema.url).await.expect("a database");
        stores.push(Tried {
            store: Store::Postgres(store),
            _schema: Some(schema),
        });
    }
    stores
}

/// A store to try, and what has to be cleared away after it.
struct Tried {
    store: Store,
    _schema: Option<Schema>,
}

impl Deref for Tried {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

/// A schema of a test's own in the test database; gone when this is.
pub(super) struct Schema {
    name: String,
    server: String,
    /// Where a store finds it.
    pub(super) url: String,
}

impl Schema {
    /// Nothing if there is no database for tests.
    pub(super) async fn new() -> Option<Schema> {
        let server = std::env::var("DRUMLINE_TEST_POSTGRES").ok()?;
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let separator = if server.contains('?') { '&' } else { '?' };
        // What the machine does with a commit is not what these tests are about.
        let options = format!("-csearch_path%3D{name}%20-csynchronous_commit%3Doff");
        let url = format!("{server}{separator}application_name={name}&options={options}");
        let schema = Schema { name, server, url };
        schema
            .run(&format!("CREATE SCHEMA {}", schema.name))
            .await
            .expect("a schema");
        Some(schema)
    }

    /// What its connections are called too.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A connection that sees the schema.
    pub(super) async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls)
            .await
            .expect("a server");
        tokio::spawn(connection);
        client
    }

    async fn run(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.server, tokio_postgres::NoTls).await?;
        let driver = tokio::spawn(connection);
        let result = client.batch_execute(sql).await;
        driver.abort();
        result
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        // The test's own runtime may be at its end.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let drop = format!("DROP SCHEMA {} CASCADE", self.name);
                if let Ok(runtime) = runtime
                    && let Err(error) = runtime.block_on(self.run(&drop))
                {
                    eprintln!("a schema stays behind: {error}");
                }
            });
        });
    }
}

/// Every table of rows: those that batches change, and those that are written beside them.
pub(super) fn all_tables() -> impl Iterator<Item = &'static Table> {
    TABLES.iter().copied().chain([BatchRecord::TABLE])
}

/// A row whose columns all say the same number; `salt` makes another row under another key.
pub(super) fn row(table: &Table, salt: i64) -> Columns {
    let value = |kind| match kind {
        Kind::Int => Value::Int(salt),
        Kind::Text => Value::Text(format!("{salt:04}")),
        Kind::Blob => Value::Blob(format!("{salt:04}").into()),
    };
    table.columns.iter().map(|column| value(column.kind)).collect()
}

fn key_of(table: &Table, row: &Columns) -> Vec<Value> {
    row[..table.key].to_vec()
}

/// Nothing of a table.
fn nothing(table: &'static Table) -> TablePlan {
    TablePlan {
        table,
        keys: Vec::new(),
        selections: Vec::new(),
    }
}

/// No change of a table.
pub(super) fn unchanged(table: &'static Table) -> TableSave {
    TableSave {
        table,
        inserts: Vec::new(),
        upserts: Vec::new(),
        deletes: Vec::new(),
    }
}

/// The next batch after a head that was read.
pub(super) fn next(tables: Vec<TableSave>, trims: Vec<Trim>, head: Head) -> Save {
    Save {
        tables,
        trims,
        head: Head {
            batch: head.batch + 1,
            ..head
        },
        note: Note {
            batch_id: uuid::Uuid::new_v4().to_string(),
            ..Note::default()
        },
    }
}

/// Commits changes in a transaction of their own.
async fn save(store: &Store, namespace: &str, tables: Vec<TableSave>, trims: Vec<Trim>) -> Result<Head, StoreError> {
    let (transaction, mut head, _) = store.begin(namespace, Plan::new()).await?;
    head.position += 1;
    head.epoch = store.epoch();
    let save = next(tables, trims, head);
    let head = save.head.clone();
    transaction.commit(save).await?;
    Ok(head)
}

/// Everything of an index, in order.
fn all_of(index: usize) -> Selection {
    Selection {
        index,
        prefix: Vec::new(),
        after: None,
        limit: 1_000_000,
        backwards: false,
    }
}

/// Every row of a table.
async fn all_rows(store: &Store, namespace: &str, table: &'static Table) -> Vec<Columns> {
    let plan = TablePlan {
        selections: vec![all_of(0)],
        ..nothing(table)
    };
    let (_, mut rows) = store.read(namespace, vec![plan]).await.expect("a read");
    rows.remove(0).selected.remove(0)
}
