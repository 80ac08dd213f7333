//! A connection that knows the tables: reads plans and saves changes. It has no opinion on transactions.

use std::collections::HashMap;

use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, ErrorCode, Row, ToSql};

use super::sql;
use crate::store::action::Action;
use crate::store::row::{Table, Value};
use crate::store::{Columns, Head, Note, Plan, Rows, Save, StoreError, TablePlan, TableRows};
use crate::time::Time;

/// More statements than there can be, so that none is ever prepared twice.
const STATEMENTS: usize = 2_048;

/// The newest batch is the head.
const READ_HEAD: &str = "\
    SELECT batch, position, first_position, epoch, last_token, at FROM batches WHERE namespace = ?1 ORDER BY batch DESC LIMIT 1";

const MAKE_HEAD: &str = "INSERT INTO heads (namespace) VALUES (?1) ON CONFLICT (namespace) DO NOTHING";

const SAVE_HEAD: &str = "\
    INSERT INTO batches (namespace, batch, batch_id, events, position, first_position, epoch, last_token, at, next_due, changed) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

/// A connection with its statements.
pub(super) struct Session {
    pub(super) connection: Connection,
    texts: HashMap<(&'static str, Action), Box<str>>,
}

impl Session {
    pub(super) fn new(connection: Connection) -> Session {
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Session {
            connection,
            texts: HashMap::new(),
        }
    }

    /// Runs a statement without parameters.
    pub(super) fn run(&self, sql: &'static str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.raw_execute().map(drop)
    }

    /// The head of a namespace, and the time.
    pub(super) fn head(&self, namespace: &str) -> Result<Head, StoreError> {
        let now = Time::of_this_machine();
        let mut statement = self.connection.prepare_cached(READ_HEAD).map_err(refused)?;
        let mut rows = statement.query([namespace]).map_err(refused)?;
        let Some(row) = rows.next().map_err(refused)? else {
            return Ok(Head::new(now));
        };
        let number = |column| row.get::<_, i64>(column).map_err(refused);
        Ok(Head {
            batch: number(0)?,
            position: number(1)?,
            first_position: number(2)?,
            epoch: number(3)?,
            last_token: number(4)?,
            now: now.max(Time(number(5)?)),
        })
    }

    /// Reads what a plan says.
    pub(super) fn read(&mut self, namespace: &str, plan: &Plan) -> Result<Rows, StoreError> {
        plan.iter().map(|plan| self.read_table(namespace, plan)).collect()
    }

    fn read_table(&mut self, namespace: &str, plan: &TablePlan) -> Result<TableRows, StoreError> {
        let mut rows = TableRows::default();
        if !plan.keys.is_empty() {
            let mut statement = self.statement(namespace, plan.table, Action::Get)?;
            for key in &plan.keys {
                bind(&mut statement, key)?;
                read_into(&mut statement, plan.table, &mut rows.by_key)?;
            }
        }
        for selection in &plan.selections {
            let mut statement = self.statement(namespace, plan.table, Action::of(selection))?;
            let limit = Value::Int(i64::try_from(selection.limit).unwrap_or(i64::MAX));
            let values = selection
                .prefix
                .iter()
                .chain(selection.after.iter().flatten())
                .chain([&limit]);
            bind(&mut statement, values)?;
            let mut found = Vec::new();
            read_into(&mut statement, plan.table, &mut found)?;
            rows.selected.push(found);
        }
        Ok(rows)
    }

    /// Writes what a batch changed.
    pub(super) fn save(&mut self, namespace: &str, save: &Save) -> Result<(), StoreError> {
        for changes in &save.tables {
            self.each(namespace, changes.table, Action::Delete, &changes.deletes)?;
            self.each(namespace, changes.table, Action::Upsert, &changes.upserts)?;
            self.each(namespace, changes.table, Action::Insert, &changes.inserts)?;
        }
        for trim in &save.trims {
            let mut statement = self.statement(namespace, trim.table, Action::Trim { index: trim.index })?;
            let limit = Value::Int(i64::try_from(trim.limit).unwrap_or(i64::MAX));
            bind(&mut statement, [&trim.from, &trim.up_to, &limit])?;
            statement.raw_execute().map_err(refused)?;
        }
        self.save_head(namespace, &save.head, &save.note).map_err(refused)
    }

    fn save_head(&self, namespace: &str, head: &Head, note: &Note) -> rusqlite::Result<()> {
        if head.batch == 1 {
            self.connection.prepare_cached(MAKE_HEAD)?.execute([namespace])?;
        }
        self.connection
            .prepare_cached(SAVE_HEAD)?
            .execute((
                namespace,
                head.batch,
                &note.batch_id,
                note.events,
                head.position,
                head.first_position,
                head.epoch,
                head.last_token,
                head.now.0,
                note.next_due.map(|due| due.0),
                &note.changed,
            ))
            .map(drop)
    }

    /// Runs one statement with each of these sets of values.
    fn each(
        &mut self,
        namespace: &str,
        table: &'static Table,
        action: Action,
        rows: &[Columns],
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut statement = self.statement(namespace, table, action)?;
        for row in rows {
            bind(&mut statement, row)?;
            statement.raw_execute().map_err(refused)?;
        }
        Ok(())
    }

    /// A statement, with the namespace bound. SQLite keeps what is bound from one run to the next.
    fn statement(
        &mut self,
        namespace: &str,
        table: &'static Table,
        action: Action,
    ) -> Result<CachedStatement<'_>, StoreError> {
        let text = self
            .texts
            .entry((table.name, action))
            .or_insert_with(|| sql::text(table, action).into());
        let mut statement = self.connection.prepare_cached(text).map_err(refused)?;
        statement.raw_bind_parameter(1, namespace).map_err(refused)?;
        Ok(statement)
    }
}

/// A value on its way into a statement.
struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Int(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Binds what follows the namespace.
fn bind<'a>(
    statement: &mut CachedStatement<'_>,
    values: impl IntoIterator<Item = &'a Value>,
) -> Result<(), StoreError> {
    for (place, value) in values.into_iter().enumerate() {
        statement.raw_bind_parameter(place + 2, Bound(value)).map_err(refused)?;
    }
    Ok(())
}

fn read_into(statement: &mut CachedStatement<'_>, table: &Table, found: &mut Vec<Columns>) -> Result<(), StoreError> {
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(refused)? {
        found.push(read_row(row, table)?);
    }
    Ok(())
}

fn read_row(row: &Row<'_>, table: &Table) -> Result<Columns, StoreError> {
    let corrupt = |column| crate::store::row::Corrupt {
        table: table.name,
        column,
    };
    let mut columns = Vec::with_capacity(table.columns.len());
    for (place, column) in table.columns.iter().enumerate() {
        columns.push(match row.get_ref(place).map_err(refused)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Int(number),
            ValueRef::Text(text) => {
                let text = std::str::from_utf8(text).map_err(|_| corrupt(column.name))?;
                Value::Text(text.to_owned())
            }
            ValueRef::Blob(bytes) => Value::Blob(Bytes::copy_from_slice(bytes)),
            ValueRef::Real(_) => return Err(corrupt(column.name).into()),
        });
    }
    Ok(columns)
}

/// What the driver says, in the words of the seam: what may pass is "not available", the rest is "refused".
pub(super) fn refused(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OperationInterrupted,
        ) => StoreError::unavailable(error),
        _ => StoreError::refused(error),
    }
}
