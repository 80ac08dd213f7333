//! What holds of every store, tried through the seam on all tables there are. Rows are made from the lists of columns, so that a table
//! that changes is tried as it is.

mod model;
mod transactions;

use std::collections::BTreeMap;

use super::row::{Index, Kind, Table, Value};
use super::*;
use crate::lane::TABLES;

/// The stores to try.
async fn stores() -> Vec<Store> {
    vec![Store::Sqlite(Sqlite::open_ephemeral().expect("a temporary directory"))]
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

/// Commits changes in a transaction of their own.
async fn save(store: &Store, namespace: &str, tables: Vec<TableSave>, trims: Vec<Trim>) -> Result<Head, StoreError> {
    let (transaction, mut head, _) = store.begin(namespace, Plan::new()).await?;
    head.position += 1;
    head.epoch = store.epoch();
    let save = Save {
        tables,
        trims,
        head: head.clone(),
    };
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
