//! Workflows: graphs of tasks that run to their end through the death of any agent or server.
//!
//! A workflow moves in the very commits in which its tasks move: a task's end records the item's result, counts on the step, begins
//! what depended on it and delegates the next items, so a crash at any moment finds a workflow that is whole. A list is cut into
//! stretches when its step begins; a stretch becomes items when a slot is free and no item waits. What one job leaves over, the next
//! takes up: the workflow is then due at once. Every transition is in the history; replaying it gives the rows.
//!
//! ```text
//!  step:  WAITING ─▶ RUNNING ─▶ COMPLETED          item:  PENDING ─▶ IN_PROGRESS ─▶ COMPLETED
//!            │          ├─────▶ FAILED                       ▲            ├────────▶ FAILED
//!            ├──────────┼─────▶ CANCELLED                    └────────────┤ fallback
//!            └────────────────▶ SKIPPED                                   └────────▶ CANCELLED
//! ```

pub mod expr;
pub mod plan;
pub mod rpc;
pub mod rules;
pub mod store;

use std::time::Duration;

use crate::named_enum;
use crate::payload::Payload;
use crate::store::row::{Json, Labels};
use crate::tasks::{RetryPolicy, TaskError};
use crate::time::Time;

/// Tasks in flight at once in a workflow, unless it says otherwise.
pub const DEFAULT_CONCURRENCY: i32 = 5;
/// The most tasks in flight at once that a workflow may ask for.
pub const MAX_CONCURRENCY: i32 = 10_000;
/// How many items a list may have.
pub const MAX_ITEMS: usize = 100_000;

/// The shape that a workflow was given in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum WorkflowType {
    /// One step after the other.
    Sequential,
    /// All steps at once.
    Parallel,
    /// Perhaps a split, a map, a reduce.
    MapReduce,
    /// As the steps say.
    Graph,
}

named_enum!(WorkflowType {
    Sequential = "SEQUENTIAL",
    Parallel = "PARALLEL",
    MapReduce = "MAP_REDUCE",
    Graph = "GRAPH",
});

/// Where a workflow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum WorkflowState {
    /// Under way.
    Running,
    /// Ended well.
    Completed,
    /// Ended badly.
    Failed,
    /// Ended by a caller.
    Cancelled,
    /// Ended by its deadline.
    TimedOut,
}

named_enum!(WorkflowState {
    Running = "RUNNING",
    Completed = "COMPLETED",
    Failed = "FAILED",
    Cancelled = "CANCELLED",
    TimedOut = "TIMED_OUT",
});

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum StepState {
    /// Waits for the steps that it depends on.
    Waiting,
    /// Has tasks under way, or to come.
    Running,
    /// Ended well.
    Completed,
    /// Failed for good.
    Failed,
    /// Was not run.
    Skipped,
    /// Ended with its workflow.
    Cancelled,
}

named_enum!(StepState {
    Waiting = "WAITING",
    Running = "RUNNING",
    Completed = "COMPLETED",
    Failed = "FAILED",
    Skipped = "SKIPPED",
    Cancelled = "CANCELLED",
});

/// Where an item of a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ItemState {
    /// Its turn has not come.
    Pending,
    /// Delegated.
    InProgress,
    /// Ended well.
    Completed,
    /// Failed for good.
    Failed,
    /// Ended with its workflow.
    Cancelled,
}

named_enum!(ItemState {
    Pending = "PENDING",
    InProgress = "IN_PROGRESS",
    Completed = "COMPLETED",
    Failed = "FAILED",
    Cancelled = "CANCELLED",
});

/// What happens to the workflow when a step has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum OnFailure {
    /// The workflow fails.
    #[default]
    Fail,
    /// What depends on it is skipped.
    Skip,
    /// What depends on it runs, with `null` as its result.
    Continue,
}

/// What to do instead when a task has failed.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Fallback {
    /// Delegate it once more, by this capability.
    Capability(String),
    /// Delegate it once more, to this agent.
    Agent(String),
    /// Take this as its result.
    Result(Payload),
}

/// A step as it was given, with the dependencies that the workflow's type adds.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// Unique in the workflow.
    pub step_id: String,
    /// A capability's name, or an expression in `${…}`; may be empty.
    pub capability: String,
    /// An agent's id, or an expression in `${…}`; may be empty.
    pub agent_id: String,
    /// The steps that must have ended before.
    pub depends_on: Vec<String>,
    /// The input of its tasks, with expressions in `${…}`; none: the item, else the workflow's input.
    pub input: Option<Payload>,
    /// An expression that gives the list of items; empty: one task.
    pub for_each: String,
    /// An expression that names the item; empty: its index.
    pub item_key: String,
    /// An expression that says whether to run; empty: yes.
    pub condition: String,
    /// When to try its tasks again.
    pub retry: RetryPolicy,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long an agent may take to accept.
    pub accept_timeout: Duration,
    /// How long an accepted attempt may say nothing.
    pub progress_timeout: Option<Duration>,
    /// What to do instead when a task has failed.
    pub fallback: Option<Fallback>,
    /// What happens when the step has failed.
    pub on_failure: OnFailure,
    /// Labels that its agents must have.
    pub requirements: std::collections::BTreeMap<String, String>,
    /// Priority of its tasks.
    pub priority: i32,
}

