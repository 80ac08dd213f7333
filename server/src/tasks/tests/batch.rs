//! Dispatch in a real lane, where rows have to be loaded: a batch whose jobs each take the next agent, or the next task, needs few
//! round trips. One that needs too many fails.

use std::sync::Arc;

use futures::future::join_all;

use super::fleet::{Fleet, delegation, labels};
use crate::lane::{Call, Lanes, Urgency};
use crate::registry;
use crate::store::{Sqlite, Store};
use crate::tail::Tail;
use crate::tasks::rules::{self, Word};
use crate::tasks::{Task, TaskState};

const AGENTS: usize = 400;
const TASKS: usize = 1_200;

/// A lane over a store with a fleet that waits for work on streams.
async fn fleet_in_a_store(slots: i32) -> (Store, Lanes, Arc<str>) {
    let store = Store::Sqlite(Sqlite::open_ephemeral().expect("a temporary directory"));
    let lanes = Lanes::new(
        store.clone(),
        Tail::alone(store.clone()).await,
        crate::sessions::gap::Gap::new(),
        crate::config::Retention::default(),
    );
    let namespace: Arc<str> = "default".into();
    let mut fleet = Fleet::new();
    for number in 0..AGENTS {
        fleet.join(&format!("agent-{number:03}"), &["lint", "test"], labels(&[]), slots);
    }
    let (agents, sessions) = (fleet.world.agents.known(), fleet.world.sessions.known());
    let call = Call::internal(&namespace, Urgency::Normal);
    let register = move |world: &mut crate::lane::World| {
        for (agent, session) in agents.iter().zip(&sessions) {
            let session = sessions
                .iter()
                .find(|other| Some(&other.session_id) == agent.session_id.as_ref())
                .unwrap_or(session);
            world.agents.put((**agent).clone());
            registry::rules::offer(world, (**session).clone())?;
        }
        Ok(())
    };
    lanes.run(call, |_| {}, register).await.expect("registered");
    (store, lanes, namespace)
}

async fn delegate_all(lanes: &Lanes, namespace: &Arc<str>) -> Vec<Task> {
    let delegating = (0..TASKS).map(|number| {
        let wanted = delegation(&format!("task-{number:04}"), ["lint", "test"][number % 2]);
        let call = Call::internal(namespace, Urgency::Normal);
        lanes.run(call, |_| {}, move |world| rules::delegate(world, wanted.clone()))
    });
    let delegated = join_all(delegating).await.into_iter();
    delegated
        .map(|committed| committed.expect("delegated").answer)
        .collect()
}

#[tokio::test]
async fn a_thousand_tasks_delegated_at_once_are_spread_over_the_fleet() {
    let (_store, lanes, namespace) = fleet_in_a_store(3).await;
    let tasks = delegate_all(&lanes, &namespace).await;
    assert!(tasks.iter().all(|task| task.state == TaskState::Assigned));
    let mut agents: Vec<&str> = tasks.iter().map(|task| task.agent_id.as_str()).collect();
    agents.sort_unstable();
    agents.dedup();
    assert_eq!(agents.len(), AGENTS);
}

#[tokio::test]
async fn completions_at_once_leave_no_slot_idle() {
    let (store, lanes, namespace) = fleet_in_a_store(1).await;
    delegate_all(&lanes, &namespace).await;
    let mut completed = 0;
    while completed < TASKS {
        let selection = crate::store::Selection {
            index: Task::BY_AGE,
            prefix: Vec::new(),
            after: None,
            limit: TASKS,
            backwards: false,
        };
        let (_, tasks) = store.select::<Task>(&namespace, selection).await.expect("read");
        let assigned: Vec<Task> = tasks
            .into_iter()
            .filter(|task| task.state == TaskState::Assigned)
            .collect();
        assert_eq!(
            assigned.len(),
            AGENTS.min(TASKS - completed),
            "no slot is idle while a task waits"
        );
        completed += assigned.len();
        let completing = assigned.into_iter().map(|task| {
            let word = Word {
                session_id: task.session_id.unwrap_or_default(),
                task_id: task.task_id,
                attempt_token: task.attempt_token,
            };
            let wanted = word.clone();
            let call = Call::internal(&namespace, Urgency::High);
            let reads = move |world: &mut crate::lane::World| rules::want_word(world, &wanted);
            lanes.run(call, reads, move |world| rules::complete(world, &word, None, &[]))
        });
        for committed in join_all(completing).await {
            committed.expect("completed");
        }
    }
}
