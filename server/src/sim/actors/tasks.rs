//! Delegates tasks and starts workflows, and waits for what becomes of them.

use std::time::Duration;

use drumline_proto::v1;
use serde_json::json;
use tokio::time::Instant;

use super::{Actor, CAPABILITIES, PATIENCE, duration, millis, one_of, standing};
use crate::machine;
use crate::sim::happens;
use crate::sim::ledger::Verdict;
use crate::sim::net::{Failure, door, payload};

/// How long one wait for an end takes.
const WAIT: Duration = Duration::from_secs(4);
/// How many waits there are once nothing new is begun. What has not ended then is found in the store.
const LAST_WAITS: u32 = 10;

fn retry_policy() -> Option<v1::RetryPolicy> {
    Some(v1::RetryPolicy {
        max_attempts: 6,
        initial_backoff: duration(Duration::from_millis(100)),
        max_backoff: duration(Duration::from_secs(1)),
        backoff_multiplier: 2.0,
        non_retryable_error_kinds: Vec::new(),
    })
}

pub(super) async fn delegate(mut actor: Actor) {
    while actor.works() {
        let mut open = Vec::new();
        for _ in 0..machine::random_range(1..4) {
            open.extend(delegate_one(&mut actor).await);
        }
        for task_id in open {
            if happens(0.1) {
                cancel(&mut actor, &task_id).await;
            }
            await_end(&mut actor, &task_id).await;
        }
        actor.rest(500).await;
    }
}

async fn delegate_one(actor: &mut Actor) -> Option<String> {
    let task_id = actor.op();
    let request = v1::DelegateTaskRequest {
        namespace: actor.namespace.clone(),
        request_id: format!("delegate {task_id}"),
        task_id: task_id.clone(),
        capability: one_of(&CAPABILITIES).to_owned(),
        input: payload(&json!({ "of": task_id })),
        priority: machine::random_range(0..3),
        timeout: duration(millis(3_000..8_000)),
        accept_timeout: duration(millis(1_000..3_000)),
        retry_policy: retry_policy(),
        delay: duration(millis(0..500)).filter(|_| happens(0.2)),
        ..Default::default()
    };
    match actor.client.ask(PATIENCE, request, door!(tasks.delegate_task)).await {
        Ok(delegated) => {
            actor.done("delegated", &task_id, |space| {
                standing(space, &delegated.cursor, delegated.position, |space| {
                    match space.tasks.get(&task_id) {
                        Some(_) => Ok(()),
                        None => Err(format!("{task_id} was delegated and is not there")),
                    }
                })
            });
            Some(task_id)
        }
        Err(failure) => {
            actor.failed("delegate", &failure);
            // It may be there all the same.
            matches!(failure, Failure::Unknown).then_some(task_id)
        }
    }
}

async fn cancel(actor: &mut Actor, task_id: &str) {
    let request = v1::CancelTaskRequest {
        namespace: actor.namespace.clone(),
        request_id: actor.op(),
        task_id: task_id.to_owned(),
        cause: "not needed".to_owned(),
        ..Default::default()
    };
    match actor.client.ask(PATIENCE, request, door!(tasks.cancel_task)).await {
        Ok(said) => actor.done("cancelled", task_id, |space| {
            standing(space, &said.cursor, said.position, |space| {
                match space.tasks.get(task_id) {
                    Some(task) if task.state.is_ended() => Ok(()),
                    other => Err(format!("{task_id} was cancelled: {other:?}")),
                }
            })
        }),
        Err(failure) => actor.failed("cancel", &failure),
    }
}

/// Waits until a task has ended, and holds what it is told against what is committed.
async fn await_end(actor: &mut Actor, task_id: &str) {
    let mut patience = LAST_WAITS;
    while actor.works() || patience > 0 {
        patience -= u32::from(!actor.works());
        let request = v1::AwaitTaskRequest {
            namespace: actor.namespace.clone(),
            task_id: task_id.to_owned(),
            wait_timeout: duration(WAIT),
        };
        match actor.client.ask(PATIENCE, request, door!(tasks.await_task)).await {
            Ok(awaited) => {
                let task = awaited.task.unwrap_or_default();
                if is_ended(task.state()) {
                    return actor.done("awaited", task_id, |space| {
                        let known = space.tasks.get(task_id);
                        let same = known
                            .is_some_and(|known| format!("STATE_{}", known.state.name()) == task.state().as_str_name());
                        same_or_lost(space.log.losses(), same, || format!("{task:?} is {known:?}"))
                    });
                }
            }
            Err(failure) if failure.reason() == "TASK_NOT_FOUND" => {
                return actor.done("missed", task_id, |space| {
                    let known = space.tasks.get(task_id);
                    same_or_lost(space.log.losses(), known.is_none(), || format!("not found: {known:?}"))
                });
            }
            Err(failure) => actor.failed("await", &failure),
        }
    }
}

