use super::*;
use crate::lane::World;
use crate::registry::rules::{self, Change, Registration};
use crate::registry::{Capability, SaidStatus};
use crate::sessions::{Life, rules as sessions};
use crate::store::Head;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn registration(agent: u8, bits: u8) -> Registration {
    let capability = |name: &str| Capability {
        name: name.to_owned(),
        input_schema: ["", "{}"][usize::from(bits >> 2 & 1)].to_owned(),
        ..Capability::default()
    };
    Registration {
        agent_id: format!("agent-{agent}"),
        agent_name: String::new(),
        base_url: String::new(),
        labels: BTreeMap::new(),
        max_concurrent_tasks: 3,
        capabilities: ["a", "b"]
            .iter()
            .enumerate()
            .filter(|(bit, _)| bits & (1 << bit) != 0)
            .map(|(_, name)| capability(name))
            .collect(),
        ttl: Duration::from_secs(3),
        traceparent: String::new(),
    }
}

/// The rows as they are, as if a commit had changed them all.
fn commit_of(world: &World, only: Option<&str>) -> Commit {
    let is_wanted = |agent_id: &str| only.is_none_or(|only| only == agent_id);
    Commit {
        namespace: "default".into(),
        head: Head::clone(world.head()),
        events: Vec::new(),
        agents: world
            .agents
            .known()
            .into_iter()
            .filter(|row| is_wanted(&row.agent_id))
            .map(|row| (row.agent_id.clone(), Some(row)))
            .collect(),
        sessions: world
            .sessions
            .known()
            .into_iter()
            .filter(|row| is_wanted(&row.agent_id))
            .map(|row| (row.session_id.clone(), Some(row)))
            .collect(),
        locks: HashMap::default(),
        documents: HashMap::default(),
        tasks: HashMap::default(),
        payloads: HashMap::default(),
        workflows: HashMap::default(),
        next_due: None,
        own: true,
    }
}

fn snapshot_of(world: &World) -> Snapshot {
    Snapshot {
        agents: world.agents.known().iter().map(|row| Agent::clone(row)).collect(),
        sessions: world
            .sessions
            .known()
            .iter()
            .filter(|row| row.is_live())
            .map(|row| Session::clone(row))
            .collect(),
        position: world.head().position,
    }
}

/// What the directory must say, from the rows, without cleverness.
fn expected(world: &World, capability: &str) -> Vec<String> {
    let sessions: HashMap<String, Arc<Session>> = world
        .sessions
        .known()
        .into_iter()
        .map(|session| (session.session_id.clone(), session))
        .collect();
    let mut agents: Vec<_> = world
        .agents
        .known()
        .into_iter()
        .filter(|agent| agent.is_listed() && names(agent).any(|(name, _)| name == capability))
        .map(|agent| {
            let session = agent.session_id.as_ref().map(|id| &sessions[id]);
            let free = session.map_or(-1, |session| agent.free_slots(Some(session)));
            let last_assigned_at = session.map_or(Time(0), |session| session.last_assigned_at);
            (-free, last_assigned_at, agent.agent_id.clone())
        })
        .collect();
    agents.sort();
    agents.into_iter().map(|(_, _, agent_id)| agent_id).collect()
}

/// What those who are there want as input, and who wants it first.
fn expected_schemas<'a>(directory: &'a Directory, capability: &str) -> BTreeMap<&'a str, &'a str> {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    let there = directory.ranked(Some(""), None).map(|(_, entry)| entry);
    for entry in there.filter(|entry| entry.session.is_some()) {
        let agent_id = entry.agent.agent_id.as_str();
        for known in entry.agent.capabilities.iter().filter(|known| known.name == capability) {
            let first = first.entry(&known.input_schema).or_insert(agent_id);
            *first = agent_id.min(*first);
        }
    }
    first
}

