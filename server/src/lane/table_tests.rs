//! The working set against a full scan of what it should hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::table::{Decision, Halt, WorkTable};
use crate::row;
use crate::store::TableRows;
use crate::store::row::{Row, Value};

#[derive(Clone, Debug, PartialEq)]
struct Thing {
    id: String,
    group: Option<i64>,
    rank: i64,
}

row! {
    Thing: String = "things" (id: String) { group: Option<i64>, rank: i64 }
    index BY_GROUP = "things_by_group": (group) -> (rank, id);
}

/// A store of things, without SQL.
#[derive(Clone, Debug, Default)]
struct Things(BTreeMap<String, Thing>);

impl Things {
    /// Loads what the table asks for.
    fn load(&self, table: &mut WorkTable<Thing>) {
        let plan = table.take_plan().expect("it asked for something");
        let mut rows = TableRows::default();
        for key in &plan.keys {
            let Value::Text(id) = &key[0] else {
                panic!("ids are text")
            };
            rows.by_key.extend(self.0.get(id).map(Row::columns));
        }
        for selection in &plan.selections {
            let index = &Thing::TABLE.indexes[selection.index];
            let mut found: Vec<_> = self
                .0
                .values()
                .filter_map(|thing| Some((thing.place(index)?, thing)))
                .filter(|((prefix, place), _)| {
                    *prefix == selection.prefix && selection.after.as_ref().is_none_or(|after| place > after)
                })
                .collect();
            found.sort_by(|(a, _), (b, _)| a.cmp(b));
            rows.selected.push(
                found
                    .iter()
                    .take(selection.limit)
                    .map(|(_, thing)| thing.columns())
                    .collect(),
            );
        }
        table.fill(&plan, rows).expect("rows of its own");
    }

    /// Saves what a table has changed.
    fn save(&mut self, table: &WorkTable<Thing>) {
        let Some(save) = table.save() else { return };
        for columns in save.inserts {
            let thing = Thing::from_columns(columns).expect("rows of its own");
            let before = self.0.insert(thing.id.clone(), thing);
            assert!(before.is_none(), "an insert of a row that exists");
        }
        for columns in save.upserts {
            let thing = Thing::from_columns(columns).expect("rows of its own");
            self.0.insert(thing.id.clone(), thing);
        }
        for key in save.deletes {
            let Value::Text(id) = &key[0] else {
                panic!("ids are text")
            };
            self.0.remove(id);
        }
    }

    /// What a rule sees, loading as often as it needs.
    fn see<T>(&self, table: &mut WorkTable<Thing>, mut rule: impl FnMut(&mut WorkTable<Thing>) -> Decision<T>) -> T {
        for _ in 0..100 {
            match rule(table) {
                Ok(seen) => return seen,
                Err(Halt::Load) => self.load(table),
                Err(Halt::Refuse(refusal)) => panic!("{refusal}"),
            }
        }
        panic!("it asks without end");
    }

