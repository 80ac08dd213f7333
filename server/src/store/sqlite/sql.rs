//! The statements of a table, made from its list of columns.
//!
//! Parameters are numbered `?N`: SQLite counts `$N` by first appearance. `?1` is always the namespace. Every way into a table names its
//! index, so that no statement can fall back to a scan.

use crate::store::Selection;
use crate::store::row::{Index, Table};

/// What a statement does. With a table's name, the key under which its text is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// Reads a row by its key.
    Get,
    /// Adds a row.
    Insert,
    /// Adds a row or replaces it.
    Upsert,
    /// Deletes a row by its key.
    Delete,
    /// Reads a stretch of an index: after this many values, if any.
    Select {
        index: usize,
        after: Option<usize>,
        backwards: bool,
    },
    /// Deletes the beginning of an index.
    Trim { index: usize },
}

impl Action {
    pub(super) fn of(selection: &Selection) -> Action {
        Action::Select {
            index: selection.index,
            after: selection.after.as_ref().map(Vec::len),
            backwards: selection.backwards,
        }
    }

    /// The text of the statement.
    pub(super) fn sql(self, table: &Table) -> String {
        match self {
            Action::Get => get(table),
            Action::Insert => insert(table),
            Action::Upsert => upsert(table),
            Action::Delete => delete(table),
            Action::Select {
                index,
                after,
                backwards,
            } => select(table, &table.indexes[index], after, backwards),
            Action::Trim { index } => trim(table, &table.indexes[index]),
        }
    }
}

/// The columns of the key, with the namespace.
fn key(table: &Table) -> String {
    std::iter::once(quoted("namespace"))
        .chain((0..table.key).map(|column| quoted(table.columns[column].name)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Every column but the namespace.
fn columns(table: &Table) -> String {
    joined(table.columns.iter().map(|column| quoted(column.name)), ", ")
}

fn get(table: &Table) -> String {
    format!(
        "SELECT {} FROM {} WHERE {}",
        columns(table),
        quoted(table.name),
        by_key(table)
    )
}

fn delete(table: &Table) -> String {
    format!("DELETE FROM {} WHERE {}", quoted(table.name), by_key(table))
}

/// `"namespace" = ?1 AND` each column of the key, from `?2` on.
fn by_key(table: &Table) -> String {
    let columns = (0..table.key).map(|column| format!("{} = ?{}", quoted(table.columns[column].name), column + 2));
    format!("\"namespace\" = ?1 AND {}", joined(columns, " AND "))
}

fn insert(table: &Table) -> String {
    let places = joined((1..=table.columns.len() + 1).map(|place| format!("?{place}")), ", ");
    let columns = columns(table);
    format!(
        "INSERT INTO {} (\"namespace\", {columns}) VALUES ({places})",
        quoted(table.name)
    )
}

fn upsert(table: &Table) -> String {
    let rest = table.columns[table.key..].iter().map(|column| {
        let name = quoted(column.name);
        format!("{name} = excluded.{name}")
    });
    let rest = joined(rest, ", ");
    let update = if rest.is_empty() {
        "NOTHING".to_owned()
    } else {
        format!("UPDATE SET {rest}")
    };
    format!("{} ON CONFLICT ({}) DO {update}", insert(table), key(table))
}

fn select(table: &Table, index: &Index, after: Option<usize>, backwards: bool) -> String {
    let (compare, direction) = if backwards { ("<", " DESC") } else { (">", "") };
    let mut place = 2;
    let mut wheres = vec!["\"namespace\" = ?1".to_owned()];
    for column in index.prefix {
        wheres.push(format!("{} = ?{place}", quoted(table.columns[*column].name)));
        place += 1;
    }
    wheres.extend(not_null(table, index));
    if let Some(count) = after
        && count > 0
    {
        let names = joined(
            index.order[..count]
                .iter()
                .map(|column| quoted(table.columns[*column].name)),
            ", ",
        );
        let places = joined((place..place + count).map(|place| format!("?{place}")), ", ");
        wheres.push(format!("({names}) {compare} ({places})"));
        place += count;
    }
    let order = index
        .order
        .iter()
        .map(|column| format!("{}{direction}", quoted(table.columns[*column].name)));
    format!(
        "SELECT {} FROM {}{} WHERE {} ORDER BY {} LIMIT ?{place}",
        columns(table),
        quoted(table.name),
        by(table, index),
        wheres.join(" AND "),
        joined(order, ", ")
    )
}

/// `?2`: up to where; `?3`: how many.
fn trim(table: &Table, index: &Index) -> String {
    let order = || {
        joined(
            index.order.iter().map(|column| quoted(table.columns[*column].name)),
            ", ",
        )
    };
    let key = key(table);
    let table_name = quoted(table.name);
    let mut wheres = vec![
        "\"namespace\" = ?1".to_owned(),
        format!("{} <= ?2", quoted(table.columns[index.order[0]].name)),
    ];
    wheres.extend(not_null(table, index));
    format!(
        "DELETE FROM {table_name} WHERE ({key}) IN (SELECT {key} FROM {table_name}{} WHERE {} ORDER BY {} LIMIT ?3)",
        by(table, index),
        wheres.join(" AND "),
        order()
    )
}

/// The rows that are in the index: without this SQLite would not use a partial one.
fn not_null<'a>(table: &'a Table, index: &'a Index) -> impl Iterator<Item = String> + 'a {
    index
        .columns()
        .filter(|column| table.columns[*column].nullable)
        .map(|column| format!("{} IS NOT NULL", quoted(table.columns[column].name)))
}

/// Names the index, unless it is the primary key, whose name is SQLite's own.
fn by(table: &Table, index: &Index) -> String {
    if index.is_primary(table) {
        String::new()
    } else {
        format!(" INDEXED BY {}", quoted(index.name))
    }
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn joined(parts: impl Iterator<Item = String>, by: &str) -> String {
    parts.collect::<Vec<_>>().join(by)
}
