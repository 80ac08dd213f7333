//! Workflows and their steps between the wire and the house.

use std::time::Duration;

use drumline_proto::v1;

use crate::config::{Defaults, Limits};
use crate::edge::check::{Check, MAX_ID};
use crate::edge::payload;
use crate::error::Refusal;
use crate::tasks::{MAX_TIMEOUT, MIN_TIMEOUT, RetryPolicy, TaskError};
use crate::workflows::expr::MAX_TEXT_BYTES;
use crate::workflows::{
    Fallback, OnFailure, Step, StepDefinition, StepRecord, StepState, Transition, Workflow, WorkflowState, WorkflowType,
};

/// The shortest and the longest timeout of a task.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = MIN_TIMEOUT..=MAX_TIMEOUT;
/// How many kinds of errors a retry policy may name.
const MAX_KINDS: usize = 64;

/// Steps from the wire.
pub(super) fn steps(check: &mut Check, steps: Vec<v1::Step>, limits: &Limits, defaults: &Defaults) -> Vec<Step> {
    let steps = steps.into_iter().enumerate();
    steps
        .map(|(number, step)| one(check, &format!("steps[{number}]"), step, limits, defaults))
        .collect()
}

fn one(check: &mut Check, at: &str, step: v1::Step, limits: &Limits, defaults: &Defaults) -> Step {
    let field = |name: &str| format!("{at}.{name}");
    let on_failure = match step.on_failure() {
        v1::OnFailure::Fail | v1::OnFailure::Unspecified => OnFailure::Fail,
        v1::OnFailure::Skip => OnFailure::Skip,
        v1::OnFailure::Continue => OnFailure::Continue,
    };
    if v1::OnFailure::try_from(step.on_failure).is_err() {
        check.violation(field("on_failure"), "is not one that this server knows");
    }
    let input = payload::from_proto(field("input"), step.input, limits);
    Step {
        capability: name(check, &field("capability"), &step.capability),
        agent_id: name(check, &field("agent_id"), &step.agent_id),
        input: check.take(input).flatten(),
        for_each: check.text(field("for_each"), &step.for_each, MAX_TEXT_BYTES),
        item_key: check.text(field("item_key"), &step.item_key, MAX_TEXT_BYTES),
        condition: check.text(field("condition"), &step.condition, MAX_TEXT_BYTES),
        retry: retry(check, &field("retry_policy"), step.retry_policy.unwrap_or_default()),
        timeout: check.duration(field("timeout"), step.timeout, defaults.task_timeout, TIMEOUTS),
        accept_timeout: check.duration(
            field("accept_timeout"),
            step.accept_timeout,
            defaults.accept_timeout,
            TIMEOUTS,
        ),
        progress_timeout: step
            .progress_timeout
            .map(|timeout| check.duration(field("progress_timeout"), Some(timeout), Duration::ZERO, TIMEOUTS))
            .filter(|timeout| !timeout.is_zero()),
        fallback: step
            .fallback
            .and_then(|fallback| fallback_of(check, &field("fallback"), fallback, limits)),
        on_failure,
        requirements: check.labels(
            field("label_requirements"),
            step.label_requirements.into_iter().collect(),
        ),
        priority: step.priority,
        step_id: step.step_id,
        depends_on: step.depends_on,
    }
}

/// A capability or an agent: an id, or text with expressions in it.
fn name(check: &mut Check, field: &str, text: &str) -> String {
    if text.contains("${") {
        return check.text(field, text, MAX_TEXT_BYTES);
    }
    check.optional_id(field, text)
}

