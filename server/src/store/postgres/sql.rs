//! The statements of a table, in Postgres' words. `$1` is always the namespace; what follows are arrays with one element per row.
//!
//! The shape of a statement is its plan. Keys and places come as arrays and are looked up one by one, in a `LATERAL` subquery that the
//! planner cannot turn into a join (`OFFSET 0`, or its `LIMIT`): that is a nested loop over an index whatever is known of the table.

use crate::store::action::{Action, columns, joined, names, not_null, on_conflict, quoted};
use crate::store::row::{Index, Kind, Table};

/// The text of a statement.
pub(super) fn text(table: &Table, action: Action) -> String {
    match action {
        Action::Get => get(table, ""),
        Action::GetAndHold => get(table, " FOR UPDATE"),
        Action::Insert => insert(table),
        Action::Upsert => format!("{} {}", insert(table), on_conflict(table)),
        Action::Delete => delete(table),
        Action::Select {
            index,
            after,
            backwards,
        } => select(table, &table.indexes[index], after.unwrap_or(0), backwards),
        Action::Trim { index } => trim(table, &table.indexes[index]),
    }
}

/// `UNNEST($2::…[], …)`, an array for each of the columns, and their names in what it gives.
fn unnest(table: &Table, columns: impl Iterator<Item = usize>) -> (String, Vec<String>) {
    let kinds: Vec<_> = columns.map(|column| table.columns[column].kind).collect();
    let arrays = kinds
        .iter()
        .zip(2..)
        .map(|(kind, place)| format!("${place}::{}[]", type_of(*kind)));
    let names = (1..=kinds.len()).map(|number| format!("v{number}")).collect();
    (joined(arrays, ", "), names)
}

fn get(table: &Table, hold: &str) -> String {
    let (arrays, values) = unnest(table, 0..table.key);
    format!(
        "SELECT t.* FROM UNNEST({arrays}) AS k({}) CROSS JOIN LATERAL \
         (SELECT {} FROM {} WHERE \"namespace\" = $1 AND {} OFFSET 0{hold}) AS t",
        values.join(", "),
        columns(table),
        quoted(table.name),
        equal(table, 0..table.key, &values)
    )
}

/// The places of the rows are found first, one by one: a join the planner may turn round, and then it walks all rows of the namespace.
/// Rows that are also written beside the lane are held before, or one could have moved from its place by the time it is deleted.
fn delete(table: &Table) -> String {
    let (arrays, values) = unnest(table, 0..table.key);
    let name = quoted(table.name);
    format!(
        "DELETE FROM {name} WHERE ctid = ANY (ARRAY(SELECT t.ctid FROM UNNEST({arrays}) AS k({}) CROSS JOIN LATERAL \
         (SELECT ctid FROM {name} WHERE \"namespace\" = $1 AND {} OFFSET 0{}) AS t))",
        values.join(", "),
        equal(table, 0..table.key, &values),
        if table.beside { " FOR UPDATE" } else { "" }
    )
}

fn insert(table: &Table) -> String {
    let (arrays, _) = unnest(table, 0..table.columns.len());
    let columns = columns(table);
    format!(
        "INSERT INTO {} (\"namespace\", {columns}) SELECT $1::text, v.* FROM UNNEST({arrays}) AS v",
        quoted(table.name)
    )
}

/// Of each stretch: its prefix, the values of `after`, its limit. Gives rows with the number of their stretch first.
fn select(table: &Table, index: &Index, after: usize, backwards: bool) -> String {
    let (compare, direction) = if backwards { ("<", " DESC") } else { (">", "") };
    let order = &index.order[..after];
    let (arrays, values) = unnest(table, index.prefix.iter().chain(order).copied());
    let (prefix, places) = values.split_at(index.prefix.len());
    let limits = format!("${}::bigint[]", values.len() + 2);
    let arrays = [arrays, limits].into_iter().filter(|array| !array.is_empty());

    let mut wheres = vec!["\"namespace\" = $1".to_owned()];
    if !prefix.is_empty() {
        wheres.push(equal(table, index.prefix.iter().copied(), prefix));
    }
    wheres.extend(in_index(table, index));
    if after > 0 {
        let names = joined(names(table, order), ", ");
        let places = joined(places.iter().map(|value| format!("k.{value}")), ", ");
        wheres.push(format!("({names}) {compare} ({places})"));
    }
    let given = values.iter().map(String::as_str).chain(["most", "number"]);
    format!(
        "SELECT k.number, t.* FROM UNNEST({}) WITH ORDINALITY AS k({}) CROSS JOIN LATERAL \
         (SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT k.most) AS t",
        joined(arrays, ", "),
        given.collect::<Vec<_>>().join(", "),
        columns(table),
        quoted(table.name),
        wheres.join(" AND "),
        joined(names(table, index.order).map(|name| name + direction), ", ")
    )
}

/// `$2`: from where; `$3`: up to where; `$4`: how many. The places of the rows are found first, or the planner would join.
fn trim(table: &Table, index: &Index) -> String {
    let name = quoted(table.name);
    let first = &table.columns[index.order[0]];
    let mut wheres = vec![
        "\"namespace\" = $1".to_owned(),
        format!(
            "{0} BETWEEN $2::{1} AND $3::{1}",
            quoted(first.name),
            type_of(first.kind)
        ),
    ];
    wheres.extend(in_index(table, index));
    format!(
        "DELETE FROM {name} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {name} WHERE {} ORDER BY {} LIMIT $4::bigint))",
        wheres.join(" AND "),
        joined(names(table, index.order), ", ")
    )
}

/// What a statement must say to be let into an index other than the primary key.
fn in_index<'a>(table: &'a Table, index: &'a Index) -> impl Iterator<Item = String> + 'a {
    let mark = (!index.is_primary(table)).then(|| "\"namespace\" <> ''".to_owned());
    mark.into_iter().chain(not_null(table, index))
}

/// That columns equal values.
fn equal(table: &Table, columns: impl Iterator<Item = usize>, values: &[String]) -> String {
    let pairs = columns.zip(values);
    let equal = pairs.map(|(column, value)| format!("{} = k.{value}", quoted(table.columns[column].name)));
    joined(equal, " AND ")
}

fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Int => "bigint",
        Kind::Text => "text",
        Kind::Blob => "bytea",
    }
}
