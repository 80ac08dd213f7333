//! Whom to kill and when, and how long it took until the work was in other hands.
//!
//! An agent is to be killed once it has accepted a chunk (any task, where there are no chunks). News travel: by the time that it
//! is killed it may have finished, and then nothing is to be taken over. So it is the log that says whether the kill has hit: when
//! everything the dead agent had turns out to be finished, another agent is killed at its next task, up to [`MOST_KILLS`].
//!
//! The clock is the demo's own monotonic one. It runs from the SIGKILL to the moment that the acceptance by another agent is *heard
//! of*, so what is told is never better than what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::fact::Fact;
use super::work;

/// More agents than this are not killed, so that there is one to finish the work.
const MOST_KILLS: usize = 3;

/// What is still to be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    ChunkAccepted,
    AnyAccepted,
}

/// An agent that was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The agent.
    pub agent: String,
    /// When.
    pub at: Instant,
}

/// A task that a killed agent left undone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Orphan {
    killed_at: Instant,
    recovered_in: Option<Duration>,
}

/// What has happened so far, and what it means for who is to be killed.
#[derive(Debug)]
pub struct Chaos {
    wanted: Wanted,
    /// What each agent has been given and not finished.
    hands: BTreeMap<String, BTreeSet<String>>,
    kills: Vec<Kill>,
    orphans: BTreeMap<String, Orphan>,
}

/// What an event means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing in particular.
    Nothing,
    /// Kill this agent, now.
    Kill(String),
    /// Another agent has the work of a dead one, so long after its death.
    Recovered(Duration),
}

impl Chaos {
    /// Chaos, or none.
    pub fn new(enabled: bool, has_chunks: bool) -> Chaos {
        let wanted = match (enabled, has_chunks) {
            (false, _) => Wanted::Nothing,
            (true, true) => Wanted::ChunkAccepted,
            (true, false) => Wanted::AnyAccepted,
        };
        Chaos {
            wanted,
            hands: BTreeMap::new(),
            kills: Vec::new(),
            orphans: BTreeMap::new(),
        }
    }

    /// Takes an event in.
    pub fn hear(&mut self, fact: &Fact, now: Instant) -> Verdict {
        let (agent, task) = (fact.agent.as_str(), fact.subject.as_str());
        match fact.event_type.as_str() {
            "task.assigned" => self.hand(agent, task),
            "task.accepted" => {
                self.hand(agent, task);
                return self.accepted(fact, now);
            }
            "task.completed" | "task.failed" | "task.cancelled" | "task.timed_out" | "task.rejected" => {
                // A completion that overtook its acceptance is one, too.
                let verdict = self.recovered(task, agent, now);
                self.finished(agent, task);
                return verdict;
            }
            "task.reassigned" => {
                self.hands.entry(agent.to_owned()).or_default().remove(task);
                if let Some(kill) = self.kills.iter().find(|kill| kill.agent == agent) {
                    let orphan = Orphan {
                        killed_at: kill.at,
                        recovered_in: None,
                    };
                    self.orphans.insert(task.to_owned(), orphan);
                }
            }
            _ => {}
        }
        Verdict::Nothing
    }

    /// Says that an agent was killed.
    pub fn killed(&mut self, agent: &str, at: Instant) {
        self.wanted = Wanted::Nothing;
        let agent = agent.to_owned();
        self.kills.push(Kill { agent, at });
    }

    /// Who was killed, in order.
    pub fn kills(&self) -> &[Kill] {
        &self.kills
    }

    /// How many tasks of killed agents were accepted by others.
    pub fn recovered_tasks(&self) -> usize {
        let orphans = self.orphans.values();
        orphans.filter(|orphan| orphan.recovered_in.is_some()).count()
    }

    /// How long the slowest of them took, from the SIGKILL to the acceptance.
    pub fn slowest_recovery(&self) -> Option<Duration> {
        self.orphans.values().filter_map(|orphan| orphan.recovered_in).max()
    }

    fn hand(&mut self, agent: &str, task: &str) {
        self.hands.entry(agent.to_owned()).or_default().insert(task.to_owned());
    }

