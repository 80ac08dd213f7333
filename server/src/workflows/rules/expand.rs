//! Items come into being: a stretch of a step's list becomes rows, each with all that its task will need.
//!
//! The expressions over an item are evaluated here, a stretch at a time, so that `input` and earlier results are looked at once for
//! hundreds of items. What fails on its item's values fails that item alone.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value as Json;

use super::scope::{Values, made};
use super::step::{put_or_end, put_stretch};
use super::{Entry, MAX_ACTIONS, Run, expression_error, invalid, item};
use crate::MAX_ID;
use crate::lane::{Decision, World};
use crate::payload::Payload;
use crate::store::row::{Field, Json as Column};
use crate::tasks::{PayloadRole, TaskError};
use crate::workflows::expr::{Expression, References, Scope, Template, compile_cached};
use crate::workflows::plan::template_of;
use crate::workflows::{Item, ItemState, Step, StepDefinition, StepRecord, Stretch};

/// How far apart the ranks of two priorities are: more than a list has items.
const RANKS_OF_PRIORITY: i64 = 1 << 20;

/// Makes the one item of a step without `for_each`.
pub(super) fn expand_single(
    world: &mut World,
    run: &mut Run,
    mut record: StepRecord,
    definition: &StepDefinition,
) -> Decision<()> {
    let prepared = prepare(world, &record, definition)?;
    let made = prepared.and_then(|(maker, values)| {
        let scope = values.scope();
        let made = maker.make(&scope, &record.step_id);
        run.toil(scope.work());
        let mut made = made?;
        if maker.input.is_none() {
            made.input = Input::OfWorkflow;
        }
        Ok(made)
    });
    put_item(world, run, &mut record, definition, 0, made)?;
    put_or_end(world, run, record, definition)
}

/// Makes items of the next stretch.
pub(super) fn expand_next(world: &mut World, run: &mut Run) -> Decision<()> {
    let stretch = world.stretches.select(Stretch::BY_WORKFLOW, &run.prefix(), 1)?;
    let Some(stretch) = stretch.first().cloned() else {
        run.workflow.stretches = 0;
        return Ok(());
    };
    let step_key = (stretch.workflow_id.clone(), stretch.number);
    world.steps.want(&step_key);
    world.definitions.want(&step_key);
    let (Some(record), Some(definition)) = (world.steps.get(&step_key)?, world.definitions.get(&step_key)?) else {
        unreachable!("a stretch is put together with its step");
    };
    let mut record = (*record).clone();
    world
        .stretches
        .remove(&(stretch.workflow_id.clone(), stretch.number, stretch.place));
    run.workflow.stretches -= 1;
    let Some(Json::Array(mut items)) = stretch.items.json() else {
        unreachable!("a stretch is a list");
    };
    let prepared = prepare(world, &record, &definition)?;
    let mut all_made = make_all(run, prepared, &items, stretch.place);
    refuse_known_keys(world, &record, &definition, &mut all_made)?;
    run.spend(MAX_ACTIONS / 2, 0);

    let count = i64::try_from(all_made.len()).unwrap_or(0);
    run.record(
        world,
        Entry {
            kind: "step.expanded",
            step_id: &record.step_id,
            place: stretch.place,
            detail: &format!("{count} items"),
            ..Entry::default()
        },
    );
    let rest = items.split_off(all_made.len());
    if !rest.is_empty() {
        put_stretch(world, run, &record, stretch.place + count, rest);
    }
    for (place, made) in (stretch.place..).zip(all_made) {
        put_item(world, run, &mut record, &definition, place, made)?;
    }
    put_or_end(world, run, record, &definition)
}

type Prepared = Result<(Maker, Values), TaskError>;

fn prepare(world: &mut World, record: &StepRecord, definition: &StepDefinition) -> Decision<Prepared> {
    let maker = match Maker::compile(&definition.step) {
        Ok(maker) => maker,
        Err(error) => return Ok(Err(error)),
    };
    let values = Values::load(world, &record.workflow_id, &maker.references, &definition.sees)?;
    Ok(values.map(|values| (maker, values)))
}

