//! After everything that went wrong nothing goes wrong any more: then, within a bounded time, whatever was begun is brought to its end,
//! nobody waits in vain, nothing that is due is left lying, and every server knows what the store has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use tokio::time::{Instant, sleep};

use super::net::{Client, door};
use super::world::World;
use crate::locks::{Lock, Waiter};
use crate::registry::{Agent, Offer};
use crate::sessions::Session;
use crate::store::simulated::Memory;
use crate::tasks::{Task, TaskState};
use crate::time::Time;
use crate::workflows::{Workflow, WorkflowState};

/// How long everything may take to come to its end.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long something that is due may be left lying.
const OVERDUE: Duration = Duration::from_secs(5);
/// Roles that go on for ever.
const ENDLESS: [&str; 3] = ["subscriber", "unary", "stream"];

/// Waits until everything has come to its end.
pub async fn settle(world: &Arc<World>) {
    let begun = Instant::now();
    let until = begun + PATIENCE;
    let mut without = BTreeMap::new();
    loop {
        sleep(Duration::from_millis(500)).await;
        let now: BTreeSet<String> = without_a_stream(world).into_iter().collect();
        without.retain(|session, _| now.contains(session));
        for session in now {
            let since = *without.entry(session.clone()).or_insert_with(Instant::now);
            if since.elapsed() > OVERDUE {
                let violation = format!("{session} has a stream, and is not known to");
                return world.ledger().violation(violation);
            }
        }
        if let Some(left) = left_lying(world).filter(|_| begun.elapsed() > OVERDUE) {
            return world.ledger().violation(format!("left lying: {left}"));
        }
        let open = open(world);
        if open.is_empty() && without.is_empty() {
            break;
        }
        if Instant::now() > until {
            let violation = format!("{PATIENCE:?} after the last trouble: {open:#?}");
            return world.ledger().violation(violation);
        }
    }
    directories(world).await;
    world.ledger().note("settled", String::new);
}

/// The sessions whose agents have a stream, and which have none in the store.
fn without_a_stream(world: &World) -> Vec<String> {
    let links = world.ledger().links.clone();
    let has_one = |memory: &Memory, namespace: &str, session_id: &String| {
        let session = memory.row::<Session>(namespace, session_id);
        session.is_some_and(|session| session.connected)
    };
    world.database.look(|memory| {
        let without = links
            .iter()
            .filter(|(session_id, (namespace, _))| !has_one(memory, namespace, session_id));
        without.map(|(session_id, _)| session_id.clone()).collect()
    })
}

/// Something that is long due, and that nobody looks at.
fn left_lying(world: &World) -> Option<String> {
    let now = Time::of_this_machine();
    let is_overdue = |due_at: Option<Time>| due_at.is_some_and(|due_at| due_at + OVERDUE < now);
    fn first<R: std::fmt::Debug>(rows: Vec<R>, is_overdue: impl Fn(&R) -> bool) -> Option<String> {
        rows.iter().find(|row| is_overdue(row)).map(|row| format!("{row:?}"))
    }
    world.database.look(|memory| {
        let namespaces = memory.namespaces();
        let mut left = namespaces.iter().filter_map(|namespace| {
            first(memory.rows::<Lock>(namespace), |lock| is_overdue(Some(lock.due_at)))
                .or_else(|| {
                    first(memory.rows::<Waiter>(namespace), |waiter| {
                        is_overdue(Some(waiter.due_at))
                    })
                })
                .or_else(|| first(memory.rows::<Task>(namespace), |task| is_overdue(task.due_at)))
                .or_else(|| {
                    first(memory.rows::<Workflow>(namespace), |workflow| {
                        is_overdue(workflow.due_at)
                    })
                })
                .or_else(|| first(memory.rows::<Session>(namespace), |session| is_overdue(session.due_at)))
                .or_else(|| first(memory.rows::<Agent>(namespace), |agent| is_overdue(agent.due_at)))
        });
        left.next()
    })
}

