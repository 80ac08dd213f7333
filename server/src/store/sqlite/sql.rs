//! The statements of a table, in SQLite's words.
//!
//! Parameters are numbered `?N`: SQLite counts `$N` by first appearance. `?1` is always the namespace. Every way into a table names its
//! index, so that no statement can fall back to a scan.

use crate::store::action::{Action, columns, joined, key, names, not_null, on_conflict, quoted};
use crate::store::row::{Index, Table};

/// The text of a statement.
pub(super) fn text(table: &Table, action: Action) -> String {
    match action {
        Action::Get | Action::GetAndHold => format!(
            "SELECT {} FROM {} WHERE {}",
            columns(table),
            quoted(table.name),
            by_key(table)
        ),
        Action::Insert => insert(table),
        Action::Upsert => format!("{} {}", insert(table), on_conflict(table)),
        Action::Delete => format!("DELETE FROM {} WHERE {}", quoted(table.name), by_key(table)),
        Action::Select {
            index,
            after,
            backwards,
        } => select(table, &table.indexes[index], after.unwrap_or(0), backwards),
        Action::Trim { index } => trim(table, &table.indexes[index]),
    }
}

/// `"namespace" = ?1 AND` each column of the key, from `?2` on.
fn by_key(table: &Table) -> String {
    let columns = table.columns[..table.key].iter().zip(2..);
    let columns = columns.map(|(column, place)| format!("{} = ?{place}", quoted(column.name)));
    format!("\"namespace\" = ?1 AND {}", joined(columns, " AND "))
}

fn insert(table: &Table) -> String {
    let columns = columns(table);
    let places = places(1, table.columns.len() + 1);
    format!(
        "INSERT INTO {} (\"namespace\", {columns}) VALUES ({places})",
        quoted(table.name)
    )
}

/// From `?2` on: the prefix, the values of `after`, the limit.
fn select(table: &Table, index: &Index, after: usize, backwards: bool) -> String {
    let (compare, direction) = if backwards { ("<", " DESC") } else { (">", "") };
    let mut wheres = vec!["\"namespace\" = ?1".to_owned()];
    let mut place = 2;
    for name in names(table, index.prefix) {
        wheres.push(format!("{name} = ?{place}"));
        place += 1;
    }
    wheres.extend(not_null(table, index));
    if after > 0 {
        let names = joined(names(table, &index.order[..after]), ", ");
        wheres.push(format!("({names}) {compare} ({})", places(place, after)));
        place += after;
    }
    let order = names(table, index.order).map(|name| name + direction);
    format!(
        "SELECT {} FROM {}{} WHERE {} ORDER BY {} LIMIT ?{place}",
        columns(table),
        quoted(table.name),
        by(table, index),
        wheres.join(" AND "),
        joined(order, ", ")
    )
}

/// `?2`: from where; `?3`: up to where; `?4`: how many.
fn trim(table: &Table, index: &Index) -> String {
    let (name, key) = (quoted(table.name), key(table));
    let order = joined(names(table, index.order), ", ");
    let first = quoted(table.columns[index.order[0]].name);
    let mut wheres = vec!["\"namespace\" = ?1".to_owned(), format!("{first} BETWEEN ?2 AND ?3")];
    wheres.extend(not_null(table, index));
    format!(
        "DELETE FROM {name} WHERE ({key}) IN (SELECT {key} FROM {name}{} WHERE {} ORDER BY {order} LIMIT ?4)",
        by(table, index),
        wheres.join(" AND ")
    )
}

/// Names the index, unless it is the primary key, whose name is SQLite's own.
fn by(table: &Table, index: &Index) -> String {
    if index.is_primary(table) {
        String::new()
    } else {
        format!(" INDEXED BY {}", quoted(index.name))
    }
}

fn places(from: usize, count: usize) -> String {
    joined((from..from + count).map(|place| format!("?{place}")), ", ")
}
