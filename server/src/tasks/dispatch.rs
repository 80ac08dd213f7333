//! Which agent gets which task. Not a race: a rule, in the commit in which a task becomes ready or a slot becomes free.
//!
//! ```text
//!  a task becomes ready ──▶ place: the fittest open offer that meets it ──▶ assign
//!                                    └ none: its queue
//!  a slot becomes free  ──▶ fill: the best first task of all queues that its agent can serve ──▶ assign, until it is full
//! ```
//!
//! So no task waits while an agent that could take it is free. Each of the two looks at so many rows in one job and no more, which is
//! enough unless hundreds of free agents, or hundreds of queues, are in the way that do not fit. Where it is not enough, the look
//! goes on in jobs of its own ([`look`]): one of the tasks that wait is made due for it. Whoever becomes free meanwhile looks for
//! itself, and what becomes ready meanwhile does too, so such a look has to pass everything only once.

mod look;
mod offers;
mod queues;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use super::rules::event;
use super::{Queue, Task, TaskState};
use crate::lane::{Decision, Halt, World};
use crate::registry::Agent;
use crate::sessions::Session;
use crate::store::row::Value;
use crate::{registry, time::Time};
pub use look::look;
use offers::Found;
pub(super) use offers::another_could;
pub(super) use queues::leave;

/// How many rows one job looks at in vain before it leaves the rest to another.
const MAX_LOOKS: usize = if cfg!(test) { 2 } else { 256 };
/// How many tasks one job gives to one agent before it leaves the rest to another.
const MAX_FILLS: usize = if cfg!(test) { 3 } else { 64 };

/// Gives a ready task to the fittest free agent, or puts it into its queue. Puts the task's row.
pub fn place(world: &mut World, task: Task) -> Decision<Task> {
    let queue = queues::of(&task);
    let mut looks = MAX_LOOKS;
    match offers::find(world, &queue, None, &mut looks)? {
        Found::Taker(session) => assign(world, task, &session),
        Found::Nobody => queues::join(world, task, queue, None),
        Found::Cut(after) => queues::join(world, task, queue, Some(after)),
    }
}

/// Writes an attempt: this task is that session's now. The task is in no queue.
fn assign(world: &mut World, mut task: Task, session: &Arc<Session>) -> Decision<Task> {
    let now = world.now();
    task.state = TaskState::Assigned;
    task.attempt += 1;
    task.attempt_token = format!("{}#{}", task.task_id, world.new_id());
    task.session_id = Some(session.session_id.clone());
    task.agent_id = session.agent_id.clone();
    task.assigned_at = Some(now);
    task.accepted_at = None;
    task.progressed_at = None;
    task.due_at = task.next_due(Time(0), world.retention());
    world.tasks.put(task.clone());
    let assigned = event("task.assigned", &task, json!({ "incarnation": session.incarnation }));
    world.emit(assigned.target(&task.agent_id));

    let mut session = (**session).clone();
    session.in_flight += 1;
    session.last_assigned_at = now;
    if !session.connected {
        session.polling = (session.polling - 1).max(0);
    }
    registry::rules::offer(world, session)?;
    Ok(task)
}

/// Takes a task off its session: the slot is free and filled again at once.
pub(super) fn release(world: &mut World, session_id: &str) -> Decision<()> {
    let Some(session) = world.sessions.get(&session_id.to_owned())? else {
        return Ok(());
    };
    let mut session = (*session).clone();
    session.in_flight = (session.in_flight - 1).max(0);
    if session.is_live() {
        registry::rules::offer(world, session)?;
        fill(world, session_id)
    } else {
        // It offers nothing any more.
        world.sessions.put(session);
        Ok(())
    }
}

/// The queues that an agent may serve, under one capability or for it alone, best first; and how far it has looked at them.
struct Source {
    index: usize,
    prefix: Vec<Value>,
    passed: Option<Vec<Value>>,
    best: Option<Arc<Queue>>,
}

/// Fills the free slots of an agent's session from the queues that it can serve.
pub fn fill(world: &mut World, session_id: &str) -> Decision<()> {
    let Some(session) = world.sessions.get(&session_id.to_owned())? else {
        return Ok(());
    };
    let Some(agent) = world.agents.get(&session.agent_id)? else {
        return Ok(());
    };
    if !offers::is_open(world, &session)? {
        return Ok(());
    }
    let mut looks = MAX_LOOKS;
    let mut sources = sources(&agent);
    // Every source asks for its rows before any goes without.
    let mut halt = None;
    for source in &mut sources {
        match advance(world, &agent, source, &mut looks) {
            Ok(()) => {}
            Err(Halt::Load) => halt = Some(Halt::Load),
            Err(refusal) => return Err(refusal),
        }
    }
    if let Some(halt) = halt {
        return Err(halt);
    }
    for _ in 0..MAX_FILLS {
        let best = sources.iter_mut().filter(|source| source.best.is_some());
        let Some(source) = best.min_by_key(|source| source.best.as_ref().map(|queue| queues::order(queue))) else {
            return Ok(());
        };
        let Some(queue) = source.best.take() else {
            return Ok(());
        };
        let Some(session) = world.sessions.get(&session_id.to_owned())? else {
            return Ok(());
        };
        let task = queues::take_first(world, &queue)?;
        assign(world, task, &session)?;
        if !offers::is_open(world, &session)? {
            return Ok(());
        }
        advance(world, &agent, source, &mut looks)?;
    }
    for queue in sources.into_iter().filter_map(|source| source.best) {
        look::begin_at(world, &queue)?;
    }
    Ok(())
}

fn sources(agent: &Agent) -> Vec<Source> {
    let source = |index, key: &String| Source {
        index,
        prefix: vec![Value::Text(key.clone())],
        passed: None,
        best: None,
    };
    // Each once: two views of one queue would not hear of each other.
    let names: BTreeSet<&String> = agent.capabilities.iter().map(|capability| &capability.name).collect();
    let open = names.into_iter().map(|name| source(Queue::BY_CAPABILITY, name));
    std::iter::once(source(Queue::BY_TARGET, &agent.agent_id))
        .chain(open)
        .collect()
}

/// Goes on to the next queue that the agent can serve. Where that takes too long the look goes on later.
fn advance(world: &mut World, agent: &Agent, source: &mut Source, looks: &mut usize) -> Decision<()> {
    source.best = None;
    loop {
        let next = world
            .queues
            .select_after(source.index, &source.prefix, source.passed.as_deref(), 1)?;
        let Some(queue) = next.into_iter().next() else {
            return Ok(());
        };
        if offers::meets(&queue, agent) {
            source.best = Some(queue);
            return Ok(());
        }
        if *looks == 0 {
            return look::begin_at(world, &queue);
        }
        *looks -= 1;
        source.passed = Some(queues::place_of(&queue));
    }
}
