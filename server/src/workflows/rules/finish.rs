//! A workflow's end: its result, and the clearing up of what is still under way.
//!
//! An end is one commit that marks the workflow. Cancelling its tasks and closing its items and steps follows in the same job as far as
//! one job may go, and in bounded jobs after it; nothing new begins in between.

use serde_json::Value as Json;

use super::scope::{Values, made, result_of, single_payload};
use super::{Entry, Run, expression_error};
use crate::error::{Reason, Refusal};
use crate::events::Draft;
use crate::lane::{Decision, World};
use crate::payload::Payload;
use crate::sessions;
use crate::store::row::{Field, Value};
use crate::tasks::{self, PayloadRole, StoredPayload, TaskError};
use crate::workflows::expr::compile_cached;
use crate::workflows::{Item, ItemState, StepRecord, StepState, Stretch, WorkflowState};

/// Cancels a workflow.
///
/// # Errors
/// WORKFLOW_NOT_FOUND, WORKFLOW_ENDED, SESSION_ENDED, SESSION_SUPERSEDED.
pub fn cancel(world: &mut World, session_id: &Option<String>, workflow_id: &str, cause: &str) -> Decision<()> {
    sessions::rules::caller(world, session_id)?;
    let Some(mut run) = Run::open(world, workflow_id, true)? else {
        let refusal = Refusal::new(Reason::WorkflowNotFound, "there is no such workflow");
        return Err(refusal.with("workflow_id", workflow_id).into());
    };
    if !run.is_running() {
        let refusal = Refusal::new(Reason::WorkflowEnded, "the workflow has ended");
        let refusal = refusal.with("workflow_id", workflow_id);
        return Err(refusal.with("state", run.workflow.state.name()).into());
    }
    end(world, &mut run, WorkflowState::Cancelled, cause);
    settle(world, &mut run)?;
    run.close(world);
    Ok(())
}

/// Ends a workflow whose steps have all ended.
pub(super) fn succeed(world: &mut World, run: &mut Run) -> Decision<()> {
    match final_result(world, run)? {
        Ok(Some(payload)) => {
            world.payloads.put(StoredPayload {
                owner_id: run.id(),
                role: PayloadRole::Result,
                payload,
            });
            end(world, run, WorkflowState::Completed, "");
        }
        Ok(None) => end(world, run, WorkflowState::Completed, ""),
        Err(error) => {
            run.note_error(&format!("{}: {}", error.kind, error.message));
            end(world, run, WorkflowState::Failed, &error.message);
        }
    }
    Ok(())
}

fn final_result(world: &mut World, run: &Run) -> Decision<Result<Option<Payload>, TaskError>> {
    let workflow_id = run.id();
    if run.workflow.result.is_empty() {
        let last = (workflow_id, i64::from(run.workflow.step_count) - 1);
        world.definitions.want(&last);
        world.items.want(&(last.0.clone(), last.1, 0));
        let Some(record) = world.steps.get(&last)? else {
            return Ok(Ok(None));
        };
        if let Some(payload) = single_payload(world, &record)? {
            return Ok(Ok(Some(payload)));
        }
        return Ok(Ok(Some(made(&result_of(world, &record)?))));
    }
    let expression = match compile_cached(&run.workflow.result) {
        Ok(expression) => expression,
        Err(error) => return Ok(Err(expression_error("result", &error))),
    };
    let references = expression.references();
    let prefix = |id: &str| vec![workflow_id.to_value(), Value::Text(id.to_owned())];
    for id in &references.steps {
        world.steps.want_first(StepRecord::BY_ID, prefix(id), 1);
    }
    let mut sees = Vec::new();
    for id in &references.steps {
        let found = world.steps.select(StepRecord::BY_ID, &prefix(id), 1)?;
        sees.extend(found.first().map(|record| (id.clone(), record.number)));
    }
    let values = match Values::load(world, &workflow_id, references, &sees)? {
        Ok(values) => values,
        Err(error) => return Ok(Err(error)),
    };
    let value: Result<Json, _> = expression.evaluate(&values.scope());
    Ok(value
        .map(|value| Some(made(&value)))
        .map_err(|error| expression_error("result", &error)))
}

/// Marks a workflow as ended.
pub(super) fn end(world: &mut World, run: &mut Run, state: WorkflowState, cause: &str) {
    let (event_type, kind) = match state {
        WorkflowState::Completed => ("workflow.completed", "workflow.completed"),
        WorkflowState::Cancelled => ("workflow.cancelled", "workflow.cancelled"),
        WorkflowState::TimedOut => ("workflow.failed", "workflow.timed_out"),
        WorkflowState::Failed | WorkflowState::Running => ("workflow.failed", "workflow.failed"),
    };
    run.workflow.state = state;
    run.workflow.ended_at = Some(world.now());
    if state != WorkflowState::Completed && !cause.is_empty() {
        run.note_error(cause);
    }
    let event = Draft::new(event_type, run.id())
        .correlation(&run.workflow.correlation_id)
        .trace(&run.workflow.traceparent)
        .data(&serde_json::json!({ "state": state.name(), "cause": cause }));
    world.emit(event);
    let entry = Entry {
        kind,
        detail: cause,
        ..Entry::default()
    };
    run.record(world, entry);
}

