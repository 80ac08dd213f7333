//! Workflows as their authors write them.

use serde_json::{Value as Json, json};

use super::super::cancel;
use super::bench::{Bench, ID, Outcome, echo, step};
use crate::error::Reason;
use crate::payload::Payload;
use crate::workflows::{Fallback, OnFailure, Step, StepState, WorkflowState, WorkflowType};

fn input(template: &Json) -> Option<Payload> {
    Some(Payload::of_json(template))
}

#[test]
fn five_subtasks_that_one_step_decomposes_go_each_by_the_capability_that_it_names() {
    let subtasks = json!([
        {"id": "static_analysis", "capability": "lint"}, {"id": "security_scan", "capability": "security"},
        {"id": "unit_tests", "capability": "test"}, {"id": "integration_tests", "capability": "test"},
        {"id": "docs_update", "capability": "generate"},
    ]);
    let steps = vec![
        Step {
            capability: "decompose".into(),
            ..step("decompose")
        },
        Step {
            capability: "${item.capability}".into(),
            for_each: "steps.decompose.result.subtasks".into(),
            item_key: "item.id".into(),
            ..step("review")
        },
        Step {
            input: input(&json!({"results": "${steps.review.result}", "pr": "${input.pr}"})),
            ..step("aggregate")
        },
    ];
    let mut bench = Bench::new();
    bench
        .start(WorkflowType::MapReduce, steps, json!({"pr": "PR-68"}), 5)
        .unwrap();
    let mut capabilities = Vec::new();
    bench.run(|task, input| {
        let origin = task.origin.0.clone().unwrap();
        match origin.step_id.as_str() {
            "decompose" => Outcome::Completed(json!({ "subtasks": subtasks })),
            "review" => {
                capabilities.push((origin.item_key.clone(), task.capability.clone()));
                assert_eq!(input["id"], json!(origin.item_key));
                Outcome::Completed(json!({"status": "passed", "id": origin.item_key}))
            }
            _ => Outcome::Completed(input),
        }
    });
    bench.check();
    assert_eq!(bench.state(), WorkflowState::Completed);
    let expected = [
        ("static_analysis", "lint"),
        ("security_scan", "security"),
        ("unit_tests", "test"),
        ("integration_tests", "test"),
        ("docs_update", "generate"),
    ];
    assert_eq!(
        capabilities,
        expected.map(|(key, capability)| (key.to_owned(), capability.to_owned()))
    );
    let result = bench.final_result().unwrap();
    assert_eq!(result["pr"], json!("PR-68"));
    assert_eq!(result["results"][4], json!({"status": "passed", "id": "docs_update"}));
}

#[test]
fn a_sequence_of_n_steps_takes_n_jobs_and_one() {
    let steps: Vec<Step> = (0..50).map(|number| step(&format!("s{number}"))).collect();
    let mut bench = Bench::new();
    bench.start(WorkflowType::Sequential, steps, json!(1), 5).unwrap();
    bench.run(echo);
    bench.check();
    assert_eq!(bench.state(), WorkflowState::Completed);
    assert_eq!(bench.jobs, 51);
    assert_eq!(bench.final_result(), Some(json!({"of": 1})));
}

#[test]
fn a_map_over_ten_thousand_items_goes_on_in_bounded_jobs_and_is_reduced_by_reference() {
    let list: Vec<Json> = (0..10_000).map(|number| json!(number)).collect();
    let map = Step {
        for_each: "input".into(),
        ..step("map")
    };
    let reduce = Step {
        input: input(&json!("${steps.map.result}")),
        ..step("reduce")
    };
    let mut bench = Bench::new();
    bench
        .start(WorkflowType::MapReduce, vec![map, reduce], json!(list), 100)
        .unwrap();
    let large = "x".repeat(120);
    bench.run(|task, input| match task.origin.0.as_ref().unwrap().step_id.as_str() {
        "map" => Outcome::Completed(json!([input, large])),
        _ => Outcome::Completed(input),
    });
    bench.check();
    assert_eq!(bench.step("map").completed, 10_000);
    let result = bench.final_result().unwrap();
    assert_eq!(result["$ref"], json!("workflows/w/steps/map"));
    assert_eq!(result["count"], json!(10_000));
    assert!(bench.jobs < 10_000 + 100, "{} jobs", bench.jobs);
    assert!(
        bench.most_transitions < 150,
        "{} transitions in one job",
        bench.most_transitions
    );
}

#[test]
fn results_that_would_just_fit_leave_room_for_what_they_are_put_into() {
    for (bytes, inline) in [(900 << 10, true), ((1 << 20) - 40, false)] {
        let map = Step {
            for_each: "input".into(),
            ..step("map")
        };
        let reduce = Step {
            input: input(&json!({ "of": "some text", "results": "${steps.map.result}" })),
            ..step("reduce")
        };
        let mut bench = Bench::new();
        bench
            .start(WorkflowType::MapReduce, vec![map, reduce], json!([1, 2]), 2)
            .unwrap();
        let half = "x".repeat(bytes / 2);
        bench.run(|task, input| match task.origin.0.as_ref().unwrap().step_id.as_str() {
            "map" => Outcome::Completed(json!(half)),
            _ => Outcome::Completed(json!(input["results"].is_array())),
        });
        bench.check();
        assert_eq!(bench.final_result(), Some(json!(inline)), "{bytes} bytes");
    }
}

