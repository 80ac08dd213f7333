//! A look for takers that was too long for one job, and goes on in others.
//!
//! Its state is in the queue that it has come to ([`Look`]); a task of that queue is due for it, and passes it on when it leaves. A look
//! that began because a new queue had too many free agents before it that do not fit ends with that queue. One that began because a free
//! agent had too many queues before it that it cannot serve goes onward through the queues behind, in their order, as long as anybody
//! is free.

use std::sync::Arc;

use super::offers::{self, Found};
use super::{MAX_LOOKS, assign, queues};
use crate::lane::{Decision, World};
use crate::registry::Offer;
use crate::store::row::{Json, Value};
use crate::tasks::{Look, Queue, Task};
use crate::time::Time;

/// Goes on with the look that this task is due for, if it is.
pub fn look(world: &mut World, task: &Arc<Task>) -> Decision<()> {
    let Some(queue_id) = &task.queue_id else {
        return Ok(());
    };
    let mut task = (**task).clone();
    task.due_at = task.next_due(Time(0), world.retention());
    let known = world.queues.get(queue_id)?;
    world.tasks.put(task.clone());
    let Some(known) = known else {
        return Ok(());
    };
    let mut queue = (*known).clone();
    let Some(look) = queue.look.0.take_if(|look| look.task_id == task.task_id) else {
        return Ok(());
    };
    world.queues.put(queue.clone());

    let mut looks = MAX_LOOKS;
    let mut after = look.after;
    loop {
        // Taken first: serving moves the queue back, or ends it.
        let next = if look.onward {
            queues::next(world, &queue)?
        } else {
            None
        };
        if let Some(after) = serve(world, &queue.queue_id, after, &mut looks)? {
            if let Some(queue) = world.queues.get(&queue.queue_id)? {
                go_on(world, (*queue).clone(), Some(after), look.onward)?;
            } else if let Some(next) = next {
                begin_at(world, &next)?;
            }
            return Ok(());
        }
        let Some(next) = next else {
            return Ok(());
        };
        if !anybody_is_free(world, &next)? {
            return Ok(());
        }
        if looks == 0 {
            return begin_at(world, &next);
        }
        looks -= 1;
        // What serving changed may be in it.
        queue = next;
        after = None;
    }
}

/// Gives the tasks of a queue to whoever is free, as far as one job goes; says after whom to go on if that was not all.
fn serve(world: &mut World, queue_id: &str, after: Option<String>, looks: &mut usize) -> Decision<Option<String>> {
    loop {
        let Some(queue) = world.queues.get(&queue_id.to_owned())? else {
            return Ok(None);
        };
        match offers::find(world, &queue, after.as_deref(), looks)? {
            Found::Nobody => return Ok(None),
            Found::Cut(after) => return Ok(Some(after)),
            Found::Taker(session) => {
                let task = queues::take_first(world, &queue)?;
                assign(world, task, &session)?;
                if *looks == 0 {
                    return Ok(Some(after.unwrap_or_default()));
                }
                *looks -= 1;
            }
        }
    }
}

/// Whether it makes sense to go on among the queues of this one's index.
fn anybody_is_free(world: &mut World, queue: &Queue) -> Decision<bool> {
    match &queue.target_agent {
        Some(target) => {
            let offer = world.offers.get(&(String::new(), target.clone()))?;
            Ok(offer.is_some_and(|offer| offer.load.is_some()))
        }
        None => {
            let prefix = [Value::Text(queue.capability.clone())];
            Ok(!world.offers.select(Offer::OPEN, &prefix, 1)?.is_empty())
        }
    }
}

/// From here on all queues are to be looked at, in a job that follows.
pub(super) fn begin_at(world: &mut World, queue: &Queue) -> Decision<()> {
    go_on(world, queue.clone(), None, true)
}

/// Makes the first task of a queue due for a look. If one is under way there, it begins again: it may have passed somebody who was
/// not free then.
pub(super) fn go_on(world: &mut World, mut queue: Queue, after: Option<String>, onward: bool) -> Decision<()> {
    if let Some(look) = &mut queue.look.0 {
        look.after = None;
        look.onward |= onward;
        world.queues.put(queue);
        return Ok(());
    }
    let Some(first) = world.tasks.get(&queue.first_task_id)? else {
        return Ok(());
    };
    let mut first = (*first).clone();
    first.due_at = Some(world.now());
    queue.look = Json(Some(Look {
        task_id: first.task_id.clone(),
        after,
        onward,
    }));
    world.tasks.put(first);
    world.queues.put(queue);
    Ok(())
}
