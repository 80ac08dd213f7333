//! One table of the working set: the rows that are loaded, the rows that changed, and how far its indexes are known.
//!
//! A rule reads with [`WorkTable::get`] and [`WorkTable::select`]. What is not loaded yet is noted and ends the rule with
//! [`Halt::Load`]; the lane loads it and runs the rule again. A selection knows up to which place of the index every stored row is
//! loaded, and sees the rows that earlier jobs of the batch changed; beyond that place it asks for more. One that begins far inside an
//! index loads from there on.
//!
//! A table can outlive its batch: once that is committed, what is known here is what is stored ([`WorkTable::settle`]). That nobody else
//! has changed anything since is for the lane to make sure of.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::error::Refusal;
use crate::machine::{HashMap, HashSet};
use crate::store::row::{Corrupt, Index, Key, Row, Value};
use crate::store::{Selection, TablePlan, TableRows, TableSave};

/// How many rows a selection loads beyond what it was asked for, to spare the next job a round trip.
const READ_AHEAD: usize = 8;
/// A selection that has to load more loads as many as it has, so that a batch whose jobs each take the first row needs few round trips;
/// at most this many.
const MAX_READ_AHEAD: usize = 1_024;

/// A table that is kept for the next batch knows at most so many keys, and prefixes of indexes; then it begins anew.
const MAX_KEPT: usize = 2_048;

/// Why a rule did not finish.
#[derive(Debug)]
pub enum Halt {
    /// It needs rows that are not loaded; they are noted. Run it again.
    Load,
    /// It refuses. Nothing that it did stands.
    Refuse(Refusal),
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Halt {
        Halt::Refuse(refusal)
    }
}

/// What a rule returns.
pub type Decision<T> = Result<T, Halt>;

/// What is known of a key.
struct Slot<R> {
    /// The row as it is now; none if the key is free.
    row: Option<Arc<R>>,
    changed: bool,
    stored: Stored<R>,
}

/// What the store has, as far as is known.
enum Stored<R> {
    Present(Arc<R>),
    Absent,
    /// Nothing, if all is well: the store is not asked, and refuses the row if that is wrong.
    Assumed,
    Unknown,
}

/// What a key was before a change: its row and whether it had been changed; nothing if it had not.
type Before<R> = Option<Option<Arc<R>>>;

/// Up to where the rows of an index under one prefix are loaded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    UpTo(Vec<Value>),
    End,
}

/// A part of an index under one prefix of which every row is loaded, from after a place on.
struct Stretch {
    reach: Reach,
    /// How many rows it was loaded with.
    loaded: usize,
}

type Place = (Vec<Value>, Vec<Value>);

/// One table of the working set.
pub struct WorkTable<R: Row> {
    slots: HashMap<R::Key, Slot<R>>,
    /// For each index that was selected from the known rows, in order.
    indexes: Vec<Option<BTreeMap<Place, R::Key>>>,
    /// By the place that each begins after; the empty one is the beginning.
    stretches: HashMap<(usize, Vec<Value>), BTreeMap<Vec<Value>, Stretch>>,
    wanted_keys: HashSet<R::Key>,
    wanted_selections: Vec<Selection>,
    /// The keys of the plan that is being loaded.
    loading: Vec<R::Key>,
    undo: Vec<(R::Key, Before<R>)>,
    /// Whether the table is all there is: nothing is ever loaded.
    whole: bool,
}

impl<R: Row> WorkTable<R> {
    /// An empty table over a store; or, if `whole`, one that is all there is.
    pub(super) fn new(whole: bool) -> WorkTable<R> {
        WorkTable {
            slots: HashMap::default(),
            indexes: R::TABLE.indexes.iter().map(|_| None).collect(),
            stretches: HashMap::default(),
            wanted_keys: HashSet::default(),
            wanted_selections: Vec::new(),
            loading: Vec::new(),
            undo: Vec::new(),
            whole,
        }
    }

    /// Says before a rule runs that it will read this row.
    pub fn want(&mut self, key: &R::Key) {
        if !self.whole && !self.slots.contains_key(key) {
            self.wanted_keys.insert(key.clone());
        }
    }

    /// Says before a rule runs that it will select this.
    pub fn want_first(&mut self, index: usize, prefix: Vec<Value>, limit: usize) {
        if !self.whole && self.stretch_over(index, &prefix, &[]).is_none() {
            self.want_selection(index, prefix, None, limit);
        }
    }