/// Makes what the items' tasks need, for at least one item and as many as may be made in one job.
fn make_all(run: &mut Run, prepared: Prepared, items: &[Json], first: i64) -> Vec<Result<Made, TaskError>> {
    let (maker, values) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return items.iter().map(|_| Err(error.clone())).collect(),
    };
    let mut scope = values.scope();
    let mut all_made = Vec::with_capacity(items.len());
    for (place, item) in (first..).zip(items) {
        if !all_made.is_empty() && (run.bytes == 0 || run.work == 0) {
            break;
        }
        scope = scope.item(item).index(place);
        let before = scope.work();
        let mut one = maker.make(&scope, &place.to_string());
        run.toil(scope.work() - before);
        if let (Ok(one), None) = (&mut one, &maker.input) {
            one.input = Input::Own(made(item));
        }
        if let Ok(one) = &one {
            run.spend(0, one.len());
        }
        all_made.push(one);
    }
    all_made
}

/// Fails every item whose key another item of the step has.
fn refuse_known_keys(
    world: &mut World,
    record: &StepRecord,
    definition: &StepDefinition,
    all_made: &mut [Result<Made, TaskError>],
) -> Decision<()> {
    if definition.step.item_key.is_empty() {
        return Ok(());
    }
    let prefix = |key: &String| vec![record.workflow_id.to_value(), record.number.to_value(), key.to_value()];
    for made in all_made.iter().flatten() {
        world.items.want_first(Item::BY_KEY, prefix(&made.key), 1);
    }
    let mut known = HashSet::new();
    for made in all_made {
        let Ok(item) = made else { continue };
        let is_known = !world.items.select(Item::BY_KEY, &prefix(&item.key), 1)?.is_empty();
        if is_known || !known.insert(item.key.clone()) {
            let message = format!("another item of the step has the key {:?}", item.key);
            *made = Err(invalid("duplicate_key", message));
        }
    }
    Ok(())
}

fn put_item(
    world: &mut World,
    run: &mut Run,
    record: &mut StepRecord,
    definition: &StepDefinition,
    place: i64,
    made: Result<Made, TaskError>,
) -> Decision<()> {
    record.expanded += 1;
    let rank = place - i64::from(definition.step.priority) * RANKS_OF_PRIORITY;
    let mut row = Item {
        workflow_id: record.workflow_id.clone(),
        number: record.number,
        place,
        // No item without a key of its own can be taken for one that has it.
        item_key: format!("#{place}"),
        state: ItemState::Pending,
        waiting: Some(rank),
        in_flight: None,
        capability: String::new(),
        agent_id: String::new(),
        input: None,
        task_id: None,
        fell_back: false,
        result: None,
        error: Column(None),
    };
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            row.waiting = None;
            item::fail(world, run, record, row, error);
            return Ok(());
        }
    };
    row.item_key = made.key;
    row.capability = made.capability;
    row.agent_id = made.agent_id;
    row.input = match made.input {
        Input::None => None,
        Input::Own(payload) => Some(payload),
        Input::OfWorkflow => {
            let stored = world.payloads.get(&(record.workflow_id.clone(), PayloadRole::Input))?;
            stored.map(|stored| stored.payload.clone())
        }
    };
    run.workflow.waiting_items += 1;
    world.items.put(row);
    Ok(())
}

/// What an item's task needs.
struct Made {
    key: String,
    capability: String,
    agent_id: String,
    input: Input,
}

enum Input {
    None,
    Own(Payload),
    /// The workflow's input, as it was given.
    OfWorkflow,
}

impl Made {
    fn len(&self) -> usize {
        match &self.input {
            Input::Own(payload) => payload.len(),
            Input::None | Input::OfWorkflow => 0,
        }
    }
}

/// The expressions over an item.
struct Maker {
    key: Option<Arc<Expression>>,
    capability: Name,
    agent_id: Name,
    input: Option<Source>,
    references: References,
}

/// A name, or what gives it.
enum Name {
    Literal(String),
    Template(Template),
}

