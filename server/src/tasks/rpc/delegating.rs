//! The delegating side: delegate, look, list, cancel.

use std::collections::BTreeMap;
use std::time::Duration;

use drumline_proto::v1;

use super::convert::{self, to_proto};
use super::cursor_of;
use crate::app::App;
use crate::edge::check::Check;
use crate::edge::page::{self, Page};
use crate::edge::{Context, payload};
use crate::error::{Reason, Refusal, Violation};
use crate::lane::{Decision, Urgency, World, refusal_of};
use crate::payload::Payload;
use crate::registry::{Offer, schema};
use crate::sessions;
use crate::store::Selection;
use crate::store::row::{Row, Value};
use crate::tail::Feed;
use crate::tasks::rules::{self, Delegation};
use crate::tasks::{MAX_TIMEOUT, MIN_TIMEOUT, Task};

/// The farthest that a task may look ahead: what is written down as a time stays one that clients can read.
const MAX_AHEAD: Duration = Duration::from_secs(100 * 365 * 86_400);
/// How many tasks are looked at for one page of a list.
const SCAN: usize = 2_000;
/// How many different schemas of one capability an input is held against.
const MAX_SCHEMAS: usize = 16;

/// A duration that may be absent.
fn optional(check: &mut Check, field: &str, value: Option<prost_types::Duration>, least: Duration) -> Option<Duration> {
    let value = check.optional_duration(field, value)?;
    if !(least..=MAX_AHEAD).contains(&value) {
        check.violation(field, format!("is {value:?}, must be from {least:?} to 100 years"));
    }
    Some(value)
}

fn delegation(app: &App, context: &Context, request: v1::DelegateTaskRequest) -> Result<Delegation, Refusal> {
    let mut check = Check::default();
    let capability = check.optional_id("capability", &request.capability);
    let target_agent = check.optional_id("target_agent", &request.target_agent);
    if capability.is_empty() && target_agent.is_empty() {
        check.violation("capability", "this or target_agent must be given");
    }
    let range = MIN_TIMEOUT..=MAX_TIMEOUT;
    let timeout = check.duration("timeout", request.timeout, app.defaults.task_timeout, range.clone());
    let accept = request.accept_timeout;
    let accept_timeout = check.duration("accept_timeout", accept, app.defaults.accept_timeout, range);
    let input = check.take(payload::from_proto("input", request.input, &app.limits));
    let delegation = Delegation {
        task_id: check.optional_id("task_id", &request.task_id),
        capability,
        target_agent,
        input: input.flatten(),
        correlation_id: check.optional_id("correlation_id", &request.correlation_id),
        priority: request.priority,
        timeout,
        accept_timeout,
        progress_timeout: optional(&mut check, "progress_timeout", request.progress_timeout, MIN_TIMEOUT),
        deadline: optional(&mut check, "deadline", request.deadline, MIN_TIMEOUT),
        delay: optional(&mut check, "delay", request.delay, Duration::ZERO).unwrap_or_default(),
        retry: convert::retry_from_proto(&mut check, "retry_policy", request.retry_policy),
        requirements: check.labels("label_requirements", request.label_requirements),
        parent_task_id: check.optional_id("parent_task_id", &request.parent_task_id),
        caller_agent: String::new(),
        origin: None,
        traceparent: context.traceparent.clone(),
    };
    check.optional_id("request_id", &request.request_id);
    check.optional_id("session_id", &request.session_id);
    check.finish()?;
    Ok(delegation)
}

/// Refuses an input that no live agent's schema of the capability takes. Where no agent is there yet, anything goes.
async fn check_input(app: &App, context: &Context, delegation: &Delegation) -> Result<(), Refusal> {
    if delegation.capability.is_empty() {
        return Ok(());
    }
    let known = schemas(&*app.tail.feed_as_it_is(&context.namespace).await?, delegation).await?;
    if !known.is_empty() && judge(&known, delegation).is_ok() {
        return Ok(());
    }
    // Before anything else is believed, what other servers have committed is looked at.
    let all = schemas(&*app.tail.feed(&context.namespace).await?, delegation).await?;
    judge(&all, delegation)
}

