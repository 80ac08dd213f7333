//! The tasks that this server's own lane changed last, whole, as the feed has them: who waits for one need not ask the store for it.
//!
//! Only what is certain is in here. A batch of another server, of which the rows are not known, empties it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::lane::Commit;
use crate::machine::HashMap;
use crate::tasks::{PayloadRole, StoredPayload, Task};

/// How many tasks are remembered.
const MAX_TASKS: usize = 1_024;
/// A task with more bytes of payload than this is not.
const MAX_BYTES: usize = 4 << 10;

/// A task with its payloads, all of one moment.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The task.
    pub task: Arc<Task>,
    /// Its payloads, one of a role.
    pub payloads: Vec<Arc<StoredPayload>>,
}

impl Whole {
    /// A task that a commit has all of: its input is there, and that is written by the batch that makes the task.
    pub(crate) fn made_by(task: &Arc<Task>, commit: &Commit) -> Option<Whole> {
        let payloads = payloads_in(commit, &task.task_id);
        let has_input = payloads.iter().any(|payload| payload.role == PayloadRole::Input);
        has_input.then(|| Whole {
            task: Arc::clone(task),
            payloads,
        })
    }

    /// The task as a commit leaves it.
    pub(crate) fn after(&self, task: &Arc<Task>, commit: &Commit) -> Whole {
        let mut payloads = payloads_in(commit, &task.task_id);
        let is_newer = |role| payloads.iter().any(|payload| payload.role == role);
        let older: Vec<_> = self
            .payloads
            .iter()
            .filter(|payload| !is_newer(payload.role))
            .cloned()
            .collect();
        payloads.extend(older);
        Whole {
            task: Arc::clone(task),
            payloads,
        }
    }

    fn bytes(&self) -> usize {
        self.payloads.iter().map(|payload| payload.payload.len()).sum()
    }
}

/// What a commit has of a task's payloads.
fn payloads_in(commit: &Commit, task_id: &str) -> Vec<Arc<StoredPayload>> {
    let payload = |role| commit.payloads.get(&(task_id.to_owned(), role)).cloned().flatten();
    PayloadRole::ALL.into_iter().filter_map(payload).collect()
}

/// The tasks, and the order in which they came.
#[derive(Default)]
pub(super) struct Recent {
    tasks: HashMap<String, Whole>,
    order: VecDeque<String>,
}

impl Recent {
    /// Takes in the batch that comes next.
    pub(super) fn apply(&mut self, commit: &Commit) {
        if !commit.own {
            self.tasks.clear();
            self.order.clear();
            return;
        }
        for (task_id, task) in &commit.tasks {
            let known = self.tasks.remove(task_id);
            let is_known = known.is_some();
            let Some(task) = task else { continue };
            let whole = match known {
                Some(known) => Some(known.after(task, commit)),
                None => Whole::made_by(task, commit),
            };
            let Some(whole) = whole.filter(|whole| whole.bytes() <= MAX_BYTES) else {
                continue;
            };
            self.tasks.insert(task_id.clone(), whole);
            if !is_known {
                self.order.push_back(task_id.clone());
            }
        }
        while self.order.len() > MAX_TASKS {
            let oldest = self.order.pop_front();
            oldest.and_then(|task_id| self.tasks.remove(&task_id));
        }
    }

    pub(super) fn get(&self, task_id: &str) -> Option<Whole> {
        self.tasks.get(task_id).cloned()
    }
}
