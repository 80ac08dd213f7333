//! The rows of tasks, their payloads and their queues.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Look, Origin, PayloadRole, Queue, RetryPolicy, StoredPayload, Task, TaskError, TaskState};
use crate::payload::Payload;
use crate::row;
use crate::store::row::{Json, Labels};
use crate::time::Time;

row! {
    Task: String = "tasks" (task_id: String) {
        capability: String,
        target_agent: String,
        requirements: Labels,
        excluded: Json<Vec<String>>,
        priority: i32,
        correlation_id: String,
        parent_task_id: String,
        caller_agent: String,
        timeout: Duration,
        accept_timeout: Duration,
        progress_timeout: Option<Duration>,
        deadline_at: Option<Time>,
        retry: Json<RetryPolicy>,
        state: TaskState,
        queue_id: Option<String>,
        rank: i32,
        ready_at: Time,
        attempt: i32,
        failed_attempts: i32,
        attempt_token: String,
        agent_id: String,
        session_id: Option<String>,
        assigned_at: Option<Time>,
        accepted_at: Option<Time>,
        progressed_at: Option<Time>,
        progress: i64,
        progress_message: String,
        error: Json<Option<TaskError>>,
        workflow_id: Option<String>,
        origin: Json<Option<Origin>>,
        created_at: Time,
        ended_at: Option<Time>,
        due_at: Option<Time>,
        traceparent: String,
    }
    index QUEUED = "tasks_queued": (queue_id) -> (rank, ready_at, task_id);
    index BY_SESSION = "tasks_by_session": (session_id) -> (task_id);
    index BY_DUE = "tasks_by_due": () -> (due_at, task_id);
    index BY_AGE = "tasks_by_age": () -> (created_at, task_id);
    index BY_WORKFLOW = "tasks_by_workflow": (workflow_id) -> (created_at, task_id);
}

row! {
    StoredPayload: (String, PayloadRole) = "payloads" (owner_id: String, role: PayloadRole) {
        payload: Payload,
    }
}

row! {
    Queue: String = "queues" (queue_id: String) {
        capability: String,
        target_agent: Option<String>,
        open_capability: Option<String>,
        requirements: Json<BTreeMap<String, String>>,
        excluded: Json<Vec<String>>,
        waiting: i64,
        first_rank: i32,
        first_ready_at: Time,
        first_task_id: String,
        look: Json<Option<Look>>,
    }
    index BY_CAPABILITY = "queues_by_capability": (open_capability) -> (first_rank, first_ready_at, first_task_id);
    index BY_TARGET = "queues_by_target": (target_agent) -> (first_rank, first_ready_at, first_task_id);
}
