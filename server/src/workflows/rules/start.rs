//! A workflow's beginning.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Entry, MAX_BEGINNINGS, Run};
use crate::error::{Reason, Refusal};
use crate::events::Draft;
use crate::lane::{Decision, World};
use crate::payload::Payload;
use crate::sessions;
use crate::store::row::{Json, Value};
use crate::tasks::{PayloadRole, StoredPayload};
use crate::workflows::plan::PlannedStep;
use crate::workflows::{Item, StepDefinition, StepRecord, StepState, Stretch, Workflow, WorkflowState, WorkflowType};

/// A workflow to be started. Its steps are checked.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its id; empty: one is made.
    pub workflow_id: String,
    /// For people.
    pub workflow_name: String,
    /// The shape that it was given in.
    pub workflow_type: WorkflowType,
    /// Its steps.
    pub steps: Vec<PlannedStep>,
    /// What it is to work on.
    pub input: Option<Payload>,
    /// Tasks in flight at once, at most.
    pub max_concurrent: i32,
    /// An expression that gives the final result; may be empty.
    pub result: String,
    /// How long all of it may take.
    pub deadline: Option<Duration>,
    /// Links events of one undertaking; empty: the workflow's id.
    pub correlation_id: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// The caller's session.
    pub session_id: Option<String>,
    /// W3C trace context.
    pub traceparent: String,
}

/// Says what [`start`] will read.
pub fn want_start(world: &mut World, start: &Start) {
    sessions::rules::want_caller(world, &start.session_id);
    if !start.workflow_id.is_empty() {
        world.workflows.want(&start.workflow_id);
        want_first_rows(world, &start.workflow_id);
    }
}

fn want_first_rows(world: &mut World, workflow_id: &str) {
    let prefix = || vec![Value::Text(workflow_id.to_owned())];
    world.steps.want_first(StepRecord::READY, prefix(), MAX_BEGINNINGS);
    world.items.want_first(Item::WAITING, prefix(), 1);
    world.stretches.want_first(Stretch::BY_WORKFLOW, prefix(), 1);
}

/// Starts a workflow and delegates its first tasks; returns its id.
///
/// # Errors
/// WORKFLOW_EXISTS, SESSION_ENDED, SESSION_SUPERSEDED.
pub fn start(world: &mut World, start: &Start) -> Decision<String> {
    let caller = sessions::rules::caller(world, &start.session_id)?;
    let workflow_id = match start.workflow_id.as_str() {
        "" => world.new_id(),
        given => given.to_owned(),
    };
    // All that the first job looks at: a made id was not known when the job said what it reads.
    world.workflows.want(&workflow_id);
    want_first_rows(world, &workflow_id);
    if world.workflows.get(&workflow_id)?.is_some() {
        let refusal = Refusal::new(Reason::WorkflowExists, "a workflow with this id was started before");
        return Err(refusal.with("workflow_id", &workflow_id).into());
    }
    let caller_agent = caller.map_or(String::new(), |session| session.agent_id.clone());
    if let Some(payload) = &start.input {
        world.payloads.put(StoredPayload {
            owner_id: workflow_id.clone(),
            role: PayloadRole::Input,
            payload: payload.clone(),
        });
    }
    let mut run = Run::new(workflow(world, start, &workflow_id, caller_agent), true);
    for (number, planned) in (0..).zip(&start.steps) {
        put_step(world, &workflow_id, number, planned);
        run.workflow.ready_steps += i32::from(planned.dependencies == 0);
    }
    let event = Draft::new("workflow.started", &workflow_id)
        .source(&run.workflow.caller_agent)
        .correlation(&run.workflow.correlation_id)
        .trace(&run.workflow.traceparent)
        .data(&serde_json::json!({
            "workflow_name": start.workflow_name,
            "workflow_type": start.workflow_type.name(),
            "step_count": start.steps.len(),
        }));
    world.emit(event);
    run.record(
        world,
        Entry {
            kind: "workflow.started",
            ..Entry::default()
        },
    );
    run.advance(world)?;
    run.close(world);
    Ok(workflow_id)
}

fn workflow(world: &World, start: &Start, workflow_id: &str, caller_agent: String) -> Workflow {
    let now = world.now();
    let correlation_id = match start.correlation_id.as_str() {
        "" => workflow_id,
        given => given,
    };
    let step_count = i32::try_from(start.steps.len()).expect("a plan has at most 1,000 steps");
    Workflow {
        workflow_id: workflow_id.to_owned(),
        workflow_name: start.workflow_name.clone(),
        workflow_type: start.workflow_type,
        state: WorkflowState::Running,
        result: start.result.clone(),
        max_concurrent: start.max_concurrent,
        in_flight: 0,
        step_count,
        open_steps: step_count,
        ready_steps: 0,
        waiting_items: 0,
        stretches: 0,
        transitions: 0,
        error_log: Json::default(),
        labels: Json(start.labels.clone()),
        correlation_id: correlation_id.to_owned(),
        caller_agent,
        started_at: now,
        updated_at: now,
        ended_at: None,
        deadline_at: start.deadline.map(|deadline| now + deadline),
        due_at: None,
        traceparent: start.traceparent.clone(),
    }
}

fn put_step(world: &mut World, workflow_id: &str, number: i64, planned: &PlannedStep) {
    world.definitions.put(StepDefinition {
        workflow_id: workflow_id.to_owned(),
        number,
        step: Json(planned.step.clone()),
        dependents: Json(planned.dependents.clone()),
        sees: Json(planned.sees.clone()),
    });
    world.steps.put(StepRecord {
        workflow_id: workflow_id.to_owned(),
        number,
        step_id: planned.step.step_id.clone(),
        state: StepState::Waiting,
        open_dependencies: planned.dependencies,
        skip: false,
        open: Some(number),
        ready: (planned.dependencies == 0).then_some(number),
        item_count: 0,
        expanded: 0,
        in_flight: 0,
        completed: 0,
        failed: 0,
        result_bytes: 0,
        started_at: None,
        ended_at: None,
        end_position: None,
    });
}
