//! The queues of ready tasks: which one a task waits in, and how it comes and goes.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::look;
use crate::lane::{Decision, World};
use crate::store::row::{Json, Value};
use crate::tasks::{Look, Queue, Task};
use crate::time::Time;

/// The queue that a task waits in, with the task alone in it.
pub(in crate::tasks) fn of(task: &Task) -> Queue {
    let mut excluded = task.excluded.0.clone();
    excluded.sort();
    excluded.dedup();
    let identity = (&task.capability, &task.target_agent, &task.requirements.0, &excluded);
    let identity = serde_json::to_vec(&identity).unwrap_or_default();
    let queue_id = HEXLOWER.encode(&Sha256::digest(identity)[..16]);
    let target_agent = Some(task.target_agent.clone()).filter(|target| !target.is_empty());
    Queue {
        queue_id,
        capability: task.capability.clone(),
        open_capability: target_agent.is_none().then(|| task.capability.clone()),
        target_agent,
        requirements: Json(task.requirements.0.clone()),
        excluded: Json(excluded),
        waiting: 1,
        first_rank: task.rank,
        first_ready_at: task.ready_at,
        first_task_id: task.task_id.clone(),
        look: Json(None),
    }
}

/// Where a queue stands among those of its index: that of its first task.
pub(super) fn order(queue: &Queue) -> (i32, Time, String) {
    (queue.first_rank, queue.first_ready_at, queue.first_task_id.clone())
}

/// The same as a place in the index.
pub(super) fn place_of(queue: &Queue) -> Vec<Value> {
    vec![
        Value::Int(queue.first_rank.into()),
        Value::Int(queue.first_ready_at.0),
        Value::Text(queue.first_task_id.clone()),
    ]
}

/// The index that a queue is found by, and the prefix.
fn index_of(queue: &Queue) -> (usize, Vec<Value>) {
    match &queue.target_agent {
        Some(target) => (Queue::BY_TARGET, vec![Value::Text(target.clone())]),
        None => (Queue::BY_CAPABILITY, vec![Value::Text(queue.capability.clone())]),
    }
}

/// The queue after a place of another's index.
pub(super) fn next(world: &mut World, queue: &Queue) -> Decision<Option<Queue>> {
    let (index, prefix) = index_of(queue);
    let next = world.queues.select_after(index, &prefix, Some(&place_of(queue)), 1)?;
    Ok(next.first().map(|queue| (**queue).clone()))
}

/// Puts a task into its queue. `cut`: there are more offers
/// than could be looked at; if the queue is new, the look goes on after that agent.
pub(super) fn join(world: &mut World, mut task: Task, mut queue: Queue, cut: Option<String>) -> Decision<Task> {
    task.queue_id = Some(queue.queue_id.clone());
    task.session_id = None;
    task.due_at = task.next_due(Time(0), world.retention());
    if let Some(known) = world.queues.get(&queue.queue_id)? {
        // Whoever is free was looked at for the tasks before this one, or is being looked at.
        let first = order(&queue);
        queue = (*known).clone();
        queue.waiting += 1;
        if first < order(&queue) {
            (queue.first_rank, queue.first_ready_at, queue.first_task_id) = first;
        }
    } else if cut.is_some() {
        task.due_at = Some(world.now());
        queue.look = Json(Some(Look {
            task_id: task.task_id.clone(),
            after: cut,
            onward: false,
        }));
    }
    world.queues.put(queue);
    world.tasks.put(task.clone());
    Ok(task)
}

/// Takes a task out of its queue. Does not put the task's row. A look that it was due for passes to the next.
pub(in crate::tasks) fn leave(world: &mut World, mut task: Task) -> Decision<Task> {
    let Some(queue_id) = task.queue_id.take() else {
        return Ok(task);
    };
    let Some(known) = world.queues.get(&queue_id)? else {
        return Ok(task);
    };
    let mut queue = (*known).clone();
    let look = queue.look.0.take_if(|look| look.task_id == task.task_id);
    queue.waiting -= 1;
    if queue.waiting <= 0 {
        let next = match &look {
            Some(look) if look.onward => next(world, &queue)?,
            _ => None,
        };
        world.queues.remove(&queue_id);
        if let Some(next) = next {
            look::begin_at(world, &next)?;
        }
        return Ok(task);
    }
    if queue.first_task_id == task.task_id {
        let first = world.tasks.select(Task::QUEUED, &[Value::Text(queue_id)], 2)?;
        if let Some(first) = first.iter().find(|first| first.task_id != task.task_id) {
            (queue.first_rank, queue.first_ready_at) = (first.rank, first.ready_at);
            queue.first_task_id = first.task_id.clone();
        }
    }
    world.queues.put(queue.clone());
    if let Some(look) = look {
        look::go_on(world, queue, look.after, look.onward)?;
    }
    Ok(task)
}

/// Takes the first task out of a queue.
pub(super) fn take_first(world: &mut World, queue: &Queue) -> Decision<Task> {
    let first = world.tasks.get(&queue.first_task_id)?;
    let Some(first) = first else {
        let message = "a queue's first task is not there";
        return Err(crate::error::Refusal::new(crate::error::Reason::Internal, message).into());
    };
    leave(world, (*first).clone())
}
