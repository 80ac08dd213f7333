//! How a workflow moves.
//!
//! Every rule opens the workflow as a [`Run`], does what came up, lets it advance as far as one job may, and puts it back. What is left
//! over makes the workflow due at once, so that the next job takes it up. A rule never refuses because of what a workflow's author wrote:
//! an expression that fails on its values fails its item or its step.

mod due;
mod expand;
mod finish;
mod item;
mod scope;
pub mod start;
mod step;
#[cfg(test)]
pub mod tests;

use super::{Transition, Workflow, WorkflowState};
use crate::lane::{Decision, Halt, World};
use crate::store::row::{Field, Value};
use crate::tasks::{Origin, PayloadRole, Task, TaskError};
use crate::workflows::{Item, expr::ExprError};

pub use due::due;
pub use finish::cancel;
pub use scope::{aggregate_owner, reference};

/// How many steps are begun, items delegated or cancelled in one job.
const MAX_ACTIONS: usize = 64;
/// How many steps are begun in one job while items could be delegated.
const MAX_BEGINNINGS: usize = 16;
/// How many waiting items are enough, at least and at most: below that the next stretch of a list becomes items.
const WAITING_ENOUGH: (i64, i64) = (64, 1_024);
/// How many bytes of inputs are made in one job, but for the first.
const MAX_INPUT_BYTES: usize = 4 << 20;
/// How much work its expressions may be in one job, but for the last that is begun, in the units of `expr::WORK_LIMIT`: the job holds
/// the store's lock meanwhile.
const MAX_WORK: u64 = 8 << 20;
/// How many errors are kept.
const MAX_ERRORS: usize = 100;
/// How many bytes of an error or a detail are kept.
const MAX_DETAIL: usize = 512;

/// Takes in the end of a task of a workflow: COMPLETED, FAILED or TIMED_OUT, or CANCELLED by a caller. What it says of an item that
/// has ended, or has another task by now, is ignored.
pub fn task_ended(world: &mut World, task: &Task) -> Decision<()> {
    let Some(origin) = task.origin.0.clone() else {
        return Ok(());
    };
    want_task_ended(world, &origin, &task.task_id);
    let Some(mut run) = Run::open(world, &origin.workflow_id, false)? else {
        return Ok(());
    };
    if item::ended(world, &mut run, &origin, task)? {
        run.advance(world)?;
        run.close(world);
    }
    Ok(())
}

/// Says what [`task_ended`] will read.
pub fn want_task_ended(world: &mut World, origin: &Origin, task_id: &str) {
    let step = (origin.workflow_id.clone(), origin.number);
    world.workflows.want(&origin.workflow_id);
    world.steps.want(&step);
    world.definitions.want(&step);
    world
        .items
        .want(&(origin.workflow_id.clone(), origin.number, origin.index));
    world
        .items
        .want_first(Item::WAITING, vec![origin.workflow_id.to_value()], item::FIRST_WAITING);
    world.payloads.want(&(task_id.to_owned(), PayloadRole::Result));
}

/// A workflow on its way through one job.
struct Run {
    workflow: Workflow,
    /// Whether no other job of the batch is likely to be about this workflow, so that this one may do what takes longer: were many to
    /// begin the same, all but the first would do it in vain.
    is_alone: bool,
    /// How many more actions the job may take.
    actions: usize,
    /// How many steps it has begun.
    beginnings: usize,
    /// How many more bytes of inputs it may make.
    bytes: usize,
    /// How much more work its expressions may be.
    work: u64,
}

impl Run {
    fn new(workflow: Workflow, is_alone: bool) -> Run {
        Run {
            workflow,
            is_alone,
            actions: MAX_ACTIONS,
            beginnings: 0,
            bytes: MAX_INPUT_BYTES,
            work: MAX_WORK,
        }
    }

    fn open(world: &mut World, workflow_id: &str, is_alone: bool) -> Decision<Option<Run>> {
        let workflow = world.workflows.get(&workflow_id.to_owned())?;
        Ok(workflow.map(|workflow| Run::new((*workflow).clone(), is_alone)))
    }

    fn id(&self) -> String {
        self.workflow.workflow_id.clone()
    }

    /// The prefix of every index that goes by workflow.
    fn prefix(&self) -> [Value; 1] {
        [self.workflow.workflow_id.to_value()]
    }

    fn is_running(&self) -> bool {
        self.workflow.state == WorkflowState::Running
    }

    /// How many more tasks may be in flight.
    fn free_slots(&self) -> usize {
        usize::try_from(self.workflow.max_concurrent - self.workflow.in_flight).unwrap_or(0)
    }

    /// Whether the job has had its share.
    fn is_spent(&self) -> bool {
        self.actions == 0 || self.bytes == 0 || self.work == 0
    }

