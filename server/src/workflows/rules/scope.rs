//! The values that expressions are evaluated over: the workflow's input and the results of earlier steps.
//!
//! What is loaded is bounded. A result that is opaque, or too large to be put into a task's input, is seen as a reference that its reader
//! pages through. The list of a step's results is put together once, and kept.

use serde_json::{Value as Json, json};

use super::invalid;
use crate::lane::{Decision, World};
use crate::payload::{Form, Payload};
use crate::store::row::Field;
use crate::tasks::{PayloadRole, StoredPayload, TaskError};
use crate::workflows::expr::{MAX_RESULT_BYTES, References, Scope};
use crate::workflows::{Item, ItemState, StepRecord, StepState};

/// How many items a list of results has at most; a longer one is seen as a reference.
const MAX_INLINE_ITEMS: i64 = 10_000;
/// How many bytes of results are handed around: what they are put into takes room, too.
const MAX_INLINE_BYTES: i64 = MAX_RESULT_BYTES as i64 - (64 << 10);
/// How many bytes of results the expressions of one step may look at.
const MAX_SEEN_BYTES: i64 = 8 << 20;
/// How many bytes an item may take in a list of results beside its result: `null` and a comma.
const ITEM_OVERHEAD: i64 = 5;

/// The values of a step's expressions.
#[derive(Default)]
pub(super) struct Values {
    input: Option<Json>,
    steps: Vec<(String, Json, &'static str)>,
}

impl Values {
    /// What the references look at; an error if that is too much.
    pub(super) fn load(
        world: &mut World,
        workflow_id: &str,
        references: &References,
        sees: &[(String, i64)],
    ) -> Decision<Result<Values, TaskError>> {
        let input_key = (workflow_id.to_owned(), PayloadRole::Input);
        let needs_input = references.variables.contains("input");
        if needs_input {
            world.payloads.want(&input_key);
        }
        let seen: Vec<_> = sees.iter().filter(|(id, _)| references.steps.contains(id)).collect();
        for (_, number) in &seen {
            world.steps.want(&(workflow_id.to_owned(), *number));
            world.definitions.want(&(workflow_id.to_owned(), *number));
            world.items.want(&(workflow_id.to_owned(), *number, 0));
            world
                .payloads
                .want(&(aggregate_owner(workflow_id, *number), PayloadRole::Result));
        }
        let mut records = Vec::with_capacity(seen.len());
        for (_, number) in seen {
            records.extend(world.steps.get(&(workflow_id.to_owned(), *number))?);
        }
        let inline = records.iter().filter(|record| is_inline(record));
        let bytes: i64 = inline.map(|record| record.result_bytes).sum();
        if bytes > MAX_SEEN_BYTES {
            let message =
                format!("the results that it looks at have {bytes} bytes, at most {MAX_SEEN_BYTES} can be seen");
            return Ok(Err(invalid("expression", message)));
        }
        let mut values = Values::default();
        let mut results = Vec::with_capacity(records.len());
        super::for_each(world, records, |world, record| {
            let result = result_of(world, &record)?;
            results.push((record.step_id.clone(), result, record.state.name()));
            Ok(())
        })?;
        values.steps = results;
        if needs_input {
            let stored = world.payloads.get(&input_key)?;
            values.input = Some(stored.map_or(Json::Null, |stored| seen_as(&stored.payload, workflow_id, "workflows")));
        }
        Ok(Ok(values))
    }

    /// A scope over them.
    pub(super) fn scope(&self) -> Scope<'_> {
        let scope = Scope::new();
        let scope = match &self.input {
            Some(input) => scope.input(input),
            None => scope,
        };
        self.steps
            .iter()
            .fold(scope, |scope, (id, result, state)| scope.step(id, result, state))
    }
}

/// The result of a step as expressions see it.
pub(super) fn result_of(world: &mut World, record: &StepRecord) -> Decision<Json> {
    if record.item_count == 0 {
        // A list without items has results: none. A step that was not run has no result.
        let empty = record.state == StepState::Completed;
        return Ok(if empty { json!([]) } else { Json::Null });
    }
    if !is_inline(record) {
        return Ok(reference(record));
    }
    if is_list(world, record)? {
        return list_of(world, record);
    }
    let key = (record.workflow_id.clone(), record.number, 0);
    let Some(item) = world.items.get(&key)? else {
        return Ok(Json::Null);
    };
    result_of_item(world, &item)
}

