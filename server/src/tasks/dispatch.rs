//! Which agent gets which task. Not a race: a rule, in the commit in which a task becomes ready or a slot becomes free.

use super::Task;
use crate::lane::{Decision, World};

/// Gives a ready task to the fittest free agent, or puts it into its queue. Puts the task's row.
pub fn place(world: &mut World, task: Task) -> Decision<Task> {
    let _ = (world, task);
    todo!()
}

/// Fills the free slots of an agent's session from the queues that it can serve.
pub fn fill(world: &mut World, session_id: &str) -> Decision<()> {
    let _ = (world, session_id);
    todo!()
}
