//! A world in which the tests are the agents, and what must hold of it after every job.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value as Json, json};

use super::super::start::{Start, start};
use super::super::{due, task_ended};
use super::replay;
use crate::error::Refusal;
use crate::lane::World;
use crate::payload::Payload;
use crate::tasks::{PayloadRole, RetryPolicy, StoredPayload, Task, TaskError, TaskState};
use crate::time::Time;
use crate::workflows::plan::plan;
use crate::workflows::{Item, ItemState, OnFailure, Step, StepRecord, Workflow, WorkflowState, WorkflowType};

pub const ID: &str = "w";

/// A step that does one thing.
pub fn step(id: &str) -> Step {
    Step {
        step_id: id.to_owned(),
        capability: "work".to_owned(),
        agent_id: String::new(),
        depends_on: Vec::new(),
        input: None,
        for_each: String::new(),
        item_key: String::new(),
        condition: String::new(),
        retry: RetryPolicy::default(),
        timeout: std::time::Duration::from_secs(600),
        accept_timeout: std::time::Duration::from_secs(10),
        progress_timeout: None,
        fallback: None,
        on_failure: OnFailure::Fail,
        requirements: BTreeMap::new(),
        priority: 0,
    }
}

/// What becomes of a task.
#[derive(Clone, Debug)]
pub enum Outcome {
    Completed(Json),
    Failed,
    TimedOut,
    Cancelled,
}

pub struct Bench {
    pub world: World,
    /// The most transitions that one job made.
    pub most_transitions: i64,
    pub jobs: usize,
}

impl Bench {
    pub fn new() -> Bench {
        Bench {
            world: World::whole(Time(1_000_000), 7),
            most_transitions: 0,
            jobs: 0,
        }
    }

    /// Starts a workflow with up to `max_concurrent` tasks at once.
    pub fn start(
        &mut self,
        kind: WorkflowType,
        steps: Vec<Step>,
        input: Json,
        max_concurrent: i32,
    ) -> Result<(), Refusal> {
        self.start_with(kind, steps, input, max_concurrent, "", None)
    }

    pub fn start_with(
        &mut self,
        workflow_type: WorkflowType,
        steps: Vec<Step>,
        input: Json,
        max_concurrent: i32,
        result: &str,
        deadline: Option<std::time::Duration>,
    ) -> Result<(), Refusal> {
        let command = Start {
            workflow_id: ID.to_owned(),
            workflow_name: String::new(),
            workflow_type,
            steps: plan(workflow_type, steps, result)?,
            input: Some(Payload::of_json(&input)),
            max_concurrent,
            result: result.to_owned(),
            deadline,
            correlation_id: String::new(),
            labels: BTreeMap::new(),
            session_id: None,
            traceparent: String::new(),
        };
        self.world.attempt(|world| start(world, &command))?;
        self.note_job(0);
        Ok(())
    }

    fn note_job(&mut self, before: i64) {
        self.jobs += 1;
        self.most_transitions = self.most_transitions.max(self.workflow().transitions - before);
    }

    pub fn workflow(&mut self) -> Workflow {
        let workflow = self.world.attempt(|world| world.workflows.get(&ID.to_owned()));
        (*workflow.expect("no refusal").expect("started")).clone()
    }

    pub fn state(&mut self) -> WorkflowState {
        self.workflow().state
    }

    /// Does what is due, until nothing is.
    pub fn settle(&mut self) {
        loop {
            let workflow = self.workflow();
            if workflow.due_at.is_none_or(|due_at| due_at > self.world.now()) {
                return;
            }
            self.world.attempt(|world| due(world, ID)).expect("no refusal");
            self.note_job(workflow.transitions);
            // Time goes on, or a deletion would never be over.
            assert!(self.jobs < 100_000, "a workflow is due for ever");
        }
    }

    /// The tasks under way, in the order in which they were delegated.
    pub fn open_tasks(&mut self) -> Vec<Task> {
        let items = self.items();
        let open = items.iter().filter(|item| item.state == ItemState::InProgress);
        let ids: Vec<_> = open.filter_map(|item| item.task_id.clone()).collect();
        ids.into_iter().map(|id| self.task(&id)).collect()
    }

    pub fn task(&mut self, id: &str) -> Task {
        let task = self.world.attempt(|world| world.tasks.get(&id.to_owned()));
        (*task.expect("no refusal").expect("a task that was delegated")).clone()
    }

    /// Ends a task as its agent, its deadline or a caller would.
    pub fn finish(&mut self, task: &Task, outcome: &Outcome) {
        let before = self.workflow().transitions;
        let mut task = task.clone();
        task.state = match outcome {
            Outcome::Completed(_) => TaskState::Completed,
            Outcome::Failed => TaskState::Failed,
            Outcome::TimedOut => TaskState::TimedOut,
            Outcome::Cancelled => TaskState::Cancelled,
        };
        task.queue_id = None;
        task.due_at = None;
        task.ended_at = Some(self.world.now());
        if let Outcome::Failed = outcome {
            task.error.0 = Some(TaskError {
                kind: "broken".to_owned(),
                message: "it broke".to_owned(),
                permanent: false,
            });
        }
        self.world
            .attempt(|world| {
                if let Outcome::Completed(result) = outcome {
                    world.payloads.put(StoredPayload {
                        owner_id: task.task_id.clone(),
                        role: PayloadRole::Result,
                        payload: Payload::of_json(result),
                    });
                }
                world.tasks.put(task.clone());
                task_ended(world, &task)
            })
            .expect("the end of a task is never refused");
        self.note_job(before);
    }

