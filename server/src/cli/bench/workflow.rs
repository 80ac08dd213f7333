//! Workflows: from starting one to its end, by echo agents in this process.
//!
//! A sequential one hands its input from step to step; a map-reduce maps over the list that it is given, and its reduce echoes the
//! list of results. Either way the final result must be what went in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use drumline::v1::workflow_service_client::WorkflowServiceClient;
use drumline::{Client, v1 as pb};
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::Channel;

use super::args::{Args, Shape};
use super::echo::Echoes;
use super::load::{Done, Workload};
use super::tally::Checked;
use super::{connect, request, request_id};
use crate::cli::Failure;
use crate::cli::parse::proto_duration;

/// How long one call waits for the end.
const WAIT: Duration = Duration::from_secs(30);

/// The workload.
#[derive(Debug)]
pub struct Workflow {
    start: pb::StartWorkflowRequest,
    input: Value,
    tasks: u64,
    /// Workflows that may have been started.
    started: AtomicU64,
    echoes: Echoes,
}

/// One caller.
#[derive(Debug)]
pub struct Caller {
    stub: WorkflowServiceClient<Channel>,
    ended: u64,
    problems: Vec<String>,
}

impl Workflow {
    /// Starts the agents.
    pub async fn start(run: &str, args: &Args) -> Result<Workflow, Failure> {
        let capability = format!("bench-echo-{run}");
        let clients = connect(args, &args.connection.server, args.echoes()).await?;
        let slots = usize::try_from(args.delegates)
            .unwrap_or(1)
            .max(1)
            .saturating_mul(args.callers);
        let echoes = Echoes::start(&clients, args.echoes(), &capability, slots).await?;
        let (workflow_type, steps) = match args.shape {
            Shape::Sequential => (pb::WorkflowType::Sequential, sequence(&capability, args.size)?),
            Shape::MapReduce => (pb::WorkflowType::MapReduce, map_reduce(&capability)?),
        };
        let input = match args.shape {
            Shape::Sequential => json!({ "x": "a".repeat(args.payload_bytes) }),
            Shape::MapReduce => (0..args.size).map(|n| json!({ "n": n })).collect(),
        };
        let start = pb::StartWorkflowRequest {
            namespace: args.connection.namespace.clone(),
            workflow_type: workflow_type as i32,
            steps,
            input: Some(drumline::payload::json(&input)?),
            max_concurrent_delegates: args.delegates,
            ..Default::default()
        };
        let tasks = args.size + usize::from(args.shape == Shape::MapReduce);
        Ok(Workflow {
            start,
            input,
            tasks: tasks as u64,
            started: AtomicU64::new(0),
            echoes,
        })
    }

    async fn end(&self, caller: &mut Caller, workflow_id: &str) -> Result<(pb::Workflow, u64), Status> {
        let mut calls = 0;
        loop {
            let get = pb::GetWorkflowRequest {
                namespace: self.start.namespace.clone(),
                workflow_id: workflow_id.to_owned(),
                wait_timeout: Some(proto_duration(WAIT)),
            };
            let workflow = caller
                .stub
                .get_workflow(request(get))
                .await?
                .into_inner()
                .workflow
                .unwrap_or_default();
            calls += 1;
            if drumline::workflows::is_over(&workflow) {
                return Ok((workflow, calls));
            }
        }
    }
}

/// Each step is given what the one before it made.
fn sequence(capability: &str, size: usize) -> Result<Vec<pb::Step>, Failure> {
    let step = |index: usize| {
        let before = index
            .checked_sub(1)
            .map(|before| format!("${{steps.s{before}.result}}"));
        let input = before
            .map(|expression| drumline::payload::json(&expression))
            .transpose()?;
        Ok(pb::Step {
            step_id: format!("s{index}"),
            capability: capability.into(),
            input,
            ..Default::default()
        })
    };
    (0..size).map(step).collect()
}

fn map_reduce(capability: &str) -> Result<Vec<pb::Step>, Failure> {
    let map = pb::Step {
        step_id: "map".into(),
        capability: capability.into(),
        for_each: "input".into(),
        ..Default::default()
    };
    let reduce = pb::Step {
        step_id: "reduce".into(),
        capability: capability.into(),
        input: Some(drumline::payload::json("${steps.map.result}")?),
        ..Default::default()
    };
    Ok(vec![map, reduce])
}

impl Workload for Workflow {
    type Target = Client;
    type Caller = Caller;

    async fn caller(&self, _index: usize, client: &Client) -> Result<Caller, Status> {
        Ok(Caller {
            stub: client.stubs().workflows(),
            ended: 0,
            problems: Vec::new(),
        })
    }

    async fn operate(&self, caller: &mut Caller, _intended: Instant) -> Result<Done, Status> {
        self.started.fetch_add(1, Ordering::Relaxed);
        let start = pb::StartWorkflowRequest {
            request_id: request_id(),
            ..self.start.clone()
        };
        let workflow_id = caller
            .stub
            .start_workflow(request(start))
            .await?
            .into_inner()
            .workflow_id;
        let (workflow, calls) = self.end(caller, &workflow_id).await?;
        caller.ended += 1;
        let result = drumline::payload::decode_opt::<Value>(workflow.final_result.as_ref());
        if workflow.state() != pb::workflow::State::Completed || result.ok().as_ref() != Some(&self.input) {
            let (state, log) = (workflow.state().as_str_name(), &workflow.error_log);
            caller.problems.push(format!(
                "{workflow_id} is {state} with {:?}: {log:?}",
                workflow.final_result
            ));
        }
        Ok(Done {
            calls: calls + 1,
            ops: 1,
        })
    }

    async fn check(self, callers: Vec<Caller>, _client: &Client) -> Checked {
        let ended: u64 = callers.iter().map(|caller| caller.ended).sum();
        let mut problems: Vec<String> = callers
            .into_iter()
            .flat_map(|caller| caller.problems)
            .take(20)
            .collect();
        let seen = self.echoes.seen.clone();
        problems.extend(self.echoes.stop().await);
        let (completed, repeated) = (
            seen.completed.load(Ordering::Relaxed),
            seen.repeated.load(Ordering::Relaxed),
        );
        if completed < ended * self.tasks || completed > self.started.load(Ordering::Relaxed) * self.tasks {
            problems.push(format!(
                "{ended} workflows of {} tasks each ended after {completed} completions",
                self.tasks
            ));
        }
        let figures = vec![("tasks_each", self.tasks), ("attempts_repeated", repeated)];
        Checked {
            figures,
            ..Checked::new("every workflow completed, and its result is what went in", problems)
        }
    }
}