/// One step on the agent: registers, ends, loads, says busy, says goodbye.
fn take(world: &mut World, step: u8, agent: u8, number: i32) {
    let agent_id = format!("agent-{agent}");
    let session_id = world
        .agents
        .get(&agent_id)
        .unwrap()
        .and_then(|agent| agent.session_id.clone())
        .unwrap_or_default();
    let _ = world.attempt(|world| match step {
        0 | 1 => rules::register(
            world,
            registration(agent, number as u8),
            &format!("s-{}", world.head().position),
            None,
        )
        .map(drop),
        2 => sessions::end(world, &session_id, Life::Expired),
        3 => {
            let session = sessions::live(world, &session_id)?;
            let last_assigned_at = Time(i64::from(number % 3));
            rules::offer(
                world,
                Session {
                    in_flight: number % 5,
                    last_assigned_at,
                    ..Session::clone(&session)
                },
            )
        }
        4 => {
            let status = if number % 2 == 0 {
                SaidStatus::Busy
            } else {
                SaidStatus::Active
            };
            let change = Change {
                status: Some(status),
                ..Change::default()
            };
            rules::update(world, &session_id, "", change, "").map(drop)
        }
        _ => rules::deregister(world, Some(&session_id), "").map(drop),
    });
}

proptest! {
    #[test]
    fn the_directory_says_what_the_rows_say(
        steps in prop::collection::vec((0u8..6, 0u8..6, 0i32..8), 1..60),
        read in 0usize..40,
        begun in 0usize..40,
    ) {
        let mut world = World::whole(Time(1_000_000), 3);
        let mut directory = Directory::default();
        directory.open();
        let mut snapshot = None;
        for (number, (step, agent, value)) in steps.iter().enumerate() {
            take(&mut world, *step, *agent, *value);
            directory.apply(&commit_of(&world, Some(&format!("agent-{agent}"))));
            // The store is read at one time and taken in at a later one; commits go on in between.
            if number == read {
                snapshot = Some(snapshot_of(&world));
            }
            if number >= begun && let Some(snapshot) = snapshot.take() {
                directory.begin(snapshot);
            }
            if directory.begun {
                for capability in ["", "a", "b"] {
                    let found: Vec<_> = directory.ranked(Some(capability), None).map(|(_, entry)| entry.agent.agent_id.clone()).collect();
                    prop_assert_eq!(&found, &expected(&world, capability));
                    for (_, entry) in directory.ranked(Some(capability), None) {
                        let id = entry.agent.session_id.as_ref();
                        let session = id.and_then(|id| world.sessions.get(id).unwrap()).filter(|session| session.is_live());
                        prop_assert_eq!(&entry.session, &session);
                    }
                    let schemas: BTreeMap<&str, &str> = directory.schemas(capability).collect();
                    prop_assert_eq!(schemas, expected_schemas(&directory, capability));
                    // Pages from any place go on where the place is.
                    let places: Vec<Place> = directory.ranked(Some(capability), None).map(|(place, _)| place.clone()).collect();
                    if let Some(middle) = places.get(places.len() / 2) {
                        let rest: Vec<_> = directory.ranked(Some(capability), Some(middle)).map(|(place, _)| place.clone()).collect();
                        prop_assert_eq!(&rest[..], &places[places.len() / 2 + 1..]);
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_watch_hears_of_each_agent_once_however_often_it_changed() {
    let mut world = World::whole(Time(1_000_000), 3);
    let mut directory = Directory::default();
    directory.open();
    directory.begin(snapshot_of(&world));
    let mut watch = directory.watch();
    for number in 0..10 {
        take(&mut world, 0, 1, number);
        take(&mut world, 0, 2, number);
        directory.apply(&commit_of(&world, None));
    }
    watch.changed().await;
    let mut changed: Vec<String> = watch.take().into_iter().collect();
    assert!(watch.is_empty());
    changed.sort();
    assert_eq!(changed, ["agent-1", "agent-2"]);
    drop(watch);
    directory.apply(&commit_of(&world, None));
    assert!(directory.watches.is_empty());
}
