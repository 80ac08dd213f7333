//! Faults in the middle of work: agents and servers that are killed or stopped, stores that are blocked, callers that leave, expressions
//! that mean harm. Each test has a server of its own on the embedded store, and agents that are processes of their own.

mod agents;
mod callers;
mod expressions;
mod idle;
mod replicas;
mod servers;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use drumline_proto::v1;
use serde_json::Value;

use crate::events::{list, list_all};
use crate::support::server::{Server, binary, signal};
use crate::support::wait::until;
use crate::support::{Stage, json};

/// Work must be in other hands, and a workflow under way again, within this time.
const SOON: Duration = Duration::from_secs(5);
/// How long an agent may be silent, by default.
const TTL: Duration = Duration::from_secs(3);

/// A server of a test's own, a namespace on it, and a directory that its agents write to.
struct Play {
    server: Server,
    stage: Stage,
    /// The server's data directory, and beside it what the agents write.
    directory: tempfile::TempDir,
}

impl Play {
    async fn begin() -> Play {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("desk")).expect("a directory");
        let server = Server::start(&directory.path().join("data"), "127.0.0.1:0");
        let stage = Stage::new(&server.address).await;
        Play {
            server,
            stage,
            directory,
        }
    }

    /// Where the agents write.
    fn desk(&self) -> std::path::PathBuf {
        self.directory.path().join("desk")
    }

    /// Writes a file that agents wait for.
    fn allow(&self, name: &str) {
        std::fs::write(self.desk().join(name), "").expect("written");
    }

    /// A line for each execution that began: item or task, attempt, agent.
    fn executions(&self) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.desk().join("executions")).unwrap_or_default();
        text.lines()
            .map(|line| line.split(' ').map(str::to_owned).collect())
            .collect()
    }

    /// Starts an agent process that serves `work`, and waits until it is registered.
    async fn agent(&self, agent_id: &str, slots: usize, script: &str) -> AgentProcess {
        let note = r#"read input; echo "${DRUMLINE_ITEM_KEY:-$DRUMLINE_TASK_ID} $DRUMLINE_ATTEMPT $DRUMLINE_AGENT_ID" >> executions;"#;
        let child = Command::new(binary())
            .args(["agent", "exec", "--capability", "work", "--agent-id", agent_id])
            .args(["--concurrency", &slots.to_string(), "--grace", "1s"])
            .args(["--server", &self.stage.address, "--namespace", &self.stage.namespace])
            .args(["--", "sh", "-c", &format!("{note} {script}")])
            .current_dir(self.desk())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("an agent");
        let agent = AgentProcess { child };
        until("the agent's registration", || async {
            find_agent(&self.stage, agent_id).await.is_ok()
        })
        .await;
        agent
    }

    /// How often events of a type say something of a subject.
    async fn count(&self, event_type: &str, subject: &str) -> usize {
        let events = self.events(event_type).await;
        events.iter().filter(|event| event.subject == subject).count()
    }

    /// The events of a type.
    async fn events(&self, event_type: &str) -> Vec<v1::Event> {
        let (events, _) = list_all(&self.stage, list(&self.stage)).await;
        events
            .into_iter()
            .filter(|event| event.event_type == event_type)
            .collect()
    }
}

