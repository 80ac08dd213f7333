//! Tasks: from delegating one to its result, by echo agents in this process. One operation, two calls at least.
//!
//! With no agents tasks are only delegated, to a capability that nobody has, and stay: that makes a backlog.

use std::sync::atomic::Ordering;
use std::time::Instant;

use drumline::v1::task_service_client::TaskServiceClient;
use drumline::{Client, v1 as pb};
use pb::payload::Content;
use tonic::Status;
use tonic::transport::Channel;

use super::echo::Echoes;
use super::load::{Done, Workload};
use super::tally::Checked;
use super::{Args, connect, filler, request, request_id};
use crate::cli::Failure;

/// The workload.
#[derive(Debug)]
pub struct Task {
    capability: String,
    filler: String,
    namespace: String,
    /// Nobody, if tasks are left waiting.
    echoes: Option<Echoes>,
}

/// One caller.
#[derive(Debug)]
pub struct Caller {
    stub: TaskServiceClient<Channel>,
    index: usize,
    delegated: u64,
    /// Tasks that were seen to end.
    ended: u64,
    /// The last task that was left waiting.
    last: String,
    problems: Vec<String>,
}

impl Task {
    /// Starts the agents.
    pub async fn start(run: &str, args: &Args) -> Result<Task, Failure> {
        let capability = format!("bench-echo-{run}");
        let echoes = match args.echoes() {
            0 => None,
            count => {
                let clients = connect(args, &args.connection.server, count).await?;
                // Room for all callers, however they are spread.
                Some(Echoes::start(&clients, count, &capability, args.callers).await?)
            }
        };
        let namespace = args.connection.namespace.clone();
        Ok(Task {
            capability,
            filler: filler(args.payload_bytes),
            namespace,
            echoes,
        })
    }
}

impl Workload for Task {
    type Target = Client;
    type Caller = Caller;

    async fn caller(&self, index: usize, client: &Client) -> Result<Caller, Status> {
        Ok(Caller {
            stub: client.stubs().tasks(),
            index,
            delegated: 0,
            ended: 0,
            last: String::new(),
            problems: Vec::new(),
        })
    }

    async fn operate(&self, caller: &mut Caller, _intended: Instant) -> Result<Done, Status> {
        caller.delegated += 1;
        let text = format!(
            r#"{{"caller":{},"n":{},"x":"{}"}}"#,
            caller.index, caller.delegated, self.filler
        );
        let input = Some(pb::Payload {
            content: Some(Content::Json(text)),
            ..Default::default()
        });
        let delegate = pb::DelegateTaskRequest {
            namespace: self.namespace.clone(),
            request_id: request_id(),
            capability: self.capability.clone(),
            input: input.clone(),
            ..Default::default()
        };
        let task_id = caller
            .stub
            .delegate_task(request(delegate))
            .await?
            .into_inner()
            .task
            .unwrap_or_default()
            .task_id;
        if self.echoes.is_none() {
            caller.last = task_id;
            return Ok(Done { calls: 1, ops: 1 });
        }
        let mut calls = 1;
        loop {
            let namespace = self.namespace.clone();
            let wait = pb::AwaitTaskRequest {
                namespace,
                task_id: task_id.clone(),
                wait_timeout: None,
            };
            let task = caller
                .stub
                .await_task(request(wait))
                .await?
                .into_inner()
                .task
                .unwrap_or_default();
            calls += 1;
            if !drumline::tasks::is_over(&task) {
                continue;
            }
            caller.ended += 1;
            if task.state() != pb::task::State::Completed || task.result != input {
                let state = task.state().as_str_name();
                caller.problems.push(format!(
                    "task {task_id} is {state} with {:?}: {:?}",
                    task.result, task.error
                ));
            }
            return Ok(Done { calls, ops: 1 });
        }
    }

    async fn check(self, callers: Vec<Caller>, _client: &Client) -> Checked {
        let delegated: u64 = callers.iter().map(|caller| caller.delegated).sum();
        let ended: u64 = callers.iter().map(|caller| caller.ended).sum();
        let Some(echoes) = self.echoes else {
            return check_waiting(&self.namespace, callers).await;
        };
        let mut problems: Vec<String> = callers
            .into_iter()
            .flat_map(|caller| caller.problems)
            .take(20)
            .collect();
        let seen = echoes.seen.clone();
        problems.extend(echoes.stop().await);
        let completed = seen.completed.load(Ordering::Relaxed);
        // Calls that failed may have delegated a task all the same.
        if completed < ended || completed > delegated {
            problems.push(format!(
                "{completed} completions were taken for {ended} tasks that ended, of {delegated} delegated"
            ));
        }
        let figures = vec![("attempts_repeated", seen.repeated.load(Ordering::Relaxed))];
        Checked {
            figures,
            ..Checked::new("every task completed once, with its own result", problems)
        }
    }
}

/// Whether the last task of every caller is there, and still waits.
async fn check_waiting(namespace: &str, callers: Vec<Caller>) -> Checked {
    let mut problems = Vec::new();
    for mut caller in callers.into_iter().filter(|caller| !caller.last.is_empty()) {
        let get = pb::GetTaskRequest {
            namespace: namespace.to_owned(),
            task_id: caller.last.clone(),
        };
        let problem = match caller.stub.get_task(request(get)).await {
            Ok(answer) => match answer.into_inner().task.unwrap_or_default().state() {
                pb::task::State::Pending => continue,
                state => format!("task {} is {}", caller.last, state.as_str_name()),
            },
            Err(status) => format!("task {} cannot be read: {}", caller.last, status.message()),
        };
        problems.push(problem);
    }
    Checked::new("the last task of every caller is there, and waits", problems)
}
