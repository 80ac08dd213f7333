//! Reads, many at a time: those of one namespace that wait while others are under way go to the server together, in one snapshot.
//!
//! There is no timer that waits for more: a read begins at once while few are under way. What is read was committed before the read began,
//! and it began after it was asked for.
//!
//! Failure: reads that were refused together are made one by one, so that only the guilty one is told.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::Shared;
use super::connection::{Connection, patiently};
use crate::store::row::Value;
use crate::store::step::Reply;
use crate::store::{Columns, Head, Plan, Rows, StoreError, TablePlan, TableRows};

/// How many reads of one namespace are under way at a time.
const AT_ONCE: usize = 3;
/// How many that wait go together.
const TOGETHER: usize = 128;

pub(super) struct Asked {
    pub(super) plan: Plan,
    pub(super) reply: Reply<(Head, Rows)>,
}

/// The reads that wait, by namespace.
#[derive(Default)]
pub(super) struct Reads {
    queues: Mutex<HashMap<Arc<str>, Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Asked>,
    under_way: usize,
}

impl Reads {
    /// Adds a read. Tells whether somebody has to be sent for what waits.
    fn add(&self, namespace: &Arc<str>, asked: Asked) -> bool {
        let mut queues = self.lock();
        let queue = queues.entry(Arc::clone(namespace)).or_default();
        queue.waiting.push(asked);
        let is_free = queue.under_way < AT_ONCE;
        queue.under_way += usize::from(is_free);
        is_free
    }

    /// Takes what waits; nothing ends the errand.
    fn take(&self, namespace: &Arc<str>) -> Vec<Asked> {
        let mut queues = self.lock();
        let Some(queue) = queues.get_mut(namespace) else {
            return Vec::new();
        };
        let count = queue.waiting.len().min(TOGETHER);
        let taken: Vec<Asked> = queue.waiting.drain(..count).collect();
        if taken.is_empty() {
            queue.under_way -= 1;
            if queue.under_way == 0 {
                queues.remove(namespace);
            }
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Queue>> {
        self.queues.lock().expect("no panic under this lock")
    }
}

/// Reads what a plan says, perhaps together with others.
pub(super) fn read(shared: &Arc<Shared>, namespace: &str, asked: Asked) {
    let namespace: Arc<str> = namespace.into();
    if shared.reads.add(&namespace, asked) {
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            loop {
                let mut asked = shared.reads.take(&namespace);
                // A call that was given up while it waited needs no answer.
                if asked.is_empty() {
                    return;
                }
                asked.retain(|asked| !asked.reply.is_closed());
                together(&shared, &namespace, asked).await;
            }
        });
    }
}

async fn together(shared: &Shared, namespace: &str, asked: Vec<Asked>) {
    if let [one] = asked.as_slice() {
        let read = alone(shared, namespace, &one.plan).await;
        return asked.into_iter().for_each(|asked| drop(asked.reply.send(read.clone())));
    }
    if asked.is_empty() {
        return;
    }
    let merged = merged(&asked);
    match alone(shared, namespace, &merged).await {
        Ok((head, rows)) => {
            let mut shares = Shares::new(&merged, rows);
            for Asked { plan, reply } in asked {
                let _ = reply.send(Ok((head.clone(), shares.of(&plan))));
            }
        }
        Err(StoreError::Refused(_)) => {
            for Asked { plan, reply } in asked {
                let _ = reply.send(alone(shared, namespace, &plan).await);
            }
        }
        Err(error) => asked
            .into_iter()
            .for_each(|asked| drop(asked.reply.send(Err(error.clone())))),
    }
}

async fn alone(shared: &Shared, namespace: &str, plan: &Plan) -> Result<(Head, Rows), StoreError> {
    patiently(async || {
        let connection = Connection::get(&shared.readers).await?;
        let read = shared.read(&connection, namespace, plan).await?;
        connection.release();
        Ok(read)
    })
    .await
}

/// Everything that is asked for, table by table, each key once.
fn merged(asked: &[Asked]) -> Plan {
    let mut merged = Plan::new();
    let mut seen: Vec<HashSet<&Vec<Value>>> = Vec::new();
    for plan in asked.iter().flat_map(|asked| &asked.plan) {
        let place = merged.iter().position(|other: &TablePlan| other.table == plan.table);
        let place = place.unwrap_or_else(|| {
            merged.push(TablePlan {
                table: plan.table,
                keys: Vec::new(),
                selections: Vec::new(),
            });
            seen.push(HashSet::new());
            merged.len() - 1
        });
        for key in &plan.keys {
            if seen[place].insert(key) {
                merged[place].keys.push(key.clone());
            }
        }
        merged[place].selections.extend(plan.selections.iter().cloned());
    }
    merged
}

/// What was read together, to be given to those who asked in their order.
struct Shares {
    tables: Vec<Share>,
}

struct Share {
    name: &'static str,
    by_key: HashMap<Vec<Value>, Columns>,
    selected: std::vec::IntoIter<Vec<Columns>>,
}

impl Shares {
    fn new(merged: &Plan, rows: Rows) -> Shares {
        let share = |(plan, rows): (&TablePlan, TableRows)| Share {
            name: plan.table.name,
            by_key: rows
                .by_key
                .into_iter()
                .map(|row| (row[..plan.table.key].to_vec(), row))
                .collect(),
            selected: rows.selected.into_iter(),
        };
        Shares {
            tables: merged.iter().zip(rows).map(share).collect(),
        }
    }

    fn of(&mut self, plan: &Plan) -> Rows {
        let rows = |plan: &TablePlan| {
            let Some(share) = self.tables.iter_mut().find(|share| share.name == plan.table.name) else {
                return TableRows::default();
            };
            TableRows {
                by_key: plan
                    .keys
                    .iter()
                    .filter_map(|key| share.by_key.get(key).cloned())
                    .collect(),
                selected: share.selected.by_ref().take(plan.selections.len()).collect(),
            }
        };
        plan.iter().map(rows).collect()
    }
}
