//! The rows of workflows, their steps, items and histories.

use super::{Item, ItemState, Step, StepRecord, StepState, Transition, Workflow, WorkflowState, WorkflowType};
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
        definition: Json<Vec<Step>>,
        result: String,
        max_concurrent: i32,
        in_flight: i32,
        open_steps: i32,
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
}

row! {
    Item: (String, i64, i64) = "workflow_items" (workflow_id: String, number: i64, place: i64) {
        item_key: String,
        state: ItemState,
        waiting: Option<i64>,
        item: Option<Payload>,
        task_id: Option<String>,
        fell_back: bool,
        result: Option<Payload>,
        error: Json<Option<TaskError>>,
    }
    index BY_STEP = "workflow_items_by_step": (workflow_id, number) -> (place);
    index WAITING = "workflow_items_waiting": (workflow_id) -> (waiting, place);
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