    fn spend(&mut self, actions: usize, bytes: usize) {
        self.actions = self.actions.saturating_sub(actions);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Counts what expressions have cost.
    fn toil(&mut self, work: u64) {
        self.work = self.work.saturating_sub(work);
    }

    /// Goes on as far as one job may: begins steps, fills slots, ends the workflow, clears up after its end.
    fn advance(&mut self, world: &mut World) -> Decision<()> {
        while self.is_running() && !self.is_spent() {
            let could_delegate = self.free_slots() > 0 && self.workflow.waiting_items > 0;
            if self.may_begin() && (self.beginnings < MAX_BEGINNINGS || !could_delegate) {
                step::begin_next(world, self)?;
            } else if could_delegate {
                item::delegate_next(world, self)?;
            } else if self.is_alone && self.wants_items() {
                expand::expand_next(world, self)?;
            } else {
                break;
            }
        }
        if self.is_running() && self.workflow.open_steps == 0 {
            finish::succeed(world, self)?;
        }
        if !self.is_running() {
            finish::settle(world, self)?;
        }
        Ok(())
    }

    /// Whether this job may begin steps: a few at once, many only if it is alone.
    fn may_begin(&self) -> bool {
        let ready = usize::try_from(self.workflow.ready_steps).unwrap_or(0);
        ready > 0 && (self.is_alone || ready <= MAX_BEGINNINGS)
    }

    /// Whether the next stretch of a list should become items, before a slot has to wait for that.
    fn wants_items(&self) -> bool {
        let workflow = &self.workflow;
        let enough = i64::from(workflow.max_concurrent).clamp(WAITING_ENOUGH.0, WAITING_ENOUGH.1);
        workflow.stretches > 0 && workflow.waiting_items < enough
    }

    /// Whether there is something that a next job could do at once.
    fn has_more(&self) -> bool {
        let workflow = &self.workflow;
        if self.is_running() {
            let could_delegate = self.free_slots() > 0 && workflow.waiting_items > 0;
            return workflow.ready_steps > 0 || could_delegate || self.wants_items();
        }
        !self.is_settled()
    }

    /// Whether an ended workflow has nothing left that moves.
    fn is_settled(&self) -> bool {
        let workflow = &self.workflow;
        let items = i64::from(workflow.in_flight) + workflow.waiting_items + workflow.stretches;
        items == 0 && workflow.open_steps == 0
    }

    /// Puts the workflow back, due when it is to be looked at again.
    fn close(mut self, world: &mut World) {
        let now = world.now();
        let at_once = self.has_more().then_some(now);
        let later = match self.workflow.ended_at {
            None => self.workflow.deadline_at,
            Some(ended_at) => Some(ended_at + world.retention().workflows),
        };
        self.workflow.due_at = at_once.or(later);
        self.workflow.updated_at = now;
        world.workflows.put(self.workflow);
    }

    /// Writes a transition into the history.
    fn record(&mut self, world: &mut World, entry: Entry<'_>) {
        self.workflow.transitions += 1;
        world.transitions.put(Transition {
            workflow_id: self.id(),
            sequence: self.workflow.transitions,
            at: world.now(),
            position: world.head().position,
            kind: entry.kind.to_owned(),
            step_id: entry.step_id.to_owned(),
            place: entry.place,
            task_id: entry.task_id.to_owned(),
            detail: shortened(entry.detail),
        });
    }

    /// Notes what went wrong, for people.
    fn note_error(&mut self, error: &str) {
        if self.workflow.error_log.len() < MAX_ERRORS {
            self.workflow.error_log.push(shortened(error));
        }
    }
}

/// A transition to be recorded.
#[derive(Default)]
struct Entry<'e> {
    kind: &'e str,
    step_id: &'e str,
    place: i64,
    task_id: &'e str,
    detail: &'e str,
}

/// Runs a rule for each of several, so that what all of them have to load is loaded at once.
fn for_each<T>(world: &mut World, things: Vec<T>, mut rule: impl FnMut(&mut World, T) -> Decision<()>) -> Decision<()> {
    let mut must_load = false;
    for thing in things {
        match rule(world, thing) {
            Ok(()) => {}
            // What follows runs on a world that is undone anyway; it only says what it wants.
            Err(Halt::Load) => must_load = true,
            Err(refusal) => return Err(refusal),
        }
    }
    if must_load { Err(Halt::Load) } else { Ok(()) }
}

/// An expression that failed, as the error of an item or a step.
fn expression_error(field: &str, error: &ExprError) -> TaskError {
    invalid("expression", format!("{field}: {error}"))
}

fn invalid(kind: &str, message: impl Into<String>) -> TaskError {
    TaskError {
        kind: kind.to_owned(),
        message: message.into(),
        permanent: true,
    }
}

fn shortened(text: &str) -> String {
    let mut ends = (0..=text.len().min(MAX_DETAIL)).rev();
    let end = ends.find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}
