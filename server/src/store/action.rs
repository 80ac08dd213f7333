//! What a statement does. Each store has its own words for it, made from a table's list of columns and kept under the table's name and
//! the action.

use super::Selection;
use super::row::{Index, Table};

/// What a statement does with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// Reads rows by their keys.
    Get,
    /// The same, and keeps those that write beside the lane away from them until the transaction ends.
    GetAndHold,
    /// Adds rows.
    Insert,
    /// Adds rows or replaces them.
    Upsert,
    /// Deletes rows by their keys.
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
    /// The reading of a stretch.
    pub(super) fn of(selection: &Selection) -> Action {
        Action::Select {
            index: selection.index,
            after: selection.after.as_ref().map(Vec::len),
            backwards: selection.backwards,
        }
    }

    /// Everything that can be done with a table.
    #[cfg(test)]
    pub(super) fn all(table: &Table) -> Vec<Action> {
        let mut actions = vec![Action::Get, Action::Insert, Action::Upsert, Action::Delete];
        actions.extend(table.beside.then_some(Action::GetAndHold));
        for (index, listed) in table.indexes.iter().enumerate() {
            for after in std::iter::once(None).chain((1..=listed.order.len()).map(Some)) {
                actions.extend([false, true].map(|backwards| Action::Select {
                    index,
                    after,
                    backwards,
                }));
            }
            if listed.prefix.is_empty() {
                actions.push(Action::Trim { index });
            }
        }
        actions
    }
}

/// A name in quotes: some of the columns have names that a dialect has uses for.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

/// Names of columns, quoted.
pub(super) fn names<'a>(table: &'a Table, columns: &'a [usize]) -> impl Iterator<Item = String> + 'a {
    columns.iter().map(|column| quoted(table.columns[*column].name))
}

/// The key's columns, with the namespace.
pub(super) fn key(table: &Table) -> String {
    let columns = table.columns[..table.key].iter().map(|column| quoted(column.name));
    joined(std::iter::once(quoted("namespace")).chain(columns), ", ")
}

/// Every column but the namespace.
pub(super) fn columns(table: &Table) -> String {
    joined(table.columns.iter().map(|column| quoted(column.name)), ", ")
}

/// What an upsert does with a row that is there.
pub(super) fn on_conflict(table: &Table) -> String {
    let rest = table.columns[table.key..].iter().map(|column| {
        let name = quoted(column.name);
        format!("{name} = excluded.{name}")
    });
    let rest = joined(rest, ", ");
    let key = key(table);
    if rest.is_empty() {
        format!("ON CONFLICT ({key}) DO NOTHING")
    } else {
        format!("ON CONFLICT ({key}) DO UPDATE SET {rest}")
    }
}

/// That a row is in an index. Without these words a store could not use a partial one.
pub(super) fn not_null<'a>(table: &'a Table, index: &'a Index) -> impl Iterator<Item = String> + 'a {
    let nullable = index.columns().filter(|column| table.columns[*column].nullable);
    nullable.map(|column| format!("{} IS NOT NULL", quoted(table.columns[column].name)))
}

pub(super) fn joined(parts: impl Iterator<Item = String>, by: &str) -> String {
    parts.collect::<Vec<_>>().join(by)
}
