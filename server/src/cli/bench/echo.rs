//! Agents that answer every task with its own input, over `Connect` streams, with as little else as can be.
//!
//! They do not say that they accept: completing implies it. So a task costs one frame down and one up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use drumline::{Client, v1 as pb};
use pb::connect_request::Frame as Up;
use pb::connect_response::Frame as Down;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::request_id;
use crate::cli::parse::proto_duration;

/// Long, since a machine under load is what is measured here, not deaths.
const TTL: Duration = Duration::from_secs(30);
/// How long an agent may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the answer to its goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// What the agents have seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Answers that were taken.
    pub completed: AtomicU64,
    /// Attempts after the first.
    pub repeated: AtomicU64,
    /// Answers that were refused.
    pub refused: AtomicU64,
}

/// Agents under way.
#[derive(Debug)]
pub struct Echoes {
    /// What they have seen.
    pub seen: Arc<Seen>,
    agents: Vec<Running>,
}

/// An agent under way, and what tells it to go home.
type Running = (oneshot::Sender<()>, JoinHandle<Result<(), Status>>);

/// One agent's stream.
struct Echo {
    up: mpsc::UnboundedSender<pb::ConnectRequest>,
    down: Streaming<pb::ConnectResponse>,
    number: u64,
    nonce: u64,
    seen: Arc<Seen>,
}

impl Echoes {
    /// Registers an agent on each client's connection in turn, and waits until all are there.
    pub async fn start(clients: &[Client], count: usize, capability: &str, slots: usize) -> Result<Echoes, Status> {
        let seen = Arc::new(Seen::default());
        let mut agents = Vec::with_capacity(count);
        for index in 0..count {
            let agent_id = format!("{capability}-{index}");
            let client = &clients[index % clients.len()];
            let echo = Echo::connect(client, agent_id, capability, slots, seen.clone()).await?;
            let (stop, stopped) = oneshot::channel();
            agents.push((stop, tokio::spawn(echo.run(stopped))));
        }
        Ok(Echoes { seen, agents })
    }

    /// Sends them home; returns what went wrong with them.
    pub async fn stop(self) -> Vec<String> {
        let mut problems = Vec::new();
        for (stop, agent) in self.agents {
            // Who is gone already says why below.
            let _told = stop.send(());
            match agent.await {
                Ok(Ok(())) => {}
                Ok(Err(status)) => problems.push(format!("an agent's stream ended: {}", drumline::Error::from(status))),
                Err(error) => problems.push(format!("an agent failed: {error}")),
            }
        }
        let refused = self.seen.refused.load(Ordering::Relaxed);
        if refused > 0 {
            problems.push(format!("{refused} answers of agents were refused"));
        }
        problems
    }
}

impl Echo {
    async fn connect(
        client: &Client,
        agent_id: String,
        capability: &str,
        slots: usize,
        seen: Arc<Seen>,
    ) -> Result<Echo, Status> {
        let register = pb::RegisterAgentRequest {
            namespace: client.namespace(),
            request_id: request_id(),
            agent_id,
            max_concurrent_tasks: i32::try_from(slots).unwrap_or(10_000).min(10_000),
            capabilities: vec![pb::Capability {
                name: capability.to_owned(),
                ..Default::default()
            }],
            session_ttl: Some(proto_duration(TTL)),
            ..Default::default()
        };
        let session = Some(pb::connect_hello::Session::Register(register));
        let (up, frames) = mpsc::unbounded_channel();
        let hello = pb::ConnectRequest {
            request_number: 1,
            frame: Some(Up::Hello(pb::ConnectHello { session })),
        };
        // The other end is held here.
        let _sent = up.send(hello);
        let down = client
            .stubs()
            .sessions()
            .connect(UnboundedReceiverStream::new(frames))
            .await?
            .into_inner();
        let mut echo = Echo {
            up,
            down,
            number: 1,
            nonce: 0,
            seen,
        };
        let late = |_elapsed| Status::deadline_exceeded("an agent was not welcomed");
        let welcome = tokio::time::timeout(PATIENCE, echo.down.message())
            .await
            .map_err(late)??;
        match welcome.and_then(|message| message.frame) {
            Some(Down::Welcome(_)) => Ok(echo),
            Some(Down::Error(error)) => Err(Status::new(error.code.into(), error.message)),
            other => Err(Status::internal(format!("an agent was welcomed by {other:?}"))),
        }
    }

    fn say(&mut self, frame: Up) -> Result<(), Status> {
        self.number += 1;
        let message = pb::ConnectRequest {
            request_number: self.number,
            frame: Some(frame),
        };
        self.up
            .send(message)
            .map_err(|_closed| Status::unavailable("the stream is closed"))
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<(), Status> {
        let mut beat = tokio::time::interval(TTL / 3);
        loop {
            tokio::select! {
                _stop = &mut stopped => break,
                _tick = beat.tick() => {
                    let nonce = self.nonce;
                    self.say(Up::Heartbeat(pb::ConnectHeartbeat { nonce }))?;
                }
                message = self.down.message() => {
                    let Some(message) = message? else { return Err(Status::unavailable("the server ended the stream")) };
                    self.hear(message)?;
                }
            }
        }
        self.say(Up::DeregisterAgent(pb::DeregisterAgentRequest {
            request_id: request_id(),
            ..Default::default()
        }))?;
        // What was under way is answered before the goodbye is. Who is not answered has gone all the same.
        let _late = tokio::time::timeout(GOODBYE, self.hear_goodbye()).await;
        Ok(())
    }

    async fn hear_goodbye(&mut self) {
        while let Ok(Some(message)) = self.down.message().await {
            if matches!(message.frame, Some(Down::DeregisterAgent(_))) || self.hear(message).is_err() {
                break;
            }
        }
    }

    fn hear(&mut self, message: pb::ConnectResponse) -> Result<(), Status> {
        match message.frame {
            Some(Down::Nonce(nonce)) => self.nonce = nonce.nonce,
            Some(Down::Assignment(assignment)) => {
                let task = assignment.task.unwrap_or_default();
                self.seen
                    .repeated
                    .fetch_add(u64::from(assignment.attempt > 1), Ordering::Relaxed);
                self.say(Up::CompleteTask(pb::CompleteTaskRequest {
                    request_id: request_id(),
                    task_id: task.task_id,
                    attempt_token: assignment.attempt_token,
                    result: task.input,
                    ..Default::default()
                }))?;
            }
            Some(Down::CompleteTask(_)) => {
                self.seen.completed.fetch_add(1, Ordering::Relaxed);
            }
            Some(Down::Error(error)) => {
                tracing::warn!(code = error.code, message = error.message, "an echo was refused");
                self.seen.refused.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        Ok(())
    }
}
