//! Random histories of a few resources, sessions, attempts and requests, with a model beside them that knows only the log.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::store::row::Value;

#[derive(Clone, Debug)]
enum Step {
    Acquire {
        resource: usize,
        session: usize,
        request: usize,
        wait: u64,
        attempt: bool,
    },
    ShowToken {
        resource: usize,
        session: usize,
        token: usize,
    },
    Take {
        resource: usize,
        call: usize,
    },
    Leave {
        resource: usize,
        call: usize,
    },
    Abandon {
        resource: usize,
        call: usize,
    },
    Renew {
        resource: usize,
        session: usize,
        token: usize,
    },
    Release {
        resource: usize,
        session: usize,
        token: usize,
    },
    Sleep {
        millis: u64,
    },
    Sweep {
        gap_ago: u64,
    },
    Kill {
        session: usize,
    },
    Bury {
        session: usize,
        limit: usize,
    },
    EndAttempt {
        session: usize,
        cleaned: bool,
    },
    Reincarnate {
        session: usize,
    },
}

const RESOURCES: usize = 3;
const SESSIONS: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let resource = 0..RESOURCES;
    // One beyond is no session at all.
    let session = 0..=SESSIONS;
    let recent = 0..6usize;
    prop_oneof![
        8 => (resource.clone(), session.clone(), 0..6usize, 0..8u64, prop::bool::weighted(0.3)).prop_map(
            |(resource, session, request, wait, attempt)| Step::Acquire { resource, session, request, wait, attempt }
        ),
        1 => (resource.clone(), session.clone(), recent.clone())
            .prop_map(|(resource, session, token)| Step::ShowToken { resource, session, token }),
        3 => (resource.clone(), recent.clone()).prop_map(|(resource, call)| Step::Take { resource, call }),
        2 => (resource.clone(), recent.clone()).prop_map(|(resource, call)| Step::Leave { resource, call }),
        2 => (resource.clone(), recent.clone()).prop_map(|(resource, call)| Step::Abandon { resource, call }),
        1 => (resource.clone(), session.clone(), recent.clone())
            .prop_map(|(resource, session, token)| Step::Renew { resource, session, token }),
        5 => (resource.clone(), session.clone(), recent.clone())
            .prop_map(|(resource, session, token)| Step::Release { resource, session, token }),
        3 => (0..3_000u64).prop_map(|millis| Step::Sleep { millis }),
        3 => (0..12_000u64).prop_map(|gap_ago| Step::Sweep { gap_ago }),
        1 => (0..SESSIONS).prop_map(|session| Step::Kill { session }),
        1 => (0..SESSIONS, 1..3usize).prop_map(|(session, limit)| Step::Bury { session, limit }),
        1 => (0..SESSIONS, any::<bool>()).prop_map(|(session, cleaned)| Step::EndAttempt { session, cleaned }),
        1 => (0..SESSIONS).prop_map(|session| Step::Reincarnate { session }),
    ]
}

/// A world, and what a reader of its log knows.
struct History {
    world: World,
    calls: Vec<String>,
    /// Tokens that were granted on each resource, in the order of the log.
    tokens: BTreeMap<String, Vec<i64>>,
    /// Who holds each resource, by the log.
    holders: BTreeMap<String, i64>,
    /// How often each session was born.
    lives: [usize; SESSIONS],
    read: usize,
    granted: usize,
}

impl History {
    fn new() -> History {
        let mut history = History {
            world: world(),
            calls: Vec::new(),
            tokens: BTreeMap::new(),
            holders: BTreeMap::new(),
            lives: [0; SESSIONS],
            read: 0,
            granted: 0,
        };
        for number in 0..SESSIONS {
            history.birth(number);
        }
        history
    }

    fn session_id(&self, number: usize) -> Option<String> {
        let life = self.lives.get(number)?;
        Some(format!("s{number}-{life}"))
    }

    fn task_id(&self, number: usize) -> String {
        format!("task-{number}-{}", self.lives[number])
    }

    fn birth(&mut self, number: usize) {
        self.lives[number] += 1;
        let id = self.session_id(number).unwrap();
        session(&mut self.world, &id, Life::Live);
        let task_id = self.task_id(number);
        attempt(&mut self.world, &task_id, &id, TaskState::Running);
    }

    /// One of the last calls.
    fn call(&self, back: usize) -> String {
        self.calls.iter().rev().nth(back).cloned().unwrap_or_default()
    }

    /// One of the last tokens of a resource.
    fn token(&self, resource: usize, back: usize) -> i64 {
        let tokens = self.tokens.get(&name(resource));
        tokens
            .and_then(|tokens| tokens.iter().rev().nth(back))
            .copied()
            .unwrap_or(1)
    }