/// A script that waits for a file on the desk, or for the end of the test.
fn wait_for(name: &str) -> String {
    format!(r#"while [ -e executions ] && [ ! -e "{name}" ]; do sleep 0.05; done;"#)
}

/// An agent that is a process. Killed when it goes.
struct AgentProcess {
    child: Child,
}

impl AgentProcess {
    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it is a child").is_none()
    }

    /// Kills it with SIGKILL and waits for its end.
    fn kill(&mut self) {
        self.signal("KILL");
        self.child.wait().expect("it ends");
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn find_agent(stage: &Stage, agent_id: &str) -> Result<v1::Agent, tonic::Status> {
    let request = v1::GetAgentRequest {
        namespace: stage.ns(),
        agent_id: agent_id.into(),
    };
    let response = stage.registry().get_agent(request).await?.into_inner();
    Ok(response.agent.expect("an agent"))
}

async fn is_offline(stage: &Stage, agent_id: &str) -> bool {
    find_agent(stage, agent_id).await.expect("an agent").status() == v1::agent::Status::Offline
}

async fn delegate(stage: &Stage, task_id: &str) -> v1::Task {
    let request = v1::DelegateTaskRequest {
        namespace: stage.ns(),
        task_id: task_id.into(),
        capability: "work".into(),
        input: json("1"),
        ..Default::default()
    };
    let delegated = stage.tasks().delegate_task(request).await.expect("delegated");
    delegated.into_inner().task.expect("a task")
}

async fn find_task(stage: &Stage, task_id: &str) -> v1::Task {
    let request = v1::GetTaskRequest {
        namespace: stage.ns(),
        task_id: task_id.into(),
    };
    let found = stage.tasks().get_task(request).await.expect("a task");
    found.into_inner().task.expect("a task")
}

async fn is_task(stage: &Stage, task_id: &str, state: v1::task::State) -> bool {
    find_task(stage, task_id).await.state() == state
}

/// Starts a workflow that maps over as many items, so many at once.
async fn start_map(stage: &Stage, items: usize, at_once: i32) {
    let step = v1::Step {
        step_id: "map".into(),
        capability: "work".into(),
        for_each: "input".into(),
        ..Default::default()
    };
    let input = Value::from((0..items).collect::<Vec<_>>());
    let request = v1::StartWorkflowRequest {
        namespace: stage.ns(),
        workflow_id: "w".into(),
        workflow_type: v1::WorkflowType::Sequential.into(),
        steps: vec![step],
        input: json(&input.to_string()),
        max_concurrent_delegates: at_once,
        ..Default::default()
    };
    stage.workflows().start_workflow(request).await.expect("started");
}

async fn workflow(stage: &Stage) -> v1::Workflow {
    let request = v1::GetWorkflowRequest {
        namespace: stage.ns(),
        workflow_id: "w".into(),
        wait_timeout: None,
    };
    let found = stage.workflows().get_workflow(request).await.expect("a workflow");
    found.into_inner().workflow.expect("a workflow")
}

async fn completed_items(stage: &Stage) -> i32 {
    workflow(stage).await.steps[0].completed_count
}

async fn completes(stage: &Stage) {
    until("the workflow's end", || async {
        workflow(stage).await.state() != v1::workflow::State::Running
    })
    .await;
    let ended = workflow(stage).await;
    assert_eq!(ended.state(), v1::workflow::State::Completed, "{:?}", ended.error_log);
}

/// What became of the items, with their results.
async fn results(stage: &Stage) -> Vec<v1::Subtask> {
    let request = v1::ListStepResultsRequest {
        namespace: stage.ns(),
        workflow_id: "w".into(),
        step_id: "map".into(),
        page_size: 100,
        page_token: String::new(),
    };
    let page = stage.workflows().list_step_results(request).await.expect("a page");
    page.into_inner().subtasks
}

/// The items whose completion is in the workflow's history, in its order, as often as it is there.
async fn recorded(stage: &Stage) -> Vec<i32> {
    let mut request = v1::GetWorkflowHistoryRequest {
        namespace: stage.ns(),
        workflow_id: "w".into(),
        ..Default::default()
    };
    let mut items = Vec::new();
    loop {
        let page = stage
            .workflows()
            .get_workflow_history(request.clone())
            .await
            .expect("a page")
            .into_inner();
        let completions = page.transitions.iter().filter(|one| one.kind == "subtask.completed");
        items.extend(completions.map(|one| one.index));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return items;
        }
    }
}

/// Fails unless each item's completion was recorded once and no attempt ran twice, or after the one that completed.
async fn assert_done_once(play: &Play, items: usize) {
    let mut done = recorded(&play.stage).await;
    done.sort_unstable();
    assert_eq!(done, (0..i32::try_from(items).expect("few")).collect::<Vec<_>>());
    let subtasks = results(&play.stage).await;
    assert_eq!(subtasks.len(), items);
    let executions = play.executions();
    for subtask in &subtasks {
        assert!(subtask.result.is_some(), "{subtask:?}");
        let attempts: Vec<i32> = executions
            .iter()
            .filter(|line| line[0] == subtask.subtask_id)
            .map(|line| line[1].parse().expect("an attempt"))
            .collect();
        let mut once = attempts.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(
            once.len(),
            attempts.len(),
            "an attempt of {} ran twice",
            subtask.subtask_id
        );
        assert_eq!(once.last(), Some(&subtask.attempt), "of {}", subtask.subtask_id);
    }
}

/// How long a fault lasts: long enough to kill whoever is counted as silent meanwhile.
fn length_of_fault() -> Duration {
    match std::env::var_os("DRUMLINE_TEST_LONG") {
        Some(_) => Duration::from_secs(30),
        None => Duration::from_secs(10),
    }
}

/// The data directory of a play.
fn database(directory: &Path) -> std::path::PathBuf {
    directory.join("data").join("drumline.db")
}
