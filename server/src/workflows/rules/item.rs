//! An item is delegated when a slot is free, and ends with its task, after its fallback if it has one.

use std::sync::Arc;

use super::scope::result_bytes;
use super::step::put_or_end;
use super::{Entry, Run, invalid};
use crate::lane::{Decision, Halt, World};
use crate::payload::Payload;
use crate::store::row::Json;
use crate::tasks::rules::Delegation;
use crate::tasks::{self, Origin, PayloadRole, Task, TaskError, TaskState};
use crate::workflows::{Fallback, Item, ItemState, StepDefinition, StepRecord};

/// How many waiting items a task's end reads beforehand.
pub(super) const FIRST_WAITING: usize = 4;
/// How many are read when those were not enough: other jobs of the batch want theirs too.
const MANY_WAITING: usize = 64;

/// Delegates the next items, as many as there are free slots.
pub(super) fn delegate_next(world: &mut World, run: &mut Run) -> Decision<()> {
    let waiting = usize::try_from(run.workflow.waiting_items).unwrap_or(0);
    let limit = run.free_slots().min(waiting).min(run.actions);
    let items = match world.items.select(Item::WAITING, &run.prefix(), limit) {
        Err(Halt::Load) => {
            let _ = world
                .items
                .select(Item::WAITING, &run.prefix(), limit.max(MANY_WAITING));
            return Err(Halt::Load);
        }
        items => items?,
    };
    if items.is_empty() {
        run.workflow.waiting_items = 0;
    }
    let is_loaded = |world: &mut World, item: &Arc<Item>| step_of(world, item).is_ok();
    if !items.iter().all(|item| is_loaded(world, item)) {
        // Items of other steps follow, and other jobs of the batch will take those.
        let ahead = world.items.select(Item::WAITING, &run.prefix(), MANY_WAITING);
        for item in ahead.unwrap_or(items) {
            let step_key = (item.workflow_id.clone(), item.number);
            world.steps.want(&step_key);
            world.definitions.want(&step_key);
        }
        return Err(Halt::Load);
    }
    super::for_each(world, items, |world, item| {
        if !run.is_running() {
            return Ok(());
        }
        run.spend(1, 0);
        let (mut record, definition) = step_of(world, &item)?;
        let mut item = (*item).clone();
        item.waiting = None;
        run.workflow.waiting_items -= 1;
        let input = item.input.take();
        delegate(world, run, &definition, &mut record, item, input)?;
        put_or_end(world, run, record, &definition)
    })
}

fn step_of(world: &mut World, item: &Item) -> Decision<(StepRecord, Arc<StepDefinition>)> {
    let key = (item.workflow_id.clone(), item.number);
    let (Some(record), Some(definition)) = (world.steps.get(&key)?, world.definitions.get(&key)?) else {
        unreachable!("an item is put together with its step");
    };
    Ok(((*record).clone(), definition))
}

/// Delegates an item that has a slot; if that is refused the item fails.
fn delegate(
    world: &mut World,
    run: &mut Run,
    definition: &StepDefinition,
    record: &mut StepRecord,
    mut item: Item,
    input: Option<Payload>,
) -> Decision<()> {
    let step = &definition.step;
    let workflow = &run.workflow;
    let delegation = Delegation {
        capability: item.capability.clone(),
        target_agent: item.agent_id.clone(),
        input,
        correlation_id: workflow.correlation_id.clone(),
        priority: step.priority,
        timeout: step.timeout,
        accept_timeout: step.accept_timeout,
        progress_timeout: step.progress_timeout,
        retry: step.retry.clone(),
        requirements: step.requirements.clone(),
        caller_agent: workflow.caller_agent.clone(),
        origin: Some(Origin {
            workflow_id: item.workflow_id.clone(),
            step_id: step.step_id.clone(),
            number: item.number,
            index: item.place,
            item_key: item.item_key.clone(),
        }),
        traceparent: workflow.traceparent.clone(),
        ..Delegation::default()
    };
    let task = match tasks::rules::delegate(world, delegation) {
        Ok(task) => task,
        Err(Halt::Load) => return Err(Halt::Load),
        Err(Halt::Refuse(refusal)) => {
            let error = invalid(&refusal.reason().name().to_lowercase(), refusal.message());
            fail(world, run, record, item, error);
            return Ok(());
        }
    };
    run.record(
        world,
        Entry {
            kind: "subtask.delegated",
            step_id: &step.step_id,
            place: item.place,
            task_id: &task.task_id,
            detail: &item.item_key,
        },
    );
    item.state = ItemState::InProgress;
    item.in_flight = Some(item.number);
    item.task_id = Some(task.task_id);
    record.in_flight += 1;
    run.workflow.in_flight += 1;
    world.items.put(item);
    Ok(())
}

