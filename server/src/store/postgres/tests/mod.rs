//! What holds of the server side: plans that walk indexes, transactions that never stay open, commits that are found again, histories
//! that are told apart.

mod connections;
mod history;
mod plans;
mod proxy;
mod snapshots;

use std::time::Duration;

use tokio_postgres::Client;

use super::*;
use crate::lane::TABLES;
use crate::store::row::Table;
use crate::store::tests::{Schema, next, row, unchanged};
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