    fn accepted(&mut self, fact: &Fact, now: Instant) -> Verdict {
        let verdict = self.recovered(&fact.subject, &fact.agent, now);
        let hit = match self.wanted {
            Wanted::Nothing => false,
            Wanted::ChunkAccepted => fact.capability() == work::CHUNK,
            Wanted::AnyAccepted => true,
        };
        let alive = !self.kills.iter().any(|kill| kill.agent == fact.agent);
        match hit && alive {
            true => Verdict::Kill(fact.agent.clone()),
            false => verdict,
        }
    }

    fn recovered(&mut self, task: &str, agent: &str, now: Instant) -> Verdict {
        let dead = self.kills.iter().any(|kill| kill.agent == agent);
        match self.orphans.get_mut(task) {
            Some(orphan) if orphan.recovered_in.is_none() && !dead => {
                let took = now.saturating_duration_since(orphan.killed_at);
                orphan.recovered_in = Some(took);
                Verdict::Recovered(took)
            }
            _ => Verdict::Nothing,
        }
    }

    fn finished(&mut self, agent: &str, task: &str) {
        let hands = self.hands.entry(agent.to_owned()).or_default();
        hands.remove(task);
        let idle = hands.is_empty();
        let last = self.kills.last().is_some_and(|kill| kill.agent == agent);
        if last && idle && self.orphans.is_empty() && self.kills.len() < MOST_KILLS {
            self.wanted = Wanted::AnyAccepted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fact::tests::task_fact;
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn chunk(event: &str, task: &str, agent: &str) -> Fact {
        task_fact(event, task, work::CHUNK, agent, 1)
    }

    #[test]
    fn who_accepts_a_chunk_is_killed_and_its_work_is_clocked_until_another_has_it() {
        let now = Instant::now();
        let mut chaos = Chaos::new(true, true);
        let list = task_fact("task.accepted", "l", work::LIST, "a", 1);
        assert_eq!(chaos.hear(&list, now), Verdict::Nothing, "not a chunk");
        chaos.hear(&chunk("task.assigned", "2", "a"), now);
        let accepted = chunk("task.accepted", "1", "a");
        assert_eq!(chaos.hear(&accepted, now), Verdict::Kill("a".into()));
        chaos.killed("a", now);
        assert_eq!(
            chaos.hear(&chunk("task.accepted", "3", "b"), now),
            Verdict::Nothing,
            "one is enough"
        );
        chaos.hear(&chunk("task.reassigned", "1", "a"), now + MS(900));
        chaos.hear(&chunk("task.reassigned", "2", "a"), now + MS(900));
        let again = chunk("task.accepted", "1", "b");
        assert_eq!(chaos.hear(&again, now + MS(1_000)), Verdict::Recovered(MS(1_000)));
        assert_eq!(chaos.hear(&again, now + MS(1_500)), Verdict::Nothing, "only once");
        chaos.hear(&chunk("task.accepted", "2", "c"), now + MS(1_200));
        assert_eq!(
            (chaos.recovered_tasks(), chaos.slowest_recovery()),
            (2, Some(MS(1_200)))
        );
    }

    #[test]
    fn a_kill_that_came_too_late_is_followed_by_another() {
        let now = Instant::now();
        let mut chaos = Chaos::new(true, true);
        chaos.hear(&chunk("task.accepted", "1", "a"), now);
        chaos.killed("a", now);
        chaos.hear(&chunk("task.completed", "1", "a"), now);
        let reduce = task_fact("task.accepted", "r", work::REDUCE, "b", 1);
        assert_eq!(chaos.hear(&reduce, now), Verdict::Kill("b".into()));
        chaos.killed("b", now);
        chaos.hear(&task_fact("task.reassigned", "r", work::REDUCE, "b", 1), now);
        let again = task_fact("task.accepted", "r", work::REDUCE, "c", 2);
        assert_eq!(chaos.hear(&again, now + MS(5)), Verdict::Recovered(MS(5)));
    }

    #[test]
    fn without_chunks_any_task_will_do_and_without_chaos_none() {
        let now = Instant::now();
        let list = task_fact("task.accepted", "l", work::LIST, "a", 1);
        assert_eq!(Chaos::new(true, false).hear(&list, now), Verdict::Kill("a".into()));
        assert_eq!(Chaos::new(false, false).hear(&list, now), Verdict::Nothing);
    }
}
