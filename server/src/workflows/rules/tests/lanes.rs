//! The same rules over a store, where rows have to be loaded and many jobs share a batch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::super::start::{Start, start, want_start};
use super::super::{due, task_ended, want_task_ended};
use super::bench::{ID, step};
use crate::lane::{Call, Lanes, Urgency};
use crate::payload::Payload;
use crate::store::row::{Row, Value};
use crate::store::{Selection, Sqlite, Store};
use crate::tail::Tail;
use crate::tasks::{PayloadRole, StoredPayload, Task, TaskState};
use crate::time::Time;
use crate::workflows::plan::plan;
use crate::workflows::{
    Item, OnFailure, Step, StepDefinition, StepRecord, StepState, Transition, Workflow, WorkflowState, WorkflowType,
};

const NAMESPACE: &str = "default";

struct Server {
    store: Store,
    lanes: Lanes,
}

impl Server {
    async fn new() -> Server {
        let store = Store::Sqlite(Sqlite::open_ephemeral().expect("a temporary directory"));
        let lanes = Lanes::new(
            store.clone(),
            Tail::alone(store.clone()).await,
            crate::sessions::gap::Gap::new(),
            crate::config::Retention::default(),
        );
        Server { store, lanes }
    }

    fn call() -> Call {
        Call::internal(&Arc::from(NAMESPACE), Urgency::High)
    }

    async fn start(
        &self,
        workflow_type: WorkflowType,
        steps: Vec<Step>,
        input: &Json,
        max_concurrent: i32,
        result: &str,
    ) {
        let command = Arc::new(Start {
            workflow_id: ID.to_owned(),
            workflow_name: String::new(),
            workflow_type,
            steps: plan(workflow_type, steps, result).expect("a plan"),
            input: Some(Payload::of_json(input)),
            max_concurrent,
            result: result.to_owned(),
            deadline: None,
            correlation_id: String::new(),
            labels: BTreeMap::new(),
            session_id: None,
            traceparent: String::new(),
        });
        let reads = Arc::clone(&command);
        let started = self.lanes.run(
            Self::call(),
            move |world| want_start(world, &reads),
            move |world| start(world, &command),
        );
        started.await.expect("started");
    }

    async fn workflow(&self) -> Option<Workflow> {
        self.store.get(NAMESPACE, &ID.to_owned()).await.expect("a read")
    }

    async fn all<R: Row>(&self) -> Vec<R> {
        let selection = Selection {
            index: 0,
            prefix: Vec::new(),
            after: None,
            limit: 1_000_000,
            backwards: false,
        };
        self.store.select(NAMESPACE, selection).await.expect("a read").1
    }

    /// Does what is due, as the sweeper would.
    async fn settle(&self) {
        while let Some(workflow) = self.workflow().await {
            if workflow.due_at.is_none_or(|due_at| due_at > Time::of_this_machine()) {
                return;
            }
            let job = self.lanes.run(Self::call(), |_| {}, |world| due(world, ID));
            job.await.expect("no refusal");
        }
    }

    /// Ends every task that is under way, all at once.
    async fn finish_all(&self, outcome: &(impl Fn(&Task, Json) -> Option<Json> + Sync)) -> usize {
        let in_flight = Selection {
            index: Item::IN_FLIGHT,
            prefix: vec![Value::Text(ID.to_owned())],
            after: None,
            limit: 10_000,
            backwards: false,
        };
        let (_, items) = self.store.select::<Item>(NAMESPACE, in_flight).await.expect("a read");
        let ids: Vec<String> = items.iter().filter_map(|item| item.task_id.clone()).collect();
        let tasks: Vec<Task> = self.store.get_all(NAMESPACE, &ids).await.expect("a read");
        let inputs: Vec<_> = ids.iter().map(|id| (id.clone(), PayloadRole::Input)).collect();
        let inputs: Vec<StoredPayload> = self.store.get_all(NAMESPACE, &inputs).await.expect("a read");
        let inputs: BTreeMap<_, _> = inputs.into_iter().map(|row| (row.owner_id, row.payload)).collect();
        let jobs = tasks.into_iter().map(|task| {
            let input = inputs.get(&task.task_id).and_then(Payload::json).unwrap_or_default();
            self.finish(task.clone(), outcome(&task, input))
        });
        futures::future::join_all(jobs).await.len()
    }

    async fn finish(&self, mut task: Task, result: Option<Json>) {
        let origin = task.origin.0.clone().expect("of a workflow");
        let id = task.task_id.clone();
        task.state = if result.is_some() {
            TaskState::Completed
        } else {
            TaskState::Failed
        };
        (task.queue_id, task.due_at, task.ended_at) = (None, None, Some(task.created_at));
        let job = self.lanes.run(
            Self::call(),
            move |world| {
                world.tasks.want(&id);
                want_task_ended(world, &origin, &id);
            },
            move |world| {
                if let Some(result) = &result {
                    world.payloads.put(StoredPayload {
                        owner_id: task.task_id.clone(),
                        role: PayloadRole::Result,
                        payload: Payload::of_json(result),
                    });
                }
                world.tasks.put(task.clone());
                task_ended(world, &task)
            },
        );
        job.await.expect("the end of a task is never refused");
    }

