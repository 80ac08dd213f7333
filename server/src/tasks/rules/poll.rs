//! Work for an agent without a stream: only while it asks.

use crate::lane::{Decision, World};
use crate::store::row::Value;
use crate::tasks::{Task, TaskState, dispatch};
use crate::{registry, sessions};

/// How many tasks of a session are read at a time.
const PAGE: usize = 256;

/// An agent asks for tasks: fills its slots, up to `most`, and returns what is assigned to it and not answered yet. If there is nothing,
/// and it waits, it can be given tasks from now on, until [`close_poll`]; else the poll is over.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED.
pub fn open_poll(world: &mut World, session_id: &str, poll_id: &str, most: i32, waits: bool) -> Decision<Vec<String>> {
    let session = sessions::rules::live(world, session_id)?;
    if session.poll_id.as_deref() != Some(poll_id) {
        let mut session = (*session).clone();
        session.poll_id = Some(poll_id.to_owned());
        world.sessions.put(session);
    }
    let most = usize::try_from(most).unwrap_or(0);
    let mut unanswered = all_unanswered(world, session_id)?;
    if unanswered.len() < most {
        set_polling(
            world,
            session_id,
            i32::try_from(most - unanswered.len()).unwrap_or(i32::MAX),
        )?;
        dispatch::fill(world, session_id)?;
        unanswered = all_unanswered(world, session_id)?;
    }
    if !unanswered.is_empty() || !waits {
        set_polling(world, session_id, 0)?;
    }
    unanswered.truncate(most);
    Ok(unanswered)
}

/// A call does not wait for tasks any more: returns what was assigned meanwhile. Where a newer call waits, perhaps at another server, that one
/// goes on.
pub fn close_poll(world: &mut World, session_id: &str, poll_id: &str) -> Decision<Vec<String>> {
    let session = world.sessions.get(&session_id.to_owned())?;
    let Some(session) = session.filter(|session| session.is_live()) else {
        return Ok(Vec::new());
    };
    if session.poll_id.as_deref() == Some(poll_id) {
        set_polling(world, session_id, 0)?;
    }
    all_unanswered(world, session_id)
}

fn set_polling(world: &mut World, session_id: &str, polling: i32) -> Decision<()> {
    let session = sessions::rules::live(world, session_id)?;
    if session.polling != polling {
        let mut session = (*session).clone();
        session.polling = polling;
        registry::rules::offer(world, session)?;
    }
    Ok(())
}

/// What is assigned to a session and neither accepted nor rejected. A session has a bounded number of tasks.
fn all_unanswered(world: &mut World, session_id: &str) -> Decision<Vec<String>> {
    let prefix = [Value::Text(session_id.to_owned())];
    let mut unanswered = Vec::new();
    let mut passed: Option<Vec<Value>> = None;
    loop {
        let tasks = world
            .tasks
            .select_after(Task::BY_SESSION, &prefix, passed.as_deref(), PAGE)?;
        let assigned = tasks.iter().filter(|task| task.state == TaskState::Assigned);
        unanswered.extend(assigned.map(|task| task.task_id.clone()));
        match tasks.last() {
            Some(last) if tasks.len() == PAGE => passed = Some(vec![Value::Text(last.task_id.clone())]),
            _ => return Ok(unanswered),
        }
    }
}
