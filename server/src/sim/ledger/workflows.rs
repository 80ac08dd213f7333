//! Workflows: the rows are what their history makes of them.

use std::collections::BTreeSet;

use super::{Batch, Check, Verdict};
use crate::store::simulated::Memory;
use crate::workflows::rules::tests::replay;
use crate::workflows::{Item, StepRecord, Transition, Workflow};

/// The workflows of a namespace.
#[derive(Default)]
pub struct Workflows;

impl Check for Workflows {
    fn committed(&mut self, batch: &Batch) -> Verdict {
        let changed: Vec<Workflow> = batch.put();
        let ids: BTreeSet<&String> = changed.iter().map(|workflow| &workflow.workflow_id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let (namespace, memory) = (batch.namespace, batch.memory);
        let steps = memory.rows::<StepRecord>(namespace);
        let items = memory.rows::<Item>(namespace);
        let transitions = memory.rows::<Transition>(namespace);
        for workflow in &changed {
            let id = &workflow.workflow_id;
            let steps: Vec<_> = steps.iter().filter(|row| row.workflow_id == *id).collect();
            let items: Vec<_> = items.iter().filter(|row| row.workflow_id == *id).collect();
            let history: Vec<_> = transitions.iter().filter(|row| row.workflow_id == *id).collect();
            replay::check(workflow, &steps, &items, &history).map_err(|difference| format!("{id}: {difference}"))?;
            let in_flight = items.iter().filter(|item| item.in_flight.is_some()).count();
            if workflow.in_flight as usize != in_flight || workflow.in_flight > workflow.max_concurrent {
                return Err(format!("{workflow:?} has {in_flight} tasks in flight"));
            }
        }
        Ok(())
    }

    fn failed_over(&mut self, _: &str, _: &Memory) {}
}