fn retry(check: &mut Check, field: &str, policy: v1::RetryPolicy) -> RetryPolicy {
    let default = RetryPolicy::default();
    let multiplier = match policy.backoff_multiplier {
        0.0 => default.multiplier,
        given => given,
    };
    if !(1.0..=1_000.0).contains(&multiplier) {
        check.violation(format!("{field}.backoff_multiplier"), "must be from 1 to 1000");
    }
    let kinds = format!("{field}.non_retryable_error_kinds");
    if policy.non_retryable_error_kinds.len() > MAX_KINDS {
        check.violation(&kinds, format!("has more than {MAX_KINDS} kinds"));
    }
    for kind in &policy.non_retryable_error_kinds {
        check.text(&kinds, kind, MAX_ID);
    }
    RetryPolicy {
        max_attempts: check.number(
            format!("{field}.max_attempts"),
            policy.max_attempts,
            default.max_attempts,
            1..=1_000,
        ),
        initial_backoff: check.duration(
            format!("{field}.initial_backoff"),
            policy.initial_backoff,
            default.initial_backoff,
            Duration::ZERO..=*TIMEOUTS.end(),
        ),
        max_backoff: check.duration(
            format!("{field}.max_backoff"),
            policy.max_backoff,
            default.max_backoff,
            Duration::ZERO..=*TIMEOUTS.end(),
        ),
        multiplier,
        non_retryable: policy.non_retryable_error_kinds,
    }
}

fn fallback_of(check: &mut Check, field: &str, fallback: v1::Fallback, limits: &Limits) -> Option<Fallback> {
    use v1::fallback::Kind;
    match fallback.kind {
        None => {
            check.violation(field, "must say what to do");
            None
        }
        Some(Kind::Capability(name)) => Some(Fallback::Capability(check.id(format!("{field}.capability"), &name))),
        Some(Kind::AgentId(name)) => Some(Fallback::Agent(check.id(format!("{field}.agent_id"), &name))),
        Some(Kind::Result(payload)) => {
            let payload = payload::from_proto(format!("{field}.result"), Some(payload), limits);
            check.take(payload).flatten().map(Fallback::Result)
        }
    }
}

/// A step for the wire.
pub(super) fn step(step: Step) -> v1::Step {
    let kind = step.fallback.as_ref().map(|fallback| match fallback {
        Fallback::Capability(name) => v1::fallback::Kind::Capability(name.clone()),
        Fallback::Agent(name) => v1::fallback::Kind::AgentId(name.clone()),
        Fallback::Result(literal) => v1::fallback::Kind::Result(payload::to_proto(literal)),
    });
    let on_failure = match step.on_failure {
        OnFailure::Fail => v1::OnFailure::Fail,
        OnFailure::Skip => v1::OnFailure::Skip,
        OnFailure::Continue => v1::OnFailure::Continue,
    };
    v1::Step {
        input: step.input.as_ref().map(payload::to_proto),
        retry_policy: Some(v1::RetryPolicy {
            max_attempts: step.retry.max_attempts,
            initial_backoff: Some(payload::duration(step.retry.initial_backoff)),
            max_backoff: Some(payload::duration(step.retry.max_backoff)),
            backoff_multiplier: step.retry.multiplier,
            non_retryable_error_kinds: step.retry.non_retryable,
        }),
        timeout: Some(payload::duration(step.timeout)),
        fallback: kind.map(|kind| v1::Fallback { kind: Some(kind) }),
        on_failure: on_failure.into(),
        label_requirements: step.requirements.into_iter().collect(),
        accept_timeout: Some(payload::duration(step.accept_timeout)),
        progress_timeout: step.progress_timeout.map(payload::duration),
        step_id: step.step_id,
        capability: step.capability,
        agent_id: step.agent_id,
        depends_on: step.depends_on,
        for_each: step.for_each,
        item_key: step.item_key,
        condition: step.condition,
        priority: step.priority,
    }
}

/// What went wrong, for the wire.
pub(super) fn error(error: &TaskError) -> v1::TaskError {
    v1::TaskError {
        kind: error.kind.clone(),
        message: error.message.clone(),
        permanent: error.permanent,
    }
}

/// The states that a list is asked for.
pub(super) fn states(states: &[i32]) -> Result<Vec<WorkflowState>, Refusal> {
    use v1::workflow::State;
    let one = |state: &i32| match State::try_from(*state) {
        Ok(State::Running) => Ok(WorkflowState::Running),
        Ok(State::Completed) => Ok(WorkflowState::Completed),
        Ok(State::Failed) => Ok(WorkflowState::Failed),
        Ok(State::Cancelled) => Ok(WorkflowState::Cancelled),
        Ok(State::TimedOut) => Ok(WorkflowState::TimedOut),
        Ok(State::Unspecified) | Err(_) => Err(Refusal::invalid("states", "has one that is not a state")),
    };
    states.iter().map(one).collect()
}

