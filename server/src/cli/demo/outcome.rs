//! What came of the demo, and whether it is what was promised.
//!
//! Nothing is taken from what the agents say of themselves: the results that the workflow has recorded are read back and put together
//! once more, here, against the list of files that was made before any agent began. What is not as it should be is a
//! [`problem`](Outcome::problems), and with one the demo has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use drumline::Client;
use drumline::v1 as pb;
use futures::TryStreamExt;
use serde::Serialize;
use serde_json::Value;

use super::chaos::Chaos;
use super::fact::Fact;
use super::review::report::{self, Irregularities, Summary};
use super::review::{CheckKind, ChunkResult};
use super::work::{self, Plan, Written};

/// What was counted while the events went by.
#[derive(Debug, Default)]
pub struct Tally {
    /// Events in the log.
    pub events: u64,
    completed: BTreeSet<String>,
    reassigned: BTreeSet<String>,
    /// Attempts that each agent lost.
    lost: BTreeMap<String, u64>,
    checkpoints: u64,
}

/// What one agent has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worker {
    /// Tasks that it ended, by the step's place.
    pub tasks: [u64; work::STEPS.len()],
    /// Files that it looked at.
    pub files: u64,
    /// What it found in them.
    pub findings: u64,
    /// Attempts that were taken from it.
    pub lost: u64,
}

/// What came of the demo.
#[derive(Debug)]
pub struct Outcome {
    /// Where the workflow is.
    pub state: String,
    /// Who did what, by agent.
    pub workers: BTreeMap<String, Worker>,
    /// What was found, put together from the recorded results.
    pub summary: Summary,
    /// The file that the report is in; empty if there is none.
    pub report: String,
    /// Tasks that were completed.
    pub tasks_completed: usize,
    /// Tasks that were given to another agent.
    pub tasks_reassigned: usize,
    /// From the SIGKILL to the acceptance of the last of its tasks elsewhere.
    pub recovery: Option<Duration>,
    /// Events in the log.
    pub events: u64,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

/// The object that programs read.
#[derive(Debug, Serialize)]
struct Line<'a> {
    workflow_state: &'a str,
    agents: usize,
    tasks_completed: usize,
    tasks_reassigned: usize,
    recovery_ms: u128,
    events: u64,
    findings: u64,
    report: &'a str,
}

impl Tally {
    /// Takes an event in.
    pub fn hear(&mut self, fact: &Fact) {
        self.events += 1;
        match fact.event_type.as_str() {
            "task.completed" => drop(self.completed.insert(fact.subject.clone())),
            "task.reassigned" => {
                self.reassigned.insert(fact.subject.clone());
                *self.lost.entry(fact.agent.clone()).or_default() += 1;
            }
            work::CHECKPOINT => self.checkpoints += 1,
            _ => {}
        }
    }
}

