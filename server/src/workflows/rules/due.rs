//! A workflow that is due: it goes on with what the last job left over, ends by its deadline, or is old enough to be deleted.

use std::sync::Arc;

use super::{Run, finish, scope};
use crate::lane::{Decision, World};
use crate::store::row::Field;
use crate::tasks::{PayloadRole, Task};
use crate::workflows::{Item, StepRecord, Transition, WorkflowState};

/// How many rows of one kind are deleted in one job.
const MAX_DELETIONS: usize = 128;

/// Looks again at a workflow that is due: goes on with a bounded job, ends by its deadline, is deleted when old.
pub fn due(world: &mut World, workflow_id: &str) -> Decision<()> {
    let Some(mut run) = Run::open(world, workflow_id, true)? else {
        return Ok(());
    };
    let now = world.now();
    if run.workflow.due_at.is_none_or(|due_at| due_at > now) {
        return Ok(());
    }
    if run.is_running() && run.workflow.deadline_at.is_some_and(|deadline| deadline <= now) {
        finish::end(
            world,
            &mut run,
            WorkflowState::TimedOut,
            "the workflow's deadline passed",
        );
    }
    let is_old = run
        .workflow
        .ended_at
        .is_some_and(|ended_at| ended_at + world.retention().workflows <= now);
    if is_old && run.is_settled() {
        return delete(world, run);
    }
    run.advance(world)?;
    run.close(world);
    Ok(())
}

/// Deletes a part of what is kept of an old workflow; at last the workflow itself.
fn delete(world: &mut World, mut run: Run) -> Decision<()> {
    let prefix = run.prefix();
    let steps = prefix.to_vec();
    world.tasks.want_first(Task::BY_WORKFLOW, steps.clone(), MAX_DELETIONS);
    world
        .steps
        .want_first(StepRecord::BY_WORKFLOW, steps.clone(), MAX_DELETIONS);
    world
        .transitions
        .want_first(Transition::BY_WORKFLOW, steps, MAX_DELETIONS);
    let tasks = world.tasks.select(Task::BY_WORKFLOW, &prefix, MAX_DELETIONS)?;
    let steps = world.steps.select(StepRecord::BY_WORKFLOW, &prefix, MAX_DELETIONS)?;
    let transitions = world
        .transitions
        .select(Transition::BY_WORKFLOW, &prefix, MAX_DELETIONS)?;
    let is_last = tasks.len().max(steps.len()).max(transitions.len()) < MAX_DELETIONS;
    let all_steps = delete_steps(world, &steps)?;
    for task in tasks.iter().filter(|task| task.state.is_ended()) {
        for role in [PayloadRole::Input, PayloadRole::Result, PayloadRole::Checkpoint] {
            world.payloads.remove(&(task.task_id.clone(), role));
        }
        world.tasks.remove(&task.task_id);
    }
    for transition in &transitions {
        world
            .transitions
            .remove(&(transition.workflow_id.clone(), transition.sequence));
    }
    if is_last && all_steps {
        for role in [PayloadRole::Input, PayloadRole::Result] {
            world.payloads.remove(&(run.id(), role));
        }
        world.workflows.remove(&run.id());
    } else {
        run.workflow.due_at = Some(world.now());
        world.workflows.put(run.workflow);
    }
    Ok(())
}

/// Deletes steps with their items, as many as may be; says whether that was all.
fn delete_steps(world: &mut World, steps: &[Arc<StepRecord>]) -> Decision<bool> {
    let mut left = MAX_DELETIONS;
    let mut shares = Vec::new();
    for step in steps {
        let items = usize::try_from(step.expanded).unwrap_or(0);
        shares.push((step, items, items.min(left)));
        left -= items.min(left);
    }
    let prefix = |step: &StepRecord| vec![step.workflow_id.to_value(), step.number.to_value()];
    for (step, _, share) in shares.iter().filter(|(_, _, share)| *share > 0) {
        world.items.want_first(Item::BY_STEP, prefix(step), *share);
    }
    for (step, items, share) in &shares {
        if *share > 0 {
            for item in world.items.select(Item::BY_STEP, &prefix(step), *share)? {
                world.items.remove(&(item.workflow_id.clone(), item.number, item.place));
            }
        }
        if share == items {
            let key = (step.workflow_id.clone(), step.number);
            let list = scope::aggregate_owner(&step.workflow_id, step.number);
            world.payloads.remove(&(list, PayloadRole::Result));
            world.definitions.remove(&key);
            world.steps.remove(&key);
        } else {
            let mut step = StepRecord::clone(step);
            step.expanded -= *share as i64;
            world.steps.put(step);
        }
    }
    Ok(shares.iter().all(|(_, items, share)| items == share))
}