/// Whether what was told is what is committed, where nothing was lost.
fn same_or_lost(losses: usize, same: bool, difference: impl FnOnce() -> String) -> Verdict {
    if same || losses > 0 { Ok(()) } else { Err(difference()) }
}

fn is_ended(state: v1::task::State) -> bool {
    use v1::task::State;
    matches!(
        state,
        State::Completed | State::Failed | State::Cancelled | State::TimedOut
    )
}

pub(super) async fn start_workflows(mut actor: Actor) {
    while actor.works() {
        if let Some(workflow_id) = start(&mut actor).await {
            if happens(0.1) {
                cancel_workflow(&mut actor, &workflow_id).await;
            }
            await_workflow(&mut actor, &workflow_id).await;
        }
        actor.rest(1_000).await;
    }
}

fn step(id: &str) -> v1::Step {
    v1::Step {
        step_id: id.to_owned(),
        capability: one_of(&CAPABILITIES).to_owned(),
        retry_policy: retry_policy(),
        timeout: duration(Duration::from_secs(8)),
        accept_timeout: duration(Duration::from_secs(2)),
        ..Default::default()
    }
}

async fn start(actor: &mut Actor) -> Option<String> {
    let workflow_id = actor.op();
    let map = v1::Step {
        for_each: "input.items".to_owned(),
        on_failure: one_of(&[v1::OnFailure::Fail, v1::OnFailure::Continue]).into(),
        ..step("map")
    };
    let steps = match machine::random_range(0..3) {
        0 => vec![step("first"), step("second"), step("third")],
        1 => vec![map, step("reduce")],
        _ => vec![step("list"), map, step("last")],
    };
    let items: Vec<u32> = (0..machine::random_range(1..6)).collect();
    let request = v1::StartWorkflowRequest {
        namespace: actor.namespace.clone(),
        request_id: format!("start {workflow_id}"),
        workflow_id: workflow_id.clone(),
        workflow_type: v1::WorkflowType::Sequential.into(),
        steps,
        input: payload(&json!({ "items": items })),
        max_concurrent_delegates: machine::random_range(1..4),
        ..Default::default()
    };
    match actor
        .client
        .ask(PATIENCE, request, door!(workflows.start_workflow))
        .await
    {
        Ok(started) => {
            actor.done("started", &workflow_id, |space| {
                standing(space, &started.cursor, started.position, |_| Ok(()))
            });
            Some(workflow_id)
        }
        Err(failure) => {
            actor.failed("start", &failure);
            matches!(failure, Failure::Unknown).then_some(workflow_id)
        }
    }
}

async fn cancel_workflow(actor: &mut Actor, workflow_id: &str) {
    let request = v1::CancelWorkflowRequest {
        namespace: actor.namespace.clone(),
        request_id: actor.op(),
        workflow_id: workflow_id.to_owned(),
        cause: "not needed".to_owned(),
        ..Default::default()
    };
    match actor
        .client
        .ask(PATIENCE, request, door!(workflows.cancel_workflow))
        .await
    {
        Ok(said) => actor.done("cancelled", workflow_id, |space| {
            standing(space, &said.cursor, said.position, |_| Ok(()))
        }),
        Err(failure) => actor.failed("cancel", &failure),
    }
}

async fn await_workflow(actor: &mut Actor, workflow_id: &str) {
    let begun = Instant::now();
    let mut patience = LAST_WAITS;
    while actor.works() || patience > 0 {
        patience -= u32::from(!actor.works());
        let request = v1::GetWorkflowRequest {
            namespace: actor.namespace.clone(),
            workflow_id: workflow_id.to_owned(),
            wait_timeout: duration(WAIT),
        };
        match actor.client.ask(PATIENCE, request, door!(workflows.get_workflow)).await {
            Ok(got) => {
                let workflow = got.workflow.unwrap_or_default();
                if workflow.state() != v1::workflow::State::Running {
                    let detail = format!("{workflow_id} {:?} after {:?}", workflow.state(), begun.elapsed());
                    return actor.done("finished", &detail, |_| Ok(()));
                }
            }
            Err(failure) if failure.reason() == "WORKFLOW_NOT_FOUND" => return,
            Err(failure) => actor.failed("await", &failure),
        }
    }
}