    fn want_selection(&mut self, index: usize, prefix: Vec<Value>, after: Option<Vec<Value>>, limit: usize) {
        let same = |wanted: &&mut Selection| wanted.index == index && wanted.prefix == prefix && wanted.after == after;
        match self.wanted_selections.iter_mut().find(same) {
            Some(wanted) => wanted.limit = wanted.limit.max(limit),
            None => self.wanted_selections.push(Selection {
                index,
                prefix,
                after,
                limit,
                backwards: false,
            }),
        }
    }

    /// The stretch that has the rows right after a place.
    fn stretch_over(&self, index: usize, prefix: &[Value], after: &[Value]) -> Option<&Stretch> {
        let stretches = self.stretches.get(&(index, prefix.to_vec()))?;
        let mut before = stretches.range::<[Value], _>((Bound::Unbounded, Bound::Included(after)));
        before
            .rfind(|(_, stretch)| match &stretch.reach {
                Reach::UpTo(end) => end.as_slice() >= after,
                Reach::End => true,
            })
            .map(|(_, stretch)| stretch)
    }

    /// The row with this key, if there is one.
    pub fn get(&mut self, key: &R::Key) -> Decision<Option<Arc<R>>> {
        match self.slots.get(key) {
            Some(slot) => Ok(slot.row.clone()),
            None if self.whole => Ok(None),
            None => {
                self.wanted_keys.insert(key.clone());
                Err(Halt::Load)
            }
        }
    }

    /// The first `limit` rows under the prefix of an index, in order.
    pub fn select(&mut self, index: usize, prefix: &[Value], limit: usize) -> Decision<Vec<Arc<R>>> {
        self.select_after(index, prefix, None, limit)
    }

    /// The first `limit` rows under the prefix of an index whose place is after `after`, in order. `after` has a value for each
    /// order column of the index.
    pub fn select_after(
        &mut self,
        index: usize,
        prefix: &[Value],
        after: Option<&[Value]>,
        limit: usize,
    ) -> Decision<Vec<Arc<R>>> {
        let stretch = match self.whole {
            true => None,
            false => match self.stretch_over(index, prefix, after.unwrap_or_default()) {
                Some(stretch) => Some(stretch),
                None => {
                    let after = after.map(<[Value]>::to_vec);
                    self.want_selection(index, prefix.to_vec(), after, limit + READ_AHEAD);
                    return Err(Halt::Load);
                }
            },
        };
        let loaded = stretch.map_or(0, |stretch| stretch.loaded);
        let end = match stretch.map(|stretch| &stretch.reach) {
            Some(Reach::UpTo(end)) => Some(end.clone()),
            _ => None,
        };
        let from = match after {
            Some(after) => Bound::Excluded((prefix.to_vec(), after.to_vec())),
            None => Bound::Included((prefix.to_vec(), Vec::new())),
        };
        let mut found = Vec::new();
        let rows = self.indexes[index].get_or_insert_with(|| index_of(&self.slots, &R::TABLE.indexes[index]));
        for ((row_prefix, place), key) in rows.range((from, Bound::Unbounded)) {
            if row_prefix != prefix || end.as_ref().is_some_and(|end| place > end) || found.len() == limit {
                break;
            }
            let row = self.slots[key].row.as_ref();
            found.push(Arc::clone(row.expect("an index holds rows that exist")));
        }
        match end {
            Some(end) if found.len() < limit => {
                let more = limit - found.len() + loaded.clamp(READ_AHEAD, MAX_READ_AHEAD);
                self.want_selection(index, prefix.to_vec(), Some(end), more);
                Err(Halt::Load)
            }
            _ => Ok(found),
        }
    }

    /// Makes the row this, whether or not it was there. Putting what is there already changes nothing.
    pub fn put(&mut self, row: R) {
        let key = row.key();
        if self.slots.get(&key).and_then(|slot| slot.row.as_deref()) != Some(&row) {
            self.set(key, Some(Arc::new(row)));
        }
    }

    /// Whether it is not known if there is a row with this key.
    pub fn is_unknown(&self, key: &R::Key) -> bool {
        !self.whole && !self.slots.contains_key(key)
    }

    /// Makes a new row of a key that is free, as far as is known. If it is not, the store refuses the batch.
    pub fn add(&mut self, row: R) {
        let key = row.key();
        let is_unknown = self.is_unknown(&key);
        self.set(key.clone(), Some(Arc::new(row)));
        if is_unknown && let Some(slot) = self.slots.get_mut(&key) {
            slot.stored = Stored::Assumed;
        }
    }