/// An input, or what gives it.
enum Source {
    Literal(Payload),
    /// What gives it, and an empty payload of the form that it is to have.
    Template(Template, Payload),
}

impl Maker {
    fn compile(step: &Step) -> Result<Maker, TaskError> {
        let mut references = References::default();
        let key = match step.item_key.as_str() {
            "" => None,
            text => Some(compile_cached(text).map_err(|error| expression_error("item_key", &error))?),
        };
        if let Some(key) = &key {
            references.merge(key.references());
        }
        let mut name = |field: &str, text: &str| {
            if !text.contains("${") {
                return Ok(Name::Literal(text.to_owned()));
            }
            let template = Template::compile(&Json::String(text.to_owned()));
            let template = template.map_err(|error| expression_error(field, &error))?;
            references.merge(template.references());
            Ok(Name::Template(template))
        };
        let capability = name("capability", &step.capability)?;
        let agent_id = name("agent_id", &step.agent_id)?;
        let input = match &step.input {
            None => None,
            Some(payload) => Some(match template_of(payload) {
                None => Source::Literal(payload.clone()),
                Some(json) => {
                    let template = Template::compile(&json).map_err(|error| expression_error("input", &error))?;
                    references.merge(template.references());
                    let form = Payload {
                        body: bytes::Bytes::new(),
                        ..payload.clone()
                    };
                    Source::Template(template, form)
                }
            }),
        };
        Ok(Maker {
            key,
            capability,
            agent_id,
            input,
            references,
        })
    }

    fn make(&self, scope: &Scope<'_>, default_key: &str) -> Result<Made, TaskError> {
        let key = match &self.key {
            None => default_key.to_owned(),
            Some(key) => {
                let value = key
                    .evaluate(scope)
                    .map_err(|error| expression_error("item_key", &error))?;
                checked("item_key", key_of(value)?)?
            }
        };
        let capability = self.capability.evaluate("capability", scope)?;
        let agent_id = self.agent_id.evaluate("agent_id", scope)?;
        if capability.is_empty() && agent_id.is_empty() {
            return Err(invalid("expression", "neither capability nor agent_id gives a name"));
        }
        let input = match &self.input {
            None => Input::None,
            Some(Source::Literal(payload)) => Input::Own(payload.clone()),
            Some(Source::Template(template, form)) => {
                let value = template
                    .evaluate(scope)
                    .map_err(|error| expression_error("input", &error))?;
                let mut payload = made(&value);
                if form.form == crate::payload::Form::Json {
                    payload.form = form.form;
                }
                payload.content_type = form.content_type.clone();
                Input::Own(payload)
            }
        };
        Ok(Made {
            key,
            capability,
            agent_id,
            input,
        })
    }
}

impl Name {
    fn evaluate(&self, field: &str, scope: &Scope<'_>) -> Result<String, TaskError> {
        match self {
            Name::Literal(name) => Ok(name.clone()),
            Name::Template(template) => {
                match template
                    .evaluate(scope)
                    .map_err(|error| expression_error(field, &error))?
                {
                    // An item need not name both.
                    Json::Null => Ok(String::new()),
                    Json::String(name) if name.is_empty() => Ok(name),
                    Json::String(name) => checked(field, name),
                    _ => Err(invalid(
                        "expression",
                        format!("{field} gives something that is not a string"),
                    )),
                }
            }
        }
    }
}

fn key_of(value: Json) -> Result<String, TaskError> {
    match value {
        Json::String(text) => Ok(text),
        Json::Number(_) | Json::Bool(_) => Ok(value.to_string()),
        _ => Err(invalid("expression", "item_key gives something that is no key")),
    }
}

/// An id that an expression gave: what a client may give as one.
fn checked(field: &str, id: String) -> Result<String, TaskError> {
    let problem = if id.is_empty() {
        "is empty"
    } else if id.len() > MAX_ID {
        "has more than 255 bytes"
    } else if id.chars().any(char::is_control) {
        "has control characters"
    } else {
        return Ok(id);
    };
    Err(invalid("expression", format!("what {field} gives {problem}")))
}
