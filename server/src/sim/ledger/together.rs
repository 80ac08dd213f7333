//! What holds between the rooms: what has ended holds nothing, nobody waits for what is there, and counts are what they count.

use std::collections::BTreeMap;

use super::{Batch, Space, Verdict};
use crate::locks::{Lock, Waiter};
use crate::registry::Offer;
use crate::sessions::{ENDED_KEPT, Session};
use crate::store::row::Value;
use crate::tasks::{Queue, Task, TaskState};

impl Space {
    pub(super) fn check_together(&self, batch: &Batch) -> Verdict {
        if batch.changes::<Session>() {
            released(batch)?;
        }
        if batch.changes::<Lock>() || batch.changes::<Task>() {
            self.attempts_hold(batch)?;
        }
        if batch.changes::<Lock>() || batch.changes::<Waiter>() {
            places(batch)?;
        }
        if batch.changes::<Queue>() || batch.changes::<Offer>() {
            nobody_waits_in_vain(batch)?;
        }
        Ok(())
    }

    /// A lock that is not about to be looked at is not of an attempt that is over.
    fn attempts_hold(&self, batch: &Batch) -> Verdict {
        for lock in batch.memory.rows::<Lock>(batch.namespace) {
            let Some(token) = lock.attempt_token.as_ref().filter(|_| lock.due_at > batch.head.now) else {
                continue;
            };
            let task = token.rsplit_once('#').and_then(|(task_id, _)| self.tasks.get(task_id));
            let is_current = task.is_some_and(|task| {
                let goes_on = matches!(task.state, TaskState::Assigned | TaskState::Running);
                goes_on && task.attempt_token == *token && task.session_id == lock.session_id
            });
            if !is_current {
                return Err(format!("{lock:?} is of an attempt that is over: {task:?}"));
            }
        }
        Ok(())
    }
}

/// A session that has ended, and is only looked at again to be deleted, has nothing.
fn released(batch: &Batch) -> Verdict {
    let (memory, namespace) = (batch.memory, batch.namespace);
    for session in batch.put::<Session>() {
        let is_done = session
            .ended_at
            .is_some_and(|at| session.due_at == Some(at + ENDED_KEPT));
        if session.is_live() || !is_done {
            continue;
        }
        let prefix = || vec![Value::Text(session.session_id.clone())];
        let tasks = memory.select::<Task>(namespace, Task::BY_SESSION, prefix());
        let locks = memory.select::<Lock>(namespace, Lock::BY_SESSION, prefix());
        let waiters = memory.select::<Waiter>(namespace, Waiter::BY_SESSION, prefix());
        if tasks.len() + locks.len() + waiters.len() > 0 {
            return Err(format!("{session:?} still has {tasks:?} {locks:?} {waiters:?}"));
        }
    }
    Ok(())
}

/// The queue of a lock is as long as the lock says, and who waits waits for a lock.
fn places(batch: &Batch) -> Verdict {
    let mut waiting: BTreeMap<String, i32> = BTreeMap::new();
    for waiter in batch.memory.rows::<Waiter>(batch.namespace) {
        *waiting.entry(waiter.resource_id).or_default() += 1;
    }
    for lock in batch.memory.rows::<Lock>(batch.namespace) {
        let length = waiting.remove(&lock.resource_id).unwrap_or(0);
        if lock.queue_length != length {
            return Err(format!("{length} wait for {lock:?}"));
        }
    }
    match waiting.is_empty() {
        true => Ok(()),
        false => Err(format!("they wait, and nobody holds what they wait for: {waiting:?}")),
    }
}

/// No task waits while an agent that could take it is free, unless somebody is looking for one.
fn nobody_waits_in_vain(batch: &Batch) -> Verdict {
    let queues: Vec<Queue> = batch.memory.rows(batch.namespace);
    if queues.is_empty() || queues.iter().any(|queue| queue.look.is_some()) {
        return Ok(());
    }
    let offers: Vec<Offer> = batch.memory.rows(batch.namespace);
    for queue in &queues {
        let is_taker = |offer: &&Offer| {
            let is_meant = queue
                .target_agent
                .as_ref()
                .is_none_or(|target| *target == offer.agent_id);
            offer.load.is_some()
                && offer.capability == queue.capability
                && is_meant
                && !queue.excluded.contains(&offer.agent_id)
        };
        if let Some(offer) = offers.iter().find(is_taker) {
            return Err(format!("{queue:?} waits while there is {offer:?}"));
        }
    }
    Ok(())
}
