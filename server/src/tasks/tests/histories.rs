//! Random histories, with wrong and hostile words among the right ones. After each step everything must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::fleet::{Fleet, delegation, failure, labels};
use crate::error::Reason;
use crate::sessions::Life;
use crate::tasks::rules::{Delegation, Word};
use crate::tasks::{Task, TaskState};
use crate::time::Time;

#[derive(Clone, Debug)]
enum Step {
    Join {
        agent: u8,
        capabilities: u8,
        zone: u8,
        capacity: i32,
    },
    Die {
        agent: u8,
    },
    Delegate {
        capability: u8,
        target: Option<u8>,
        zone: Option<u8>,
        priority: i32,
        delay: u64,
        deadline: Option<u64>,
        attempts: i32,
    },
    Word {
        kind: u8,
        pick: usize,
    },
    Stale {
        kind: u8,
        pick: usize,
    },
    Foreign {
        kind: u8,
        pick: usize,
        agent: u8,
    },
    Cancel {
        pick: usize,
    },
    Pass {
        seconds: u64,
        gap: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..9u8, 0..8u8, 0..3u8, 1..4).prop_map(|(agent, capabilities, zone, capacity)| Step::Join { agent, capabilities, zone, capacity }),
        1 => (0..9u8).prop_map(|agent| Step::Die { agent }),
        6 => (0..3u8, prop::option::weighted(0.2, 0..9u8), prop::option::weighted(0.4, 0..4u8), -2..3, 0..3u64, prop::option::weighted(0.2, 1..60u64), 1..4)
            .prop_map(|(capability, target, zone, priority, delay, deadline, attempts)| {
                let delay = delay.saturating_sub(1);
                Step::Delegate { capability, target, zone, priority, delay, deadline, attempts }
            }),
        10 => (0..6u8, any::<usize>()).prop_map(|(kind, pick)| Step::Word { kind, pick }),
        2 => (0..6u8, any::<usize>()).prop_map(|(kind, pick)| Step::Stale { kind, pick }),
        1 => (0..6u8, any::<usize>(), 0..9u8).prop_map(|(kind, pick, agent)| Step::Foreign { kind, pick, agent }),
        1 => any::<usize>().prop_map(|pick| Step::Cancel { pick }),
        2 => (0..700u64, any::<bool>()).prop_map(|(seconds, gap)| Step::Pass { seconds: seconds * seconds / 700, gap }),
    ]
}

const CAPABILITIES: [&str; 3] = ["lint", "test", "write"];

/// What was seen so far, which must stay true.
#[derive(Default)]
struct Seen {
    ended: BTreeMap<String, Arc<Task>>,
    attempts: BTreeMap<String, i32>,
    /// Words of attempts that are over.
    stale: Vec<Word>,
    current: BTreeMap<String, Word>,
    /// Tasks whose completion an event tells.
    completed: BTreeSet<String>,
    events: usize,
    delegated: usize,
}

fn say(fleet: &mut Fleet, kind: u8, word: &Word) -> Result<(), crate::error::Refusal> {
    match kind {
        0 => fleet.reject(word),
        1 => fleet.fail(word, &failure("crash")),
        2 => fleet
            .world
            .attempt(|world| crate::tasks::rules::progress(world, word, 500_000, "half", None)),
        3 => fleet.accept(word),
        _ => fleet.complete(word, 1),
    }
}

fn take(fleet: &mut Fleet, seen: &mut Seen, step: Step) {
    match step {
        Step::Join {
            agent,
            capabilities,
            zone,
            capacity,
        } => {
            let has = |bit: &usize| capabilities & (1 << bit) != 0;
            let capabilities: Vec<&str> = (0..3).filter(has).map(|bit| CAPABILITIES[bit]).collect();
            let labels = labels(&[("zone", ["north", "south", "east"][usize::from(zone)])]);
            fleet.join(&format!("agent-{agent}"), &capabilities, labels, capacity);
        }
        Step::Die { agent } => {
            if let Some(session_id) = fleet.session_of(&format!("agent-{agent}")) {
                fleet.end(&session_id, Life::Expired);
            }
        }
        Step::Delegate {
            capability,
            target,
            zone,
            priority,
            delay,
            deadline,
            attempts,
        } => {
            let wanted = Delegation {
                priority,
                delay: Duration::from_secs(delay),
                deadline: deadline.map(Duration::from_secs),
                progress_timeout: (attempts == 2).then_some(Duration::from_secs(30)),
                ..aimed(seen.delegated, capability, target, zone)
            };
            delegate(fleet, wanted, attempts);
            seen.delegated += 1;
        }
        Step::Word { kind, pick } => {
            let words: Vec<Word> = seen.current.values().cloned().collect();
            if !words.is_empty() {
                say(fleet, kind, &words[pick % words.len()]).expect("the current attempt's word is heard");
            }
        }
        Step::Stale { kind, pick } => {
            if seen.stale.is_empty() {
                return;
            }
            let word = seen.stale[pick % seen.stale.len()].clone();
            must_refuse(fleet, kind, &word);
        }
        Step::Foreign { kind, pick, agent } => {
            let words: Vec<Word> = seen.current.values().cloned().collect();
            let session_id = fleet.session_of(&format!("agent-{agent}"));
            if let (false, Some(session_id)) = (words.is_empty(), session_id) {
                let word = &words[pick % words.len()];
                if word.session_id != session_id {
                    must_refuse(
                        fleet,
                        kind,
                        &Word {
                            session_id,
                            ..word.clone()
                        },
                    );
                }
            }
        }
        Step::Cancel { pick } => {
            let tasks = fleet.world.tasks.known();
            if let Some(task) = tasks.get(pick % tasks.len().max(1)) {
                let refused = fleet.cancel(&task.task_id).is_err();
                assert_eq!(refused, task.state.is_ended());
            }
        }
        Step::Pass { seconds, gap } => {
            if gap {
                fleet.gap_end = fleet.world.now();
            }
            fleet.pass(Duration::from_secs(seconds));
        }
    }
}

