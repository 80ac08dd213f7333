//! How a row of a table meets a struct of a room. Each table's columns are listed once, in the room's `store.rs`, with [`row!`](crate::row!);
//! both stores make their statements from that list.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use bytes::Bytes;

use crate::payload::Payload;
use crate::time::Time;

/// What a column can hold. The order is that of both stores: numbers by size, text and bytes bytewise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number.
    Int(i64),
    /// Text without U+0000.
    Text(String),
    /// Bytes.
    Blob(Bytes),
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `bigint` or `INTEGER`.
    Int,
    /// `text COLLATE "C"` or `TEXT`.
    Text,
    /// `bytea` or `BLOB`.
    Blob,
}

/// A column of a table.
#[derive(Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Whether it can be null.
    pub nullable: bool,
}

/// An ordered way into a table. A row in which any of its columns is null is not in it.
#[derive(Debug)]
pub struct Index {
    /// Its name.
    pub name: &'static str,
    /// The columns that a selection fixes.
    pub prefix: &'static [usize],
    /// The columns that order the rows under one prefix, ending with what makes them unique.
    pub order: &'static [usize],
}

impl Index {
    /// Its columns, as an index of a database has them: those of the prefix, then those of the order.
    pub fn columns(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        self.prefix.iter().chain(self.order).copied()
    }

    /// Whether the primary key of its table already orders the rows like this.
    pub fn is_primary(&self, table: &Table) -> bool {
        self.columns().eq(0..table.key)
    }
}

/// A table of a namespace. Its first column, `namespace`, goes without saying.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its columns, those of the key first.
    pub columns: &'static [Column],
    /// How many of them are the key.
    pub key: usize,
    /// The ways into it; the first is the primary key.
    pub indexes: &'static [Index],
    /// Whether its rows are also written beside the lane. A batch that reads one by its key keeps it as it is until the batch ends.
    pub beside: bool,
}

impl PartialEq for Table {
    fn eq(&self, other: &Table) -> bool {
        self.name == other.name
    }
}

/// What is stored is not what this version of the program writes.
#[derive(Debug, thiserror::Error)]
#[error("column {column} of table {table} holds something unexpected")]
pub struct Corrupt {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
}

/// A struct that is a row of a table.
pub trait Row: Clone + Send + Sync + PartialEq + 'static {
    /// The key, without the namespace.
    type Key: Key;
    /// The table.
    const TABLE: &'static Table;

    /// This row's key.
    fn key(&self) -> Self::Key;
    /// One column.
    fn column(&self, index: usize) -> Value;
    /// The row from its columns.
    fn from_columns(columns: Vec<Value>) -> Result<Self, Corrupt>;

    /// Every column.
    fn columns(&self) -> Vec<Value> {
        (0..Self::TABLE.columns.len()).map(|index| self.column(index)).collect()
    }

    /// The prefix and the place of this row in an index; nothing if it is not in it.
    fn place(&self, index: &Index) -> Option<(Vec<Value>, Vec<Value>)> {
        let read = |columns: &[usize]| -> Option<Vec<Value>> {
            columns
                .iter()
                .map(|column| Some(self.column(*column)).filter(|value| *value != Value::Null))
                .collect()
        };
        Some((read(index.prefix)?, read(index.order)?))
    }
}

/// A key of a row.
pub trait Key: Clone + Ord + Hash + Send + Sync + std::fmt::Debug + 'static {
    /// Its columns.
    fn columns(&self) -> Vec<Value>;
    /// The inverse of [`Key::columns`]; nothing if they hold something else.
    fn from_columns(columns: Vec<Value>) -> Option<Self>;
}

macro_rules! single_keys {
    ($($type:ty),+) => {$(
        impl Key for $type {
            fn columns(&self) -> Vec<Value> {
                vec![self.to_value()]
            }
            fn from_columns(mut columns: Vec<Value>) -> Option<Self> {
                Self::from_value(columns.pop()?).filter(|_| columns.is_empty())
            }
        }
    )+};
}
single_keys!(String, i64);