/// A workflow. Its input and final result are stored payloads under its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Workflow {
    /// Unique in the namespace.
    pub workflow_id: String,
    /// For people.
    pub workflow_name: String,
    /// The shape that it was given in.
    pub workflow_type: WorkflowType,
    /// Where it is.
    pub state: WorkflowState,
    /// An expression that gives the final result; empty: the last step's.
    pub result: String,
    /// Tasks in flight at once, at most.
    pub max_concurrent: i32,
    /// Tasks in flight now.
    pub in_flight: i32,
    /// How many steps it has.
    pub step_count: i32,
    /// How many steps have not ended.
    pub open_steps: i32,
    /// How many steps wait for nothing but to be begun.
    pub ready_steps: i32,
    /// How many items wait for their turn.
    pub waiting_items: i64,
    /// How many stretches of lists have no items yet.
    pub stretches: i64,
    /// How many transitions its history has.
    pub transitions: i64,
    /// What went wrong, in order; at most 100.
    pub error_log: Json<Vec<String>>,
    /// Free labels.
    pub labels: Labels,
    /// Links events of one undertaking.
    pub correlation_id: String,
    /// Who started it.
    pub caller_agent: String,
    /// When it was started.
    pub started_at: Time,
    /// When it last changed.
    pub updated_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// When it ends whatever happens.
    pub deadline_at: Option<Time>,
    /// When it is to be looked at again: at once while a bounded job is to follow, its deadline, its deletion.
    pub due_at: Option<Time>,
    /// W3C trace context.
    pub traceparent: String,
}

/// A step as the rules look at it: written once, when the workflow starts.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDefinition {
    /// The workflow.
    pub workflow_id: String,
    /// The step's place in the definition.
    pub number: i64,
    /// The step.
    pub step: Json<Step>,
    /// The numbers of the steps that depend on it.
    pub dependents: Json<Vec<i64>>,
    /// The steps whose results its expressions look at: their ids and numbers.
    pub sees: Json<Vec<(String, i64)>>,
}

/// A stretch of a step's list whose items have no rows yet: the list is cut when the step begins, so that no later job looks at all
/// of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// The workflow.
    pub workflow_id: String,
    /// The step's place in the definition.
    pub number: i64,
    /// The place of its first item in the list.
    pub place: i64,
    /// The items: a JSON list.
    pub items: Payload,
}

/// What has become of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// The workflow.
    pub workflow_id: String,
    /// The step's place in the definition.
    pub number: i64,
    /// The step.
    pub step_id: String,
    /// Where it is.
    pub state: StepState,
    /// How many of the steps that it depends on have not ended.
    pub open_dependencies: i32,
    /// Whether a step that it depends on has failed or was skipped, so that it is not to be run.
    pub skip: bool,
    /// The same as `number` until it has ended.
    pub open: Option<i64>,
    /// The same as `number` while it waits for nothing but to be begun.
    pub ready: Option<i64>,
    /// How many items it has; 0 before it begins.
    pub item_count: i64,
    /// How many of them have rows so far.
    pub expanded: i64,
    /// How many are in flight.
    pub in_flight: i64,
    /// How many ended well.
    pub completed: i64,
    /// How many failed for good.
    pub failed: i64,
    /// How many bytes its results have.
    pub result_bytes: i64,
    /// When it began.
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Where in the log it ended.
    pub end_position: Option<i64>,
}

/// One item of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The workflow.
    pub workflow_id: String,
    /// The step's place in the definition.
    pub number: i64,
    /// The place of the item.
    pub place: i64,
    /// Its key: unique in the step.
    pub item_key: String,
    /// Where it is.
    pub state: ItemState,
    /// Its rank while its turn has not come: what the next free slot looks for, the lowest first.
    pub waiting: Option<i64>,
    /// The same as `number` while its task is under way.
    pub in_flight: Option<i64>,
    /// The capability that its task needs.
    pub capability: String,
    /// The one agent that its task is for.
    pub agent_id: String,
    /// What its task is to work on, until it is delegated.
    pub input: Option<Payload>,
    /// Its task; its result is that task's.
    pub task_id: Option<String>,
    /// Whether the fallback has been used.
    pub fell_back: bool,
    /// A literal result in place of a task's.
    pub result: Option<Payload>,
    /// What went wrong.
    pub error: Json<Option<TaskError>>,
}

/// One transition of a workflow.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The workflow.
    pub workflow_id: String,
    /// 1, 2, 3… in the workflow.
    pub sequence: i64,
    /// When.
    pub at: Time,
    /// Where in the log.
    pub position: i64,
    /// What changed.
    pub kind: String,
    /// The step; empty for the workflow itself.
    pub step_id: String,
    /// The place of the item.
    pub place: i64,
    /// The task.
    pub task_id: String,
    /// Details.
    pub detail: String,
}