fn aimed(number: usize, capability: u8, target: Option<u8>, zone: Option<u8>) -> Delegation {
    let zones = ["north", "south", "east", "nowhere"];
    let zone = zone.map(|zone| labels(&[("zone", zones[usize::from(zone)])]));
    Delegation {
        target_agent: target.map(|agent| format!("agent-{agent}")).unwrap_or_default(),
        requirements: zone.unwrap_or_default(),
        ..delegation(&format!("task-{number:03}"), CAPABILITIES[usize::from(capability)])
    }
}

fn delegate(fleet: &mut Fleet, mut wanted: Delegation, attempts: i32) {
    wanted.retry.max_attempts = attempts;
    fleet.delegate(wanted.clone()).expect("the id is new");
    assert_eq!(fleet.delegate(wanted).unwrap_err().reason(), Reason::TaskExists);
}

/// A word that must change nothing: but a completion said again by the attempt that completed is heard.
fn must_refuse(fleet: &mut Fleet, kind: u8, word: &Word) {
    let before = fleet.world.tasks.known();
    let events = fleet.world.events().len();
    let outcome = say(fleet, kind, word);
    let repeated = before.iter().any(|task| {
        task.task_id == word.task_id && task.state == TaskState::Completed && task.attempt_token == word.attempt_token
    });
    match outcome {
        Ok(()) => assert!(kind >= 4 && repeated, "{word:?} was heard"),
        Err(refusal) => {
            let reasons = [Reason::StaleAttempt, Reason::SessionEnded, Reason::SessionSuperseded];
            assert!(reasons.contains(&refusal.reason()));
        }
    }
    assert_eq!(before, fleet.world.tasks.known());
    assert_eq!(events, fleet.world.events().len());
}

fn note(fleet: &Fleet, seen: &mut Seen) {
    let tasks = fleet.world.tasks.known();
    for task in &tasks {
        let attempt = seen.attempts.entry(task.task_id.clone()).or_default();
        assert!(task.attempt >= *attempt, "attempts go up");
        *attempt = task.attempt;
        match seen.ended.get(&task.task_id) {
            Some(ended) => assert_eq!(ended, task, "what has ended stays as it is"),
            None if task.state.is_ended() => {
                seen.ended.insert(task.task_id.clone(), Arc::clone(task));
            }
            None => {}
        }
        let max_attempts = task.retry.max_attempts;
        assert!(task.failed_attempts <= max_attempts);
        let word = task.session_id.is_some().then(|| fleet.word(&task.task_id));
        let before = match word {
            Some(word) => seen.current.insert(task.task_id.clone(), word),
            None => seen.current.remove(&task.task_id),
        };
        if let Some(before) = before
            && (task.session_id.is_none() || before.attempt_token != task.attempt_token)
        {
            seen.stale.push(before);
        }
    }
    let events = fleet.world.events();
    for event in events[seen.events..]
        .iter()
        .filter(|event| event.event_type == "task.completed")
    {
        assert!(
            seen.completed.insert(event.subject.clone()),
            "a result is recorded once"
        );
    }
    seen.events = events.len();
    for task in tasks {
        assert_eq!(
            task.state == TaskState::Completed,
            seen.completed.contains(&task.task_id)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn every_promise_holds_in_every_history(steps in prop::collection::vec(step(), 1..120)) {
        let mut fleet = Fleet::new();
        let mut seen = Seen::default();
        for step in steps {
            take(&mut fleet, &mut seen, step);
            fleet.settle();
            fleet.check();
            note(&fleet, &mut seen);
        }
        // Everything that has ended is deleted some day.
        let ended: Vec<String> = seen.ended.keys().cloned().collect();
        fleet.gap_end = Time(0);
        fleet.pass(crate::config::Retention::default().tasks);
        for task_id in ended {
            prop_assert!(fleet.world.tasks.known().iter().all(|task| task.task_id != task_id));
            prop_assert!(fleet.world.payloads.known().iter().all(|payload| payload.owner_id != task_id));
        }
    }

    #[test]
    fn an_agent_gets_the_best_of_all_its_queues_first(
        tasks in prop::collection::vec((0..4usize, -3..4, 0..2u64), 1..40),
        capacity in 1..6,
    ) {
        let mut fleet = Fleet::new();
        for (number, (capability, priority, wait)) in tasks.iter().enumerate() {
            let wanted = Delegation {
                priority: *priority,
                target_agent: if *capability == 3 { "a".to_owned() } else { String::new() },
                ..delegation(&format!("task-{number:03}"), ["lint", "test", "write", ""][*capability])
            };
            fleet.delegate(wanted).unwrap();
            fleet.pass(Duration::from_secs(*wait));
        }
        let mut best: Vec<_> = fleet.world.tasks.known();
        best.sort_by_key(|task| (-task.priority, task.ready_at, task.task_id.clone()));
        fleet.join("a", &CAPABILITIES, labels(&[]), capacity);
        fleet.settle();
        for task in best {
            let word = fleet.word(&task.task_id);
            prop_assert!(!word.session_id.is_empty(), "{} is not next", task.task_id);
            fleet.complete(&word, 1).unwrap();
            fleet.settle();
            fleet.check();
        }
    }
}
