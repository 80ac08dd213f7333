//! Random graphs, with tasks that end at random.

use proptest::prelude::*;
use serde_json::json;

use super::super::cancel;
use super::bench::{Bench, ID, Outcome, step};
use crate::payload::Payload;
use crate::workflows::{Fallback, OnFailure, Step, WorkflowState, WorkflowType};

/// How a step is made: whom it depends on, of what kind it is, what it does on failure, what instead.
type Shape = (u8, u8, u8, u8);

fn steps_of(shapes: &[Shape]) -> Vec<Step> {
    let shapes = shapes.iter().enumerate();
    let steps = shapes.map(|(number, (mask, kind, on_failure, fallback))| {
        let mut made = step(&format!("s{number}"));
        let before = (0..number.min(8)).filter(|other| mask & (1 << other) != 0);
        made.depends_on = before.map(|other| format!("s{other}")).collect();
        let first = made.depends_on.first().cloned();
        match (kind % 8, first) {
            (0, _) => made.for_each = "input.items".into(),
            (1, _) => {
                made.for_each = "input.items".into();
                made.item_key = "'k' + string(item % 3)".into();
            }
            (2, Some(other)) => made.for_each = format!("[steps.{other}.result, steps.{other}.state]"),
            (3, Some(other)) => made.condition = format!("steps.{other}.result != null"),
            (4, Some(other)) => made.for_each = format!("steps.{other}.result"),
            (5, _) => made.input = Some(Payload::of_json(&json!({"x": "${1 / input.zero}"}))),
            _ => {}
        }
        made.on_failure = [OnFailure::Fail, OnFailure::Skip, OnFailure::Continue][usize::from(on_failure % 3)];
        made.fallback = match fallback % 6 {
            0 => Some(Fallback::Capability("other".into())),
            1 => Some(Fallback::Result(Payload::of_json(&json!("literal")))),
            2 => Some(Fallback::Agent("somebody".into())),
            _ => None,
        };
        made
    });
    steps.collect()
}

fn outcome_of(choice: u8) -> Outcome {
    match choice % 8 {
        0 => Outcome::Failed,
        1 => Outcome::TimedOut,
        2 => Outcome::Cancelled,
        3 => Outcome::Completed(json!([1, 2])),
        _ => Outcome::Completed(json!({"n": choice})),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_workflow_ends_and_its_history_gives_its_rows(
        shapes in prop::collection::vec(any::<Shape>(), 1..9),
        items in 0..7i64,
        max_concurrent in 1..5i32,
        script in prop::collection::vec((any::<u8>(), any::<u8>()), 0..40),
        cancelled_at in prop::option::of(0..30usize),
    ) {
        let items: Vec<i64> = (0..items).collect();
        let mut bench = Bench::new();
        let input = json!({"items": items, "zero": 0});
        bench.start(WorkflowType::Graph, steps_of(&shapes), input, max_concurrent).unwrap();
        bench.check();
        let mut last = None;
        for turn in 0..2_000 {
            if turn % 3 == 0 {
                bench.settle();
                bench.check();
            }
            if bench.state() != WorkflowState::Running {
                break;
            }
            if cancelled_at == Some(turn) {
                bench.world.attempt(|world| cancel(world, &None, ID, "")).unwrap();
                bench.check();
                continue;
            }
            let open = bench.open_tasks();
            prop_assert!(!open.is_empty() || bench.workflow().due_at.is_some());
            let (which, choice) = script.get(turn).copied().unwrap_or((0, 7));
            if let Some(task) = open.get(usize::from(which) % open.len().max(1)) {
                bench.finish(task, &outcome_of(choice));
                last = Some(task.clone());
            }
            // The same word again, late and otherwise.
            if let (Some(task), 0) = (&last, choice % 5) {
                let before = bench.workflow();
                let known = bench.task(&task.task_id);
                bench.finish(&known, &outcome_of(choice / 2));
                prop_assert_eq!(bench.workflow().transitions, before.transitions);
            }
        }
        bench.settle();
        bench.check();
        let workflow = bench.workflow();
        prop_assert_ne!(workflow.state, WorkflowState::Running);
        prop_assert_eq!((workflow.open_steps, workflow.in_flight, workflow.waiting_items), (0, 0, 0));
        let ends = bench.world.events().iter().filter(|event| event.event_type == "workflow.checkpoint").count();
        let history = bench.world.transitions.known();
        let ended = history.iter().filter(|transition| {
            let kind = transition.kind.strip_prefix("step.");
            kind.is_some_and(|kind| matches!(kind, "completed" | "failed" | "skipped"))
        });
        prop_assert_eq!(ends, ended.count());
    }
}