/// Refuses an input that none of these schemas takes.
fn judge(schemas: &BTreeMap<String, String>, delegation: &Delegation) -> Result<(), Refusal> {
    if schemas.len() > MAX_SCHEMAS {
        // They agree on nothing: whoever gets it has to say.
        return Ok(());
    }
    let mut faults: Option<(&String, Vec<Violation>)> = None;
    for (schema, agent_id) in schemas {
        let Err(violations) = fit(schema, delegation.input.as_ref()) else {
            return Ok(());
        };
        if faults.as_ref().is_none_or(|(first, _)| agent_id < *first) {
            faults = Some((agent_id, violations));
        }
    }
    let Some((agent_id, violations)) = faults else {
        return Ok(());
    };
    let name = &delegation.capability;
    let message = format!("the input does not fit the input_schema of {name}");
    Err(Refusal::new(Reason::InputSchemaMismatch, message)
        .with("capability", name)
        .with("agent_id", agent_id)
        .with_violations(violations))
}

/// The schemas that live agents have for the capability, each with the first agent, by name, that has it; if there are too many of them,
/// not all.
async fn schemas(feed: &Feed, delegation: &Delegation) -> Result<BTreeMap<String, String>, Refusal> {
    let (name, target) = (delegation.capability.as_str(), delegation.target_agent.as_str());
    feed.directory(|directory| {
        let owned = |(schema, agent_id): (&str, &str)| (schema.to_owned(), agent_id.to_owned());
        if target.is_empty() {
            return directory.schemas(name).take(MAX_SCHEMAS + 1).map(owned).collect();
        }
        let there = directory.get(target).filter(|entry| entry.session.is_some());
        let mut capabilities = there.into_iter().flat_map(|entry| entry.agent.capabilities.iter());
        let capability = capabilities.find(|capability| capability.name == name);
        capability
            .map(|capability| owned((&capability.input_schema, target)))
            .into_iter()
            .collect()
    })
    .await
}

fn fit(schema: &str, input: Option<&Payload>) -> Result<(), Vec<Violation>> {
    if schema.is_empty() {
        return Ok(());
    }
    let json = match input {
        None => serde_json::Value::Null,
        Some(input) => input.json().ok_or_else(|| {
            vec![Violation {
                field: "input".to_owned(),
                description: "is opaque data, where the schema wants JSON".to_owned(),
            }]
        })?,
    };
    schema::check_input(schema, &json)
}

/// Delegates a task.
///
/// # Errors
/// INPUT_SCHEMA_MISMATCH, TASK_EXISTS, SESSION_ENDED, SESSION_SUPERSEDED, INVALID_REQUEST, PAYLOAD_TOO_LARGE.
pub async fn delegate_task(
    app: &App,
    context: &Context,
    request: v1::DelegateTaskRequest,
) -> Result<v1::DelegateTaskResponse, Refusal> {
    let call = context.call("DelegateTask", &request.request_id, &request, Urgency::Normal);
    let session_id = (!request.session_id.is_empty()).then(|| request.session_id.clone());
    let delegation = delegation(app, context, request)?;
    check_input(app, context, &delegation).await?;
    let (task_id, capability, target) = (
        delegation.task_id.clone(),
        delegation.capability.clone(),
        delegation.target_agent.clone(),
    );
    let caller = session_id.clone();
    let reads = move |world: &mut World| {
        sessions::rules::want_caller(world, &caller);
        if !task_id.is_empty() {
            world.tasks.want(&task_id);
        }
        if target.is_empty() {
            world
                .offers
                .want_first(Offer::OPEN, vec![Value::Text(capability.clone())], 8);
        } else {
            world.offers.want(&(capability.clone(), target.clone()));
        }
    };
    let decide = move |world: &mut World| -> Decision<Task> {
        let caller = sessions::rules::caller(world, &session_id)?;
        let delegation = Delegation {
            caller_agent: caller.map(|session| session.agent_id.clone()).unwrap_or_default(),
            ..delegation.clone()
        };
        let task = rules::delegate(world, delegation)?;
        // The answer is kept for a repetition: without secrets.
        Ok(Task {
            attempt_token: String::new(),
            session_id: None,
            ..task
        })
    };
    let committed = app.lanes.run(call, reads, decide).await?;
    Ok(v1::DelegateTaskResponse {
        position: committed.position,
        cursor: cursor_of(&committed),
        task: Some(to_proto(&committed.answer)),
    })
}