#[test]
fn small_results_of_a_list_are_handed_on_in_item_order() {
    let map = Step {
        for_each: "input".into(),
        ..step("map")
    };
    let reduce = Step {
        input: input(&json!("${steps.map.result.map(r, r * 2)}")),
        ..step("reduce")
    };
    let mut bench = Bench::new();
    bench
        .start(WorkflowType::Sequential, vec![map, reduce], json!([3, 1, 2]), 2)
        .unwrap();
    bench.run(|_, input| Outcome::Completed(input));
    assert_eq!(bench.final_result(), Some(json!([6, 2, 4])));
}

#[test]
fn keys_that_are_not_unique_fail_the_step() {
    let map = Step {
        for_each: "input".into(),
        item_key: "item.id".into(),
        ..step("map")
    };
    let mut bench = Bench::new();
    let items = json!([{"id": "a"}, {"id": "b"}, {"id": "a"}]);
    bench.start(WorkflowType::Graph, vec![map], items, 2).unwrap();
    bench.settle();
    bench.check();
    assert_eq!(bench.state(), WorkflowState::Failed);
    assert!(
        bench
            .workflow()
            .error_log
            .iter()
            .any(|error| error.contains("duplicate_key"))
    );
}

#[test]
fn what_is_not_a_list_or_not_a_boolean_fails_the_step() {
    for bad in [
        Step {
            for_each: "input.n".into(),
            ..step("a")
        },
        Step {
            condition: "input.n".into(),
            ..step("a")
        },
        Step {
            input: input(&json!("${input.missing}")),
            ..step("a")
        },
        Step {
            capability: "${input.n}".into(),
            ..step("a")
        },
    ] {
        let mut bench = Bench::new();
        bench.start(WorkflowType::Graph, vec![bad], json!({"n": 1}), 2).unwrap();
        bench.settle();
        bench.check();
        assert_eq!(bench.state(), WorkflowState::Failed);
        assert_eq!(bench.workflow().open_steps, 0);
    }
}

#[test]
fn an_empty_list_is_done_at_once() {
    let map = Step {
        for_each: "input".into(),
        ..step("map")
    };
    let mut bench = Bench::new();
    bench.start(WorkflowType::Graph, vec![map], json!([]), 2).unwrap();
    assert_eq!(bench.state(), WorkflowState::Completed);
    assert_eq!(bench.final_result(), Some(json!([])));
    bench.check();
}

#[test]
fn a_condition_that_does_not_hold_skips_its_step_alone() {
    let maybe = Step {
        condition: "input.go".into(),
        ..step("maybe")
    };
    let after = Step {
        input: input(&json!(["${steps.maybe.result}", "${steps.maybe.state}"])),
        ..step("after")
    };
    let mut bench = Bench::new();
    bench
        .start(WorkflowType::Sequential, vec![maybe, after], json!({"go": false}), 2)
        .unwrap();
    bench.run(|_, input| Outcome::Completed(input));
    bench.check();
    assert_eq!(bench.step("maybe").state, StepState::Skipped);
    assert_eq!(bench.final_result(), Some(json!([null, "SKIPPED"])));
}

#[test]
fn a_failed_step_skips_what_depends_on_it_if_it_says_so() {
    let first = Step {
        on_failure: OnFailure::Skip,
        ..step("first")
    };
    let second = Step {
        depends_on: vec!["first".into()],
        ..step("second")
    };
    let third = Step {
        depends_on: vec!["second".into()],
        ..step("third")
    };
    let mut bench = Bench::new();
    bench
        .start(
            WorkflowType::Graph,
            vec![first, second, third, step("other")],
            json!(1),
            5,
        )
        .unwrap();
    bench.run(|task, input| match task.origin.0.as_ref().unwrap().step_id.as_str() {
        "first" => Outcome::Failed,
        _ => Outcome::Completed(input),
    });
    bench.check();
    assert_eq!(bench.state(), WorkflowState::Completed);
    let states = ["first", "second", "third", "other"].map(|id| bench.step(id).state);
    assert_eq!(
        states,
        [
            StepState::Failed,
            StepState::Skipped,
            StepState::Skipped,
            StepState::Completed
        ]
    );
}

#[test]
fn a_failed_item_leaves_null_in_the_list_if_its_step_is_to_continue() {
    let map = Step {
        for_each: "input".into(),
        on_failure: OnFailure::Continue,
        ..step("map")
    };
    let reduce = Step {
        input: input(&json!("${steps.map.result}")),
        ..step("reduce")
    };
    let mut bench = Bench::new();
    bench
        .start(WorkflowType::Sequential, vec![map, reduce], json!([1, 2, 3]), 5)
        .unwrap();
    bench.run(|_, input| {
        if input == json!(2) {
            Outcome::TimedOut
        } else {
            Outcome::Completed(input)
        }
    });
    bench.check();
    assert_eq!(bench.step("map").state, StepState::Failed);
    assert_eq!(bench.final_result(), Some(json!([1, null, 3])));
}