    /// What a selection should find, by looking at everything.
    fn scan(&self, group: i64, after: Option<&(i64, String)>, limit: usize) -> Vec<Thing> {
        let mut found: Vec<Thing> = self
            .0
            .values()
            .filter(|thing| thing.group == Some(group))
            .cloned()
            .collect();
        found.sort_by_key(|thing| (thing.rank, thing.id.clone()));
        found.retain(|thing| after.is_none_or(|after| (thing.rank, thing.id.clone()) > *after));
        found.truncate(limit);
        found
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(String, Option<i64>, i64),
    Remove(String),
    Get(String),
    Select(i64, usize),
    SelectAfter(i64, i64, String, usize),
    Want(String),
    WantFirst(i64, usize),
    /// The steps since the last of these are undone.
    Undo,
    Keep,
    /// What was changed is saved, and the table kept for the next batch.
    Settle,
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    let id = "[a-l]";
    let group = prop::option::of(0..3i64);
    let step = prop_oneof![
        4 => (id, group, 0..5i64).prop_map(|(id, group, rank)| Step::Put(id, group, rank)),
        2 => id.prop_map(Step::Remove),
        2 => id.prop_map(Step::Get),
        4 => (0..3i64, 1..6usize).prop_map(|(group, limit)| Step::Select(group, limit)),
        2 => (0..3i64, 0..5i64, id, 1..4usize).prop_map(|(group, rank, id, limit)| Step::SelectAfter(group, rank, id, limit)),
        1 => id.prop_map(Step::Want),
        1 => (0..3i64, 1..4usize).prop_map(|(group, limit)| Step::WantFirst(group, limit)),
        1 => Just(Step::Undo),
        1 => Just(Step::Keep),
        2 => Just(Step::Settle),
    ];
    prop::collection::vec(step, 1..60)
}

fn stored() -> impl proptest::strategy::Strategy<Value = Things> {
    let thing = ("[a-l]", prop::option::of(0..3i64), 0..5i64);
    prop::collection::vec(thing, 0..12).prop_map(|things| {
        Things(
            things
                .into_iter()
                .map(|(id, group, rank)| (id.clone(), Thing { id, group, rank }))
                .collect(),
        )
    })
}

proptest! {
    #[test]
    fn the_working_set_sees_what_a_full_scan_sees(mut store in stored(), steps in steps()) {
        let mut table = WorkTable::<Thing>::new(false);
        let mut truth = store.clone();
        let mut mark = (table.mark(), truth.clone());
        for step in steps {
            match step {
                Step::Put(id, group, rank) => {
                    let thing = Thing { id: id.clone(), group, rank };
                    table.put(thing.clone());
                    truth.0.insert(id, thing);
                }
                Step::Remove(id) => {
                    table.remove(&id);
                    truth.0.remove(&id);
                }
                Step::Get(id) => {
                    let seen = store.see(&mut table, |table| table.get(&id));
                    prop_assert_eq!(seen.as_deref(), truth.0.get(&id));
                }
                Step::Select(group, limit) => {
                    let seen = store.see(&mut table, |table| table.select(Thing::BY_GROUP, &[Value::Int(group)], limit));
                    let seen: Vec<Thing> = seen.iter().map(|thing| (**thing).clone()).collect();
                    prop_assert_eq!(seen, truth.scan(group, None, limit));
                }
                Step::SelectAfter(group, rank, id, limit) => {
                    let after = [Value::Int(rank), Value::Text(id.clone())];
                    let seen = store.see(&mut table, |table| {
                        table.select_after(Thing::BY_GROUP, &[Value::Int(group)], Some(&after), limit)
                    });
                    let seen: Vec<Thing> = seen.iter().map(|thing| (**thing).clone()).collect();
                    prop_assert_eq!(seen, truth.scan(group, Some(&(rank, id)), limit));
                }
                Step::Want(id) => table.want(&id),
                Step::WantFirst(group, limit) => table.want_first(Thing::BY_GROUP, vec![Value::Int(group)], limit),
                Step::Undo => {
                    table.undo_to(mark.0);
                    truth = mark.1.clone();
                }
                Step::Keep => mark = (table.mark(), truth.clone()),
                Step::Settle => {
                    store.save(&table);
                    prop_assert_eq!(&store.0, &truth.0);
                    table.settle();
                    prop_assert_eq!(table.changed().count(), 0);
                    mark = (table.mark(), truth.clone());
                }
            }
        }
        let all = store.see(&mut table, |table| table.select(Thing::PRIMARY, &[], 100));
        prop_assert_eq!(all.iter().map(|thing| &**thing).collect::<Vec<_>>(), truth.0.values().collect::<Vec<_>>());

        // What is saved makes the store what it should be.
        store.save(&table);
        prop_assert_eq!(store.0, truth.0);
    }

    #[test]
    fn a_row_that_is_assumed_to_be_new_is_inserted(store in stored(), id in "[a-l]") {
        let mut table = WorkTable::<Thing>::new(false);
        let thing = Thing { id: id.clone(), group: None, rank: 9 };
        let mark = table.mark();
        table.add(thing.clone());
        table.undo_to(mark);
        prop_assert!(table.is_unknown(&id));
        table.add(thing);
        prop_assert_eq!(table.save().unwrap().inserts.len(), 1);
        // Whether it is there already is seen only once it was undone.
        table.undo_to(mark);
        let seen = store.see(&mut table, |table| table.get(&id));
        prop_assert_eq!(seen.as_deref(), store.0.get(&id));
    }
}

fn many(count: usize) -> Things {
    let thing = |number| Thing {
        id: format!("{number:05}"),
        group: Some(0),
        rank: 0,
    };
    Things((0..count).map(thing).map(|thing| (thing.id.clone(), thing)).collect())
}

#[test]
fn five_hundred_jobs_that_each_take_the_first_row_need_few_loads() {
    let store = many(2_000);
    let mut table = WorkTable::<Thing>::new(false);
    let mut reads = 0;
    for _ in 0..512 {
        let first = store.see(&mut table, |table| {
            reads += 1;
            table.select(Thing::BY_GROUP, &[Value::Int(0)], 1)
        });
        let mut taken = (*first[0]).clone();
        taken.group = None;
        table.put(taken);
    }
    assert!(reads - 512 < 12, "{} loads", reads - 512);
}

#[test]
fn a_selection_far_inside_an_index_loads_nothing_before_it() {
    let store = many(200);
    let mut table = WorkTable::<Thing>::new(false);
    let after = [Value::Int(0), Value::Text("00099".to_owned())];
    let found = store.see(&mut table, |table| {
        table.select_after(Thing::BY_GROUP, &[Value::Int(0)], Some(&after), 4)
    });
    assert_eq!(found[0].id, "00100");
    assert!(table.known().iter().all(|thing| thing.id.as_str() > "00099"));
}