/// A workflow for the wire, without what it works on and what came of it.
pub(super) fn workflow(row: &Workflow, records: Vec<StepRecord>, definitions: Vec<StepDefinition>) -> v1::Workflow {
    let workflow_type = match row.workflow_type {
        WorkflowType::Sequential => v1::WorkflowType::Sequential,
        WorkflowType::Parallel => v1::WorkflowType::Parallel,
        WorkflowType::MapReduce => v1::WorkflowType::MapReduce,
        WorkflowType::Graph => v1::WorkflowType::Graph,
    };
    let state = match row.state {
        WorkflowState::Running => v1::workflow::State::Running,
        WorkflowState::Completed => v1::workflow::State::Completed,
        WorkflowState::Failed => v1::workflow::State::Failed,
        WorkflowState::Cancelled => v1::workflow::State::Cancelled,
        WorkflowState::TimedOut => v1::workflow::State::TimedOut,
    };
    let subtasks: i64 = records.iter().map(|record| record.item_count).sum();
    v1::Workflow {
        workflow_id: row.workflow_id.clone(),
        workflow_type: workflow_type.into(),
        state: state.into(),
        input: None,
        checkpoints: checkpoints(&records),
        steps: records
            .iter()
            .zip(definitions)
            .map(|(record, given)| status(record, given))
            .collect(),
        subtasks: Vec::new(),
        subtask_count: i32::try_from(subtasks).unwrap_or(i32::MAX),
        partial_results: Default::default(),
        final_result: None,
        error_log: row.error_log.0.clone(),
        max_concurrent_delegates: row.max_concurrent,
        in_flight: row.in_flight,
        correlation_id: row.correlation_id.clone(),
        caller_agent: row.caller_agent.clone(),
        start_time: Some(payload::timestamp(row.started_at)),
        update_time: Some(payload::timestamp(row.updated_at)),
        end_time: row.ended_at.map(payload::timestamp),
        labels: row.labels.0.clone().into_iter().collect(),
        workflow_name: row.workflow_name.clone(),
        traceparent: row.traceparent.clone(),
    }
}

/// The ends of steps, in order.
fn checkpoints(records: &[StepRecord]) -> Vec<v1::WorkflowCheckpoint> {
    let ended = records.iter().filter_map(|record| Some((record.end_position?, record)));
    let mut ended: Vec<_> = ended.collect();
    ended.sort_by_key(|(position, record)| (*position, record.number));
    let checkpoint = |(position, record): (i64, &StepRecord)| v1::WorkflowCheckpoint {
        step_id: record.step_id.clone(),
        state: step_state(record.state).into(),
        time: record.ended_at.map(payload::timestamp),
        position,
    };
    ended.into_iter().map(checkpoint).collect()
}

fn status(record: &StepRecord, given: StepDefinition) -> v1::StepStatus {
    let count = |number: i64| i32::try_from(number).unwrap_or(i32::MAX);
    v1::StepStatus {
        step: Some(step(given.step.0)),
        state: step_state(record.state).into(),
        item_count: count(record.item_count),
        in_flight_count: count(record.in_flight),
        completed_count: count(record.completed),
        failed_count: count(record.failed),
        start_time: record.started_at.map(payload::timestamp),
        end_time: record.ended_at.map(payload::timestamp),
    }
}

fn step_state(state: StepState) -> v1::step_status::State {
    use v1::step_status::State;
    match state {
        StepState::Waiting => State::Waiting,
        StepState::Running => State::Running,
        StepState::Completed => State::Completed,
        StepState::Failed => State::Failed,
        StepState::Skipped => State::Skipped,
        StepState::Cancelled => State::Cancelled,
    }
}

/// A transition for the wire.
pub(super) fn transition(row: Transition) -> v1::WorkflowTransition {
    v1::WorkflowTransition {
        sequence: row.sequence,
        time: Some(payload::timestamp(row.at)),
        position: row.position,
        kind: row.kind,
        step_id: row.step_id,
        index: i32::try_from(row.place).unwrap_or(i32::MAX),
        task_id: row.task_id,
        detail: row.detail,
    }
}