#[test]
fn a_fallback_is_tried_once_with_the_same_input() {
    let first = Step {
        fallback: Some(Fallback::Capability("other".into())),
        ..step("first")
    };
    let mut bench = Bench::new();
    bench.start(WorkflowType::Graph, vec![first], json!("in"), 5).unwrap();
    bench.run(|task, input| match task.capability.as_str() {
        "other" => Outcome::Completed(json!([input, "by the other"])),
        _ => Outcome::Failed,
    });
    bench.check();
    assert_eq!(bench.final_result(), Some(json!(["in", "by the other"])));

    let literal = Payload::of_json(&json!("instead"));
    let first = Step {
        fallback: Some(Fallback::Result(literal)),
        ..step("first")
    };
    let mut bench = Bench::new();
    bench.start(WorkflowType::Graph, vec![first], json!("in"), 5).unwrap();
    bench.run(|_, _| Outcome::Cancelled);
    bench.check();
    assert_eq!(bench.final_result(), Some(json!("instead")));
}

#[test]
fn a_word_about_a_task_that_has_ended_changes_nothing() {
    let mut bench = Bench::new();
    bench
        .start(WorkflowType::Sequential, vec![step("a"), step("b")], json!(1), 5)
        .unwrap();
    let task = bench.open_tasks().remove(0);
    bench.finish(&task, &Outcome::Completed(json!(1)));
    let before = bench.workflow();
    bench.finish(&task, &Outcome::Failed);
    assert_eq!(bench.workflow(), before);
    bench.check();
}

#[test]
fn a_cancelled_workflow_closes_everything_and_is_deleted_when_old() {
    let list: Vec<Json> = (0..700).map(|number| json!(number)).collect();
    let map = Step {
        for_each: "input".into(),
        ..step("map")
    };
    let mut bench = Bench::new();
    let steps = vec![map, step("reduce")];
    bench.start(WorkflowType::MapReduce, steps, json!(list), 300).unwrap();
    bench.settle();
    assert_eq!(bench.workflow().in_flight, 300);
    let world = &mut bench.world;
    world.attempt(|world| cancel(world, &None, ID, "enough")).unwrap();
    let again = world.attempt(|world| cancel(world, &None, ID, "enough")).unwrap_err();
    assert_eq!(again.reason(), Reason::WorkflowEnded);
    bench.settle();
    bench.check();
    let workflow = bench.workflow();
    assert_eq!(
        (workflow.state, workflow.open_steps, workflow.in_flight),
        (WorkflowState::Cancelled, 0, 0)
    );

    bench
        .world
        .set_now(workflow.ended_at.unwrap() + crate::config::Retention::default().workflows);
    for _ in 0..100 {
        bench.world.attempt(|world| super::super::due(world, ID)).unwrap();
    }
    let world = &mut bench.world;
    assert!(world.workflows.known().is_empty() && world.steps.known().is_empty() && world.items.known().is_empty());
    assert!(world.transitions.known().is_empty() && world.tasks.known().is_empty());
    assert!(world.payloads.known().is_empty() && world.definitions.known().is_empty());
}

#[test]
fn a_workflow_ends_by_its_deadline() {
    let mut bench = Bench::new();
    let deadline = std::time::Duration::from_secs(60);
    let steps = vec![step("a"), step("b")];
    bench
        .start_with(WorkflowType::Sequential, steps, json!(1), 5, "", Some(deadline))
        .unwrap();
    let start = bench.world.now();
    bench.world.set_now(start + deadline);
    bench.settle();
    bench.check();
    assert_eq!(bench.state(), WorkflowState::TimedOut);
    assert_eq!(bench.workflow().in_flight, 0);
}

#[test]
fn a_thousand_parallel_steps_begin_in_bounded_jobs() {
    let steps: Vec<Step> = (0..1_000).map(|number| step(&format!("s{number}"))).collect();
    let mut bench = Bench::new();
    let result = "{'first': steps.s0.result, 'last': steps['s999'].result}";
    bench
        .start_with(WorkflowType::Parallel, steps, json!(7), 50, result, None)
        .unwrap();
    bench.run(|_, input| Outcome::Completed(input));
    bench.check();
    assert_eq!(bench.final_result(), Some(json!({"first": 7, "last": 7})));
    assert!(bench.most_transitions < 300, "{}", bench.most_transitions);
}

#[test]
fn a_higher_priority_is_given_the_next_slot() {
    let high = Step {
        priority: 3,
        ..step("high")
    };
    let mut bench = Bench::new();
    let steps = vec![step("low"), step("lower"), high];
    bench.start(WorkflowType::Parallel, steps, json!(1), 1).unwrap();
    let mut order = Vec::new();
    bench.run(|task, input| {
        order.push(task.origin.0.as_ref().unwrap().step_id.clone());
        Outcome::Completed(input)
    });
    bench.check();
    assert_eq!(order, ["high", "low", "lower"]);
}