    /// Does what a step says; what it refuses must leave no trace, which the checks see.
    fn run(&mut self, step: &Step) {
        let before = self.world.waiters.known();
        match step.clone() {
            Step::Acquire { .. } | Step::ShowToken { .. } => self.acquire(step),
            Step::Take { resource, call } => {
                let call = self.call(call);
                let _ = self.world.attempt(|world| take(world, &None, &name(resource), &call));
            }
            Step::Leave { resource, call } => {
                let call = self.call(call);
                let _ = self.world.attempt(|world| leave(world, &None, &name(resource), &call));
            }
            Step::Abandon { resource, call } => {
                let call = self.call(call);
                let _ = self.world.attempt(|world| abandon(world, &name(resource), &call));
            }
            Step::Renew {
                resource,
                session,
                token,
            } => {
                let wish = Renewal {
                    session_id: self.session_id(session),
                    resource_id: name(resource),
                    token: self.token(resource, token),
                    ttl: None,
                };
                let _ = self.world.attempt(|world| renew(world, &wish));
            }
            Step::Release {
                resource,
                session,
                token,
            } => {
                let wish = Release {
                    session_id: self.session_id(session),
                    resource_id: name(resource),
                    token: self.token(resource, token),
                    traceparent: String::new(),
                };
                let _ = self.world.attempt(|world| release(world, &wish));
            }
            Step::Sleep { millis } => later(&mut self.world, Duration::from_millis(millis)),
            Step::Sweep { gap_ago } => self.sweep(Duration::from_millis(gap_ago)),
            Step::Kill { session: number } => self.kill(number),
            Step::Bury { session: number, limit } => {
                self.kill(number);
                let id = self.session_id(number).unwrap();
                let _ = self.world.attempt(|world| end_of_session(world, &id, limit)).unwrap();
            }
            Step::EndAttempt {
                session: number,
                cleaned,
            } => {
                let (id, task_id) = (self.session_id(number).unwrap(), self.task_id(number));
                let token = attempt(&mut self.world, &task_id, &id, TaskState::Completed);
                if cleaned {
                    self.world.attempt(|world| end_of_attempt(world, &token)).unwrap();
                }
            }
            Step::Reincarnate { session: number } => {
                self.kill(number);
                self.bury(number);
                self.birth(number);
            }
        }
        self.read_log(&before);
        self.check();
    }

    fn acquire(&mut self, step: &Step) {
        let call_id = format!("call-{}", self.calls.len());
        self.calls.push(call_id.clone());
        let wish = match *step {
            Step::Acquire {
                resource,
                session,
                request,
                wait,
                attempt,
            } => {
                let attempt = attempt && session < SESSIONS;
                Acquire {
                    call_id,
                    session_id: self.session_id(session),
                    // Requests are their sessions' own, but for one that all of them claim.
                    request_id: match request {
                        0..=2 => String::new(),
                        3 => "common".to_owned(),
                        request => format!("{request}-{session}-{}", self.calls.len() / 16),
                    },
                    resource_id: name(resource),
                    holder_id: format!("h{session}"),
                    ttl: Duration::from_secs(1 + wait % 3),
                    wait: Duration::from_millis(wait * 700),
                    attempt_token: attempt.then(|| format!("{}#secret", self.task_id(session))),
                    ..Acquire::default()
                }
            }
            Step::ShowToken {
                resource,
                session,
                token,
            } => Acquire {
                call_id,
                session_id: self.session_id(session),
                resource_id: name(resource),
                holder_id: "shown".to_owned(),
                ttl: TTL,
                token: Some(self.token(resource, token)),
                ..Acquire::default()
            },
            _ => return,
        };
        let _ = self.world.attempt(|world| acquire(world, &wish));
    }

    fn sweep(&mut self, gap_ago: Duration) {
        let now = self.world.now();
        for waiter in self.world.waiters.known() {
            if waiter.due_at <= now {
                let (resource_id, place) = (waiter.resource_id.clone(), waiter.place);
                self.world
                    .attempt(|world| waiter_due(world, &resource_id, place))
                    .unwrap();
            }
        }
        for lock in self.world.locks.known() {
            self.world
                .attempt(|world| lock_due(world, &lock.resource_id, now - gap_ago))
                .unwrap();
        }
    }

    fn kill(&mut self, number: usize) {
        let id = self.session_id(number).unwrap();
        session(&mut self.world, &id, Life::Expired);
    }

    fn bury(&mut self, number: usize) {
        let id = self.session_id(number).unwrap();
        while !self.world.attempt(|world| end_of_session(world, &id, 2)).unwrap() {}
        let of_session = [Value::Text(id)];
        let locks = self
            .world
            .attempt(|world| world.locks.select(Lock::BY_SESSION, &of_session, 1));
        let waiters = self
            .world
            .attempt(|world| world.waiters.select(Waiter::BY_SESSION, &of_session, 1));
        assert!(locks.unwrap().is_empty() && waiters.unwrap().is_empty());
    }