    /// Completes whatever is under way, each with what `result` makes of its task's input, until the workflow has ended.
    pub fn run(&mut self, mut result: impl FnMut(&Task, Json) -> Outcome) {
        self.settle();
        while self.state() == WorkflowState::Running {
            let open = self.open_tasks();
            assert!(!open.is_empty(), "a workflow without tasks under way does not go on");
            for task in open {
                let input = self.input_of(&task.task_id);
                let outcome = result(&task, input);
                self.finish(&task, &outcome);
                self.settle();
                if self.state() != WorkflowState::Running {
                    break;
                }
            }
        }
    }

    pub fn input_of(&mut self, task_id: &str) -> Json {
        self.payload(task_id, PayloadRole::Input).unwrap_or_default()
    }

    pub fn final_result(&mut self) -> Option<Json> {
        self.payload(ID, PayloadRole::Result)
    }

    fn payload(&mut self, owner: &str, role: PayloadRole) -> Option<Json> {
        let key = (owner.to_owned(), role);
        let stored = self
            .world
            .attempt(|world| world.payloads.get(&key))
            .expect("no refusal");
        stored.and_then(|stored| stored.payload.json())
    }

    pub fn steps(&self) -> Vec<StepRecord> {
        self.world.steps.known().iter().map(|row| (**row).clone()).collect()
    }

    pub fn step(&self, id: &str) -> StepRecord {
        let steps = self.steps();
        steps.into_iter().find(|step| step.step_id == id).expect("a step")
    }

    pub fn items(&self) -> Vec<Item> {
        self.world.items.known().iter().map(|row| (**row).clone()).collect()
    }

    /// What must hold between any two jobs.
    pub fn check(&mut self) {
        let workflow = self.workflow();
        let (steps, items) = (self.steps(), self.items());
        let count = |test: &dyn Fn(&&Item) -> bool| items.iter().filter(test).count() as i64;
        let in_flight = count(&|item| item.in_flight.is_some());
        assert_eq!(i64::from(workflow.in_flight), in_flight);
        assert!(workflow.in_flight <= workflow.max_concurrent);
        assert_eq!(workflow.waiting_items, count(&|item| item.waiting.is_some()));
        assert_eq!(workflow.stretches, self.world.stretches.known().len() as i64);
        let of_steps = |test: &dyn Fn(&&StepRecord) -> bool| steps.iter().filter(test).count() as i32;
        assert_eq!(workflow.open_steps, of_steps(&|step| step.open.is_some()));
        assert_eq!(workflow.ready_steps, of_steps(&|step| step.ready.is_some()));
        let ends = of_steps(&|step| step.ended_at.is_some());
        assert_eq!(workflow.open_steps, workflow.step_count - ends);
        for step in &steps {
            let of = |state| count(&|item| item.number == step.number && item.state == state);
            assert_eq!(step.in_flight, of(ItemState::InProgress));
            assert_eq!(step.completed, of(ItemState::Completed));
            assert_eq!(step.failed, of(ItemState::Failed));
            assert_eq!(step.expanded, count(&|item| item.number == step.number));
            assert!(step.expanded <= step.item_count);
        }
        self.check_order(&steps);
        self.check_tasks(&items);
        self.check_history(&workflow, &steps, &items);
    }

    /// Nothing has begun before everything that it depends on has ended.
    fn check_order(&self, steps: &[StepRecord]) {
        for definition in self.world.definitions.known() {
            let own = &steps[usize::try_from(definition.number).expect("a number")];
            for id in &definition.step.depends_on {
                let before = steps.iter().find(|step| step.step_id == *id).expect("a step");
                if own.started_at.is_some() {
                    let ended = before.end_position.expect("has ended before");
                    assert!(own.end_position.is_none_or(|own_end| own_end >= ended));
                    assert!(before.ended_at <= own.started_at);
                }
            }
        }
    }

    /// No item was delegated twice, but for its fallback.
    fn check_tasks(&self, items: &[Item]) {
        let mut delegated: HashMap<(i64, i64), usize> = HashMap::new();
        let mut open = BTreeSet::new();
        for task in self.world.tasks.known() {
            let origin = task.origin.0.as_ref().expect("every task is of the workflow");
            *delegated.entry((origin.number, origin.index)).or_default() += 1;
            if !task.state.is_ended() {
                open.insert(task.task_id.clone());
            }
        }
        for item in items {
            let times = delegated.get(&(item.number, item.place)).copied().unwrap_or(0);
            assert!(times <= 1 + usize::from(item.fell_back), "{item:?}");
            if item.in_flight.is_some() {
                assert!(open.remove(item.task_id.as_ref().expect("has a task")));
            }
        }
        assert!(open.is_empty(), "a task is under way that no item knows of: {open:?}");
    }

    /// Replaying the history gives the rows.
    fn check_history(&self, workflow: &Workflow, steps: &[StepRecord], items: &[Item]) {
        let history = self.world.transitions.known();
        let steps: Vec<_> = steps.iter().collect();
        let items: Vec<_> = items.iter().collect();
        let history: Vec<_> = history.iter().map(|row| &**row).collect();
        if let Err(difference) = replay::check(workflow, &steps, &items, &history) {
            panic!("{difference}");
        }
    }
}

/// A result that says which input it is of.
pub fn echo(_: &Task, input: Json) -> Outcome {
    Outcome::Completed(json!({ "of": input }))
}
