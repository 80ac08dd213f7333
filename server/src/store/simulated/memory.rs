//! Tables in memory: what a database has on its disk. No time, no chance, no waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::lane::BatchRecord;
use crate::store::row::{Index, Kind, Row, Table, Value};
use crate::store::{Columns, Head, Newest, Plan, Rows, Save, Selection, TablePlan, TableRows, Trim};
use crate::time::Time;

/// The tables of every namespace.
#[derive(Default)]
pub struct Memory {
    spaces: BTreeMap<String, Space>,
}

/// The tables of one, by name.
#[derive(Default)]
struct Space {
    tables: BTreeMap<&'static str, Stored>,
}

type Key = Vec<Value>;

/// One table.
#[derive(Default)]
struct Stored {
    rows: BTreeMap<Key, Columns>,
    /// By index: the values of its columns, and the key, which makes them unique.
    indexes: Vec<BTreeMap<(Vec<Value>, Key), ()>>,
}

impl Memory {
    /// The namespaces in which anything was committed.
    pub fn namespaces(&self) -> Vec<String> {
        self.spaces.keys().cloned().collect()
    }

    /// The head of a namespace, told at a time.
    pub fn head(&self, namespace: &str, now: Time) -> Head {
        let newest = self.spaces.get(namespace).and_then(|space| {
            let (_, columns) = space.tables.get(BatchRecord::TABLE.name)?.rows.last_key_value()?;
            Some(BatchRecord::from_columns(columns.clone()).expect("what was stored"))
        });
        newest.map_or(Head::new(now), |batch| Head {
            batch: batch.batch,
            position: batch.position,
            first_position: batch.first_position,
            epoch: batch.epoch,
            last_token: batch.last_token,
            now: batch.at.max(now),
        })
    }

    /// The newest batch of each namespace.
    pub fn heads(&self) -> Vec<Newest> {
        let newest = |namespace: &String| {
            let head = self.head(namespace, Time(0));
            Newest {
                namespace: namespace.clone(),
                batch: head.batch,
                epoch: head.epoch,
                position: head.position,
            }
        };
        self.spaces.keys().map(newest).collect()
    }

    /// Reads what a plan says.
    pub fn read(&self, namespace: &str, plan: &Plan) -> Rows {
        let space = self.spaces.get(namespace);
        let read = |plan: &TablePlan| match space.and_then(|space| space.tables.get(plan.table.name)) {
            Some(stored) => stored.read(plan),
            None => TableRows {
                by_key: Vec::new(),
                selected: plan.selections.iter().map(|_| Vec::new()).collect(),
            },
        };
        plan.iter().map(read).collect()
    }

    /// Every row of a table, in the order of their keys.
    pub fn rows<R: Row>(&self, namespace: &str) -> Vec<R> {
        let stored = self.stored(namespace, R::TABLE);
        let rows = stored.into_iter().flat_map(|stored| stored.rows.values());
        rows.map(|columns| decode(columns)).collect()
    }

    /// One row.
    pub fn row<R: Row>(&self, namespace: &str, key: &R::Key) -> Option<R> {
        use crate::store::row::Key as _;
        let stored = self.stored(namespace, R::TABLE)?;
        stored.rows.get(&key.columns()).map(|columns| decode(columns))
    }

    /// The rows of a prefix of an index.
    pub fn select<R: Row>(&self, namespace: &str, index: usize, prefix: Vec<Value>) -> Vec<R> {
        let selection = Selection {
            index,
            prefix,
            after: None,
            limit: usize::MAX,
            backwards: false,
        };
        let stored = self.stored(namespace, R::TABLE);
        let rows = stored.map(|stored| stored.select(R::TABLE, &selection));
        rows.into_iter().flatten().map(|columns| decode(&columns)).collect()
    }

    fn stored(&self, namespace: &str, table: &Table) -> Option<&Stored> {
        self.spaces.get(namespace)?.tables.get(table.name)
    }

    /// Notes something in a row, if it is there.
    pub fn update<R: Row>(&mut self, namespace: &str, key: &R::Key, change: impl FnOnce(&mut R)) -> bool {
        let Some(mut row) = self.row::<R>(namespace, key) else {
            return false;
        };
        change(&mut row);
        let space = self.spaces.get_mut(namespace).expect("it has the row");
        space.stored(R::TABLE).put(R::TABLE, row.columns());
        true
    }

    /// Makes the changes of a batch, all or none.
    ///
    /// # Errors
    /// What a database would say of a save that breaks its constraints.
    pub fn apply(&mut self, namespace: &str, save: &Save) -> Result<(), String> {
        self.check(namespace, save)?;
        let space = self.spaces.entry(namespace.to_owned()).or_default();
        for changes in &save.tables {
            let stored = space.stored(changes.table);
            for key in &changes.deletes {
                stored.delete(changes.table, key);
            }
            for row in changes.upserts.iter().chain(&changes.inserts) {
                stored.put(changes.table, row.clone());
            }
        }
        for trim in &save.trims {
            space.stored(trim.table).trim(trim);
        }
        let head = &save.head;
        let batch = BatchRecord {
            batch: head.batch,
            batch_id: save.note.batch_id.clone(),
            events: save.note.events,
            position: head.position,
            first_position: head.first_position,
            epoch: head.epoch,
            last_token: head.last_token,
            at: head.now,
            next_due: save.note.next_due,
            changed: save.note.changed.clone(),
        };
        space
            .stored(BatchRecord::TABLE)
            .put(BatchRecord::TABLE, batch.columns());
        Ok(())
    }

