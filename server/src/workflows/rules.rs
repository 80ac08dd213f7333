//! How a workflow moves.

use crate::lane::{Decision, World};
use crate::tasks::Task;

/// Takes in the end of a task of a workflow: COMPLETED, FAILED or TIMED_OUT, or CANCELLED by a caller.
pub fn task_ended(world: &mut World, task: &Task) -> Decision<()> {
    let _ = (world, task);
    todo!()
}

/// Looks again at a workflow that is due: goes on with a bounded job, ends by its deadline, is deleted when old.
pub fn due(world: &mut World, workflow_id: &str) -> Decision<()> {
    let _ = (world, workflow_id);
    todo!()
}
