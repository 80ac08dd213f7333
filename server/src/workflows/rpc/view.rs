//! Workflows as clients see them, read from the store.

use std::collections::HashMap;

use drumline_proto::v1;
use prost::Message;

use super::convert;
use crate::app::App;
use crate::edge::payload;
use crate::error::Refusal;
use crate::lane::refusal_of;
use crate::payload::Payload;
use crate::store::row::{Key, Row, Value};
use crate::store::{Columns, Head, Selection, StoreError, TablePlan};
use crate::tasks::{PayloadRole, StoredPayload, Task};
use crate::workflows::plan::MAX_STEPS;
use crate::workflows::{Item, ItemState, StepDefinition, StepRecord, Workflow, WorkflowState};

/// How many subtasks a workflow is shown with.
const FIRST_SUBTASKS: usize = 100;
/// How many bytes of results a workflow is shown with: a message has room for its input and its final result too.
const FIRST_RESULT_BYTES: usize = 512 << 10;
/// How many bytes a page has at most, but for its first row.
const PAGE_BYTES: usize = 2 << 20;
/// How many results are read at once while it is not known how large they are.
const FIRST_RESULTS: usize = 16;

/// A workflow without what it works on, and what came of it.
pub(super) struct Outline {
    pub(super) head: Head,
    pub(super) workflow: v1::Workflow,
    pub(super) has_ended: bool,
}

fn refused(error: StoreError) -> Refusal {
    refusal_of(&error)
}

fn decoded<R: Row>(rows: Vec<Columns>) -> Result<Vec<R>, Refusal> {
    let rows: Result<Vec<R>, _> = rows.into_iter().map(R::from_columns).collect();
    rows.map_err(|corrupt| refused(corrupt.into()))
}

fn first(index: usize, prefix: Vec<Value>, limit: usize) -> Selection {
    Selection {
        index,
        prefix,
        after: None,
        limit,
        backwards: false,
    }
}

/// Reads a workflow with its steps, in one snapshot.
pub(super) async fn outline(app: &App, namespace: &str, workflow_id: &str) -> Result<Option<Outline>, Refusal> {
    let prefix = || vec![Value::Text(workflow_id.to_owned())];
    let plan = vec![
        TablePlan {
            table: Workflow::TABLE,
            keys: vec![workflow_id.to_owned().columns()],
            selections: Vec::new(),
        },
        TablePlan {
            table: StepRecord::TABLE,
            keys: Vec::new(),
            selections: vec![first(StepRecord::BY_WORKFLOW, prefix(), MAX_STEPS)],
        },
        TablePlan {
            table: StepDefinition::TABLE,
            keys: Vec::new(),
            selections: vec![first(StepDefinition::BY_WORKFLOW, prefix(), MAX_STEPS)],
        },
    ];
    let (head, mut rows) = app.store.read(namespace, plan).await.map_err(refused)?;
    let definitions = rows.pop().unwrap_or_default().selected.pop().unwrap_or_default();
    let records = rows.pop().unwrap_or_default().selected.pop().unwrap_or_default();
    let workflow = decoded::<Workflow>(rows.pop().unwrap_or_default().by_key)?.pop();
    let Some(row) = workflow else {
        return Ok(None);
    };
    Ok(Some(Outline {
        head,
        has_ended: row.state != WorkflowState::Running,
        workflow: convert::workflow(&row, decoded(records)?, decoded(definitions)?),
    }))
}

/// Reads a workflow with all that it is shown with.
pub(super) async fn whole(app: &App, namespace: &str, workflow_id: &str) -> Result<Option<v1::Workflow>, Refusal> {
    match outline(app, namespace, workflow_id).await? {
        Some(outline) => Ok(Some(filled(app, namespace, outline.workflow).await?)),
        None => Ok(None),
    }
}

