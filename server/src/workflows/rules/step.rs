//! A step begins when every step that it depends on has ended, and ends with its last item.

use std::sync::Arc;

use serde_json::Value as Json;

use super::scope::{Values, made};
use super::{Entry, MAX_BEGINNINGS, Run, expand, expression_error, finish, invalid};
use crate::events::Draft;
use crate::lane::{Decision, World};
use crate::store::row::Field;
use crate::tasks::{PayloadRole, TaskError};
use crate::workflows::expr::{ExprError, Expression, References, Scope, compile_cached};
use crate::workflows::{MAX_ITEMS, OnFailure, Step, StepDefinition, StepRecord, StepState, Stretch, WorkflowState};

/// How many items a stretch has at most.
const MAX_STRETCH_ITEMS: usize = 512;
/// How many bytes a stretch has at most, but for its first item.
const MAX_STRETCH_BYTES: usize = 256 << 10;

/// Begins the next steps that wait for nothing.
pub(super) fn begin_next(world: &mut World, run: &mut Run) -> Decision<()> {
    let ready = usize::try_from(run.workflow.ready_steps).unwrap_or(0);
    let limit = ready.min(MAX_BEGINNINGS).min(run.actions);
    let records = world.steps.select(StepRecord::READY, &run.prefix(), limit)?;
    if records.is_empty() {
        run.workflow.ready_steps = 0;
    }
    for record in &records {
        want_begin(world, record);
    }
    super::for_each(world, records, |world, record| {
        // A step before it may have ended the workflow, or have made all the inputs that one job may make.
        if !run.is_running() || run.is_spent() {
            return Ok(());
        }
        run.spend(1, 0);
        run.beginnings += 1;
        begin(world, run, (*record).clone())
    })
}

fn want_begin(world: &mut World, record: &StepRecord) {
    world.definitions.want(&(record.workflow_id.clone(), record.number));
    world.payloads.want(&(record.workflow_id.clone(), PayloadRole::Input));
}

fn begin(world: &mut World, run: &mut Run, mut record: StepRecord) -> Decision<()> {
    let Some(definition) = world.definitions.get(&(record.workflow_id.clone(), record.number))? else {
        unreachable!("a step is put together with its definition");
    };
    record.ready = None;
    run.workflow.ready_steps -= 1;
    if record.skip {
        let why = "a step that it depends on has failed or was skipped";
        return end(world, run, record, &definition, StepState::Skipped, why);
    }
    let compiled = match Beginning::compile(&definition.step) {
        Ok(compiled) => compiled,
        Err(error) => return fail(world, run, record, &definition, &error),
    };
    let values = match Values::load(world, &record.workflow_id, &compiled.references, &definition.sees)? {
        Ok(values) => values,
        Err(error) => return fail(world, run, record, &definition, &error),
    };
    let scope = values.scope();
    let what = compiled.evaluate(&scope);
    run.toil(scope.work());
    match what {
        Err(error) => fail(world, run, record, &definition, &error),
        Ok(What::Skip) => {
            let why = "its condition does not hold";
            end(world, run, record, &definition, StepState::Skipped, why)
        }
        Ok(What::One) => {
            note_start(world, run, &mut record, 1);
            expand::expand_single(world, run, record, &definition)
        }
        Ok(What::List(items)) => begin_list(world, run, record, &definition, items),
    }
}

fn note_start(world: &mut World, run: &mut Run, record: &mut StepRecord, count: i64) {
    record.state = StepState::Running;
    record.item_count = count;
    record.started_at = Some(world.now());
    run.record(
        world,
        Entry {
            kind: "step.started",
            step_id: &record.step_id,
            detail: &format!("{count} items"),
            ..Entry::default()
        },
    );
}

/// Cuts the list into stretches; they become items when slots are free.
fn begin_list(
    world: &mut World,
    run: &mut Run,
    mut record: StepRecord,
    definition: &StepDefinition,
    items: Vec<Json>,
) -> Decision<()> {
    if items.len() > MAX_ITEMS {
        let message = format!("for_each gives {} items, at most {MAX_ITEMS} are allowed", items.len());
        return fail(world, run, record, definition, &invalid("for_each", message));
    }
    let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
    note_start(world, run, &mut record, count);
    if items.is_empty() {
        return end(world, run, record, definition, StepState::Completed, "");
    }
    let mut place = 0;
    let mut bytes = 0;
    let mut stretch = Vec::new();
    for item in items {
        let size = item.to_string().len();
        if stretch.len() == MAX_STRETCH_ITEMS || !stretch.is_empty() && bytes + size > MAX_STRETCH_BYTES {
            place = put_stretch(world, run, &record, place, std::mem::take(&mut stretch));
            bytes = 0;
        }
        bytes += size;
        run.spend(0, size);
        stretch.push(item);
    }
    put_stretch(world, run, &record, place, stretch);
    world.steps.put(record);
    Ok(())
}

/// Puts a stretch of a step's list; returns the place after it.
pub(super) fn put_stretch(world: &mut World, run: &mut Run, record: &StepRecord, place: i64, items: Vec<Json>) -> i64 {
    let after = place + i64::try_from(items.len()).unwrap_or(0);
    run.workflow.stretches += 1;
    world.stretches.put(Stretch {
        workflow_id: record.workflow_id.clone(),
        number: record.number,
        place,
        items: made(&Json::Array(items)),
    });
    after
}

