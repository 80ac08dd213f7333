//! Random histories of registrations and sessions, with what must hold after every step.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::rules::{self, Change, Registration};
use super::{Capability, OFFLINE_KEPT, SaidStatus};
use crate::lane::World;
use crate::sessions::rules as sessions;
use crate::sessions::{ENDED_KEPT, Life, Session};
use crate::time::Time;

#[derive(Clone, Debug)]
enum Step {
    Register {
        agent: u8,
        capabilities: u8,
        slots: i32,
    },
    Resume {
        session: usize,
        agent: u8,
        capabilities: u8,
    },
    Update {
        session: usize,
        capabilities: Option<u8>,
        status: Option<SaidStatus>,
        slots: Option<i32>,
    },
    Deregister {
        session: Option<usize>,
        agent: u8,
    },
    Connect {
        session: usize,
    },
    Disconnect {
        session: usize,
        generation: i64,
    },
    EndIfBroken {
        session: usize,
        generation: i64,
    },
    ForgetCalls {
        session: usize,
        generation: i64,
    },
    End {
        session: usize,
        life: Life,
    },
    Load {
        session: usize,
        in_flight: i32,
        polling: i32,
    },
    Wait {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0usize..12;
    let status = prop_oneof![
        Just(SaidStatus::Active),
        Just(SaidStatus::Busy),
        Just(SaidStatus::Draining)
    ];
    let life = prop_oneof![Just(Life::Expired), Just(Life::Deregistered)];
    prop_oneof![
        4 => (0u8..4, 0u8..8, 1i32..3).prop_map(|(agent, capabilities, slots)| Step::Register { agent, capabilities, slots }),
        1 => (session.clone(), 0u8..5, 0u8..8)
            .prop_map(|(session, agent, capabilities)| Step::Resume { session, agent, capabilities }),
        2 => (session.clone(), prop::option::of(0u8..8), prop::option::of(status), prop::option::of(1i32..4))
            .prop_map(|(session, capabilities, status, slots)| Step::Update { session, capabilities, status, slots }),
        1 => (prop::option::of(session.clone()), 0u8..4).prop_map(|(session, agent)| Step::Deregister { session, agent }),
        3 => session.clone().prop_map(|session| Step::Connect { session }),
        2 => (session.clone(), 0i64..4).prop_map(|(session, generation)| Step::Disconnect { session, generation }),
        1 => (session.clone(), 0i64..4).prop_map(|(session, generation)| Step::EndIfBroken { session, generation }),
        1 => (session.clone(), 0i64..4).prop_map(|(session, generation)| Step::ForgetCalls { session, generation }),
        1 => (session.clone(), life).prop_map(|(session, life)| Step::End { session, life }),
        2 => (session, 0i32..4, 0i32..2)
            .prop_map(|(session, in_flight, polling)| Step::Load { session, in_flight, polling }),
        1 => (1u64..100_000).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

fn capabilities(bits: u8) -> Vec<Capability> {
    let names = ["a", "b", "c"]
        .iter()
        .enumerate()
        .filter(|(bit, _)| bits & (1 << bit) != 0);
    let capability = |name: &str| Capability {
        name: name.to_owned(),
        ..Capability::default()
    };
    names.map(|(_, name)| capability(name)).collect()
}

fn registration(agent_id: String, bits: u8, slots: i32) -> Registration {
    Registration {
        agent_id,
        agent_name: String::new(),
        base_url: String::new(),
        labels: BTreeMap::new(),
        max_concurrent_tasks: slots,
        capabilities: capabilities(bits),
        ttl: Duration::from_secs(3),
        traceparent: String::new(),
    }
}

struct History {
    world: World,
    /// Every session that was opened, in order.
    opened: Vec<Session>,
    /// Those that were seen to have ended, and how.
    dead: BTreeMap<String, Life>,
}

impl History {
    fn session_id(&self, number: usize) -> String {
        self.opened
            .get(number)
            .map_or("none".to_owned(), |session| session.session_id.clone())
    }

    fn take(&mut self, step: &Step) {
        let now = self.world.now();
        match step {
            Step::Register {
                agent,
                capabilities,
                slots,
            } => {
                let session_id = format!("session-{}", self.opened.len());
                let registration = registration(format!("agent-{agent}"), *capabilities, *slots);
                let registered = self
                    .world
                    .attempt(|world| rules::register(world, registration.clone(), &session_id, None));
                let registered = registered.expect("registering is never refused");
                assert!(!registered.resumed);
                self.opened.push(registered.session);
            }
            Step::Resume {
                session,
                agent,
                capabilities,
            } => {
                let agent_id = if *agent == 4 {
                    String::new()
                } else {
                    format!("agent-{agent}")
                };
                let session_id = self.session_id(*session);
                let registration = registration(agent_id.clone(), *capabilities, 1);
                let resumed = self
                    .world
                    .attempt(|world| rules::register(world, registration.clone(), "unused", Some(&session_id)));
                let opened = self.opened.get(*session);
                let fits = opened.is_some_and(|session| agent_id.is_empty() || session.agent_id == agent_id);
                let alive = opened.is_some() && !self.dead.contains_key(&session_id);
                assert_eq!(resumed.is_ok(), fits && alive);
                if let Ok(resumed) = resumed {
                    assert_eq!(resumed.session.session_id, session_id);
                    assert_eq!(resumed.session.incarnation, self.opened[*session].incarnation);
                }
            }
            Step::Update {
                session,
                capabilities: bits,
                status,
                slots,
            } => {
                let change = Change {
                    capabilities: bits.map(capabilities),
                    status: *status,
                    max_concurrent_tasks: *slots,
                    ..Change::default()
                };
                let session_id = self.session_id(*session);
                let alive = *session < self.opened.len() && !self.dead.contains_key(&session_id);
                let updated = self
                    .world
                    .attempt(|world| rules::update(world, &session_id, "", change.clone(), ""));
                assert_eq!(updated.is_ok(), alive);
            }
            Step::Deregister { session, agent } => {
                let session_id = session.map(|session| self.session_id(session));
                let agent_id = session.map_or(format!("agent-{agent}"), |_| String::new());
                let _ = self
                    .world
                    .attempt(|world| rules::deregister(world, session_id.as_deref(), &agent_id));
            }
            Step::Connect { session } => {
                let session_id = self.session_id(*session);
                let alive = *session < self.opened.len() && !self.dead.contains_key(&session_id);
                let connected = self.world.attempt(|world| sessions::connect(world, &session_id));
                assert_eq!(connected.is_ok(), alive);
            }
            Step::Disconnect { session, generation } => {
                let session_id = self.session_id(*session);
                let _ = self
                    .world
                    .attempt(|world| sessions::disconnect(world, &session_id, *generation));
            }
            Step::EndIfBroken { session, generation } => self.end_if_broken(*session, *generation),
            Step::ForgetCalls { session, generation } => {
                let session_id = self.session_id(*session);
                let _ = self
                    .world
                    .attempt(|world| sessions::forget_calls(world, &session_id, *generation));
            }
            Step::End { session, life } => {
                let session_id = self.session_id(*session);
                let _ = self.world.attempt(|world| sessions::end(world, &session_id, *life));
            }
            Step::Load {
                session,
                in_flight,
                polling,
            } => {
                let session_id = self.session_id(*session);
                let _ = self.world.attempt(|world| {
                    let session = sessions::live(world, &session_id)?;
                    let session = Session {
                        in_flight: *in_flight,
                        polling: *polling,
                        ..Session::clone(&session)
                    };
                    rules::offer(world, session)
                });
            }
            Step::Wait { seconds } => self.wait(now + Duration::from_secs(*seconds)),
        }
    }

    fn end_if_broken(&mut self, session: usize, generation: i64) {
        let session_id = self.session_id(session);
        let before = self.world.sessions.get(&session_id).expect("whole");
        let _ = self
            .world
            .attempt(|world| sessions::end_if_broken(world, &session_id, generation));
        let after = self.world.sessions.get(&session_id).expect("whole");
        let died = before.as_ref().is_some_and(|session| session.is_live())
            && !after.as_ref().is_some_and(|session| session.is_live());
        let may_die = before.is_some_and(|session| session.generation == generation && !session.connected);
        assert!(
            !died || may_die,
            "a stream that was resumed does not die of the older one's end"
        );
    }

    /// Time passes, and what is due is looked at.
    fn wait(&mut self, until: Time) {
        self.world.set_now(until);
        for session in self.world.sessions.known() {
            let _ = self.world.attempt(|world| sessions::due(world, &session.session_id));
        }
        for agent in self.world.agents.known() {
            let _ = self.world.attempt(|world| rules::due(world, &agent.agent_id));
        }
    }

    fn check(&mut self) {
        self.check_lives();
        self.check_agents();
        self.check_offers();
    }

    /// A dead session is never live again, and its row goes only when it is old.
    fn check_lives(&mut self) {
        let now = self.world.now();
        for opened in &self.opened {
            let session = self.world.sessions.get(&opened.session_id).expect("whole");
            match (session, self.dead.get(&opened.session_id)) {
                (Some(session), Some(life)) => assert_eq!(session.life, *life),
                (Some(session), None) if !session.is_live() => {
                    assert!(!session.connected && session.polling == 0 && session.ended_at == Some(now));
                    self.dead.insert(session.session_id.clone(), session.life);
                }
                (Some(session), None) => assert_eq!(session.due_at, None),
                (None, Some(_)) => assert!(now.since(opened.started_at) >= ENDED_KEPT),
                (None, None) => panic!("the row of a live session is gone"),
            }
        }
    }

    /// Incarnations go up, and the current session is the newest.
    fn check_agents(&mut self) {
        let mut last: BTreeMap<&str, &Session> = BTreeMap::new();
        for session in &self.opened {
            if let Some(before) = last.insert(&session.agent_id, session)
                && self.world.now().since(before.started_at) < OFFLINE_KEPT
            {
                assert!(session.incarnation > before.incarnation);
            }
        }
        for agent in self.world.agents.known() {
            let newest = last[agent.agent_id.as_str()];
            assert_eq!(agent.incarnation, newest.incarnation);
            assert_eq!(
                agent.is_listed(),
                agent.session_id.is_some() || agent.offline_at.is_some()
            );
            match &agent.session_id {
                Some(session_id) => {
                    assert_eq!(session_id, &newest.session_id);
                    assert!(!self.dead.contains_key(session_id));
                    assert_eq!((agent.offline_at, agent.due_at), (None, None));
                }
                None => assert!(agent.due_at.is_some()),
            }
        }
        for session in self.world.sessions.known() {
            if session.is_live() {
                let agent = self
                    .world
                    .agents
                    .get(&session.agent_id)
                    .expect("whole")
                    .expect("its agent");
                assert_eq!(agent.session_id.as_ref(), Some(&session.session_id));
            }
        }
    }

    /// There are offers for exactly what live sessions' agents can do, and they say what the session can take.
    fn check_offers(&mut self) {
        let mut expected = BTreeMap::new();
        for agent in self.world.agents.known() {
            let Some(session_id) = &agent.session_id else { continue };
            let session = self
                .world
                .sessions
                .get(session_id)
                .expect("whole")
                .expect("its session");
            let open = (session.connected || session.polling > 0)
                && agent.said_status == SaidStatus::Active
                && session.in_flight < agent.max_concurrent_tasks;
            let load = open.then_some(session.in_flight);
            let names = agent.capabilities.iter().map(|capability| capability.name.as_str());
            for name in names.chain([""]) {
                expected.insert((name.to_owned(), agent.agent_id.clone()), (session_id.clone(), load));
            }
        }
        let offers = self.world.offers.known();
        let found = offers.iter().map(|offer| {
            (
                (offer.capability.clone(), offer.agent_id.clone()),
                (offer.session_id.clone(), offer.load),
            )
        });
        assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_dead_stay_dead_and_offers_are_of_the_living(steps in prop::collection::vec(step(), 1..60)) {
        let mut history = History {
            world: World::whole(Time(1_000_000_000_000_000), 7),
            opened: Vec::new(),
            dead: BTreeMap::new(),
        };
        for step in &steps {
            history.take(step);
            history.check();
        }
    }
}

#[test]
fn a_new_registration_ends_the_older_session_for_good() {
    let mut world = World::whole(Time(1_000_000), 1);
    let first = world
        .attempt(|world| rules::register(world, registration("a".into(), 1, 1), "s1", None))
        .unwrap();
    let second = world
        .attempt(|world| rules::register(world, registration("a".into(), 1, 1), "s2", None))
        .unwrap();
    assert_eq!((first.agent.incarnation, second.agent.incarnation), (1, 2));
    let refusal = world.attempt(|world| sessions::live(world, "s1")).unwrap_err();
    assert_eq!(refusal.reason().name(), "SESSION_SUPERSEDED");
    assert_eq!(
        world.events().len(),
        2,
        "the new registration is all that is said of it"
    );
}

#[test]
fn an_incarnation_outlives_a_goodbye() {
    let mut world = World::whole(Time(1_000_000), 1);
    world
        .attempt(|world| rules::register(world, registration("a".into(), 1, 1), "s1", None))
        .unwrap();
    world
        .attempt(|world| rules::deregister(world, Some("s1"), "a"))
        .unwrap();
    assert_eq!(
        world
            .attempt(|world| rules::deregister(world, None, "a"))
            .unwrap_err()
            .reason()
            .name(),
        "AGENT_NOT_FOUND"
    );
    let again = world
        .attempt(|world| rules::register(world, registration("a".into(), 1, 1), "s2", None))
        .unwrap();
    assert_eq!(again.agent.incarnation, 2);
}