/// Adds to a workflow its input, its first subtasks and results, and its final result.
pub(super) async fn filled(app: &App, namespace: &str, mut workflow: v1::Workflow) -> Result<v1::Workflow, Refusal> {
    let id = workflow.workflow_id.clone();
    let own = [PayloadRole::Input, PayloadRole::Result].map(|role| (id.clone(), role));
    for stored in app
        .store
        .get_all::<StoredPayload>(namespace, &own)
        .await
        .map_err(refused)?
    {
        let shown = Some(payload::to_proto(&stored.payload));
        match stored.role {
            PayloadRole::Input => workflow.input = shown,
            _ => workflow.final_result = shown,
        }
    }
    // The key begins with the workflow, so its rows are those that come first after its beginning.
    let selection = Selection {
        after: Some(vec![Value::Text(id.clone()), Value::Int(-1)]),
        ..first(Item::PRIMARY, Vec::new(), FIRST_SUBTASKS)
    };
    let (_, mut items) = app.store.select::<Item>(namespace, selection).await.map_err(refused)?;
    items.retain(|item| item.workflow_id == id);
    let step_ids: HashMap<i64, String> = (0..)
        .zip(&workflow.steps)
        .map(|(number, status)| {
            (
                number,
                status.step.as_ref().map_or(String::new(), |step| step.step_id.clone()),
            )
        })
        .collect();
    let tasks = tasks_of(app, namespace, &items).await?;
    let results = results_of(app, namespace, &items, FIRST_RESULT_BYTES).await?;
    for (place, item) in items.iter().enumerate() {
        let step_id = step_ids.get(&item.number).cloned().unwrap_or_default();
        if let Some(Some(result)) = results.get(place) {
            // The first step that uses a key has it; in others it is said with its step.
            let key = match workflow.partial_results.contains_key(&item.item_key) {
                false => item.item_key.clone(),
                true => format!("{step_id}/{}", item.item_key),
            };
            workflow.partial_results.insert(key, result.clone());
        }
        workflow.subtasks.push(subtask(item, step_id, &tasks));
    }
    Ok(workflow)
}

/// Workflows with their steps, as many as fit into a page.
pub(super) async fn outlines(app: &App, namespace: &str, rows: &[&Workflow]) -> Result<Vec<v1::Workflow>, Refusal> {
    let mut outlines = Vec::new();
    let mut bytes = 0;
    let mut rest = rows;
    while !rest.is_empty() && bytes < PAGE_BYTES {
        // As many at once as have about as many steps as one workflow may have.
        let mut steps = 0;
        let count = rest.iter().take_while(|row| {
            steps += usize::try_from(row.step_count).unwrap_or(0);
            steps <= MAX_STEPS
        });
        let (now, later) = rest.split_at(count.count().max(1));
        rest = later;
        let selections = |index: usize| {
            let one = |row: &&Workflow| first(index, vec![Value::Text(row.workflow_id.clone())], MAX_STEPS);
            now.iter().map(one).collect()
        };
        let plan = vec![
            TablePlan {
                table: StepRecord::TABLE,
                keys: Vec::new(),
                selections: selections(StepRecord::BY_WORKFLOW),
            },
            TablePlan {
                table: StepDefinition::TABLE,
                keys: Vec::new(),
                selections: selections(StepDefinition::BY_WORKFLOW),
            },
        ];
        let (_, mut read) = app.store.read(namespace, plan).await.map_err(refused)?;
        let definitions = read.pop().unwrap_or_default().selected;
        let records = read.pop().unwrap_or_default().selected;
        for ((row, records), definitions) in now.iter().zip(records).zip(definitions) {
            let outline = convert::workflow(row, decoded(records)?, decoded(definitions)?);
            bytes += outline.encoded_len();
            if bytes > PAGE_BYTES && !outlines.is_empty() {
                return Ok(outlines);
            }
            outlines.push(outline);
        }
    }
    Ok(outlines)
}

/// A step by its id.
pub(super) async fn step(
    app: &App,
    namespace: &str,
    workflow_id: &str,
    step_id: &str,
) -> Result<Option<StepRecord>, Refusal> {
    let prefix = vec![Value::Text(workflow_id.to_owned()), Value::Text(step_id.to_owned())];
    let selection = first(StepRecord::BY_ID, prefix, 1);
    let (_, mut found) = app
        .store
        .select::<StepRecord>(namespace, selection)
        .await
        .map_err(refused)?;
    Ok(found.pop())
}

