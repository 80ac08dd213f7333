//! What a workflow is asked to be, checked whole before it starts: its steps, what they depend on, and every expression in them.
//!
//! Planning compiles expressions, which takes milliseconds and a deep stack: it is done at the door, in a thread that may block, never in
//! a lane. The rules can then rely on it: every id is known, there is no cycle, every expression compiles and looks only at steps that
//! have ended before.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value as Json;

use super::expr::{ErrorKind, ExprError, References, Template, compile_cached};
use super::{Fallback, Step, WorkflowType};
use crate::error::{Reason, Refusal, Violation};
use crate::payload::Payload;

/// How many steps a workflow may have.
pub const MAX_STEPS: usize = 1_000;
/// How many dependencies its steps may have together.
const MAX_DEPENDENCIES: usize = 10_000;
/// How many bytes its steps may have together.
const MAX_BYTES: usize = 1 << 20;
/// How many expressions its steps may have together.
const MAX_EXPRESSIONS: usize = 4_000;
/// How long a step's id may be.
const MAX_STEP_ID: usize = 64;

/// A step that is checked.
#[derive(Clone, Debug)]
pub struct PlannedStep {
    /// The step, with the dependencies that the workflow's type adds.
    pub step: Step,
    /// How many steps it depends on.
    pub dependencies: i32,
    /// The numbers of the steps that depend on it.
    pub dependents: Vec<i64>,
    /// The steps that its expressions look at: their ids and numbers.
    pub sees: Vec<(String, i64)>,
}

/// Checks the steps of a workflow, and the expression of its result.
///
/// # Errors
/// INVALID_REQUEST with every violation; INVALID_EXPRESSION if only expressions are at fault.
pub fn plan(workflow_type: WorkflowType, mut steps: Vec<Step>, result: &str) -> Result<Vec<PlannedStep>, Refusal> {
    let mut plan = Plan::default();
    if steps.is_empty() || steps.len() > MAX_STEPS {
        plan.violation(
            "steps",
            format!("has {} steps, must have from 1 to {MAX_STEPS}", steps.len()),
        );
        return plan.finish(Vec::new());
    }
    plan.check_size(&steps);
    plan.check_ids(&steps);
    plan.expand(workflow_type, &mut steps);
    plan.check_graph(&steps);
    for (number, step) in steps.iter().enumerate() {
        plan.check_step(number, step);
    }
    // Expressions name steps: who may see whom is known only of a graph that is in order.
    if !plan.violations.is_empty() {
        return plan.finish(Vec::new());
    }
    let ancestors = ancestors(&plan.dependencies);
    let mut planned = Vec::with_capacity(steps.len());
    for (number, step) in steps.into_iter().enumerate() {
        let sees = plan.check_expressions(number, &step, &ancestors[number]);
        let dependents = plan.dependents(number);
        planned.push(PlannedStep {
            dependencies: i32::try_from(plan.dependencies[number].len()).unwrap_or(i32::MAX),
            step,
            dependents,
            sees,
        });
    }
    if !result.is_empty() {
        let references = plan.expression("result", result);
        plan.check_references("result", &references, None);
        plan.refuse_item("result", &references);
    }
    plan.finish(planned)
}

/// The JSON of a payload that has expressions in it; nothing if it stands for itself.
pub fn template_of(payload: &Payload) -> Option<Json> {
    let has_marks = payload.body.windows(2).any(|pair| pair == b"${");
    // JSON text may write the mark in another way.
    let may_hide_marks = payload.body.windows(2).any(|pair| pair == b"\\u");
    (has_marks || may_hide_marks).then(|| payload.json()).flatten()
}

#[derive(Default)]
struct Plan {
    violations: Vec<Violation>,
    /// Which of them are about expressions, and the first of these.
    expressions: usize,
    first_expression: Option<(String, &'static str)>,
    numbers: HashMap<String, usize>,
    /// For each step the numbers of those that it depends on.
    dependencies: Vec<Vec<usize>>,
}

impl Plan {
    fn violation(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.violations.push(Violation {
            field: field.into(),
            description: description.into(),
        });
    }

    fn bad_expression(&mut self, field: &str, problem: &'static str, description: impl Into<String>) {
        self.violation(field, description);
        self.expressions += 1;
        self.first_expression.get_or_insert((field.to_owned(), problem));
    }

    fn finish(self, planned: Vec<PlannedStep>) -> Result<Vec<PlannedStep>, Refusal> {
        if self.violations.is_empty() {
            return Ok(planned);
        }
        match self.first_expression {
            Some((field, problem)) if self.expressions == self.violations.len() => {
                let message = format!("{field}: {}", self.violations[0].description);
                Err(Refusal::new(Reason::InvalidExpression, message)
                    .with("field", field)
                    .with("problem", problem)
                    .with_violations(self.violations))
            }
            _ => Err(Refusal::of_violations(self.violations)),
        }
    }