/// The result of a step with one task, in the form that it was given in; nothing if it has none, or is a list.
pub(super) fn single_payload(world: &mut World, record: &StepRecord) -> Decision<Option<Payload>> {
    if record.item_count != 1 || is_list(world, record)? {
        return Ok(None);
    }
    match world.items.get(&(record.workflow_id.clone(), record.number, 0))? {
        Some(item) => payload_of(world, &item),
        None => Ok(None),
    }
}

fn is_list(world: &mut World, record: &StepRecord) -> Decision<bool> {
    let definition = world.definitions.get(&(record.workflow_id.clone(), record.number))?;
    Ok(definition.is_some_and(|definition| !definition.step.for_each.is_empty()))
}

fn is_inline(record: &StepRecord) -> bool {
    let bytes = record.result_bytes + ITEM_OVERHEAD * record.item_count;
    record.item_count <= MAX_INLINE_ITEMS && bytes <= MAX_INLINE_BYTES
}

/// What stands for results that are too large to be handed around: the agent pages through them with `ListStepResults`.
pub fn reference(record: &StepRecord) -> Json {
    json!({
        "$ref": format!("workflows/{}/steps/{}", record.workflow_id, record.step_id),
        "count": record.item_count,
        "bytes": record.result_bytes,
    })
}

/// The results of a step with `for_each`, in item order, `null` where there is none. Put together once, then kept.
fn list_of(world: &mut World, record: &StepRecord) -> Decision<Json> {
    let kept_key = (aggregate_owner(&record.workflow_id, record.number), PayloadRole::Result);
    if let Some(kept) = world.payloads.get(&kept_key)? {
        return Ok(kept.payload.json().unwrap_or_default());
    }
    let prefix = [record.workflow_id.to_value(), record.number.to_value()];
    let count = usize::try_from(record.item_count).unwrap_or(0);
    let items = world.items.select(Item::BY_STEP, &prefix, count)?;
    let mut results = Vec::with_capacity(count);
    super::for_each(world, items, |world, item| {
        results.push(result_of_item(world, &item)?);
        Ok(())
    })?;
    let results = Json::Array(results);
    world.payloads.put(StoredPayload {
        owner_id: kept_key.0,
        role: PayloadRole::Result,
        payload: made(&results),
    });
    Ok(results)
}

/// The owner of a step's list of results. It has a control character in it, so that no id of a client is the same.
pub fn aggregate_owner(workflow_id: &str, number: i64) -> String {
    format!("{workflow_id}\u{1f}{number}")
}

fn result_of_item(world: &mut World, item: &Item) -> Decision<Json> {
    let payload = payload_of(world, item)?;
    let task_id = item.task_id.as_deref().unwrap_or_default();
    Ok(payload.map_or(Json::Null, |payload| seen_as(&payload, task_id, "tasks")))
}

fn payload_of(world: &mut World, item: &Item) -> Decision<Option<Payload>> {
    if item.state != ItemState::Completed {
        return Ok(None);
    }
    if let Some(literal) = &item.result {
        return Ok(Some(literal.clone()));
    }
    let Some(task_id) = item.task_id.clone() else {
        return Ok(None);
    };
    let stored = world.payloads.get(&(task_id, PayloadRole::Result))?;
    Ok(stored.map(|stored| stored.payload.clone()))
}

/// A payload as expressions see it.
fn seen_as(payload: &Payload, owner_id: &str, owners: &str) -> Json {
    if payload.form == Form::Data && payload.body.is_empty() {
        return Json::Null;
    }
    payload.json().unwrap_or_else(|| {
        json!({
            "$ref": format!("{owners}/{owner_id}"),
            "bytes": payload.len(),
            "content_type": payload.content_type,
        })
    })
}

/// How many bytes a result takes in a list; an opaque one stands there as a reference.
pub(super) fn result_bytes(payload: &Payload) -> i64 {
    const REFERENCE: usize = 1_024;
    let bytes = match payload.form {
        Form::Data => payload.len().max(REFERENCE),
        Form::Value | Form::Json => payload.body.len(),
    };
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A payload that an expression made: as a protobuf value, unless that would lose digits.
pub(super) fn made(value: &Json) -> Payload {
    let mut payload = Payload::of_json(value);
    if !survives_doubles(value) {
        payload.form = Form::Json;
    }
    payload
}

fn survives_doubles(value: &Json) -> bool {
    const EXACT: u64 = 1 << 53;
    match value {
        Json::Number(number) => {
            let whole = number.as_i64().map(i64::unsigned_abs).or_else(|| number.as_u64());
            whole.is_none_or(|whole| whole <= EXACT)
        }
        Json::Array(items) => items.iter().all(survives_doubles),
        Json::Object(fields) => fields.values().all(survives_doubles),
        _ => true,
    }
}