/// Takes in the end of an item's task; says whether that was news.
pub(super) fn ended(world: &mut World, run: &mut Run, origin: &Origin, task: &Task) -> Decision<bool> {
    let key = (origin.workflow_id.clone(), origin.number, origin.index);
    let Some(item) = world.items.get(&key)? else {
        return Ok(false);
    };
    let is_current = item.in_flight.is_some() && item.task_id.as_deref() == Some(task.task_id.as_str());
    if !is_current || !task.state.is_ended() {
        return Ok(false);
    }
    let (mut record, definition) = step_of(world, &item)?;
    let mut item = (*item).clone();
    item.in_flight = None;
    record.in_flight -= 1;
    run.workflow.in_flight -= 1;
    if task.state == TaskState::Completed {
        let result = world.payloads.get(&(task.task_id.clone(), PayloadRole::Result))?;
        let bytes = result.map_or(0, |result| result_bytes(&result.payload));
        complete(world, run, &mut record, item, bytes);
    } else {
        let error = error_of(task);
        match &definition.step.fallback {
            Some(fallback) if run.is_running() && record.open.is_some() && !item.fell_back => {
                fall_back(world, run, &definition, &mut record, item, fallback, error)?;
            }
            _ => fail(world, run, &mut record, item, error),
        }
    }
    put_or_end(world, run, record, &definition)?;
    Ok(true)
}

fn error_of(task: &Task) -> TaskError {
    if let Some(error) = &task.error.0
        && task.state != TaskState::Cancelled
    {
        return error.clone();
    }
    match task.state {
        TaskState::Cancelled => invalid("cancelled", "the task was cancelled"),
        TaskState::TimedOut => invalid("timeout", "the task timed out"),
        _ => invalid("failed", "the task failed"),
    }
}

fn complete(world: &mut World, run: &mut Run, record: &mut StepRecord, mut item: Item, bytes: i64) {
    run.record(
        world,
        Entry {
            kind: "subtask.completed",
            step_id: &record.step_id,
            place: item.place,
            task_id: item.task_id.as_deref().unwrap_or_default(),
            detail: &item.item_key,
        },
    );
    item.state = ItemState::Completed;
    record.completed += 1;
    record.result_bytes += bytes;
    world.items.put(item);
}

/// Fails an item for good. The step's record is the caller's to put.
pub(super) fn fail(world: &mut World, run: &mut Run, record: &mut StepRecord, mut item: Item, error: TaskError) {
    run.note_error(&format!(
        "{}[{}]: {}: {}",
        record.step_id, item.item_key, error.kind, error.message
    ));
    run.record(
        world,
        Entry {
            kind: "subtask.failed",
            step_id: &record.step_id,
            place: item.place,
            task_id: item.task_id.as_deref().unwrap_or_default(),
            detail: &format!("{}: {}", error.kind, error.message),
        },
    );
    item.state = ItemState::Failed;
    item.error = Json(Some(error));
    record.failed += 1;
    world.items.put(item);
}

fn fall_back(
    world: &mut World,
    run: &mut Run,
    definition: &StepDefinition,
    record: &mut StepRecord,
    mut item: Item,
    fallback: &Fallback,
    error: TaskError,
) -> Decision<()> {
    let failed_task = item.task_id.clone().unwrap_or_default();
    let input_key = (failed_task.clone(), PayloadRole::Input);
    let input = match fallback {
        Fallback::Result(_) => None,
        _ => world.payloads.get(&input_key)?.map(|stored| stored.payload.clone()),
    };
    run.record(
        world,
        Entry {
            kind: "subtask.fell_back",
            step_id: &record.step_id,
            place: item.place,
            task_id: &failed_task,
            detail: &format!("{}: {}", error.kind, error.message),
        },
    );
    item.fell_back = true;
    item.error = Json(Some(error));
    match fallback {
        Fallback::Result(literal) => {
            let bytes = result_bytes(literal);
            item.result = Some(literal.clone());
            complete(world, run, record, item, bytes);
            return Ok(());
        }
        Fallback::Capability(capability) => {
            item.capability = capability.clone();
            item.agent_id = String::new();
        }
        Fallback::Agent(agent_id) => {
            item.capability = String::new();
            item.agent_id = agent_id.clone();
        }
    }
    delegate(world, run, definition, record, item, input)
}
