//! How rows become parameters, and answers rows. What does not fit is refused here, before anything is sent.

use bytes::{Bytes, BytesMut};
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::store::row::{Corrupt, Kind, Table, Value};
use crate::store::{Columns, StoreError};

/// A parameter of a statement.
#[derive(Debug)]
pub(super) enum Parameter<'a> {
    Text(&'a str),
    Int(i64),
    MaybeText(Option<&'a str>),
    MaybeInt(Option<i64>),
    Blob(&'a [u8]),
    Texts(Vec<Option<&'a str>>),
    Ints(Vec<Option<i64>>),
    Blobs(Vec<Option<&'a [u8]>>),
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Parameter::Text(text) => text.to_sql_checked(kind, out),
            Parameter::Int(number) => number.to_sql_checked(kind, out),
            Parameter::MaybeText(text) => text.to_sql_checked(kind, out),
            Parameter::MaybeInt(number) => number.to_sql_checked(kind, out),
            Parameter::Blob(bytes) => bytes.to_sql_checked(kind, out),
            Parameter::Texts(texts) => texts.to_sql_checked(kind, out),
            Parameter::Ints(numbers) => numbers.to_sql_checked(kind, out),
            Parameter::Blobs(blobs) => blobs.to_sql_checked(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> Parameter<'a> {
    /// One value.
    pub(super) fn one(table: &'static Table, column: usize, value: &'a Value) -> Result<Parameter<'a>, StoreError> {
        match (table.columns[column].kind, value) {
            (Kind::Int, Value::Int(number)) => Ok(Parameter::Int(*number)),
            (Kind::Text, Value::Text(text)) => Ok(Parameter::Text(text)),
            (Kind::Blob, Value::Blob(bytes)) => Ok(Parameter::Blob(bytes)),
            _ => Err(misfit(table, column)),
        }
    }

    /// The values of a column, one for each row.
    pub(super) fn array(
        table: &'static Table,
        column: usize,
        values: impl Iterator<Item = Option<&'a Value>>,
    ) -> Result<Parameter<'a>, StoreError> {
        fn all<'a, T>(
            values: impl Iterator<Item = Option<&'a Value>>,
            read: impl Fn(&'a Value) -> Option<T>,
        ) -> Option<Vec<Option<T>>> {
            values
                .map(|value| match value? {
                    Value::Null => Some(None),
                    value => read(value).map(Some),
                })
                .collect()
        }
        match table.columns[column].kind {
            Kind::Int => all(values, |value| match value {
                Value::Int(number) => Some(*number),
                _ => None,
            })
            .map(Parameter::Ints),
            Kind::Text => all(values, |value| match value {
                Value::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .map(Parameter::Texts),
            Kind::Blob => all(values, |value| match value {
                Value::Blob(bytes) => Some(&bytes[..]),
                _ => None,
            })
            .map(Parameter::Blobs),
        }
        .ok_or_else(|| misfit(table, column))
    }
}

fn misfit(table: &'static Table, column: usize) -> StoreError {
    Corrupt {
        table: table.name,
        column: table.columns[column].name,
    }
    .into()
}

/// A row of a table, from the column `from` of an answer on.
pub(super) fn read_row(row: &Row, from: usize, table: &'static Table) -> Result<Columns, StoreError> {
    let read = |(place, column): (usize, &crate::store::row::Column)| {
        let value = match column.kind {
            Kind::Int => row.try_get::<_, Option<i64>>(place).map(|value| value.map(Value::Int)),
            Kind::Text => row
                .try_get::<_, Option<String>>(place)
                .map(|value| value.map(Value::Text)),
            Kind::Blob => row
                .try_get::<_, Option<&[u8]>>(place)
                .map(|value| value.map(|bytes| Value::Blob(Bytes::copy_from_slice(bytes)))),
        };
        value
            .map(|value| value.unwrap_or(Value::Null))
            .map_err(|_| misfit(table, place - from))
    };
    (from..).zip(table.columns).map(read).collect()
}