/// A task with its payloads.
///
/// # Errors
/// TASK_NOT_FOUND.
pub async fn get_task(
    app: &App,
    context: &Context,
    request: v1::GetTaskRequest,
) -> Result<v1::GetTaskResponse, Refusal> {
    let mut check = Check::default();
    let task_id = check.id("task_id", &request.task_id);
    check.finish()?;
    let (_, whole) = convert::read(&app.store, &context.namespace, &task_id).await?;
    let whole = whole.ok_or_else(|| convert::not_found(&task_id))?;
    Ok(v1::GetTaskResponse {
        task: Some(convert::whole_to_proto(&whole)),
    })
}

/// Tasks, newest first. A page looks at a bounded number of them.
///
/// # Errors
/// INVALID_PAGE_TOKEN, INVALID_REQUEST.
pub async fn list_tasks(
    app: &App,
    context: &Context,
    request: v1::ListTasksRequest,
) -> Result<v1::ListTasksResponse, Refusal> {
    let mut check = Check::default();
    let states = convert::states(&mut check, &request.states);
    let capability = check.optional_id("capability", &request.capability);
    let agent_id = check.optional_id("agent_id", &request.agent_id);
    let correlation_id = check.optional_id("correlation_id", &request.correlation_id);
    let workflow_id = check.optional_id("workflow_id", &request.workflow_id);
    check.finish()?;
    let list = format!("tasks/{states:?}/{capability:?}/{agent_id:?}/{correlation_id:?}/{workflow_id:?}");
    let page = Page::new(request.page_size, &request.page_token, &list)?;
    let (index, prefix) = match workflow_id.is_empty() {
        true => (Task::BY_AGE, Vec::new()),
        false => (Task::BY_WORKFLOW, vec![Value::Text(workflow_id)]),
    };
    let wanted = |task: &Task| {
        (states.is_empty() || states.contains(&task.state))
            && (capability.is_empty() || capability == task.capability)
            && (agent_id.is_empty() || agent_id == task.agent_id)
            && (correlation_id.is_empty() || correlation_id == task.correlation_id)
    };
    let mut response = v1::ListTasksResponse::default();
    let mut after = page.after;
    let mut looked_at = 0;
    loop {
        let limit = (page.size - response.tasks.len()).min(500);
        let selection = Selection {
            index,
            prefix: prefix.clone(),
            after,
            limit,
            backwards: true,
        };
        let selected = app.store.select::<Task>(&context.namespace, selection).await;
        let (_, tasks) = selected.map_err(|error| refusal_of(&error))?;
        let is_last = tasks.len() < limit;
        looked_at += tasks.len();
        let place = tasks.last().and_then(|task| task.place(&Task::TABLE.indexes[index]));
        after = place.map(|(_, place)| place);
        response
            .tasks
            .extend(tasks.iter().filter(|task| wanted(task)).map(to_proto));
        if is_last {
            return Ok(response);
        }
        if response.tasks.len() == page.size || looked_at >= SCAN {
            response.next_page_token = page::token(after.as_deref().unwrap_or_default(), &list);
            return Ok(response);
        }
    }
}

/// Cancels a task.
///
/// # Errors
/// TASK_NOT_FOUND, TASK_ENDED, SESSION_ENDED, SESSION_SUPERSEDED.
pub async fn cancel_task(
    app: &App,
    context: &Context,
    request: v1::CancelTaskRequest,
) -> Result<v1::CancelTaskResponse, Refusal> {
    let call = context.call("CancelTask", &request.request_id, &request, Urgency::Normal);
    let mut check = Check::default();
    let task_id = check.id("task_id", &request.task_id);
    let cause = check.text("cause", &request.cause, 1_024);
    let session_id = check.session_id(request.session_id);
    check.optional_id("request_id", &request.request_id);
    check.finish()?;
    let (wanted, caller) = (task_id.clone(), session_id.clone());
    let reads = move |world: &mut World| {
        sessions::rules::want_caller(world, &caller);
        world.tasks.want(&wanted);
    };
    let decide = move |world: &mut World| {
        sessions::rules::caller(world, &session_id)?;
        rules::cancel_by_caller(world, &task_id, &cause)
    };
    let committed = app.lanes.run(call, reads, decide).await?;
    Ok(v1::CancelTaskResponse {
        position: committed.position,
        cursor: cursor_of(&committed),
    })
}
