//! Expressions that mean harm.

use std::time::{Duration, Instant};

use drumline_proto::v1;

use super::Play;
use crate::common::{assert_well, get, put};
use crate::support::wait::{soon, until};
use crate::support::{Stage, json, reason_of};

/// An expression may not keep a reader waiting for longer than this, even in a debug build on a machine with other work.
const QUICK: Duration = Duration::from_secs(5);

fn start(stage: &Stage, id: &str, step: v1::Step) -> v1::StartWorkflowRequest {
    v1::StartWorkflowRequest {
        namespace: stage.ns(),
        workflow_id: id.into(),
        workflow_type: v1::WorkflowType::Sequential.into(),
        steps: vec![step],
        input: json(r#"{"items": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "text": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"}"#),
        ..Default::default()
    }
}

fn step() -> v1::Step {
    v1::Step {
        step_id: "s".into(),
        capability: "work".into(),
        ..Default::default()
    }
}

/// A step for each place in which an expression may stand.
fn places(text: &str) -> [v1::Step; 4] {
    let template = serde_json::json!({ "x": format!("${{{text}}}") }).to_string();
    [
        v1::Step {
            for_each: text.into(),
            ..step()
        },
        v1::Step {
            condition: text.into(),
            ..step()
        },
        v1::Step {
            for_each: "input.items".into(),
            item_key: text.into(),
            ..step()
        },
        v1::Step {
            input: json(&template),
            ..step()
        },
    ]
}

#[tokio::test]
async fn an_expression_that_cannot_be_fine_is_refused_at_once() {
    let play = Play::begin().await;
    let stage = &play.stage;
    let hostile = [
        format!("{}1{}", "(".repeat(1_500), ")".repeat(1_500)),
        format!("{}1{}", "[".repeat(1_500), "]".repeat(1_500)),
        format!("{}1{}", "{'a':".repeat(500), "}".repeat(500)),
        format!("{}true", "!".repeat(3_000)),
        format!("{}1", "- ".repeat(1_500)),
        format!("input{}", ".a".repeat(1_900)),
        format!("input{}", "[0]".repeat(1_200)),
        format!("{}1", "true ? 1 : ".repeat(350)),
        format!("1{}", " + 1".repeat(1_100)),
        "x".repeat(4_097),
        format!("'{}'", "y".repeat(64 << 10)),
        "(".repeat(4_000),
        "'unclosed".into(),
        "input.items.map(x, input.items.map(y, x * y))".into(),
        "input.items.all(x, input.items.all(y, input.items.all(z, true)))".into(),
        "no_such_function(1)".into(),
        "steps.none.result".into(),
        "\u{0}".into(),
    ];
    let mut refusals = 0;
    for (number, text) in hostile.iter().enumerate() {
        for (place, step) in places(text).into_iter().enumerate() {
            let began = Instant::now();
            let id = format!("w-{number}-{place}");
            let answer = soon("a refusal", stage.workflows().start_workflow(start(stage, &id, step))).await;
            let beginning: String = text.chars().take(40).collect();
            let Err(status) = answer else {
                panic!("{beginning:?} was taken in place {place}");
            };
            let reason = reason_of(&status);
            assert!(
                ["INVALID_EXPRESSION", "INVALID_REQUEST"].contains(&reason.as_str()),
                "{beginning:?}: {status}"
            );
            assert!(status.message().len() < 4_096, "{}", status.message());
            assert!(began.elapsed() < QUICK, "{beginning:?} took {:?}", began.elapsed());
            refusals += 1;
        }
    }
    assert_eq!(refusals, hostile.len() * 4);
    assert_well(stage).await;
}

#[tokio::test]
async fn an_expression_that_would_cost_too_much_ends_its_workflow_and_nothing_else() {
    let play = Play::begin().await;
    let stage = &play.stage;
    stage
        .state()
        .put_state(put(stage, "document", json("1")))
        .await
        .unwrap();
    // A list as long as the text allows, each of whose items makes a long list.
    let many = format!("[{}1]", "1,".repeat(1_800));
    let costly = [
        format!("{many}.map(x, {})", "input.items + ".repeat(20) + "input.items"),
        format!("input.items.map(x, {})", "input.text + ".repeat(200) + "input.text"),
        format!("{many}.map(x, input.text.matches('(a+)+(a+)+(a+)+$') ? 1 : 2)"),
        format!("{many}.map(x, string(input))"),
        "input.items.map(x, input.text.matches('((a{1,100}){1,100}){1,100}'))".into(),
    ];
    let mut refused = 0;
    for (number, text) in costly.iter().enumerate() {
        let began = Instant::now();
        let id = format!("w-{number}");
        let step = v1::Step {
            for_each: text.clone(),
            ..step()
        };
        let request = start(stage, &id, step);
        let starting = tokio::spawn({
            let stage = stage.clone();
            async move { stage.workflows().start_workflow(request).await }
        });
        // Who reads is not held up. Who writes waits for the lane or the store, and may be told to try again.
        let mut slowest = Duration::ZERO;
        while !starting.is_finished() {
            let asked = Instant::now();
            assert_eq!(get(stage, "document").await.expect("it is there").version, 1);
            slowest = slowest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let answer = starting.await.expect("no panic");
        let took = began.elapsed();
        eprintln!("{number}: answered after {took:?}; readers after {slowest:?} at most");
        assert!(slowest < QUICK, "{number} held readers up for {slowest:?}");
        if let Err(status) = answer {
            assert_eq!(reason_of(&status), "INVALID_EXPRESSION", "{status}");
            refused += 1;
            continue;
        }
        // What was not too much goes on to its tasks, bounded; what was has failed.
        let found = ended_or_expanded(stage, &id).await;
        eprintln!(
            "{number}: {:?}, {} subtasks, {took:?}",
            found.state(),
            found.subtask_count
        );
        assert!(found.subtask_count <= 100_000);
        refused += usize::from(found.state() == v1::workflow::State::Failed);
    }
    assert!(refused > 0, "some of it was too much");

    let items = vec!["1"; 100_001].join(",");
    let too_many = v1::StartWorkflowRequest {
        input: json(&format!("[{items}]")),
        ..start(
            stage,
            "too-many",
            v1::Step {
                for_each: "input".into(),
                ..step()
            },
        )
    };
    match soon("an answer", stage.workflows().start_workflow(too_many)).await {
        Err(status) => assert_eq!(reason_of(&status), "INVALID_EXPRESSION", "{status}"),
        Ok(_) => {
            let found = ended_or_expanded(stage, "too-many").await;
            assert_eq!((found.state(), found.subtask_count), (v1::workflow::State::Failed, 0));
        }
    }
    assert_well(stage).await;
}

#[tokio::test]
async fn a_list_whose_inputs_are_much_work_does_not_keep_the_store_to_itself() {
    let play = Play::begin().await;
    let stage = &play.stage;
    // Each is fine by itself; all of them in one transaction would be minutes.
    let many = format!("[{}1]", "1,".repeat(200));
    let input = format!("size({many}.map(x, {}))", "input.items + ".repeat(20) + "input.items");
    let items = serde_json::Value::from((0..400).collect::<Vec<_>>());
    let list = v1::Step {
        for_each: items.to_string(),
        input: json(&serde_json::json!({ "x": format!("${{{input}}}") }).to_string()),
        ..step()
    };
    stage
        .workflows()
        .start_workflow(start(stage, "w", list))
        .await
        .expect("started");
    until("its first items", || async { find(stage, "w").await.subtask_count > 0 }).await;
    until("room for others", || async {
        let document = put(stage, "document", json("1"));
        stage.state().put_state(document).await.is_ok()
    })
    .await;
    assert_eq!(get(stage, "document").await.expect("it is there").version, 1);
    assert_eq!(find(stage, "w").await.state(), v1::workflow::State::Running);
}

async fn find(stage: &Stage, id: &str) -> v1::Workflow {
    let request = v1::GetWorkflowRequest {
        namespace: stage.ns(),
        workflow_id: id.into(),
        wait_timeout: None,
    };
    let found = stage.workflows().get_workflow(request).await.expect("a workflow");
    found.into_inner().workflow.expect("a workflow")
}

async fn ended_or_expanded(stage: &Stage, id: &str) -> v1::Workflow {
    until("its list, or its end", || async {
        let found = find(stage, id).await;
        found.state() != v1::workflow::State::Running || found.subtask_count > 0
    })
    .await;
    find(stage, id).await
}
