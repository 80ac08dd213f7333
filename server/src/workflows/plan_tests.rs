//! What is refused at the door, and what the types of workflows stand for.

use serde_json::{Value as Json, json};

use super::*;
use crate::payload::Payload;
use crate::tasks::RetryPolicy;
use crate::workflows::OnFailure;

fn step(id: &str) -> Step {
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
        timeout: crate::tasks::DEFAULT_TIMEOUT,
        accept_timeout: crate::tasks::DEFAULT_ACCEPT_TIMEOUT,
        progress_timeout: None,
        fallback: None,
        on_failure: OnFailure::Fail,
        requirements: Default::default(),
        priority: 0,
    }
}

fn after(id: &str, before: &[&str]) -> Step {
    Step {
        depends_on: before.iter().map(|id| (*id).to_owned()).collect(),
        ..step(id)
    }
}

fn with_input(step: Step, template: Json) -> Step {
    Step {
        input: Some(Payload::of_json(&template)),
        ..step
    }
}

fn refused(workflow_type: WorkflowType, steps: Vec<Step>, result: &str) -> (Reason, Vec<String>) {
    let refusal = plan(workflow_type, steps, result).expect_err("should be refused");
    let fields = refusal.violations().iter().map(|violation| violation.field.clone());
    (refusal.reason(), fields.collect())
}

#[test]
fn the_short_forms_stand_for_the_same_graph() {
    let steps = || vec![step("a"), step("b"), step("c")];
    let dependencies = |workflow_type| {
        let planned = plan(workflow_type, steps(), "").expect("a plan");
        planned.iter().map(|planned| planned.dependencies).collect::<Vec<_>>()
    };
    assert_eq!(dependencies(WorkflowType::Sequential), [0, 1, 1]);
    assert_eq!(dependencies(WorkflowType::Parallel), [0, 0, 0]);
    assert_eq!(dependencies(WorkflowType::Graph), [0, 0, 0]);
    let map = Step {
        for_each: "input".into(),
        ..step("map")
    };
    let planned = plan(WorkflowType::MapReduce, vec![step("split"), map, step("reduce")], "").expect("a plan");
    assert_eq!(planned[0].dependents, [1]);
    assert_eq!(planned[1].dependents, [2]);
}

#[test]
fn every_violation_of_the_graph_is_told() {
    let steps = vec![
        after("a", &["b"]),
        after("b", &["a"]),
        after("c", &["nobody", "c"]),
        step("c"),
        step("no good"),
        Step {
            capability: String::new(),
            item_key: "item".into(),
            ..step("d")
        },
    ];
    let (reason, fields) = refused(WorkflowType::Graph, steps, "");
    assert_eq!(reason, Reason::InvalidRequest);
    for field in [
        "steps[0].depends_on",
        "steps[2].depends_on[0]",
        "steps[3].step_id",
        "steps[4].step_id",
        "steps[5].capability",
        "steps[5].item_key",
    ] {
        assert!(
            fields.iter().any(|known| known == field),
            "{field} is not in {fields:?}"
        );
    }
    assert_eq!(refused(WorkflowType::Graph, Vec::new(), "").1, ["steps"]);
    let no_map = vec![step("map"), step("reduce")];
    assert_eq!(refused(WorkflowType::MapReduce, no_map, "").1, ["steps[0].for_each"]);
}

#[test]
fn an_expression_sees_only_steps_that_have_ended_before() {
    let steps = vec![
        step("a"),
        with_input(after("b", &["a"]), json!("${steps.a.result}")),
        with_input(
            after("c", &["b"]),
            json!({"first": "${steps.a.result}", "escaped": "$${x}"}),
        ),
    ];
    let planned = plan(WorkflowType::Graph, steps.clone(), "steps.c.result").expect("a plan");
    assert_eq!(planned[2].sees, [("a".to_owned(), 0)]);

    let stranger = vec![step("a"), with_input(step("b"), json!("${steps.a.result}"))];
    let (reason, fields) = refused(WorkflowType::Parallel, stranger, "");
    assert_eq!(
        (reason, fields),
        (Reason::InvalidExpression, vec!["steps[1].input".to_owned()])
    );
    assert_eq!(
        refused(WorkflowType::Graph, steps.clone(), "steps.x.result").1,
        ["result"]
    );
    assert_eq!(
        refused(WorkflowType::Graph, steps.clone(), "steps.map(s, s)").1,
        ["result"]
    );
    assert_eq!(refused(WorkflowType::Graph, steps, "item").1, ["result"]);
}

#[test]
fn items_are_seen_only_where_there_are_some() {
    let one = with_input(step("a"), json!("${item}"));
    assert_eq!(refused(WorkflowType::Graph, vec![one], "").1, ["steps[0].input"]);
    let list = Step {
        for_each: "item".into(),
        condition: "index > 1".into(),
        capability: "${item.capability}".into(),
        ..step("a")
    };
    let (_, fields) = refused(WorkflowType::Graph, vec![list], "");
    assert_eq!(fields, ["steps[0].condition", "steps[0].for_each"]);
}

#[test]
fn text_that_is_no_expression_is_refused_with_its_problem() {
    let broken = Step {
        condition: "1 +".into(),
        ..step("a")
    };
    let refusal = plan(WorkflowType::Graph, vec![broken], "").expect_err("should be refused");
    assert_eq!(refusal.reason(), Reason::InvalidExpression);
    assert!(refusal.metadata().contains(&("field", "steps[0].condition".to_owned())));
    assert!(refusal.metadata().contains(&("problem", "SYNTAX".to_owned())));
    let hidden = Step {
        input: Some(Payload {
            form: crate::payload::Form::Json,
            content_type: String::new(),
            body: "\"\\u0024{unknown}\"".into(),
        }),
        ..step("a")
    };
    assert_eq!(
        refused(WorkflowType::Graph, vec![hidden], "").0,
        Reason::InvalidExpression
    );
}

#[test]
fn what_is_too_much_is_refused() {
    let many: Vec<Step> = (0..=MAX_STEPS).map(|number| step(&format!("s{number}"))).collect();
    assert_eq!(refused(WorkflowType::Parallel, many, "").1, ["steps"]);
    let large = with_input(step("a"), json!("x".repeat(MAX_BYTES)));
    assert_eq!(refused(WorkflowType::Parallel, vec![large], "").1, ["steps"]);
    let dense: Vec<Step> = (0..200)
        .map(|number| Step {
            depends_on: (0..number).map(|other| format!("s{other}")).collect(),
            ..step(&format!("s{number}"))
        })
        .collect();
    assert_eq!(refused(WorkflowType::Graph, dense, "").1, ["steps"]);
}
