//! Workflows: started, looked at, waited for, watched, cancelled. What agents make of them is tried with the tasks.

use std::time::Duration;

use drumline_proto::v1;
use tokio_stream::StreamExt;

use crate::support::wait::until;
use crate::support::{Stage, json, metadata_of, on_every_composition, reason, text_of};

fn step(id: &str) -> v1::Step {
    v1::Step {
        step_id: id.into(),
        capability: "nobody-has-this".into(),
        ..Default::default()
    }
}

fn skipped(id: &str) -> v1::Step {
    v1::Step {
        condition: "input.go".into(),
        ..step(id)
    }
}

fn start(stage: &Stage, id: &str, steps: Vec<v1::Step>) -> v1::StartWorkflowRequest {
    v1::StartWorkflowRequest {
        namespace: stage.ns(),
        workflow_id: id.into(),
        workflow_type: v1::WorkflowType::Sequential.into(),
        steps,
        input: json(r#"{"go": false, "items": [1, 2, 3]}"#),
        ..Default::default()
    }
}

async fn begin(stage: &Stage, request: v1::StartWorkflowRequest) -> v1::StartWorkflowResponse {
    stage.workflows().start_workflow(request).await.unwrap().into_inner()
}

async fn get(stage: &Stage, id: &str, wait: Option<Duration>) -> Result<v1::Workflow, tonic::Status> {
    let request = v1::GetWorkflowRequest {
        namespace: stage.ns(),
        workflow_id: id.into(),
        wait_timeout: wait.map(|wait| wait.try_into().unwrap()),
    };
    let response = stage.workflows().get_workflow(request).await?;
    Ok(response.into_inner().workflow.expect("a workflow"))
}

fn cancel(stage: &Stage, id: &str) -> v1::CancelWorkflowRequest {
    v1::CancelWorkflowRequest {
        namespace: stage.ns(),
        workflow_id: id.into(),
        cause: "not needed".into(),
        ..Default::default()
    }
}

async fn watch(stage: &Stage, id: &str) -> tonic::Streaming<v1::WatchWorkflowResponse> {
    let request = v1::WatchWorkflowRequest {
        namespace: stage.ns(),
        workflow_id: id.into(),
    };
    stage.workflows().watch_workflow(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_workflow_whose_steps_are_all_skipped_completes() {
    on_every_composition(|stage| async move {
        let request = v1::StartWorkflowRequest {
            result: "{'state': steps.b.state, 'sum': input.items.map(i, i + 1)}".into(),
            ..start(&stage, "skip", vec![skipped("a"), skipped("b")])
        };
        begin(&stage, request).await;
        let workflow = get(&stage, "skip", Some(Duration::from_secs(5))).await.unwrap();
        assert_eq!(workflow.state(), v1::workflow::State::Completed);
        let result = workflow.final_result.expect("a result");
        let Some(v1::payload::Content::Value(value)) = result.content else {
            panic!("what the server makes is a value");
        };
        assert!(format!("{value:?}").contains("SKIPPED"));
        assert_eq!(workflow.checkpoints.len(), 2);
        assert_eq!(text_of(&workflow.input), r#"{"go": false, "items": [1, 2, 3]}"#);

        let request = v1::GetWorkflowHistoryRequest {
            namespace: stage.ns(),
            workflow_id: "skip".into(),
            page_size: 3,
            page_token: String::new(),
        };
        let page = stage
            .workflows()
            .get_workflow_history(request.clone())
            .await
            .unwrap()
            .into_inner();
        let next = v1::GetWorkflowHistoryRequest {
            page_token: page.next_page_token,
            ..request
        };
        let rest = stage.workflows().get_workflow_history(next).await.unwrap().into_inner();
        let kinds: Vec<_> = page
            .transitions
            .iter()
            .chain(&rest.transitions)
            .map(|one| one.kind.as_str())
            .collect();
        assert_eq!(
            kinds,
            ["workflow.started", "step.skipped", "step.skipped", "workflow.completed"]
        );
    })
    .await;
}

#[tokio::test]
async fn a_watcher_sees_a_workflow_to_its_end() {
    on_every_composition(|stage| async move {
        let list = v1::Step {
            for_each: "input.items".into(),
            item_key: "'k' + string(item)".into(),
            ..step("list")
        };
        let request = v1::StartWorkflowRequest {
            max_concurrent_delegates: 2,
            ..start(&stage, "watched", vec![list, step("last")])
        };
        begin(&stage, request).await;
        let mut changes = watch(&stage, "watched").await;
        let first = changes.next().await.unwrap().unwrap();
        assert_eq!(first.workflow.unwrap().state(), v1::workflow::State::Running);
        let running = get(&stage, "watched", Some(Duration::from_millis(50))).await.unwrap();
        assert_eq!((running.in_flight, running.subtask_count), (2, 3));
        assert_eq!(running.subtasks[2].subtask_id, "k3");
        assert_eq!(running.subtasks[2].state(), v1::subtask::State::Pending);
        assert_eq!(running.subtasks[0].state(), v1::subtask::State::InProgress);

        let waiting = {
            let stage = stage.clone();
            tokio::spawn(async move { get(&stage, "watched", Some(Duration::from_secs(30))).await })
        };
        tokio::task::yield_now().await;
        stage
            .workflows()
            .cancel_workflow(cancel(&stage, "watched"))
            .await
            .unwrap();
        let ended = waiting.await.unwrap().unwrap();
        assert_eq!(ended.state(), v1::workflow::State::Cancelled);
        let mut last = None;
        while let Some(change) = changes.next().await {
            last = Some(change.unwrap().workflow.unwrap());
        }
        let last = last.expect("a change");
        assert_eq!(last.state(), v1::workflow::State::Cancelled);
        assert_eq!((last.in_flight, last.subtasks.len()), (0, 3));
        let again = stage.workflows().cancel_workflow(cancel(&stage, "watched")).await;
        assert_eq!(reason(again), "WORKFLOW_ENDED");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_a_workflow_is_refused() {
    on_every_composition(|stage| async move {
        let bad = v1::Step {
            input: json(r#"{"x": "${steps.b.result}"}"#),
            ..step("a")
        };
        let refused = stage
            .workflows()
            .start_workflow(start(&stage, "bad", vec![bad, step("b")]))
            .await;
        let status = refused.unwrap_err();
        assert_eq!(metadata_of(&status, "field"), "steps[0].input");
        assert_eq!(reason::<()>(Err(status)), "INVALID_EXPRESSION");
        let refused = stage
            .workflows()
            .start_workflow(start(&stage, "bad", vec![step("a"), step("a")]))
            .await;
        assert_eq!(reason(refused), "INVALID_REQUEST");

        let request = v1::StartWorkflowRequest {
            request_id: "r".into(),
            ..start(&stage, "", vec![step("a")])
        };
        let made = begin(&stage, request.clone()).await;
        assert_eq!(begin(&stage, request).await.workflow_id, made.workflow_id);
        let twice = stage
            .workflows()
            .start_workflow(start(&stage, &made.workflow_id, vec![step("a")]))
            .await;
        assert_eq!(reason(twice), "WORKFLOW_EXISTS");
        assert_eq!(reason(get(&stage, "none", None).await), "WORKFLOW_NOT_FOUND");
        let results = |workflow_id: &str, step_id: &str| v1::ListStepResultsRequest {
            namespace: stage.ns(),
            workflow_id: workflow_id.into(),
            step_id: step_id.into(),
            ..Default::default()
        };
        let none = stage.workflows().list_step_results(results("none", "a")).await;
        assert_eq!(reason(none), "WORKFLOW_NOT_FOUND");
        let none = stage
            .workflows()
            .list_step_results(results(&made.workflow_id, "z"))
            .await;
        assert_eq!(reason(none), "STEP_NOT_FOUND");
        let page = stage
            .workflows()
            .list_step_results(results(&made.workflow_id, "a"))
            .await
            .unwrap();
        assert_eq!(page.into_inner().subtasks.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn workflows_are_listed_newest_first() {
    on_every_composition(|stage| async move {
        for number in 0..5 {
            let request = v1::StartWorkflowRequest {
                labels: [("odd".to_owned(), (number % 2).to_string())].into(),
                ..start(&stage, &format!("w{number}"), vec![skipped("a")])
            };
            begin(&stage, request).await;
        }
        let mut found = Vec::new();
        let mut request = v1::ListWorkflowsRequest {
            namespace: stage.ns(),
            labels: [("odd".to_owned(), "0".to_owned())].into(),
            states: vec![v1::workflow::State::Completed.into()],
            page_size: 2,
            ..Default::default()
        };
        loop {
            let page = stage
                .workflows()
                .list_workflows(request.clone())
                .await
                .unwrap()
                .into_inner();
            found.extend(page.workflows.iter().map(|workflow| workflow.workflow_id.clone()));
            assert!(page.workflows.iter().all(|workflow| workflow.steps.len() == 1));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        assert_eq!(found, ["w4", "w2", "w0"]);
    })
    .await;
}

#[tokio::test]
async fn a_long_list_becomes_subtasks_and_is_cancelled_in_bounded_jobs() {
    on_every_composition(|stage| async move {
        let items: Vec<String> = (0..3_000).map(|number| number.to_string()).collect();
        let list = v1::Step {
            for_each: "input".into(),
            ..step("list")
        };
        let request = v1::StartWorkflowRequest {
            max_concurrent_delegates: 300,
            input: json(&format!("[{}]", items.join(","))),
            ..start(&stage, "long", vec![list])
        };
        begin(&stage, request).await;
        until("a full flight", || async {
            get(&stage, "long", None).await.unwrap().in_flight == 300
        })
        .await;
        let workflow = get(&stage, "long", None).await.unwrap();
        assert_eq!((workflow.subtask_count, workflow.subtasks.len()), (3_000, 100));
        stage.workflows().cancel_workflow(cancel(&stage, "long")).await.unwrap();
        until("the end of its step", || async {
            let workflow = get(&stage, "long", None).await.unwrap();
            workflow.in_flight == 0 && workflow.steps[0].state() == v1::step_status::State::Cancelled
        })
        .await;
    })
    .await;
}

/// An agent without a stream that does all that a review needs, until the workflow has ended.
async fn review(stage: &Stage, workflow_id: &str) -> v1::Workflow {
    let names = ["decompose", "lint", "security", "test", "generate", "aggregate"];
    let capabilities = names.map(|name| v1::Capability {
        name: name.into(),
        ..Default::default()
    });
    let request = v1::RegisterAgentRequest {
        namespace: stage.ns(),
        agent_id: "reviewer".into(),
        max_concurrent_tasks: 3,
        capabilities: capabilities.into(),
        ..Default::default()
    };
    let registered = stage.registry().register_agent(request).await.unwrap().into_inner();
    for _ in 0..100 {
        let workflow = get(stage, workflow_id, None).await.unwrap();
        if workflow.state() != v1::workflow::State::Running {
            return workflow;
        }
        let request = v1::PollTasksRequest {
            namespace: stage.ns(),
            session_id: registered.session_id.clone(),
            max_tasks: 3,
            wait_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        };
        let polled = stage.tasks().poll_tasks(request).await.unwrap().into_inner();
        for assignment in polled.assignments {
            let task = assignment.task.expect("a task");
            let result = match task.capability.as_str() {
                "decompose" => SUBTASKS.to_owned(),
                "aggregate" => format!(r#"{{"all": {}}}"#, text_of_any(&task.input)),
                capability => format!(r#"{{"id": "{}", "by": "{capability}"}}"#, task.item_key),
            };
            let request = v1::CompleteTaskRequest {
                namespace: stage.ns(),
                session_id: registered.session_id.clone(),
                task_id: task.task_id,
                attempt_token: assignment.attempt_token,
                result: json(&result),
                ..Default::default()
            };
            stage.tasks().complete_task(request).await.unwrap();
        }
    }
    panic!("the review does not end");
}

const SUBTASKS: &str = r#"[
    {"id": "static_analysis", "capability": "lint"}, {"id": "security_scan", "capability": "security"},
    {"id": "unit_tests", "capability": "test"}, {"id": "integration_tests", "capability": "test"},
    {"id": "docs_update", "capability": "generate"}
]"#;

/// How many items a list in a payload has, of whatever form.
fn text_of_any(payload: &Option<v1::Payload>) -> String {
    match payload.as_ref().and_then(|payload| payload.content.clone()) {
        Some(v1::payload::Content::Json(_)) => text_of(payload),
        Some(v1::payload::Content::Value(value)) => match value.kind {
            Some(prost_types::value::Kind::ListValue(list)) => list.values.len().to_string(),
            other => panic!("not a list: {other:?}"),
        },
        other => panic!("nothing to read: {other:?}"),
    }
}

#[tokio::test]
async fn five_subtasks_go_each_by_the_capability_that_it_names_and_are_aggregated_by_their_ids() {
    on_every_composition(|stage| async move {
        let steps = vec![
            v1::Step {
                capability: "decompose".into(),
                ..step("decompose")
            },
            v1::Step {
                capability: "${item.capability}".into(),
                for_each: "steps.decompose.result".into(),
                item_key: "item.id".into(),
                ..step("review")
            },
            v1::Step {
                capability: "aggregate".into(),
                input: Some(v1::Payload {
                    content: Some(v1::payload::Content::Value(prost_types::Value {
                        kind: Some(prost_types::value::Kind::StringValue("${steps.review.result}".into())),
                    })),
                    content_type: String::new(),
                }),
                ..step("aggregate")
            },
        ];
        let request = v1::StartWorkflowRequest {
            workflow_type: v1::WorkflowType::MapReduce.into(),
            ..start(&stage, "PR-68", steps)
        };
        begin(&stage, request).await;
        let workflow = review(&stage, "PR-68").await;
        assert_eq!(
            workflow.state(),
            v1::workflow::State::Completed,
            "{:?}",
            workflow.error_log
        );
        assert_eq!(text_of(&workflow.final_result), r#"{"all": 5}"#);
        for (id, by) in [
            ("static_analysis", "lint"),
            ("security_scan", "security"),
            ("unit_tests", "test"),
            ("integration_tests", "test"),
            ("docs_update", "generate"),
        ] {
            let result = workflow.partial_results.get(id).cloned();
            assert_eq!(text_of(&result), format!(r#"{{"id": "{id}", "by": "{by}"}}"#));
        }
        let agents: Vec<_> = workflow
            .subtasks
            .iter()
            .map(|subtask| subtask.agent_id.as_str())
            .collect();
        assert_eq!(agents, ["reviewer"; 7]);
    })
    .await;
}
