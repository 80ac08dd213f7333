//! The tables that the migrations make are those that the rooms list, in both stores.

use std::collections::BTreeSet;

use super::*;
use crate::store::migrations::{MIGRATIONS, Migration};

/// A table as a database has it, or as it should.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    /// Name, type, whether it can be null.
    columns: Vec<(String, String, bool)>,
    primary_key: Vec<String>,
    /// Columns, and those that must not be null. By their names.
    indexes: BTreeMap<String, (Vec<String>, BTreeSet<String>)>,
}

fn listed(table: &Table, type_of: fn(Kind) -> &'static str) -> Shape {
    let name = |column: usize| table.columns[column].name.to_owned();
    let namespace = || std::iter::once("namespace".to_owned());
    let columns = table.columns.iter();
    let columns = columns.map(|column| (column.name.to_owned(), type_of(column.kind).to_owned(), column.nullable));
    let indexes = table.indexes.iter().filter(|index| !index.is_primary(table));
    let indexes = indexes.map(|index| {
        let not_null = index
            .columns()
            .filter(|column| table.columns[*column].nullable)
            .map(name);
        let columns = namespace().chain(index.columns().map(name)).collect();
        (index.name.to_owned(), (columns, not_null.collect()))
    });
    Shape {
        columns: std::iter::once(("namespace".to_owned(), type_of(Kind::Text).to_owned(), false))
            .chain(columns)
            .collect(),
        primary_key: namespace().chain((0..table.key).map(name)).collect(),
        indexes: indexes.collect(),
    }
}

/// The columns of `a IS NOT NULL AND b IS NOT NULL`.
fn not_null(condition: &str) -> BTreeSet<String> {
    let condition = condition.replace(['(', ')', '"'], "");
    let parts = condition.split("AND").map(|part| part.trim().to_owned());
    parts
        .filter(|part| !part.is_empty())
        .map(|part| part.strip_suffix(" IS NOT NULL").unwrap_or(&part).to_owned())
        .collect()
}

#[test]
fn sqlite_has_the_tables_that_are_listed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let _store = Sqlite::open(directory.path()).expect("a new store");
    let database = rusqlite::Connection::open(directory.path().join("drumline.db")).expect("the file");
    let type_of = |kind| match kind {
        Kind::Int => "INTEGER",
        Kind::Text => "TEXT",
        Kind::Blob => "BLOB",
    };
    for table in all_tables() {
        let found = sqlite_shape(&database, table.name).expect("a table");
        assert_eq!(found, listed(table, type_of), "{}", table.name);
    }
}