    async fn run(&self, outcome: impl Fn(&Task, Json) -> Option<Json> + Sync) -> Workflow {
        loop {
            self.settle().await;
            let workflow = self.workflow().await.expect("kept");
            if workflow.state != WorkflowState::Running {
                return workflow;
            }
            assert!(
                self.finish_all(&outcome).await > 0,
                "nothing is under way: {workflow:?}"
            );
        }
    }

    async fn result(&self) -> Json {
        let key = (ID.to_owned(), PayloadRole::Result);
        let stored: Option<StoredPayload> = self.store.get(NAMESPACE, &key).await.expect("a read");
        stored.and_then(|stored| stored.payload.json()).unwrap_or_default()
    }
}

fn step_of(task: &Task) -> String {
    task.origin.0.as_ref().expect("of a workflow").step_id.clone()
}

async fn map_reduce(items: usize, bytes: usize) {
    let server = Server::new().await;
    let list: Vec<Json> = (0..items).map(|number| json!(number)).collect();
    let map = Step {
        for_each: "input".into(),
        item_key: "'item-' + string(item)".into(),
        ..step("map")
    };
    let reduce = Step {
        input: Some(Payload::of_json(&json!({"results": "${steps.map.result}"}))),
        ..step("reduce")
    };
    server
        .start(WorkflowType::MapReduce, vec![map, reduce], &json!(list), 100, "")
        .await;
    let filler = "x".repeat(bytes);
    let workflow = server
        .run(|task, input| {
            Some(if step_of(task) == "map" {
                json!([input, filler])
            } else {
                input
            })
        })
        .await;
    assert_eq!(workflow.state, WorkflowState::Completed, "{:?}", workflow.error_log);
    let result = server.result().await;
    assert_eq!(result["results"]["count"], json!(items));
    assert_eq!(server.all::<Item>().await.len(), items + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_map_over_a_store_is_reduced_by_reference() {
    map_reduce(1_500, 1_000).await;
}

#[tokio::test]
async fn a_list_of_small_results_is_reduced_and_the_workflow_deleted_when_old() {
    let server = Server::new().await;
    let split = step("split");
    let map = Step {
        for_each: "steps.split.result".into(),
        input: Some(Payload::of_json(
            &json!({"n": "${item}", "all": "${steps.split.result}"}),
        )),
        on_failure: OnFailure::Continue,
        ..step("map")
    };
    let reduce = Step {
        input: Some(Payload::of_json(&json!("${steps.map.result}"))),
        ..step("reduce")
    };
    let steps = vec![split, map, reduce];
    let result = "{'list': steps.map.result, 'sum': steps.reduce.result}";
    server.start(WorkflowType::MapReduce, steps, &json!(4), 2, result).await;
    let workflow = server
        .run(|task, input| match step_of(task).as_str() {
            "split" => Some(json!([1, 2, 3, 4])),
            "map" if input["n"] == json!(3) => None,
            "map" => Some(json!(input["n"].as_i64().unwrap_or(0) * 10)),
            _ => Some(input),
        })
        .await;
    assert_eq!(workflow.state, WorkflowState::Completed, "{:?}", workflow.error_log);
    let list = json!([10, 20, null, 40]);
    assert_eq!(server.result().await, json!({"list": list, "sum": list}));

    let past = Time::of_this_machine() - crate::config::Retention::default().workflows - Duration::from_secs(1);
    let aged = server.lanes.run(
        Server::call(),
        |_| {},
        move |world| {
            let workflow = world.workflows.get(&ID.to_owned())?.expect("kept");
            let mut workflow = (*workflow).clone();
            (workflow.ended_at, workflow.due_at) = (Some(past), Some(past));
            world.workflows.put(workflow);
            Ok(())
        },
    );
    aged.await.expect("aged");
    server.settle().await;
    assert!(server.workflow().await.is_none());
    assert!(server.all::<Item>().await.is_empty() && server.all::<StepRecord>().await.is_empty());
    assert!(server.all::<StepDefinition>().await.is_empty() && server.all::<Transition>().await.is_empty());
    assert!(server.all::<Task>().await.is_empty() && server.all::<StoredPayload>().await.is_empty());
}

#[tokio::test]
async fn a_wide_graph_over_a_store_needs_no_more_loads_than_a_batch_may() {
    let server = Server::new().await;
    let mut steps: Vec<Step> = (0..300).map(|number| step(&format!("s{number}"))).collect();
    for step in &mut steps[1..] {
        step.depends_on = vec!["s0".into()];
        step.input = Some(Payload::of_json(&json!(["${steps.s0.result}", "${input}"])));
    }
    steps[0].on_failure = OnFailure::Skip;
    server.start(WorkflowType::Graph, steps, &json!("in"), 200, "").await;
    let workflow = server.run(|_, input| Some(input)).await;
    assert_eq!(workflow.state, WorkflowState::Completed, "{:?}", workflow.error_log);
    assert_eq!(server.result().await, json!(["in", "in"]));
    let steps = server.all::<StepRecord>().await;
    assert!(steps.iter().all(|step| step.state == StepState::Completed));
}
