//! Building workflows: steps, and the four shapes they can be put into.
//!
//! Nothing here decides anything: what is built is the request, which the server checks whole when the workflow starts. Only
//! what cannot be written as JSON is refused here, at [`crate::workflows::Workflows::start`].

use std::time::Duration;

use drumline_proto::v1 as pb;
use pb::fallback::Kind;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::{payload, time};

pub use drumline_proto::v1::{OnFailure, WorkflowType};

/// A workflow to be started.
#[derive(Clone, Debug)]
#[must_use = "a workflow does nothing until it is started"]
pub struct Workflow {
    request: pb::StartWorkflowRequest,
    problem: Option<Error>,
}

impl Workflow {
    fn new(name: impl Into<String>, shape: WorkflowType) -> Self {
        let request = pb::StartWorkflowRequest {
            workflow_name: name.into(),
            workflow_type: shape as i32,
            ..Default::default()
        };
        Self { request, problem: None }
    }

    /// Each step depends on the one before it.
    pub fn sequential(name: impl Into<String>) -> Self {
        Self::new(name, WorkflowType::Sequential)
    }

    /// No step depends on another, unless it says so.
    pub fn parallel(name: impl Into<String>) -> Self {
        Self::new(name, WorkflowType::Parallel)
    }

    /// One step for each item of a list, and one over all of their results. `map` says the list with [`Step::for_each`].
    /// A step that makes the list can go before them: [`Workflow::split`].
    pub fn map_reduce(name: impl Into<String>, map: Step, reduce: Step) -> Self {
        Self::new(name, WorkflowType::MapReduce).step(map).step(reduce)
    }

    /// Steps depend on what they say.
    pub fn graph(name: impl Into<String>) -> Self {
        Self::new(name, WorkflowType::Graph)
    }

    /// One more step.
    pub fn step(mut self, step: Step) -> Self {
        self.request.steps.push(step.step);
        self.problem = self.problem.or(step.problem);
        self
    }

    /// A step that goes before all others: the one that makes the list of a map-reduce.
    pub fn split(mut self, step: Step) -> Self {
        self.request.steps.insert(0, step.step);
        self.problem = self.problem.or(step.problem);
        self
    }

    /// What it is to work on: `input` in expressions.
    pub fn input<T: Serialize + ?Sized>(mut self, input: &T) -> Self {
        let payload = payload::json(input);
        self.request.input = keep(payload, &mut self.problem);
        self
    }

    /// What it is to work on, as a payload.
    pub fn input_payload(mut self, input: pb::Payload) -> Self {
        self.request.input = Some(input);
        self
    }

    /// An id of the caller's own; refused with `WorkflowExists` if it was used before.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.request.workflow_id = id.into();
        self
    }

    /// Tasks in flight at once; 5 if it is not set.
    pub fn max_concurrent_delegates(mut self, most: i32) -> Self {
        self.request.max_concurrent_delegates = most;
        self
    }

    /// An expression over `input` and `steps` that gives the final result; that of the last step if it is not set.
    pub fn result(mut self, expression: impl Into<String>) -> Self {
        self.request.result = expression.into();
        self
    }

    /// How long all of it may take.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.request.deadline = Some(time::to_proto(deadline));
        self
    }

    /// Links events of one undertaking; the workflow's id if it is not set.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.request.correlation_id = id.into();
        self
    }

    /// A free label.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.labels.insert(name.into(), value.into());
        self
    }

    /// The request that starts it, without namespace, session and request id.
    pub fn into_request(self) -> Result<pb::StartWorkflowRequest> {
        match self.problem {
            Some(problem) => Err(problem),
            None => Ok(self.request),
        }
    }
}

/// One step of a workflow.
#[derive(Clone, Debug)]
#[must_use]
pub struct Step {
    step: pb::Step,
    problem: Option<Error>,
}

impl Step {
    /// A step with an id that is unique in the workflow: letters, digits, `_` and `-`.
    pub fn new(step_id: impl Into<String>) -> Self {
        let step = pb::Step {
            step_id: step_id.into(),
            ..Default::default()
        };
        Self { step, problem: None }
    }

    fn change(mut self, change: impl FnOnce(&mut pb::Step)) -> Self {
        change(&mut self.step);
        self
    }

    /// The capability that its tasks need: a name, or an expression in `${…}`.
    pub fn capability(self, capability: impl Into<String>) -> Self {
        self.change(|step| step.capability = capability.into())
    }

    /// The one agent that its tasks are for: an id, or an expression in `${…}`.
    pub fn agent(self, agent_id: impl Into<String>) -> Self {
        self.change(|step| step.agent_id = agent_id.into())
    }