impl Outcome {
    /// Reads back what the workflow has recorded, and checks it.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn gather(
        client: &Client,
        workflow_id: &str,
        plan: &Plan,
        tally: &Tally,
        chaos: &Chaos,
        chaotic: bool,
    ) -> drumline::Result<Outcome> {
        let handle = client.workflows().handle(workflow_id);
        let workflow = handle.get().await?;
        let mut workers: BTreeMap<String, Worker> = BTreeMap::new();
        for (agent, lost) in &tally.lost {
            workers.entry(agent.clone()).or_default().lost = *lost;
        }
        let (mut results, mut reduced) = (Vec::new(), None);
        for (place, (step, capability)) in work::STEPS.into_iter().enumerate() {
            let mut subtasks = handle.step_results(step);
            while let Some(subtask) = subtasks.try_next().await? {
                let done = subtask.state() == pb::subtask::State::Completed;
                let worker = workers.entry(subtask.agent_id.clone()).or_default();
                worker.tasks[place] += u64::from(done);
                match capability {
                    work::CHUNK if done => {
                        let result: Value = drumline::payload::decode_opt(subtask.result.as_ref())?;
                        worker.add(&result);
                        results.push(result);
                    }
                    work::REDUCE => reduced = drumline::payload::decode_opt::<Summary>(subtask.result.as_ref()).ok(),
                    _ => {}
                }
            }
        }
        // A task that nobody has had is nobody's.
        workers.remove("");
        let mut outcome = Outcome {
            state: workflow.state().as_str_name().trim_start_matches("STATE_").to_owned(),
            workers,
            summary: report::merge(&plan.snapshot, &CheckKind::ALL, &results),
            report: String::new(),
            tasks_completed: tally.completed.len(),
            tasks_reassigned: tally.reassigned.len(),
            recovery: chaos.slowest_recovery(),
            events: tally.events,
            problems: Vec::new(),
        };
        if outcome.check_state(&workflow) {
            outcome.check_results(reduced.as_ref());
            outcome.check_report(client, &workflow, tally).await?;
        }
        if chaotic && chaos.recovered_tasks() == 0 {
            outcome
                .problems
                .push("no task was taken over from a killed agent".to_owned());
        }
        Ok(outcome)
    }

    fn check_state(&mut self, workflow: &pb::Workflow) -> bool {
        let completed = workflow.state() == pb::workflow::State::Completed;
        if !completed {
            self.problems.push(format!("the workflow is {}", self.state));
            self.problems.extend(workflow.error_log.iter().cloned());
        }
        completed
    }

    fn check_results(&mut self, reduced: Option<&Summary>) {
        let integrity = &self.summary.integrity;
        let wrong: [(&str, &Irregularities); 4] = [
            ("were not looked at", &integrity.missing),
            ("were looked at more than once", &integrity.repeated),
            ("are not part of the review", &integrity.unexpected),
            ("are results that cannot be read", &integrity.unreadable),
        ];
        for (what, irregularities) in wrong {
            if irregularities.count > 0 {
                let examples = irregularities.examples.join(", ");
                self.problems
                    .push(format!("{} files {what}: {examples}", irregularities.count));
            }
        }
        let agrees = reduced.is_some_and(|reduced| {
            reduced.integrity.is_complete() && reduced.findings_total == self.summary.findings_total
        });
        if !agrees {
            self.problems
                .push("the reduced result is not what the chunks say".to_owned());
        }
    }

    /// The report is in its file, and what was written under the lock says so.
    async fn check_report(&mut self, client: &Client, workflow: &pb::Workflow, tally: &Tally) -> drumline::Result<()> {
        let written: Written = drumline::payload::decode_opt(workflow.final_result.as_ref())?;
        let document = client.state().get::<Value>(work::REPORT_STATE).await?;
        let version = document.as_ref().map_or(0, |document| document.version);
        if version != written.state_version {
            let expected = written.state_version;
            self.problems
                .push(format!("the report's document has version {version}, not {expected}"));
        }
        if tally.checkpoints == 0 {
            self.problems.push(format!("there was no {}", work::CHECKPOINT));
        }
        if !Path::new(&written.report).is_file() {
            self.problems.push(format!("{} is not there", written.report));
        }
        self.report = written.report;
        Ok(())
    }

    /// The object that programs read, on one line.
    pub fn json(&self, agents: usize) -> String {
        let line = Line {
            workflow_state: &self.state,
            agents,
            tasks_completed: self.tasks_completed,
            tasks_reassigned: self.tasks_reassigned,
            recovery_ms: self.recovery.unwrap_or_default().as_millis(),
            events: self.events,
            findings: self.summary.findings_total,
            report: &self.report,
        };
        serde_json::to_string(&line).unwrap_or_default()
    }
}

impl Worker {
    fn add(&mut self, result: &Value) {
        use serde::Deserialize;
        // What cannot be read is counted as such where the results are put together.
        let Ok(result) = ChunkResult::deserialize(result) else {
            return;
        };
        self.files += result.files.len() as u64;
        for file in &result.files {
            let omitted: u64 = file.omitted.iter().map(|omitted| omitted.count).sum();
            self.findings += file.findings.len() as u64 + omitted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fact::tests::task_fact;
    use super::*;

    #[test]
    fn tasks_are_counted_once_however_often_they_are_lost() {
        let mut tally = Tally::default();
        for _ in 0..2 {
            tally.hear(&task_fact("task.reassigned", "t", work::CHUNK, "a", 1));
        }
        tally.hear(&task_fact("task.completed", "t", work::CHUNK, "b", 3));
        assert_eq!(
            (
                tally.events,
                tally.reassigned.len(),
                tally.completed.len(),
                tally.lost["a"]
            ),
            (3, 1, 1, 2)
        );
    }

    #[test]
    fn programs_get_one_object_with_its_fields_in_order() {
        let outcome = Outcome {
            state: "COMPLETED".into(),
            workers: BTreeMap::new(),
            summary: Summary::default(),
            report: "/tmp/r.md".into(),
            tasks_completed: 11,
            tasks_reassigned: 2,
            recovery: Some(Duration::from_millis(1_080)),
            events: 90,
            problems: Vec::new(),
        };
        assert_eq!(
            outcome.json(4),
            "{\"workflow_state\":\"COMPLETED\",\"agents\":4,\"tasks_completed\":11,\"tasks_reassigned\":2,\
             \"recovery_ms\":1080,\"events\":90,\"findings\":0,\"report\":\"/tmp/r.md\"}"
        );
    }
}
