//! Tasks: one attempt at a time, whose number only rises; what has ended stays as it ended; a result is that of the attempt that was
//! current, and is recorded once.

use std::collections::BTreeMap;

use super::{Batch, Check, Verdict};
use crate::sessions::Session;
use crate::store::row::Value;
use crate::store::simulated::Memory;
use crate::tasks::{PayloadRole, StoredPayload, Task, TaskState};

/// The tasks of a namespace.
#[derive(Default)]
pub struct Tasks {
    tasks: BTreeMap<String, Task>,
    /// Sessions that did something in the last batch, and what.
    acted: Vec<(String, String)>,
}

impl Tasks {
    /// A task as it is.
    pub fn get(&self, task_id: &str) -> Option<&Task> {
        self.tasks.get(task_id)
    }

    /// Whether this attempt's completion was recorded.
    pub fn completed(&self, task_id: &str, attempt_token: &str) -> Verdict {
        match self.tasks.get(task_id) {
            Some(task) if task.state == TaskState::Completed && task.attempt_token == attempt_token => Ok(()),
            other => Err(format!(
                "the completion of {task_id} by {attempt_token} is not recorded: {other:?}"
            )),
        }
    }

    pub(super) fn take_acted(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.acted)
    }

    fn task(&mut self, batch: &Batch, task: &Task, results: &[StoredPayload]) -> Verdict {
        let before = self.tasks.get(&task.task_id);
        if let Some(before) = before {
            if before.state.is_ended() && (before.state != task.state || before.attempt_token != task.attempt_token) {
                return Err(format!("{before:?} had ended and becomes {task:?}"));
            }
            timed_out(batch, before, task)?;
            let same_attempt = before.attempt == task.attempt;
            if task.attempt < before.attempt || same_attempt != (before.attempt_token == task.attempt_token) {
                return Err(format!("{before:?} becomes {task:?}"));
            }
        }
        let ends = task.state.is_ended() && before.is_none_or(|before| !before.state.is_ended());
        if ends && task.state == TaskState::Completed {
            let result = results
                .iter()
                .find(|stored| stored.owner_id == task.task_id)
                .and_then(|stored| stored.payload.json());
            let attempt = result.as_ref().and_then(|result| result["attempt"].as_i64());
            if attempt != Some(i64::from(task.attempt)) {
                return Err(format!("{task:?} was completed with {result:?}"));
            }
        }
        let said = |what: &str| {
            let mut events = batch.events.iter();
            events.any(|event| event.subject == task.task_id && event.event_type == what)
        };
        if let Some(session_id) = &task.session_id
            && said("task.assigned")
        {
            self.acted
                .push((session_id.clone(), format!("was given {}", task.task_id)));
        }
        // The word of an attempt that was there before this batch.
        let same = before.filter(|before| before.attempt_token == task.attempt_token);
        if let Some(session_id) = same.and_then(|before| before.session_id.as_ref()) {
            for what in ["task.accepted", "task.progressed", "task.completed"] {
                if said(what) {
                    self.acted
                        .push((session_id.clone(), format!("{what} of {}", task.task_id)));
                }
            }
        }
        self.tasks.insert(task.task_id.clone(), task.clone());
        Ok(())
    }
}

/// An attempt whose time is over had all of it since its agent could make itself heard.
fn timed_out(batch: &Batch, before: &Task, task: &Task) -> Verdict {
    let is_lost = task.failed_attempts > before.failed_attempts;
    let kind = task
        .error
        .0
        .as_ref()
        .filter(|_| is_lost)
        .map(|error| error.kind.as_str());
    let length = match kind {
        Some("accept_timeout") => before.accept_timeout,
        Some("timeout") => before.timeout,
        _ => return Ok(()),
    };
    match batch.is_in_a_gap(length) {
        true => Err(format!("{before:?} could not be heard of for its {kind:?}")),
        false => Ok(()),
    }
}

impl Check for Tasks {
    fn committed(&mut self, batch: &Batch) -> Verdict {
        let payloads: Vec<StoredPayload> = batch.put();
        let results: Vec<StoredPayload> = payloads
            .into_iter()
            .filter(|payload| payload.role == PayloadRole::Result)
            .collect();
        for result in &results {
            let known = self.tasks.get(&result.owner_id);
            if known.is_some_and(|task| task.state.is_ended()) {
                return Err(format!("{known:?} has a result, and gets {result:?}"));
            }
        }
        for task in batch.put::<Task>() {
            self.task(batch, &task, &results)?;
        }
        for task_id in batch.deleted::<Task>() {
            if let Some(task) = self.tasks.remove(&task_id)
                && !task.state.is_ended()
            {
                return Err(format!("{task:?} is gone"));
            }
        }
        for session in batch.put::<Session>().iter().filter(|session| session.is_live()) {
            let of_session = vec![Value::Text(session.session_id.clone())];
            let has = batch
                .memory
                .select::<Task>(batch.namespace, Task::BY_SESSION, of_session)
                .len();
            if i64::from(session.in_flight) != has as i64 {
                return Err(format!("{session:?} has {has} tasks"));
            }
        }
        Ok(())
    }

    fn failed_over(&mut self, namespace: &str, memory: &Memory) {
        let tasks = memory.rows::<Task>(namespace).into_iter();
        self.tasks = tasks.map(|task| (task.task_id.clone(), task)).collect();
    }
}