    /// Says that a key is free: it was just made, and nobody else can have used it.
    pub fn know_free(&mut self, key: &R::Key) {
        if self.is_unknown(key) {
            let slot = Slot {
                row: None,
                changed: false,
                stored: Stored::Absent,
            };
            self.slots.insert(key.clone(), slot);
        }
    }

    /// Says that there is no row under a prefix of an index: a value in it was just made, and nobody else can have used it.
    pub fn know_empty(&mut self, index: usize, prefix: Vec<Value>) {
        if !self.whole {
            let stretch = Stretch {
                reach: Reach::End,
                loaded: 0,
            };
            let stretches = self.stretches.entry((index, prefix)).or_default();
            stretches.entry(Vec::new()).or_insert(stretch);
        }
    }

    /// Makes the key free.
    pub fn remove(&mut self, key: &R::Key) {
        if !matches!(self.slots.get(key), Some(slot) if slot.row.is_none()) {
            self.set(key.clone(), None);
        }
    }

    /// Every row that is known, in the order of their keys. Of a whole table that is every row there is.
    pub fn known(&self) -> Vec<Arc<R>> {
        let mut known: Vec<_> = self
            .slots
            .iter()
            .filter_map(|(key, slot)| Some((key, slot.row.clone()?)))
            .collect();
        known.sort_unstable_by_key(|(key, _)| *key);
        known.into_iter().map(|(_, row)| row).collect()
    }