/// A page of a step's subtasks with their results, and the place that the next page begins after, if there may be one.
pub(super) async fn results(
    app: &App,
    namespace: &str,
    record: &StepRecord,
    after: Option<Vec<Value>>,
    size: usize,
) -> Result<(Vec<v1::Subtask>, Option<i64>), Refusal> {
    let prefix = vec![Value::Text(record.workflow_id.clone()), Value::Int(record.number)];
    let selection = Selection {
        after,
        ..first(Item::BY_STEP, prefix, size)
    };
    let (_, mut items) = app.store.select::<Item>(namespace, selection).await.map_err(refused)?;
    let read = items.len();
    let results = results_of(app, namespace, &items, PAGE_BYTES).await?;
    items.truncate(results.len());
    let tasks = tasks_of(app, namespace, &items).await?;
    let has_more = read == size || results.len() < read;
    let last = items.last().filter(|_| has_more).map(|item| item.place);
    let subtasks = items.iter().zip(results).map(|(item, result)| v1::Subtask {
        result,
        ..subtask(item, record.step_id.clone(), &tasks)
    });
    Ok((subtasks.collect(), last))
}

async fn tasks_of(app: &App, namespace: &str, items: &[Item]) -> Result<HashMap<String, Task>, Refusal> {
    let ids: Vec<String> = items.iter().filter_map(|item| item.task_id.clone()).collect();
    let tasks = app.store.get_all::<Task>(namespace, &ids).await.map_err(refused)?;
    Ok(tasks.into_iter().map(|task| (task.task_id.clone(), task)).collect())
}

/// The results of the first of these items, as many as have so many bytes together, and one in any case.
async fn results_of(
    app: &App,
    namespace: &str,
    items: &[Item],
    most: usize,
) -> Result<Vec<Option<v1::Payload>>, Refusal> {
    let mut results = Vec::with_capacity(items.len());
    let mut bytes = 0;
    let mut step = FIRST_RESULTS;
    while results.len() < items.len() {
        let now = &items[results.len()..items.len().min(results.len() + step)];
        let stored = stored_results(app, namespace, now).await?;
        for item in now {
            let result = item.result.as_ref().or_else(|| stored.get(item.task_id.as_deref()?));
            let result = result
                .filter(|_| item.state == ItemState::Completed)
                .map(payload::to_proto);
            bytes += result.as_ref().map_or(0, Message::encoded_len);
            if bytes > most && !results.is_empty() {
                return Ok(results);
            }
            results.push(result);
        }
        // The next ones are taken to be as large as those before.
        let average = bytes / results.len() + 1;
        step = (most.saturating_sub(bytes) / average).clamp(1, 256);
    }
    Ok(results)
}

async fn stored_results(app: &App, namespace: &str, items: &[Item]) -> Result<HashMap<String, Payload>, Refusal> {
    let done = items
        .iter()
        .filter(|item| item.state == ItemState::Completed && item.result.is_none());
    let keys: Vec<_> = done
        .filter_map(|item| Some((item.task_id.clone()?, PayloadRole::Result)))
        .collect();
    let stored = app
        .store
        .get_all::<StoredPayload>(namespace, &keys)
        .await
        .map_err(refused)?;
    Ok(stored
        .into_iter()
        .map(|stored| (stored.owner_id, stored.payload))
        .collect())
}

fn subtask(item: &Item, step_id: String, tasks: &HashMap<String, Task>) -> v1::Subtask {
    use v1::subtask::State;
    let task = item.task_id.as_ref().and_then(|id| tasks.get(id));
    let state = match item.state {
        ItemState::Pending => State::Pending,
        ItemState::InProgress => State::InProgress,
        ItemState::Completed => State::Completed,
        ItemState::Failed => State::Failed,
        ItemState::Cancelled => State::Cancelled,
    };
    let error = item
        .error
        .as_ref()
        .or_else(|| task.and_then(|task| task.error.as_ref()));
    v1::Subtask {
        subtask_id: item.item_key.clone(),
        step_id,
        index: i32::try_from(item.place).unwrap_or(i32::MAX),
        state: state.into(),
        task_id: item.task_id.clone().unwrap_or_default(),
        agent_id: task.map_or(String::new(), |task| task.agent_id.clone()),
        attempt: task.map_or(0, |task| task.attempt),
        result: None,
        error: error.map(convert::error),
    }
}
