//! The rows of workflows, their steps, items and histories.

use super::{
    Item, ItemState, Step, StepDefinition, StepRecord, StepState, Stretch, Transition, Workflow, WorkflowState,
    WorkflowType,
};
use crate::payload::Payload;
use crate::row;
use crate::store::row::{Json, Labels};
use crate::tasks::TaskError;
use crate::time::Time;

row! {
    Workflow: String = "workflows" (workflow_id: String) {
        workflow_name: String,
        workflow_type: WorkflowType,
        state: WorkflowState,
        result: String,
        max_concurrent: i32,
        in_flight: i32,
        step_count: i32,
        open_steps: i32,
        ready_steps: i32,
        waiting_items: i64,
        stretches: i64,
        transitions: i64,
        error_log: Json<Vec<String>>,
        labels: Labels,
        correlation_id: String,
        caller_agent: String,
        started_at: Time,
        updated_at: Time,
        ended_at: Option<Time>,
        deadline_at: Option<Time>,
        due_at: Option<Time>,
        traceparent: String,
    }
    index BY_DUE = "workflows_by_due": () -> (due_at, workflow_id);
    index BY_AGE = "workflows_by_age": () -> (started_at, workflow_id);
}

row! {
    StepRecord: (String, i64) = "workflow_steps" (workflow_id: String, number: i64) {
        step_id: String,
        state: StepState,
        open_dependencies: i32,
        skip: bool,
        open: Option<i64>,
        ready: Option<i64>,
        item_count: i64,
        expanded: i64,
        in_flight: i64,
        completed: i64,
        failed: i64,
        result_bytes: i64,
        started_at: Option<Time>,
        ended_at: Option<Time>,
        end_position: Option<i64>,
    }
    index BY_WORKFLOW = "workflow_steps_by_workflow": (workflow_id) -> (number);
    index BY_ID = "workflow_steps_by_id": (workflow_id, step_id) -> (number);
    index OPEN = "workflow_steps_open": (workflow_id) -> (open);
    index READY = "workflow_steps_ready": (workflow_id) -> (ready);
}

row! {
    StepDefinition: (String, i64) = "workflow_definitions" (workflow_id: String, number: i64) {
        step: Json<Step>,
        dependents: Json<Vec<i64>>,
        sees: Json<Vec<(String, i64)>>,
    }
    index BY_WORKFLOW = "workflow_definitions_by_workflow": (workflow_id) -> (number);
}

row! {
    Stretch: (String, i64, i64) = "workflow_stretches" (workflow_id: String, number: i64, place: i64) {
        items: Payload,
    }
    index BY_WORKFLOW = "workflow_stretches_by_workflow": (workflow_id) -> (number, place);
}

row! {
    Item: (String, i64, i64) = "workflow_items" (workflow_id: String, number: i64, place: i64) {
        item_key: String,
        state: ItemState,
        waiting: Option<i64>,
        in_flight: Option<i64>,
        capability: String,
        agent_id: String,
        input: Option<Payload>,
        task_id: Option<String>,
        fell_back: bool,
        result: Option<Payload>,
        error: Json<Option<TaskError>>,
    }
    index BY_STEP = "workflow_items_by_step": (workflow_id, number) -> (place);
    index WAITING = "workflow_items_waiting": (workflow_id) -> (waiting, number, place);
    index IN_FLIGHT = "workflow_items_in_flight": (workflow_id) -> (in_flight, place);
    index BY_KEY = "workflow_items_by_key": (workflow_id, number, item_key) -> (place);
}

row! {
    Transition: (String, i64) = "workflow_transitions" (workflow_id: String, sequence: i64) {
        at: Time,
        position: i64,
        kind: String,
        step_id: String,
        place: i64,
        task_id: String,
        detail: String,
    }
    index BY_WORKFLOW = "workflow_transitions_by_workflow": (workflow_id) -> (sequence);
}
