//! Who could take a queue's tasks.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lane::{Decision, Halt, World};
use crate::registry::{Agent, Offer};
use crate::sessions::Session;
use crate::store::row::{Row, Value};
use crate::tasks::{Queue, Task};

/// How many offers are looked at once the first does not fit.
const PAGE: usize = 16;
/// Of how many open offers the agents are loaded when one has to be: the jobs behind this one want the next.
const PREFETCH: usize = 64;

/// What came of looking for a taker.
pub(super) enum Found {
    /// This session takes it.
    Taker(Arc<Session>),
    /// Nobody is free who could.
    Nobody,
    /// Nobody was among those that could be looked at. To be looked at after this agent, in the order of names.
    Cut(String),
}

/// Looks for a free agent for a queue's tasks: the fittest first, or, to go on with a look, in the order of names after one.
pub(super) fn find(world: &mut World, queue: &Queue, after: Option<&str>, looks: &mut usize) -> Decision<Found> {
    if let Some(target) = &queue.target_agent {
        let offer = world.offers.get(&(queue.capability.clone(), target.clone()))?;
        let taker = match offer.filter(|offer| fits(queue, offer)) {
            Some(offer) => taker(world, &offer)?,
            None => None,
        };
        return Ok(taker.map_or(Found::Nobody, Found::Taker));
    }
    let capability = Value::Text(queue.capability.clone());
    let (index, prefix) = match after {
        None => (Offer::OPEN, vec![capability.clone()]),
        Some(_) => (Offer::PRIMARY, Vec::new()),
    };
    let mut passed = after.map(|agent_id| vec![capability, Value::Text(agent_id.to_owned())]);
    let mut page = 1;
    loop {
        let offers = world.offers.select_after(index, &prefix, passed.as_deref(), page)?;
        let is_last = offers.len() < page;
        for offer in offers {
            if offer.capability != queue.capability {
                return Ok(Found::Nobody);
            }
            if fits(queue, &offer)
                && let Some(session) = taker(world, &offer)?
            {
                return Ok(Found::Taker(session));
            }
            if *looks == 0 {
                return Ok(Found::Cut(after.map_or_else(String::new, |_| name_before(&passed))));
            }
            *looks -= 1;
            passed = offer.place(&Offer::TABLE.indexes[index]).map(|(_, place)| place);
        }
        if is_last {
            return Ok(Found::Nobody);
        }
        page = PAGE;
    }
}

/// The agent of a place in the primary key.
fn name_before(place: &Option<Vec<Value>>) -> String {
    match place.as_deref() {
        Some([_, Value::Text(agent_id)]) => agent_id.clone(),
        _ => String::new(),
    }
}

/// Whether there is an agent that may have a task, free or not. So many are looked at; of those behind them nobody knows, and a task
/// that waits for them might wait for ever.
pub(in crate::tasks) fn another_could(world: &mut World, task: &Task) -> Decision<bool> {
    let queue = &super::queues::of(task);
    let after = [Value::Text(queue.capability.clone()), Value::Text(String::new())];
    let offers = world
        .offers
        .select_after(Offer::PRIMARY, &[], Some(&after), super::MAX_LOOKS)?;
    let ours = |offer: &&Arc<Offer>| offer.capability == queue.capability;
    let mut ours = offers.iter().filter(ours);
    Ok(ours.any(|offer| admits(queue, &offer.agent_id, &offer.labels)))
}

/// Whether a queue's tasks may go to an agent.
fn admits(queue: &Queue, agent_id: &String, labels: &BTreeMap<String, String>) -> bool {
    let meets = |(name, value): (&String, &String)| labels.get(name) == Some(value);
    queue.requirements.iter().all(meets) && !queue.excluded.contains(agent_id)
}

fn fits(queue: &Queue, offer: &Offer) -> bool {
    offer.load.is_some() && admits(queue, &offer.agent_id, &offer.labels)
}

/// Whether an agent could take a queue's tasks.
pub(super) fn meets(queue: &Queue, agent: &Agent) -> bool {
    let has = |name: &String| agent.capabilities.iter().any(|capability| capability.name == *name);
    (queue.capability.is_empty() || has(&queue.capability)) && admits(queue, &agent.agent_id, &agent.labels)
}

/// Whether a session can take another task.
pub(super) fn is_open(world: &mut World, session: &Session) -> Decision<bool> {
    let offer = world.offers.get(&(String::new(), session.agent_id.clone()))?;
    let is_open = offer.is_some_and(|offer| offer.load.is_some() && offer.session_id == session.session_id);
    Ok(is_open && session.is_live())
}

/// The session behind an offer, if it lives. Everything is loaded then that an assignment changes.
fn taker(world: &mut World, offer: &Offer) -> Decision<Option<Arc<Session>>> {
    let session = behind(world, offer);
    if let Err(Halt::Load) = session {
        prefetch(world, &offer.capability);
    }
    Ok(session?.filter(|session| session.is_live()))
}

fn behind(world: &mut World, offer: &Offer) -> Decision<Option<Arc<Session>>> {
    let session = world.sessions.get(&offer.session_id);
    let agent = world.agents.get(&offer.agent_id);
    let (session, agent) = (session?, agent?);
    for key in agent.iter().flat_map(|agent| offers_of(agent)) {
        world.offers.want(&key);
    }
    for key in agent.iter().flat_map(|agent| offers_of(agent)) {
        world.offers.get(&key)?;
    }
    Ok(session)
}

fn offers_of(agent: &Agent) -> impl Iterator<Item = (String, String)> + '_ {
    let names = agent.capabilities.iter().map(|capability| capability.name.clone());
    names
        .chain(std::iter::once(String::new()))
        .map(|name| (name, agent.agent_id.clone()))
}

/// Asks for what the next jobs of the batch will want when each takes the next offer, or each would cost round trips of its own.
fn prefetch(world: &mut World, capability: &str) {
    let prefix = [Value::Text(capability.to_owned())];
    let Ok(offers) = world.offers.select(Offer::OPEN, &prefix, PREFETCH) else {
        return;
    };
    for offer in offers {
        world.sessions.want(&offer.session_id);
        // What is not loaded is asked for by the failed look at it.
        if let Ok(Some(agent)) = world.agents.get(&offer.agent_id) {
            for key in offers_of(&agent) {
                world.offers.want(&key);
            }
        }
    }
}
