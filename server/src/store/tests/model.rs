//! Random histories of changes and selections, held against rows that are sorted in memory.

use proptest::prelude::*;

use super::*;

/// The rows of one namespace and table, by key.
type Model = BTreeMap<Vec<Value>, Columns>;

/// A value from few, so that rows meet; the order of text shows a store that does not compare bytes.
fn value(kind: Kind, nullable: bool) -> BoxedStrategy<Value> {
    let known = match kind {
        Kind::Int => prop::sample::select(vec![-1, 0, 1, 7, i64::MAX])
            .prop_map(Value::Int)
            .boxed(),
        Kind::Text => prop::sample::select(vec!["", "B", "a", "a b", "ab", "é", "ſ"])
            .prop_map(|text| Value::Text(text.to_owned()))
            .boxed(),
        Kind::Blob => prop::sample::select(vec![&b""[..], b"\0", b"\xff"])
            .prop_map(|bytes| Value::Blob(bytes::Bytes::from_static(bytes)))
            .boxed(),
    };
    if nullable {
        prop_oneof![1 => Just(Value::Null), 3 => known].boxed()
    } else {
        known
    }
}

fn any_row(table: &'static Table) -> BoxedStrategy<Columns> {
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|column| value(column.kind, column.nullable))
        .collect();
    columns.boxed()
}

/// Values that the columns of an index could have.
fn place(table: &'static Table, columns: &[usize]) -> Vec<BoxedStrategy<Value>> {
    columns
        .iter()
        .map(|column| value(table.columns[*column].kind, false))
        .collect()
}

fn any_selection(table: &'static Table) -> BoxedStrategy<Selection> {
    let selections = (0..table.indexes.len()).map(|number| {
        let index = &table.indexes[number];
        let after = prop::option::of((place(table, index.order), 1..=index.order.len())).prop_map(|after| {
            after.map(|(mut values, count): (Vec<Value>, usize)| {
                values.truncate(count);
                values
            })
        });
        (place(table, index.prefix), after, 0..6usize, any::<bool>())
            .prop_map(move |(prefix, after, limit, backwards)| Selection {
                index: number,
                prefix,
                after,
                limit,
                backwards,
            })
            .boxed()
    });
    proptest::strategy::Union::new(selections).boxed()
}

#[derive(Clone, Debug)]
struct Round {
    puts: Vec<Columns>,
    deletes: Vec<Columns>,
    trim: Option<(usize, Columns, Columns, usize)>,
    selections: Vec<Selection>,
}

fn any_round(table: &'static Table) -> BoxedStrategy<Round> {
    let trim = (0..table.indexes.len(), any_row(table), any_row(table), 0..4usize);
    (
        prop::collection::vec(any_row(table), 0..8),
        prop::collection::vec(any_row(table), 0..3),
        prop::option::weighted(0.2, trim),
        prop::collection::vec(any_selection(table), 0..6),
    )
        .prop_map(|(puts, deletes, trim, selections)| Round {
            puts,
            deletes,
            trim,
            selections,
        })
        .boxed()
}

fn read(row: &Columns, columns: &[usize]) -> Vec<Value> {
    columns.iter().map(|column| row[*column].clone()).collect()
}

/// The rows of an index, in order.
fn ordered<'a>(model: &'a Model, index: &Index) -> Vec<&'a Columns> {
    let mut rows: Vec<_> = model
        .values()
        .filter(|row| index.columns().all(|column| row[column] != Value::Null))
        .collect();
    rows.sort_by_key(|row| read(row, index.order));
    rows
}

fn select(model: &Model, table: &Table, selection: &Selection) -> Vec<Columns> {
    let index = &table.indexes[selection.index];
    let mut rows = ordered(model, index);
    if selection.backwards {
        rows.reverse();
    }
    rows.into_iter()
        .filter(|row| read(row, index.prefix) == selection.prefix)
        .filter(|row| {
            selection.after.as_ref().is_none_or(|after| {
                let place = read(row, &index.order[..after.len()]);
                if selection.backwards {
                    place < *after
                } else {
                    place > *after
                }
            })
        })
        .take(selection.limit)
        .cloned()
        .collect()
}