/// Ends a step whose own expressions failed.
fn fail(
    world: &mut World,
    run: &mut Run,
    record: StepRecord,
    definition: &StepDefinition,
    error: &TaskError,
) -> Decision<()> {
    run.note_error(&format!("{}: {}: {}", record.step_id, error.kind, error.message));
    end(world, run, record, definition, StepState::Failed, &error.message)
}

/// Ends a step if its last item has ended; puts it in any case.
pub(super) fn put_or_end(
    world: &mut World,
    run: &mut Run,
    record: StepRecord,
    definition: &StepDefinition,
) -> Decision<()> {
    let fails_at_once = definition.step.on_failure == OnFailure::Fail;
    let is_complete = record.completed + record.failed == record.item_count;
    let is_over = run.is_running() && record.open.is_some() && (is_complete || record.failed > 0 && fails_at_once);
    match record.failed {
        _ if !is_over => world.steps.put(record),
        0 => end(world, run, record, definition, StepState::Completed, "")?,
        failed => {
            let detail = format!("{failed} of {} items failed", record.item_count);
            end(world, run, record, definition, StepState::Failed, &detail)?;
        }
    }
    Ok(())
}

/// Ends a step: what depends on it comes nearer to its beginning, or the workflow fails with it.
fn end(
    world: &mut World,
    run: &mut Run,
    mut record: StepRecord,
    definition: &StepDefinition,
    state: StepState,
    detail: &str,
) -> Decision<()> {
    let event = Draft::new("workflow.checkpoint", run.id())
        .correlation(&run.workflow.correlation_id)
        .trace(&run.workflow.traceparent)
        .data(&serde_json::json!({
            "step_id": record.step_id,
            "state": state.name(),
            "item_count": record.item_count,
            "completed_count": record.completed,
            "failed_count": record.failed,
        }));
    record.state = state;
    record.open = None;
    record.ended_at = Some(world.now());
    record.end_position = Some(world.emit(event));
    run.workflow.open_steps -= 1;
    run.record(
        world,
        Entry {
            kind: &format!("step.{}", state.name().to_lowercase()),
            step_id: &record.step_id,
            detail,
            ..Entry::default()
        },
    );
    let on_failure = definition.step.on_failure;
    let skip = match state {
        StepState::Failed => on_failure == OnFailure::Skip,
        _ => record.skip,
    };
    let step_id = record.step_id.clone();
    world.steps.put(record);
    if state == StepState::Failed && on_failure == OnFailure::Fail {
        let cause = format!("step {step_id} failed: {detail}");
        finish::end(world, run, WorkflowState::Failed, &cause);
        return Ok(());
    }
    release_dependents(world, run, definition, skip)
}

fn release_dependents(world: &mut World, run: &mut Run, definition: &StepDefinition, skip: bool) -> Decision<()> {
    let workflow_id = run.id();
    let keys: Vec<_> = definition
        .dependents
        .iter()
        .map(|number| (workflow_id.clone(), *number))
        .collect();
    let few = keys.len() <= MAX_BEGINNINGS;
    for key in &keys {
        world.steps.want(key);
        // What will probably be asked for next, as long as it is not much.
        if few {
            world.definitions.want(key);
        }
    }
    if few {
        world
            .steps
            .want_first(StepRecord::READY, vec![workflow_id.to_value()], MAX_BEGINNINGS);
        world.payloads.want(&(workflow_id, PayloadRole::Input));
    }
    for key in &keys {
        let Some(dependent) = world.steps.get(key)? else {
            continue;
        };
        let mut dependent = (*dependent).clone();
        dependent.open_dependencies -= 1;
        dependent.skip |= skip;
        if dependent.open_dependencies == 0 {
            dependent.ready = Some(dependent.number);
            run.workflow.ready_steps += 1;
        }
        world.steps.put(dependent);
    }
    Ok(())
}

/// What a step does when it begins.
enum What {
    Skip,
    One,
    List(Vec<Json>),
}

/// The expressions that decide what a step does.
struct Beginning {
    condition: Option<Arc<Expression>>,
    for_each: Option<Arc<Expression>>,
    references: References,
}

impl Beginning {
    fn compile(step: &Step) -> Result<Beginning, TaskError> {
        let mut references = References::default();
        let mut compile = |field: &str, text: &str| {
            if text.is_empty() {
                return Ok(None);
            }
            let compiled = compile_cached(text).map_err(|error| expression_error(field, &error))?;
            references.merge(compiled.references());
            Ok::<_, TaskError>(Some(compiled))
        };
        let condition = compile("condition", &step.condition)?;
        let for_each = compile("for_each", &step.for_each)?;
        Ok(Beginning {
            condition,
            for_each,
            references,
        })
    }

    fn evaluate(&self, scope: &Scope<'_>) -> Result<What, TaskError> {
        let evaluate = |field: &str, expression: &Expression| {
            let failed = |error: ExprError| expression_error(field, &error);
            expression.evaluate(scope).map_err(failed)
        };
        if let Some(condition) = &self.condition {
            match evaluate("condition", condition)? {
                Json::Bool(true) => {}
                Json::Bool(false) => return Ok(What::Skip),
                _ => return Err(invalid("expression", "condition gives something that is not a boolean")),
            }
        }
        let Some(for_each) = &self.for_each else {
            return Ok(What::One);
        };
        match evaluate("for_each", for_each)? {
            Json::Array(items) => Ok(What::List(items)),
            _ => Err(invalid("for_each", "for_each gives something that is not a list")),
        }
    }
}
