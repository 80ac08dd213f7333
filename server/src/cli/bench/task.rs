//! Tasks: from delegating one to its result, by echo agents in this process. One operation, two calls at least.

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
    echoes: Echoes,
}

/// One caller.
#[derive(Debug)]
pub struct Caller {
    stub: TaskServiceClient<Channel>,
    index: usize,
    delegated: u64,
    problems: Vec<String>,
}

impl Task {
    /// Starts the agents.
    pub async fn start(run: &str, args: &Args) -> Result<Task, Failure> {
        let capability = format!("bench-echo-{run}");
        let clients = connect(&args.connection, args.agents).await?;
        // Room for all callers, however they are spread.
        let echoes = Echoes::start(&clients, args.agents, &capability, args.callers).await?;
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
    type Caller = Caller;

    async fn caller(&self, index: usize, client: &Client) -> Result<Caller, Status> {
        Ok(Caller {
            stub: client.stubs().tasks(),
            index,
            delegated: 0,
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
        let mut problems: Vec<String> = callers
            .into_iter()
            .flat_map(|caller| caller.problems)
            .take(20)
            .collect();
        let seen = self.echoes.seen.clone();
        problems.extend(self.echoes.stop().await);
        let answered = seen.answered.load(Ordering::Relaxed);
        let repeated = seen.repeated.load(Ordering::Relaxed);
        if answered > delegated + repeated {
            problems.push(format!("agents were given {answered} tasks, of {delegated}"));
        }
        let figures = vec![("attempts_repeated", repeated)];
        Checked {
            figures,
            ..Checked::new("every task completed, with its own result", problems)
        }
    }
}