    /// Every row that is known, in no order.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Arc<R>> {
        self.slots.values().filter_map(|slot| slot.row.as_ref())
    }

    fn set(&mut self, key: R::Key, row: Option<Arc<R>>) {
        let before = self
            .slots
            .get(&key)
            .filter(|slot| slot.changed)
            .map(|slot| slot.row.clone());
        self.replace(&key, row, true);
        self.undo.push((key, before));
    }

    /// Makes a row the one that is now, and keeps the indexes in step that there are.
    fn replace(&mut self, key: &R::Key, row: Option<Arc<R>>, changed: bool) {
        let stored = if self.whole { Stored::Absent } else { Stored::Unknown };
        let slot = self.slots.entry(key.clone()).or_insert(Slot {
            row: None,
            changed,
            stored,
        });
        slot.changed = changed;
        let old = std::mem::replace(&mut slot.row, row.clone());
        for (index, rows) in R::TABLE.indexes.iter().zip(&mut self.indexes) {
            let Some(rows) = rows else { continue };
            let old_place = old.as_ref().and_then(|row| row.place(index));
            let new_place = row.as_ref().and_then(|row| row.place(index));
            if old_place != new_place {
                if let Some(place) = old_place {
                    rows.remove(&place);
                }
                if let Some(place) = new_place {
                    rows.insert(place, key.clone());
                }
            }
        }
    }

    /// How much there is to undo so far.
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Undoes what was changed since the mark. What was loaded since then stays.
    pub(super) fn undo_to(&mut self, mark: usize) {
        while self.undo.len() > mark {
            let (key, before) = self.undo.pop().expect("longer than the mark");
            match (before, self.slots.get(&key).map(|slot| &slot.stored)) {
                (Some(row), _) => self.replace(&key, row, true),
                (None, Some(Stored::Present(row))) => self.replace(&key, Some(Arc::clone(row)), false),
                (None, Some(Stored::Absent)) => self.replace(&key, None, false),
                (None, _) => {
                    self.replace(&key, None, false);
                    self.slots.remove(&key);
                }
            }
        }
    }

    /// What rules asked for and is not loaded.
    pub(super) fn take_plan(&mut self) -> Option<TablePlan> {
        if self.wanted_keys.is_empty() && self.wanted_selections.is_empty() {
            return None;
        }
        let mut keys: Vec<_> = self.wanted_keys.drain().collect();
        keys.sort();
        self.loading = keys;
        let keys = self.loading.iter().map(Key::columns).collect();
        Some(TablePlan {
            table: R::TABLE,
            keys,
            selections: std::mem::take(&mut self.wanted_selections),
        })
    }

    /// Takes in what was loaded. Rows that changed meanwhile stay as they are.
    pub(super) fn fill(&mut self, plan: &TablePlan, rows: TableRows) -> Result<(), Corrupt> {
        for (selection, selected) in plan.selections.iter().zip(rows.selected) {
            let full = selected.len() >= selection.limit;
            let loaded = selected.len();
            let mut last = None;
            for columns in selected {
                let row = R::from_columns(columns)?;
                last = row.place(&R::TABLE.indexes[selection.index]).map(|(_, place)| place);
                self.take_in(row);
            }
            let reach = match last {
                Some(place) if full => Reach::UpTo(place),
                _ => Reach::End,
            };
            self.note_stretch(selection, reach, loaded);
        }
        for columns in rows.by_key {
            self.take_in(R::from_columns(columns)?);
        }
        for key in std::mem::take(&mut self.loading) {
            let slot = self.slots.entry(key).or_insert(Slot {
                row: None,
                changed: false,
                stored: Stored::Absent,
            });
            if matches!(slot.stored, Stored::Unknown) {
                slot.stored = Stored::Absent;
            }
        }
        Ok(())
    }

    /// Notes what is loaded now: every stretch that led up to it reaches as far.
    fn note_stretch(&mut self, selection: &Selection, reach: Reach, loaded: usize) {
        let from = selection.after.clone().unwrap_or_default();
        let stretches = self
            .stretches
            .entry((selection.index, selection.prefix.clone()))
            .or_default();
        let mut is_new = true;
        for (_, stretch) in stretches.range_mut(..=from.clone()) {
            if stretch.reach >= Reach::UpTo(from.clone()) {
                stretch.reach = reach.clone().max(stretch.reach.clone());
                stretch.loaded += loaded;
                is_new = false;
            }
        }
        if is_new {
            stretches.insert(from, Stretch { reach, loaded });
        }
    }

    fn take_in(&mut self, row: R) {
        let key = row.key();
        let row = Arc::new(row);
        if !self.slots.contains_key(&key) {
            self.replace(&key, Some(Arc::clone(&row)), false);
        }
        if let Some(slot) = self.slots.get_mut(&key)
            && matches!(slot.stored, Stored::Unknown)
        {
            slot.stored = Stored::Present(row);
        }
    }

    /// The rows that changed, with nothing for those that are gone.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&R::Key, Option<&Arc<R>>)> {
        self.changed_slots().map(|(key, slot)| (key, slot.row.as_ref()))
    }

    fn changed_slots(&self) -> impl Iterator<Item = (&R::Key, &Slot<R>)> {
        // Of each key the first change has nothing before it.
        let first = self.undo.iter().filter(|(_, before)| before.is_none());
        first.map(|(key, _)| (key, &self.slots[key]))
    }

    /// Once the batch is committed: what is known here is what is stored.
    pub(super) fn settle(&mut self) {
        if self.slots.len().max(self.stretches.len()) > MAX_KEPT {
            return self.clear();
        }
        for (key, _) in std::mem::take(&mut self.undo) {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.changed = false;
                slot.stored = match &slot.row {
                    Some(row) => Stored::Present(Arc::clone(row)),
                    None => Stored::Absent,
                };
            }
        }
    }

    /// Knows nothing any more.
    pub(super) fn clear(&mut self) {
        *self = WorkTable::new(self.whole);
    }

    /// What is to be saved, in the order of the keys.
    pub(super) fn save(&self) -> Option<TableSave> {
        let mut changed: Vec<_> = self.changed_slots().collect();
        if changed.is_empty() {
            return None;
        }
        changed.sort_unstable_by_key(|(key, _)| *key);
        let mut save = TableSave {
            table: R::TABLE,
            inserts: Vec::new(),
            upserts: Vec::new(),
            deletes: Vec::new(),
        };
        for (key, slot) in changed {
            match (&slot.row, &slot.stored) {
                (Some(row), Stored::Absent | Stored::Assumed) => save.inserts.push(row.columns()),
                (Some(row), _) => save.upserts.push(row.columns()),
                (None, Stored::Absent | Stored::Assumed) => {}
                (None, _) => save.deletes.push(key.columns()),
            }
        }
        let empty = save.inserts.is_empty() && save.upserts.is_empty() && save.deletes.is_empty();
        (!empty).then_some(save)
    }
}

/// An index of rows that are known.
fn index_of<R: Row>(slots: &HashMap<R::Key, Slot<R>>, index: &Index) -> BTreeMap<Place, R::Key> {
    let rows = slots.iter().filter_map(|(key, slot)| Some((key, slot.row.as_ref()?)));
    rows.filter_map(|(key, row)| Some((row.place(index)?, key.clone())))
        .collect()
}