macro_rules! tuple_keys {
    ($(($($part:ident $place:tt),+)),+) => {$(
        impl<$($part: Field + Clone + Ord + Hash + Send + Sync + std::fmt::Debug + 'static),+> Key for ($($part,)+) {
            fn columns(&self) -> Vec<Value> {
                vec![$(self.$place.to_value()),+]
            }
            fn from_columns(columns: Vec<Value>) -> Option<Self> {
                let mut columns = columns.into_iter();
                let key = ($($part::from_value(columns.next()?)?,)+);
                columns.next().is_none().then_some(key)
            }
        }
    )+};
}
tuple_keys!((A 0, B 1), (A 0, B 1, C 2));

/// What can be a column.
pub trait Field: Sized {
    /// The column's type.
    const KIND: Kind;
    /// Whether the column can be null.
    const NULLABLE: bool = false;
    /// To the column.
    fn to_value(&self) -> Value;
    /// From the column; nothing if it holds something else.
    fn from_value(value: Value) -> Option<Self>;
}

impl Field for String {
    const KIND: Kind = Kind::Text;
    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
    fn from_value(value: Value) -> Option<String> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Field for Bytes {
    const KIND: Kind = Kind::Blob;
    fn to_value(&self) -> Value {
        Value::Blob(self.clone())
    }
    fn from_value(value: Value) -> Option<Bytes> {
        match value {
            Value::Blob(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl Field for Payload {
    const KIND: Kind = Kind::Blob;
    fn to_value(&self) -> Value {
        Value::Blob(self.encode())
    }
    fn from_value(value: Value) -> Option<Payload> {
        match value {
            Value::Blob(bytes) => Payload::decode(&bytes),
            _ => None,
        }
    }
}

macro_rules! int_fields {
    ($($type:ty: $to:expr, $from:expr);+ $(;)?) => {$(
        impl Field for $type {
            const KIND: Kind = Kind::Int;
            fn to_value(&self) -> Value {
                let to: fn(&$type) -> i64 = $to;
                Value::Int(to(self))
            }
            fn from_value(value: Value) -> Option<$type> {
                let from: fn(i64) -> Option<$type> = $from;
                match value {
                    Value::Int(number) => from(number),
                    _ => None,
                }
            }
        }
    )+};
}
int_fields! {
    i64: |number| *number, Some;
    i32: |number| i64::from(*number), |number| i32::try_from(number).ok();
    u32: |number| i64::from(*number), |number| u32::try_from(number).ok();
    bool: |flag| i64::from(*flag), |number| Some(number != 0);
    Time: |time| time.0, |number| Some(Time(number));
    Duration: |duration| crate::time::micros(*duration), |number| u64::try_from(number).ok().map(Duration::from_micros);
}

impl<T: Field> Field for Option<T> {
    const KIND: Kind = T::KIND;
    const NULLABLE: bool = true;
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_value)
    }
    fn from_value(value: Value) -> Option<Option<T>> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// A column of JSON text, for what no index looks into.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Json<T>(pub T);

impl<T> Deref for Json<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Json<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: serde::Serialize + serde::de::DeserializeOwned> Field for Json<T> {
    const KIND: Kind = Kind::Text;
    fn to_value(&self) -> Value {
        Value::Text(serde_json::to_string(&self.0).expect("domain types have string keys"))
    }
    fn from_value(value: Value) -> Option<Json<T>> {
        match value {
            Value::Text(text) => serde_json::from_str(&text).ok().map(Json),
            _ => None,
        }
    }
}

/// Labels, in the order of their names.
pub type Labels = Json<BTreeMap<String, String>>;

/// Gives an enum its names: in the store, in events and in logs.
#[macro_export]
macro_rules! named_enum {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            /// Its name, as the store, events and logs have it.
            pub fn name(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }
            /// The inverse of `name`.
            pub fn from_name(name: &str) -> Option<$type> {
                match name { $($name => Some($type::$variant),)+ _ => None }
            }
        }

        impl $crate::store::row::Field for $type {
            const KIND: $crate::store::row::Kind = $crate::store::row::Kind::Text;
            fn to_value(&self) -> $crate::store::row::Value {
                $crate::store::row::Value::Text(self.name().to_owned())
            }
            fn from_value(value: $crate::store::row::Value) -> Option<$type> {
                match value {
                    $crate::store::row::Value::Text(name) => $type::from_name(&name),
                    _ => None,
                }
            }
        }
    };
}

/// The place of a column, found when the program is compiled.
pub const fn position(columns: &[Column], name: &str) -> usize {
    let mut index = 0;
    while index < columns.len() {
        if same(columns[index].name, name) {
            return index;
        }
        index += 1;
    }
    panic!("an index names a column that the table does not have")
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// Makes a struct a row: its table, its key, its other columns and its indexes.
///
/// ```text
/// row! {
///     Lock: String = "locks" (resource_id: String) { holder_id: String, due_at: Option<Time> }
///     index BY_DUE = "locks_due": () -> (due_at, resource_id);
/// }
/// ```
/// Every field of the struct is named. Index 0 is the primary key, `PRIMARY`. `#[beside]` before it: rows are also written beside the
/// lane.
#[macro_export]
macro_rules! row {
    (
        $(#[$beside:ident])?
        $type:ident: $keytype:ty = $table:literal ($($key:ident: $kt:ty),+) { $($column:ident: $ct:ty),* $(,)? }
        $(index $index:ident = $name:literal: ($($prefix:ident),*) -> ($($order:ident),+);)*
    ) => {
        const _: () = {
            use $crate::store::row::{Column, Corrupt, Field, Index, Row, Table, Value, position};

            const COLUMNS: &[Column] = &[
                $(Column { name: stringify!($key), kind: <$kt as Field>::KIND, nullable: <$kt as Field>::NULLABLE },)+
                $(Column { name: stringify!($column), kind: <$ct as Field>::KIND, nullable: <$ct as Field>::NULLABLE },)*
            ];

            impl Row for $type {
                type Key = $keytype;
                const TABLE: &'static Table = &Table {
                    name: $table,
                    columns: COLUMNS,
                    key: [$(stringify!($key)),+].len(),
                    indexes: &[
                        Index {
                            name: concat!($table, "_pkey"),
                            prefix: &[],
                            order: &[$(position(COLUMNS, stringify!($key))),+],
                        },
                        $(Index {
                            name: $name,
                            prefix: &[$(position(COLUMNS, stringify!($prefix))),*],
                            order: &[$(position(COLUMNS, stringify!($order))),+],
                        },)*
                    ],
                    beside: ["", $(stringify!($beside))?].len() > 1,
                };

                #[allow(unused_parens)]
                fn key(&self) -> Self::Key {
                    ($(self.$key.clone()),+)
                }

                #[allow(unused_assignments)]
                fn column(&self, index: usize) -> Value {
                    let mut at = 0;
                    $(if index == at { return self.$key.to_value(); } at += 1;)+
                    $(if index == at { return self.$column.to_value(); } at += 1;)*
                    Value::Null
                }

                fn from_columns(columns: Vec<Value>) -> Result<Self, Corrupt> {
                    let mut columns = columns.into_iter();
                    $(let $key = columns
                        .next()
                        .and_then(<$kt as Field>::from_value)
                        .ok_or(Corrupt { table: $table, column: stringify!($key) })?;)+
                    $(let $column = columns
                        .next()
                        .and_then(<$ct as Field>::from_value)
                        .ok_or(Corrupt { table: $table, column: stringify!($column) })?;)*
                    Ok($type { $($key,)+ $($column,)* })
                }
            }
        };

        $crate::row_indexes!($type, 1, $($index)*);
    };
}

/// Numbers the indexes of a row. Used by [`row!`](crate::row!).
#[macro_export]
macro_rules! row_indexes {
    ($type:ident, $number:expr,) => {
        impl $type {
            /// The primary key, as a way into the table.
            pub const PRIMARY: usize = 0;
        }
    };
    ($type:ident, $number:expr, $index:ident $($rest:ident)*) => {
        impl $type {
            /// A way into the table.
            pub const $index: usize = $number;
        }
        $crate::row_indexes!($type, $number + 1, $($rest)*);
    };
}