fn sqlite_shape(database: &rusqlite::Connection, table: &str) -> rusqlite::Result<Shape> {
    let columns: Vec<(String, String, bool, i64)> = database
        .prepare("SELECT name, type, \"notnull\" = 0, pk FROM pragma_table_info(?1) ORDER BY cid")?
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut key: Vec<_> = columns.iter().filter(|column| column.3 > 0).collect();
    key.sort_by_key(|column| column.3);
    let primary_key = key.into_iter().map(|column| column.0.clone()).collect();
    let made: Vec<(String, String)> = database
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1 AND sql IS NOT NULL")?
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut indexes = BTreeMap::new();
    for (name, sql) in made {
        let columns: Vec<String> = database
            .prepare("SELECT name FROM pragma_index_info(?1) ORDER BY seqno")?
            .query_map([&name], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let condition = sql.split_once(" WHERE ").map_or("", |(_, condition)| condition);
        indexes.insert(name, (columns, not_null(condition)));
    }
    Ok(Shape {
        columns: columns
            .into_iter()
            .map(|(name, kind, nullable, _)| (name, kind, nullable))
            .collect(),
        primary_key,
        indexes,
    })
}

#[tokio::test]
async fn postgres_has_the_tables_that_are_listed() {
    let Some(schema) = Schema::new().await else {
        return;
    };
    let _store = Postgres::connect(&schema.url).await.expect("a database");
    let database = schema.client().await;
    let type_of = |kind| match kind {
        Kind::Int => "bigint",
        Kind::Text => "text C",
        Kind::Blob => "bytea",
    };
    for table in all_tables() {
        let found = postgres_shape(&database, table.name).await.expect("a table");
        assert_eq!(found, listed(table, type_of), "{}", table.name);
    }
}

async fn postgres_shape(database: &tokio_postgres::Client, table: &str) -> Result<Shape, tokio_postgres::Error> {
    let columns = database
        .query(
            "SELECT column_name::text, concat_ws(' ', data_type, collation_name), is_nullable = 'YES' \
             FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position",
            &[&table],
        )
        .await?;
    let made = database
        .query(
            "SELECT class.relname::text, indisprimary, coalesce(pg_get_expr(indpred, indrelid), ''), \
             ARRAY(SELECT pg_get_indexdef(indexrelid, place, true) FROM generate_series(1, indnkeyatts) AS place ORDER BY place) \
             FROM pg_index JOIN pg_class AS class ON class.oid = indexrelid WHERE indrelid = to_regclass($1)",
            &[&table],
        )
        .await?;
    let mut primary_key = Vec::new();
    let mut indexes = BTreeMap::new();
    for row in made {
        let columns: Vec<String> = row.get(3);
        let columns = columns.into_iter().map(|name| name.replace('"', "")).collect();
        if row.get(1) {
            primary_key = columns;
        } else {
            let condition: String = row.get(2);
            let marked = condition.replace("namespace <> ''::text", "");
            assert_ne!(marked, condition, "{table}: every index but the primary key is marked");
            indexes.insert(row.get(0), (columns, not_null(&marked)));
        }
    }
    Ok(Shape {
        columns: columns.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect(),
        primary_key,
        indexes,
    })
}

/// What the statements of a step come to, without what each database is told on top: `name(column type, …)`.
fn essence(sql: &str) -> Vec<String> {
    let lines = sql.lines().map(|line| line.split("--").next().unwrap_or(""));
    let text = lines.collect::<Vec<_>>().join(" ");
    let statements = text
        .split(';')
        .map(|statement| statement.split_whitespace().collect::<Vec<_>>().join(" "));
    statements
        .map(|statement| {
            let known = [
                ("bigint", "INTEGER"),
                ("text COLLATE \"C\"", "TEXT"),
                ("bytea", "BLOB"),
                (" STRICT, WITHOUT ROWID", ""),
                (" STRICT", ""),
                (" WHERE namespace <> '' AND ", " WHERE "),
                (" WHERE namespace <> ''", ""),
            ];
            let statement = known.iter().fold(statement, |text, (from, to)| text.replace(from, to));
            match statement.split_once(" WITH (") {
                Some((statement, _)) => statement.to_owned(),
                None => statement,
            }
        })
        .filter(|statement| !statement.is_empty())
        .collect()
}

#[test]
fn both_folders_have_the_same_steps_and_tables() {
    let folder = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../migrations")
            .join(name);
        let files = path.read_dir().expect("a folder of migrations");
        let names = files.map(|file| {
            file.expect("a file")
                .file_name()
                .into_string()
                .expect("a name in UTF-8")
        });
        names.collect::<BTreeSet<_>>()
    };
    let known: BTreeSet<_> = MIGRATIONS.iter().map(|step| format!("{}.sql", step.name)).collect();
    assert_eq!(folder("sqlite"), known);
    assert_eq!(folder("postgres"), known);
    for (
        place,
        Migration {
            number,
            name,
            sqlite,
            postgres,
        },
    ) in MIGRATIONS.iter().enumerate()
    {
        assert_eq!(usize::try_from(*number), Ok(place + 1));
        assert!(name.starts_with(&format!("{number:04}_")), "{name}");
        assert_eq!(essence(sqlite), essence(postgres), "{name}");
    }
}