    fn check_size(&mut self, steps: &[Step]) {
        let sizes = steps
            .iter()
            .map(|step| serde_json::to_vec(step).map_or(0, |json| json.len()));
        let bytes: usize = sizes.sum();
        if bytes > MAX_BYTES {
            self.violation("steps", format!("have {bytes} bytes, at most {MAX_BYTES} are allowed"));
        }
        let expressions: usize = steps.iter().map(count_expressions).sum();
        if expressions > MAX_EXPRESSIONS {
            let description = format!("have {expressions} expressions, at most {MAX_EXPRESSIONS} are allowed");
            self.violation("steps", description);
        }
    }

    fn check_ids(&mut self, steps: &[Step]) {
        for (number, step) in steps.iter().enumerate() {
            let field = format!("steps[{number}].step_id");
            let id = &step.step_id;
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if id.is_empty() || id.len() > MAX_STEP_ID || !id.chars().all(fits) {
                self.violation(field, "must have 1 to 64 letters, digits, `_` and `-`");
            } else if self.numbers.insert(id.clone(), number).is_some() {
                self.violation(field, format!("another step has the id {id}"));
            }
        }
    }

    /// Adds the dependencies that a short form stands for.
    fn expand(&mut self, workflow_type: WorkflowType, steps: &mut [Step]) {
        match workflow_type {
            WorkflowType::Graph | WorkflowType::Parallel => return,
            WorkflowType::Sequential => {}
            WorkflowType::MapReduce => {
                if !(2..=3).contains(&steps.len()) {
                    self.violation("steps", "a MAP_REDUCE has two steps or three");
                } else if steps[steps.len() - 2].for_each.is_empty() {
                    let map = steps.len() - 2;
                    self.violation(format!("steps[{map}].for_each"), "must be there: this step is the map");
                }
            }
        }
        for number in 1..steps.len() {
            let before = steps[number - 1].step_id.clone();
            if !steps[number].depends_on.contains(&before) {
                steps[number].depends_on.push(before);
            }
        }
    }

    fn check_graph(&mut self, steps: &[Step]) {
        let count: usize = steps.iter().map(|step| step.depends_on.len()).sum();
        if count > MAX_DEPENDENCIES {
            let description = format!("have {count} dependencies, at most {MAX_DEPENDENCIES} are allowed");
            return self.violation("steps", description);
        }
        for (number, step) in steps.iter().enumerate() {
            let mut on = BTreeSet::new();
            for (place, id) in step.depends_on.iter().enumerate() {
                let field = || format!("steps[{number}].depends_on[{place}]");
                match self.numbers.get(id).copied() {
                    None => self.violation(field(), format!("there is no step {id:.64}")),
                    Some(other) if other == number => self.violation(field(), "a step cannot depend on itself"),
                    Some(other) => {
                        on.insert(other);
                    }
                }
            }
            self.dependencies.push(on.into_iter().collect());
        }
        let order = order(&self.dependencies);
        if order.len() < steps.len() {
            let ordered: BTreeSet<_> = order.into_iter().collect();
            let cyclic = (0..steps.len()).find(|number| !ordered.contains(number)).unwrap_or(0);
            let description = format!("step {} waits for itself through others", steps[cyclic].step_id);
            self.violation(format!("steps[{cyclic}].depends_on"), description);
        }
    }

    fn check_step(&mut self, number: usize, step: &Step) {
        if step.capability.is_empty() && step.agent_id.is_empty() {
            let field = format!("steps[{number}].capability");
            self.violation(field, "the step needs a capability or an agent_id");
        }
        if step.for_each.is_empty() && !step.item_key.is_empty() {
            self.violation(format!("steps[{number}].item_key"), "is only for steps with for_each");
        }
        let fallback = match &step.fallback {
            Some(Fallback::Capability(name) | Fallback::Agent(name)) => Some(name),
            _ => None,
        };
        if fallback.is_some_and(String::is_empty) {
            self.violation(
                format!("steps[{number}].fallback"),
                "must name a capability or an agent",
            );
        }
    }

    /// Compiles the expressions of a step; returns the steps that they look at.
    fn check_expressions(&mut self, number: usize, step: &Step, ancestors: &Bits) -> Vec<(String, i64)> {
        let mut seen = References::default();
        let field = |name: &str| format!("steps[{number}].{name}");
        for (name, text) in [("condition", &step.condition), ("for_each", &step.for_each)] {
            if !text.is_empty() {
                let references = self.expression(&field(name), text);
                self.refuse_item(&field(name), &references);
                self.check_references(&field(name), &references, Some(ancestors));
                seen.merge(&references);
            }
        }
        let mut of_items = Vec::new();
        if !step.item_key.is_empty() {
            of_items.push(("item_key", self.expression(&field("item_key"), &step.item_key)));
        }
        for (name, text) in [("capability", &step.capability), ("agent_id", &step.agent_id)] {
            if text.contains("${") {
                of_items.push((name, self.template(&field(name), &Json::String(text.clone()))));
            }
        }
        if let Some(template) = step.input.as_ref().and_then(template_of) {
            of_items.push(("input", self.template(&field("input"), &template)));
        }
        for (name, references) in &of_items {
            if step.for_each.is_empty() {
                self.refuse_item(&field(name), references);
            }
            self.check_references(&field(name), references, Some(ancestors));
            seen.merge(references);
        }
        let numbers = &self.numbers;
        let found = seen.steps.iter().filter_map(|id| Some((id, *numbers.get(id)?)));
        found.map(|(id, number)| (id.clone(), number as i64)).collect()
    }

