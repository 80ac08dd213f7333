//! Two deaths among the workers, each in the middle of a task: how long until the task is in other hands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use drumline::{Client, v1 as pb};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::line::Order;
use super::{Crowd, WORKERS};
use crate::cli::bench::{request, request_id};

/// How soon the task of an agent whose stream broke must be in other hands.
const SOON: Duration = Duration::from_secs(5);
/// How much longer than its TTL the task of a silent agent may take.
const AFTER_TTL: Duration = Duration::from_secs(2);
/// How long to wait beyond what must hold, so that it can be told how bad it is.
const PATIENCE: Duration = Duration::from_secs(30);

/// A worker was given a task.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) worker: usize,
    pub(super) task_id: String,
    pub(super) attempt: i32,
    pub(super) at: Instant,
}

/// The trials of a run.
pub(super) struct Trial {
    client: Client,
    crowd: Arc<Crowd>,
    heard: mpsc::UnboundedReceiver<Heard>,
    workers: Vec<mpsc::UnboundedSender<Order>>,
}

/// What the trials have shown.
pub(super) struct Tried {
    pub(super) killed: usize,
    pub(super) problems: Vec<String>,
    pub(super) facts: Vec<(&'static str, Value)>,
}

impl Tried {
    /// Trials that did not come to an end.
    pub(super) fn failed(why: &str) -> Tried {
        Tried {
            killed: 0,
            problems: vec![why.to_owned()],
            facts: Vec::new(),
        }
    }
}

impl Trial {
    pub(super) fn new(
        client: Client,
        crowd: Arc<Crowd>,
        heard: mpsc::UnboundedReceiver<Heard>,
        workers: Vec<mpsc::UnboundedSender<Order>>,
    ) -> Trial {
        Trial {
            client,
            crowd,
            heard,
            workers,
        }
    }

    /// Tries both deaths, spread over the run.
    pub(super) async fn run(mut self, duration: Duration) -> Tried {
        let mut tried = Tried {
            killed: 0,
            problems: Vec::new(),
            facts: Vec::new(),
        };
        let deaths = [
            ("moved_after_kill_ms", Order::Die, SOON),
            ("moved_after_silence_ms", Order::FallSilent, self.crowd.ttl + AFTER_TTL),
        ];
        for (name, order, bound) in deaths {
            tokio::time::sleep(duration / 10).await;
            tried.killed += 1;
            match self.one(order, bound + PATIENCE).await {
                Ok(took) => {
                    tried.facts.push((name, json!(u64::try_from(took.as_millis()).ok())));
                    if took > bound {
                        tried.problems.push(format!("{name}: {took:?} is more than {bound:?}"));
                    }
                }
                Err(problem) => tried.problems.push(format!("{name}: {problem}")),
            }
        }
        tried
    }

    /// One death. Tells how long after it the task was another's.
    async fn one(&mut self, order: Order, patience: Duration) -> Result<Duration, String> {
        let task_id = self.delegate().await.map_err(|error| error.to_string())?;
        let first = self.next(&task_id, 1, PATIENCE).await?;
        self.runs(&task_id).await?;
        let died = Instant::now();
        self.workers[first.worker]
            .send(order)
            .map_err(|_gone| format!("worker {} is gone already", first.worker))?;
        let second = self.next(&task_id, 2, patience).await?;
        if second.worker == first.worker || second.worker >= WORKERS {
            return Err(format!("the task of {} went to {}", first.worker, second.worker));
        }
        self.completes(&task_id).await?;
        Ok(second.at - died)
    }

    async fn delegate(&self) -> Result<String, drumline::Error> {
        let delegate = pb::DelegateTaskRequest {
            namespace: self.client.namespace(),
            request_id: request_id(),
            capability: self.crowd.work(),
            ..Default::default()
        };
        let delegated = self.client.stubs().tasks().delegate_task(request(delegate)).await?;
        Ok(delegated.into_inner().task.unwrap_or_default().task_id)
    }

    /// Waits until a worker is given an attempt of a task.
    async fn next(&mut self, task_id: &str, attempt: i32, patience: Duration) -> Result<Heard, String> {
        let heard = async {
            while let Some(heard) = self.heard.recv().await {
                if heard.task_id == task_id && heard.attempt == attempt {
                    return Ok(heard);
                }
            }
            Err("no worker is left".to_owned())
        };
        let late = |_late| format!("nobody was given attempt {attempt} of {task_id} within {patience:?}");
        tokio::time::timeout(patience, heard).await.map_err(late)?
    }

    /// Waits until a task is running.
    async fn runs(&self, task_id: &str) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let get = pb::GetTaskRequest {
                namespace: self.client.namespace(),
                task_id: task_id.to_owned(),
            };
            let task = self.client.stubs().tasks().get_task(request(get)).await;
            let task = task.map_err(|status| status.message().to_owned())?.into_inner().task;
            if task.unwrap_or_default().state() == pb::task::State::Running {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("{task_id} does not run"))
    }

    /// Waits until a task is completed.
    async fn completes(&self, task_id: &str) -> Result<(), String> {
        let wait = pb::AwaitTaskRequest {
            namespace: self.client.namespace(),
            task_id: task_id.to_owned(),
            wait_timeout: None,
        };
        let task = self.client.stubs().tasks().await_task(request(wait)).await;
        let task = task.map_err(|status| status.message().to_owned())?.into_inner().task;
        match task.unwrap_or_default().state() {
            pb::task::State::Completed => Ok(()),
            state => Err(format!("{task_id} is {}", state.as_str_name())),
        }
    }
}