/// What has not come to its end.
fn open(world: &World) -> Vec<String> {
    let is_endless = |name: &String| ENDLESS.iter().any(|role| name.starts_with(role));
    let unfinished = world.unfinished();
    let mut open: Vec<String> = unfinished.iter().filter(|name| !is_endless(name)).cloned().collect();
    let ledger = world.ledger();
    let subscribers = unfinished.iter().filter(|name| name.starts_with(ENDLESS[0]));
    let behind = subscribers.filter(|name| !ledger.is_up_to_date(name));
    open.extend(behind.map(|name| format!("{name} is behind")));
    drop(ledger);
    world.database.look(|memory| {
        for namespace in memory.namespaces() {
            of_namespace(memory, &namespace, &mut open);
        }
    });
    open
}

fn of_namespace(memory: &Memory, namespace: &str, open: &mut Vec<String>) {
    let now = Time::of_this_machine();
    let offers = memory.rows::<Offer>(namespace);
    let is_overdue = |due_at: Option<Time>| due_at.is_some_and(|due_at| due_at + OVERDUE < now);
    // A task that everybody has rejected who could do it waits for somebody else.
    let is_stranded = |task: &Task| {
        let mut able = offers.iter().filter(|offer| offer.capability == task.capability);
        !task.excluded.is_empty() && able.all(|offer| task.excluded.contains(&offer.agent_id))
    };
    let mut stranded = BTreeSet::new();
    for task in memory.rows::<Task>(namespace) {
        if task.state == TaskState::Pending && is_stranded(&task) {
            stranded.extend(task.workflow_id);
        } else if !task.state.is_ended() || is_overdue(task.due_at) {
            open.push(format!("{task:?}"));
        }
    }
    for workflow in memory.rows::<Workflow>(namespace) {
        let is_open = workflow.state == WorkflowState::Running && !stranded.contains(&workflow.workflow_id);
        if is_open || is_overdue(workflow.due_at) {
            open.push(format!("{workflow:?}"));
        }
    }
    open.extend(
        memory
            .rows::<Waiter>(namespace)
            .iter()
            .map(|waiter| format!("{waiter:?}")),
    );
    open.extend(memory.rows::<Lock>(namespace).iter().map(|lock| format!("{lock:?}")));
    let sessions = memory.rows::<Session>(namespace);
    for session in &sessions {
        if is_overdue(session.due_at) {
            open.push(format!("{session:?}"));
        }
    }
    for agent in memory.rows::<Agent>(namespace) {
        if is_overdue(agent.due_at) {
            open.push(format!("{agent:?}"));
        }
    }
    let lives = |offer: &Offer| {
        let mut live = sessions.iter().filter(|session| session.is_live());
        live.any(|session| session.session_id == offer.session_id)
    };
    let dead = offers.iter().filter(|offer| !lives(offer));
    open.extend(dead.map(|offer| format!("{offer:?}")));
}

/// Every server knows every agent as it is, as soon as it can have heard of it.
async fn directories(world: &Arc<World>) {
    for namespace in world.database.look(Memory::namespaces) {
        for server in (0..world.plan.servers).filter(|server| !world.has_gone(*server)) {
            let until = Instant::now() + OVERDUE;
            while let Err(difference) = directory(world, &namespace, server).await {
                if Instant::now() > until {
                    let violation = format!("server {server}, of {namespace}: {difference}");
                    return world.ledger().violation(violation);
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Whether a server knows every agent of a namespace as the store does.
async fn directory(world: &World, namespace: &str, server: usize) -> Result<(), String> {
    let client = Client {
        at: server,
        ..Client::new(&world.net, "inspector")
    };
    let request = v1::ListAgentsRequest {
        namespace: namespace.to_owned(),
        page_size: 1_000,
        ..Default::default()
    };
    let listed = client.once(OVERDUE, request, door!(registry.list_agents)).await;
    let listed = listed.map_err(|failure| format!("it does not list its agents: {failure:?}"))?;
    let listed: BTreeMap<String, i64> = listed
        .agents
        .iter()
        .filter(|agent| agent.status() != v1::agent::Status::Offline)
        .map(|agent| (agent.agent_id.clone(), agent.session_incarnation))
        .collect();
    let stored: BTreeMap<String, i64> = world.database.look(|memory| {
        let sessions = memory.rows::<Session>(namespace).into_iter();
        sessions
            .filter(Session::is_live)
            .map(|session| (session.agent_id.clone(), session.incarnation))
            .collect()
    });
    if listed == stored {
        return Ok(());
    }
    Err(format!("it knows {listed:?}, and the store {stored:?}"))
}