    /// A step that must have ended before this one begins.
    pub fn depends_on(self, step_id: impl Into<String>) -> Self {
        self.change(|step| step.depends_on.push(step_id.into()))
    }

    /// The input of its tasks; every string `${expression}` in it stands for the expression's value.
    pub fn input<T: Serialize + ?Sized>(mut self, input: &T) -> Self {
        let payload = payload::json(input);
        self.step.input = keep(payload, &mut self.problem);
        self
    }

    /// The input of its tasks, as a payload.
    pub fn input_payload(self, input: pb::Payload) -> Self {
        self.change(|step| step.input = Some(input))
    }

    /// An expression that gives a list: one task for each `item`.
    pub fn for_each(self, expression: impl Into<String>) -> Self {
        self.change(|step| step.for_each = expression.into())
    }

    /// An expression over `item` and `index` that names the item, unique in the step; the index if it is not set.
    pub fn item_key(self, expression: impl Into<String>) -> Self {
        self.change(|step| step.item_key = expression.into())
    }

    /// An expression that says whether to run the step at all.
    pub fn condition(self, expression: impl Into<String>) -> Self {
        self.change(|step| step.condition = expression.into())
    }

    /// When to try its tasks again.
    pub fn retry_policy(self, policy: pb::RetryPolicy) -> Self {
        self.change(|step| step.retry_policy = Some(policy))
    }

    /// How many attempts of a task may fail before it does.
    pub fn max_attempts(self, attempts: i32) -> Self {
        self.change(|step| step.retry_policy.get_or_insert_default().max_attempts = attempts)
    }

    /// How long one attempt may take; 600 s if it is not set.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.change(|step| step.timeout = Some(time::to_proto(timeout)))
    }

    /// How long an agent may take to accept one of its tasks; 10 s if it is not set.
    pub fn accept_timeout(self, timeout: Duration) -> Self {
        self.change(|step| step.accept_timeout = Some(time::to_proto(timeout)))
    }

    /// How long an accepted attempt may say nothing.
    pub fn progress_timeout(self, timeout: Duration) -> Self {
        self.change(|step| step.progress_timeout = Some(time::to_proto(timeout)))
    }

    /// When a task has failed, delegate it once more by this capability.
    pub fn fallback_capability(self, capability: impl Into<String>) -> Self {
        let kind = Kind::Capability(capability.into());
        self.change(|step| step.fallback = Some(pb::Fallback { kind: Some(kind) }))
    }

    /// When a task has failed, delegate it once more to this agent.
    pub fn fallback_agent(self, agent_id: impl Into<String>) -> Self {
        let kind = Kind::AgentId(agent_id.into());
        self.change(|step| step.fallback = Some(pb::Fallback { kind: Some(kind) }))
    }

    /// When a task has failed, take this as its result.
    pub fn fallback_result<T: Serialize + ?Sized>(mut self, result: &T) -> Self {
        let payload = keep(payload::json(result), &mut self.problem);
        self.step.fallback = payload.map(|result| pb::Fallback {
            kind: Some(Kind::Result(result)),
        });
        self
    }

    /// What happens to the workflow when the step has failed.
    pub fn on_failure(self, what: OnFailure) -> Self {
        self.change(|step| step.on_failure = what as i32)
    }

    /// A label that its agents must have.
    pub fn require_label(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.change(|step| {
            step.label_requirements.insert(name.into(), value.into());
        })
    }

    /// Priority of its tasks; higher goes first.
    pub fn priority(self, priority: i32) -> Self {
        self.change(|step| step.priority = priority)
    }
}

/// Takes a payload, or keeps the problem for the one who starts the workflow.
fn keep(payload: Result<pb::Payload>, problem: &mut Option<Error>) -> Option<pb::Payload> {
    payload
        .map_err(|error| {
            problem.get_or_insert(error);
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_map_reduce_has_its_steps_in_order() {
        let map = Step::new("map").capability("count").for_each("steps.split.result");
        let reduce = Step::new("reduce").capability("sum");
        let workflow = Workflow::map_reduce("words", map, reduce)
            .split(Step::new("split").capability("split"))
            .input(&json!({"text": "a b"}));
        let request = workflow.into_request().expect("a request");
        let ids: Vec<&str> = request.steps.iter().map(|step| step.step_id.as_str()).collect();
        assert_eq!(ids, ["split", "map", "reduce"]);
        assert_eq!(request.workflow_type(), WorkflowType::MapReduce);
    }

    #[test]
    fn an_input_that_is_not_json_is_refused_when_it_starts() {
        let bad = std::collections::HashMap::from([(vec![1, 2], 3)]);
        let workflow = Workflow::graph("g").step(Step::new("a").capability("c").input(&bad));
        assert!(workflow.into_request().is_err());
    }
}
