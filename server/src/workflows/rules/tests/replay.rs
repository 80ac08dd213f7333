//! Replaying a workflow's history gives its rows.

use std::collections::BTreeMap;

use crate::workflows::{Item, ItemState, StepRecord, StepState, Transition, Workflow, WorkflowState};

/// What a history says.
#[derive(Default)]
struct Replay {
    state: Option<WorkflowState>,
    /// The state and the number of items of each step.
    steps: BTreeMap<String, (StepState, i64)>,
    /// The state and the task of each item.
    items: BTreeMap<(String, i64), (ItemState, String)>,
}

impl Replay {
    fn take(&mut self, transition: &Transition) {
        let number = || {
            let word = transition.detail.split(' ').next();
            word.and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        let step_id = || transition.step_id.clone();
        match transition.kind.split_once('.').expect("a dotted kind") {
            ("workflow", "started") => self.state = Some(WorkflowState::Running),
            ("workflow", end) => self.state = WorkflowState::from_name(&end.to_uppercase()),
            ("step", "started") => {
                self.steps.insert(step_id(), (StepState::Running, number()));
            }
            ("step", "expanded") => {
                for place in transition.place..transition.place + number() {
                    let pending = (ItemState::Pending, String::new());
                    self.items.insert((step_id(), place), pending);
                }
            }
            ("step", end) => {
                let end = StepState::from_name(&end.to_uppercase()).expect("a state");
                self.steps.entry(step_id()).or_insert((end, 0)).0 = end;
            }
            ("subtask", "fell_back") => {}
            ("subtask", what) => {
                let state = match what {
                    "delegated" => ItemState::InProgress,
                    end => ItemState::from_name(&end.to_uppercase()).expect("a state"),
                };
                let item = (state, transition.task_id.clone());
                self.items.insert((step_id(), transition.place), item);
            }
            other => panic!("unknown kind {other:?}"),
        }
    }
}

/// Holds the rows of a workflow against its history, each in the order of its keys.
///
/// # Errors
/// Where they differ.
pub fn check(
    workflow: &Workflow,
    steps: &[&StepRecord],
    items: &[&Item],
    history: &[&Transition],
) -> Result<(), String> {
    if workflow.transitions != history.len() as i64 {
        return Err(format!("{} transitions of {}", history.len(), workflow.transitions));
    }
    let mut replay = Replay::default();
    for (sequence, transition) in (1..).zip(history) {
        if transition.sequence != sequence {
            return Err(format!("{transition:?} where {sequence} is next"));
        }
        replay.take(transition);
    }
    if replay.state != Some(workflow.state) {
        return Err(format!("{:?} is {:?} by its history", workflow.state, replay.state));
    }
    for step in steps {
        let waiting = (StepState::Waiting, 0);
        let replayed = replay.steps.get(&step.step_id).copied().unwrap_or(waiting);
        if replayed != (step.state, step.item_count) {
            return Err(format!("{step:?} is {replayed:?} by its history"));
        }
    }
    for item in items {
        let step_id = steps[usize::try_from(item.number).expect("a number")].step_id.clone();
        let pending = (ItemState::Pending, String::new());
        let replayed = replay.items.get(&(step_id, item.place)).cloned().unwrap_or(pending);
        if replayed != (item.state, item.task_id.clone().unwrap_or_default()) {
            return Err(format!("{item:?} is {replayed:?} by its history"));
        }
    }
    Ok(())
}