/// Makes a round's changes in the model; returns them as a store is told.
fn change(model: &mut Model, table: &'static Table, round: &Round) -> (TableSave, Vec<Trim>) {
    let mut changes = unchanged(table);
    let mut touched = std::collections::BTreeSet::new();
    for row in &round.puts {
        let key = key_of(table, row);
        if !touched.insert(key.clone()) {
            continue;
        }
        if model.insert(key, row.clone()).is_some() {
            changes.upserts.push(row.clone());
        } else {
            changes.inserts.push(row.clone());
        }
    }
    for row in &round.deletes {
        let key = key_of(table, row);
        if touched.insert(key.clone()) {
            model.remove(&key);
            changes.deletes.push(key);
        }
    }
    let trims = round.trim.iter().filter_map(|(number, from, row, limit)| {
        let index = &table.indexes[*number];
        let (from, up_to) = (from[index.order[0]].clone(), row[index.order[0]].clone());
        if !index.prefix.is_empty() || from == Value::Null || up_to == Value::Null {
            return None;
        }
        let ordered = ordered(model, index).into_iter();
        let old = ordered.filter(|row| (&from..=&up_to).contains(&&row[index.order[0]]));
        let old: Vec<_> = old.take(*limit).map(|row| key_of(table, row)).collect();
        for key in old {
            model.remove(&key);
        }
        Some(Trim {
            table,
            index: *number,
            from,
            up_to,
            limit: *limit,
        })
    });
    let trims = trims.collect();
    (changes, trims)
}

#[test]
fn selections_agree_with_rows_sorted_in_memory() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for store in runtime.block_on(stores()) {
        let cases = match *store {
            Store::Sqlite(_) | Store::Simulated(_) => 16,
            Store::Postgres(_) => 4,
        };
        for table in TABLES {
            let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
                cases,
                failure_persistence: None,
                ..ProptestConfig::default()
            });
            let rounds = prop::collection::vec(any_round(table), 1..12);
            let run = runner.run(&rounds, |rounds| {
                let namespace = uuid::Uuid::new_v4().to_string();
                runtime.block_on(check(&store, &namespace, table, rounds));
                Ok(())
            });
            if let Err(error) = run {
                panic!("{}: {error}", table.name);
            }
        }
    }
}

async fn check(store: &Store, namespace: &str, table: &'static Table, rounds: Vec<Round>) {
    let mut model = Model::new();
    // Rows of another namespace that must never show.
    let mut decoy = Model::new();
    for round in rounds {
        let (changes, trims) = change(&mut model, table, &round);
        save(store, namespace, vec![changes], trims).await.expect("a save");
        let reversed = Round {
            trim: None,
            ..round.clone()
        };
        let (changes, _) = change(&mut decoy, table, &reversed);
        save(store, &format!("{namespace}!"), vec![changes], Vec::new())
            .await
            .expect("a save");

        let keys: Vec<_> = round
            .deletes
            .iter()
            .chain(&round.puts)
            .map(|row| key_of(table, row))
            .collect();
        let keys: std::collections::BTreeSet<_> = keys.into_iter().collect();
        let plan = TablePlan {
            table,
            keys: keys.iter().cloned().collect(),
            selections: round.selections.clone(),
        };
        let (transaction, _, mut in_transaction) = store.begin(namespace, vec![plan.clone()]).await.expect("a begin");
        drop(transaction);
        let (_, mut in_snapshot) = store.read(namespace, vec![plan]).await.expect("a read");
        for mut rows in [in_transaction.remove(0), in_snapshot.remove(0)] {
            rows.by_key.sort();
            let expected: Vec<_> = keys.iter().filter_map(|key| model.get(key).cloned()).collect();
            assert_eq!(rows.by_key, expected);
            for (selection, selected) in round.selections.iter().zip(rows.selected) {
                let places = |rows: &[Columns]| -> Vec<_> {
                    let order = table.indexes[selection.index].order;
                    rows.iter().map(|row| read(row, order)).collect()
                };
                // Random rows may share a place, which those of a room do not; their order is free then.
                assert_eq!(
                    places(&selected),
                    places(&select(&model, table, selection)),
                    "{selection:?}"
                );
                for row in &selected {
                    assert_eq!(model.get(&key_of(table, row)), Some(row));
                    assert_eq!(read(row, table.indexes[selection.index].prefix), selection.prefix);
                }
            }
        }
    }
}