    fn expression(&mut self, field: &str, text: &str) -> References {
        match compile_cached(text) {
            Ok(expression) => expression.references().clone(),
            Err(error) => self.broken(field, &error),
        }
    }

    fn template(&mut self, field: &str, json: &Json) -> References {
        match Template::compile(json) {
            Ok(template) => template.references().clone(),
            Err(error) => self.broken(field, &error),
        }
    }

    fn broken(&mut self, field: &str, error: &ExprError) -> References {
        self.bad_expression(field, problem(error.kind), error.message.clone());
        References::default()
    }

    fn refuse_item(&mut self, field: &str, references: &References) {
        for name in ["item", "index"] {
            if references.variables.contains(name) {
                let description =
                    format!("`{name}` is not known here: only what is made for the items of a for_each sees it");
                self.bad_expression(field, "UNKNOWN_VARIABLE", description);
            }
        }
    }

    /// Checks that the steps that an expression looks at have ended before it is evaluated; all have before the result's.
    fn check_references(&mut self, field: &str, references: &References, ancestors: Option<&Bits>) {
        if references.all_steps {
            let description = "a step must be named where it is looked at: `steps.a` or `steps[\"a-b\"]`";
            self.bad_expression(field, "UNKNOWN_STEP", description);
        }
        for id in &references.steps {
            match self.numbers.get(id).copied() {
                None => self.bad_expression(field, "UNKNOWN_STEP", format!("there is no step {id:.64}")),
                Some(other) if ancestors.is_some_and(|ancestors| !ancestors.has(other)) => {
                    let description = format!("looks at step {id}, which this step does not depend on");
                    self.bad_expression(field, "UNKNOWN_STEP", description);
                }
                Some(_) => {}
            }
        }
    }

    fn dependents(&self, number: usize) -> Vec<i64> {
        let all = self.dependencies.iter().enumerate();
        let dependents = all.filter(|(_, on)| on.binary_search(&number).is_ok());
        dependents.map(|(dependent, _)| dependent as i64).collect()
    }
}

fn count_expressions(step: &Step) -> usize {
    let plain = [&step.condition, &step.for_each, &step.item_key];
    let plain = plain.into_iter().filter(|text| !text.is_empty()).count();
    let templates = [&step.capability, &step.agent_id].map(|text| text.matches("${").count());
    let input = step.input.as_ref();
    let input = input.map_or(0, |input| count_marks(&input.body));
    plain + templates.iter().sum::<usize>() + input
}

/// How many expressions JSON text may have, however it writes `${`.
fn count_marks(json: &[u8]) -> usize {
    let plain = json.windows(2).filter(|pair| *pair == b"${").count();
    let escaped = json.windows(6).filter(|escape| {
        escape.starts_with(b"\\u")
            && (escape[2..].eq_ignore_ascii_case(b"0024") || escape[2..].eq_ignore_ascii_case(b"007b"))
    });
    plain + escaped.count()
}

fn problem(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Syntax => "SYNTAX",
        ErrorKind::TooLong => "TOO_LONG",
        ErrorKind::TooDeep => "TOO_DEEP",
        ErrorKind::NestedComprehension => "NESTED_COMPREHENSION",
        ErrorKind::UnknownVariable => "UNKNOWN_VARIABLE",
        ErrorKind::UnknownFunction => "UNKNOWN_FUNCTION",
        _ => "EVALUATION",
    }
}

/// The steps in an order in which each comes after those that it depends on. Steps of cycles, and those behind them, are not in it.
fn order(dependencies: &[Vec<usize>]) -> Vec<usize> {
    let mut open: Vec<usize> = dependencies.iter().map(Vec::len).collect();
    let mut dependents = vec![Vec::new(); dependencies.len()];
    for (number, on) in dependencies.iter().enumerate() {
        for other in on {
            dependents[*other].push(number);
        }
    }
    let mut order: Vec<usize> = (0..open.len()).filter(|number| open[*number] == 0).collect();
    let mut next = 0;
    while let Some(number) = order.get(next).copied() {
        next += 1;
        for dependent in &dependents[number] {
            open[*dependent] -= 1;
            if open[*dependent] == 0 {
                order.push(*dependent);
            }
        }
    }
    order
}

/// A set of steps.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, number: usize) -> bool {
        self.0[number / 64] & (1 << (number % 64)) != 0
    }
}

/// For each step all that it depends on, through others too.
fn ancestors(dependencies: &[Vec<usize>]) -> Vec<Bits> {
    let mut ancestors = vec![Bits(vec![0; dependencies.len().div_ceil(64)]); dependencies.len()];
    for number in order(dependencies) {
        for other in &dependencies[number] {
            let of_other = ancestors[*other].clone();
            let own = &mut ancestors[number].0;
            own.iter_mut()
                .zip(&of_other.0)
                .for_each(|(own, of_other)| *own |= of_other);
            own[other / 64] |= 1 << (other % 64);
        }
    }
    ancestors
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