    fn check(&self, namespace: &str, save: &Save) -> Result<(), String> {
        let mut taken: BTreeSet<(&str, &[Value])> = BTreeSet::new();
        for changes in &save.tables {
            let table = changes.table;
            let there = |key: &[Value]| {
                let stored = self.stored(namespace, table);
                stored.is_some_and(|stored| stored.rows.contains_key(key))
            };
            for row in changes.upserts.iter().chain(&changes.inserts) {
                check_row(table, row)?;
            }
            for row in &changes.inserts {
                let key = &row[..table.key];
                let is_free = !there(key) || changes.deletes.iter().any(|deleted| deleted == key);
                if !is_free || !taken.insert((table.name, key)) {
                    return Err(format!("{} has a row {key:?}", table.name));
                }
            }
        }
        let head = self.head(namespace, Time(0));
        if save.head.batch <= head.batch {
            return Err(format!("batch {} is there", save.head.batch));
        }
        Ok(())
    }
}

fn decode<R: Row>(columns: &Columns) -> R {
    R::from_columns(columns.clone()).expect("what was stored")
}

fn check_row(table: &Table, row: &Columns) -> Result<(), String> {
    let fits = |(column, value): (&crate::store::row::Column, &Value)| {
        matches!(
            (column.kind, value),
            (Kind::Int, Value::Int(_)) | (Kind::Text, Value::Text(_)) | (Kind::Blob, Value::Blob(_))
        ) || (column.nullable && *value == Value::Null)
    };
    if row.len() == table.columns.len() && table.columns.iter().zip(row).all(fits) {
        Ok(())
    } else {
        Err(format!("{} takes no row {row:?}", table.name))
    }
}

impl Space {
    fn stored(&mut self, table: &'static Table) -> &mut Stored {
        self.tables.entry(table.name).or_insert_with(|| Stored {
            rows: BTreeMap::new(),
            indexes: table.indexes.iter().map(|_| BTreeMap::new()).collect(),
        })
    }
}

impl Stored {
    fn read(&self, plan: &TablePlan) -> TableRows {
        TableRows {
            by_key: plan.keys.iter().filter_map(|key| self.rows.get(key).cloned()).collect(),
            selected: plan
                .selections
                .iter()
                .map(|selection| self.select(plan.table, selection))
                .collect(),
        }
    }

    fn select(&self, table: &Table, selection: &Selection) -> Vec<Columns> {
        let prefix = &selection.prefix;
        let after = selection.after.as_deref().unwrap_or_default();
        let from: Vec<Value> = prefix.iter().chain(after).cloned().collect();
        let entries = &self.indexes[selection.index];
        let of_prefix = |place: &Vec<Value>| place.starts_with(prefix);
        // A place that begins like `after` is neither after it nor before it.
        let beyond = |place: &Vec<Value>| after.is_empty() || !place[prefix.len()..].starts_with(after);
        let take = |places: &mut dyn Iterator<Item = &(Vec<Value>, Key)>| {
            places
                .take_while(|(place, _)| of_prefix(place))
                .filter(|(place, _)| beyond(place))
                .take(selection.limit)
                .map(|(_, key)| self.rows[key].clone())
                .collect()
        };
        debug_assert_eq!(table.indexes[selection.index].prefix.len(), prefix.len());
        if !selection.backwards {
            let bound = Bound::Included((from, Vec::new()));
            return take(&mut entries.range((bound, Bound::Unbounded)).map(|(entry, ())| entry));
        }
        if after.is_empty() {
            // From the end of the prefix, which is nowhere but behind its last row.
            let bound = Bound::Included((from, Vec::new()));
            let rows = entries.range((bound, Bound::Unbounded)).map(|(entry, ())| entry);
            let all: Vec<_> = rows.take_while(|(place, _)| of_prefix(place)).collect();
            return take(&mut all.into_iter().rev());
        }
        let bound = Bound::Excluded((from, Vec::new()));
        take(&mut entries.range((Bound::Unbounded, bound)).rev().map(|(entry, ())| entry))
    }

    fn put(&mut self, table: &Table, row: Columns) {
        let key = row[..table.key].to_vec();
        self.delete(table, &key);
        for (index, entries) in table.indexes.iter().zip(&mut self.indexes) {
            if let Some(place) = place(index, &row) {
                entries.insert((place, key.clone()), ());
            }
        }
        self.rows.insert(key, row);
    }

    fn delete(&mut self, table: &Table, key: &[Value]) {
        let Some(row) = self.rows.remove(key) else {
            return;
        };
        for (index, entries) in table.indexes.iter().zip(&mut self.indexes) {
            if let Some(place) = place(index, &row) {
                entries.remove(&(place, key.to_vec()));
            }
        }
    }

    fn trim(&mut self, trim: &Trim) {
        let old = self.indexes[trim.index].keys();
        let old: Vec<Key> = old
            .skip_while(|(place, _)| place[0] < trim.from)
            .take_while(|(place, _)| place[0] <= trim.up_to)
            .take(trim.limit)
            .map(|(_, key)| key.clone())
            .collect();
        for key in old {
            self.delete(trim.table, &key);
        }
    }
}

/// The place of a row in an index; nothing if it is not in it.
fn place(index: &Index, row: &Columns) -> Option<Vec<Value>> {
    let columns = index.columns().map(|column| &row[column]);
    columns
        .map(|value| (*value != Value::Null).then(|| value.clone()))
        .collect()
}