/// Closes what an ended workflow has under way, as far as one job may.
pub(super) fn settle(world: &mut World, run: &mut Run) -> Decision<()> {
    // Being over, it may use a share of its own.
    run.actions = super::MAX_ACTIONS;
    while !run.is_settled() && run.actions > 0 {
        let workflow = &run.workflow;
        if workflow.in_flight > 0 {
            cancel_tasks(world, run)?;
        } else if workflow.waiting_items > 0 {
            cancel_waiting(world, run)?;
        } else if workflow.stretches > 0 {
            drop_stretches(world, run)?;
        } else {
            close_steps(world, run)?;
        }
    }
    Ok(())
}

fn share(run: &Run, count: i64) -> usize {
    usize::try_from(count).unwrap_or(0).min(run.actions)
}

fn cancel_tasks(world: &mut World, run: &mut Run) -> Decision<()> {
    let limit = share(run, run.workflow.in_flight.into());
    let items = world.items.select(Item::IN_FLIGHT, &run.prefix(), limit)?;
    if items.is_empty() {
        run.workflow.in_flight = 0;
    }
    for item in &items {
        world.steps.want(&(item.workflow_id.clone(), item.number));
        if let Some(task_id) = &item.task_id {
            world.tasks.want(task_id);
        }
    }
    super::for_each(world, items, |world, item| {
        if let Some(task_id) = &item.task_id
            && world.tasks.get(task_id)?.is_some_and(|task| !task.state.is_ended())
        {
            tasks::rules::cancel(world, task_id, "its workflow has ended")?;
        }
        run.workflow.in_flight -= 1;
        cancel_item(world, run, (*item).clone())
    })
}

fn cancel_waiting(world: &mut World, run: &mut Run) -> Decision<()> {
    let limit = share(run, run.workflow.waiting_items);
    let items = world.items.select(Item::WAITING, &run.prefix(), limit)?;
    if items.is_empty() {
        run.workflow.waiting_items = 0;
    }
    for item in &items {
        world.steps.want(&(item.workflow_id.clone(), item.number));
    }
    super::for_each(world, items, |world, item| {
        run.workflow.waiting_items -= 1;
        cancel_item(world, run, (*item).clone())
    })
}

fn cancel_item(world: &mut World, run: &mut Run, mut item: Item) -> Decision<()> {
    let Some(record) = world.steps.get(&(item.workflow_id.clone(), item.number))? else {
        unreachable!("an item is put together with its step");
    };
    run.spend(1, 0);
    if item.in_flight.is_some() {
        let mut record = (*record).clone();
        record.in_flight -= 1;
        world.steps.put(record);
    }
    run.record(
        world,
        Entry {
            kind: "subtask.cancelled",
            step_id: &record.step_id,
            place: item.place,
            task_id: item.task_id.as_deref().unwrap_or_default(),
            detail: &item.item_key,
        },
    );
    item.state = ItemState::Cancelled;
    item.waiting = None;
    item.in_flight = None;
    item.input = None;
    world.items.put(item);
    Ok(())
}

fn drop_stretches(world: &mut World, run: &mut Run) -> Decision<()> {
    let limit = share(run, run.workflow.stretches);
    let stretches = world.stretches.select(Stretch::BY_WORKFLOW, &run.prefix(), limit)?;
    if stretches.is_empty() {
        run.workflow.stretches = 0;
    }
    for stretch in stretches {
        run.spend(1, 0);
        run.workflow.stretches -= 1;
        world
            .stretches
            .remove(&(stretch.workflow_id.clone(), stretch.number, stretch.place));
    }
    Ok(())
}

fn close_steps(world: &mut World, run: &mut Run) -> Decision<()> {
    let limit = share(run, run.workflow.open_steps.into());
    let records = world.steps.select(StepRecord::OPEN, &run.prefix(), limit)?;
    if records.is_empty() {
        run.workflow.open_steps = 0;
    }
    for record in records {
        run.spend(1, 0);
        run.workflow.open_steps -= 1;
        run.workflow.ready_steps -= i32::from(record.ready.is_some());
        let mut record = (*record).clone();
        record.state = StepState::Cancelled;
        record.open = None;
        record.ready = None;
        record.ended_at = Some(world.now());
        record.end_position = Some(world.head().position);
        run.record(
            world,
            Entry {
                kind: "step.cancelled",
                step_id: &record.step_id,
                ..Entry::default()
            },
        );
        world.steps.put(record);
    }
    Ok(())
}