    /// Follows the log: one holder at a time, tokens that grow, first come first served.
    fn read_log(&mut self, before: &[Arc<Waiter>]) {
        let events = self.world.events()[self.read..].to_vec();
        self.read += events.len();
        let mut served = HashSet::new();
        for event in events {
            let data = event.payload.as_ref().unwrap().json().unwrap();
            let token = data["fencing_token"].as_i64().unwrap();
            let resource = event.subject.clone();
            if event.event_type != "resource.locked" {
                assert_eq!(
                    self.holders.remove(&resource),
                    Some(token),
                    "only the holder's lease ends"
                );
                continue;
            }
            assert_eq!(
                self.holders.insert(resource.clone(), token),
                None,
                "two holders of {resource}"
            );
            let tokens = self.tokens.entry(resource.clone()).or_default();
            assert!(tokens.last().is_none_or(|last| *last < token), "tokens grow");
            tokens.push(token);
            self.granted += 1;
            if event.causation_id.is_empty() {
                let passed = before.iter().find(|waiter| waiter.resource_id == resource);
                assert!(passed.is_none_or(|_| !served.is_empty()), "nobody jumps the queue");
                continue;
            }
            served.insert(event.causation_id.clone());
            let granted = before
                .iter()
                .find(|waiter| waiter.call_id == event.causation_id)
                .unwrap();
            for earlier in before.iter().filter(|waiter| waiter.resource_id == resource) {
                let passed_over = earlier.place < granted.place && !served.contains(&earlier.call_id);
                assert!(!passed_over || !self.is_alive(earlier), "{earlier:?} was passed over");
            }
        }
    }

    fn is_alive(&mut self, waiter: &Waiter) -> bool {
        let act = self
            .world
            .attempt(|world| may_act(world, &waiter.session_id, &waiter.attempt_token));
        act.unwrap() && waiter.due_at > self.world.now()
    }

    fn check(&mut self) {
        let locks = self.world.locks.known();
        let waiters = self.world.waiters.known();
        for lock in &locks {
            let queue = waiters.iter().filter(|waiter| waiter.resource_id == lock.resource_id);
            assert_eq!(lock.queue_length as usize, queue.count(), "the length of the queue");
            let holder = self.holders.get(&lock.resource_id).copied().unwrap_or(0);
            assert_eq!(lock.token, holder, "the row says what the log says");
            assert!(
                lock.is_held() || lock.due_at <= self.world.now(),
                "nobody holds it, and nobody looks"
            );
        }
        assert_eq!(self.holders.len(), locks.iter().filter(|lock| lock.is_held()).count());
        for waiter in &waiters {
            let lock = locks.iter().find(|lock| lock.resource_id == waiter.resource_id);
            let lock = lock.expect("nobody waits for a lock that is free");
            assert!(waiter.place < lock.next_place);
        }
        for (resource_id, tokens) in &self.tokens {
            for token in tokens.iter().rev().take(4) {
                let guards = [Guard {
                    resource_id: resource_id.clone(),
                    token: *token,
                }];
                let passes = self.world.attempt(|world| check_guards(world, &guards)).is_ok();
                let lock = locks
                    .iter()
                    .find(|lock| lock.resource_id == *resource_id && lock.token == *token);
                let holds = lock.is_some_and(|lock| {
                    let may_act = |world: &mut World| may_act(world, &lock.session_id, &lock.attempt_token);
                    self.world.attempt(may_act).unwrap()
                });
                assert_eq!(passes, holds, "a guard passes if and only if its holder holds");
            }
        }
    }

    /// Nobody says anything any more: everything ends by itself.
    fn settle(&mut self) {
        for number in 0..SESSIONS {
            let before = self.world.waiters.known();
            self.kill(number);
            self.bury(number);
            self.read_log(&before);
        }
        for _ in 0..400 {
            let before = self.world.waiters.known();
            later(&mut self.world, Duration::from_millis(500));
            self.sweep(Duration::from_secs(3_600));
            self.read_log(&before);
            self.check();
            if self.world.locks.known().is_empty() {
                break;
            }
        }
        assert!(self.world.locks.known().is_empty() && self.world.waiters.known().is_empty());
    }
}

fn name(resource: usize) -> String {
    format!("r{resource}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_promises(steps in prop::collection::vec(step(), 1..250)) {
        let mut history = History::new();
        for step in &steps {
            history.run(step);
        }
        history.settle();
        let asked = steps.iter().any(|step| matches!(step, Step::Acquire { attempt: false, session: SESSIONS, request: 0, .. }));
        prop_assert!(!asked || history.granted > 0);
    }
}
