//! One agent of the crowd: its stream, its heartbeats, and its way back when the stream breaks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use drumline::backoff::Backoff;
use drumline::{Client, Reason, v1 as pb};
use pb::connect_hello::Session as Hello;
use pb::connect_request::Frame as Up;
use pb::connect_response::Frame as Down;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::super::request_id;
use super::Crowd;
use super::trial::Heard;
use crate::cli::Failure;
use crate::cli::connection::Connection;
use crate::cli::parse::proto_duration;

/// How long a welcome may take.
const WELCOME: Duration = Duration::from_secs(30);
/// How long the answer to a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(30);
/// How soon an agent whose stream broke tries to come back, and how seldom in the end.
const BACK_SOON: Duration = Duration::from_millis(100);
const BACK_LATE: Duration = Duration::from_secs(2);

/// What a worker is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Be gone, with the connection.
    Die,
    /// Say nothing more, and keep the stream.
    FallSilent,
}

/// An agent.
pub(super) struct Agent {
    crowd: Arc<Crowd>,
    pub(super) index: usize,
    servers: Vec<String>,
    connection: Connection,
    /// The connection that it shares with others; its own if none.
    shared: Option<Client>,
    session_id: String,
    line: Option<Line>,
}

/// A stream that was welcomed.
struct Line {
    /// Dropped with the stream: a connection of its own ends then.
    _client: Client,
    up: mpsc::UnboundedSender<pb::ConnectRequest>,
    down: Streaming<pb::ConnectResponse>,
    number: u64,
    nonce: u64,
    /// The heartbeat that is not answered: its number, and when it was said.
    asked: Option<(u64, Instant)>,
    silent: bool,
}

/// Why a stream is over.
enum End {
    /// The agent may come back.
    Broken,
    /// Its session is over.
    Died(String),
    /// It was told to be gone.
    Killed,
    /// The run is over.
    Home,
}

impl Agent {
    pub(super) fn new(
        crowd: Arc<Crowd>,
        index: usize,
        servers: Vec<String>,
        connection: Connection,
        shared: Option<Client>,
    ) -> Agent {
        Agent {
            crowd,
            index,
            servers,
            connection,
            shared,
            session_id: String::new(),
            line: None,
        }
    }

    /// Opens the stream: of a new session, or of the one that it has.
    pub(super) async fn connect(&mut self) -> Result<(), Failure> {
        let client = match &self.shared {
            Some(client) => client.clone(),
            None => {
                let server = &self.servers[self.index % self.servers.len()];
                self.connection.client_of(server).await?
            }
        };
        let opened = tokio::time::timeout(WELCOME, Line::open(client, self.hello())).await;
        let opened = opened.map_err(|_late| Status::deadline_exceeded("an agent was not welcomed"));
        let (line, session_id) = opened.and_then(|opened| opened).map_err(drumline::Error::from)?;
        self.session_id = session_id;
        self.line = Some(line);
        self.crowd.alive.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn hello(&self) -> Hello {
        let namespace = self.crowd.namespace.clone();
        if !self.session_id.is_empty() {
            return Hello::Resume(pb::ResumeSession {
                namespace,
                session_id: self.session_id.clone(),
            });
        }
        Hello::Register(pb::RegisterAgentRequest {
            namespace,
            request_id: request_id(),
            agent_id: self.crowd.agent_id(self.index),
            max_concurrent_tasks: 1,
            capabilities: vec![pb::Capability {
                name: self.crowd.capability(self.index),
                ..Default::default()
            }],
            session_ttl: Some(proto_duration(self.crowd.ttl)),
            ..Default::default()
        })
    }

    /// Lives until the run is over, it is killed, or its session is.
    pub(super) async fn live(mut self, mut orders: Option<mpsc::UnboundedReceiver<Order>>) {
        let crowd = self.crowd.clone();
        let mut home = crowd.home.subscribe();
        while let Some(line) = self.line.take() {
            let end = line.serve(&crowd, self.index, &mut orders, &mut home).await;
            crowd.alive.fetch_sub(1, Ordering::Relaxed);
            match end {
                End::Home | End::Killed => return,
                End::Died(why) => return crowd.died(self.index, &why),
                End::Broken => self.come_back(&home).await,
            }
        }
    }

    /// Opens the stream again, however long that takes, unless the session is over or the run is.
    async fn come_back(&mut self, home: &watch::Receiver<bool>) {
        let (broke, mut backoff) = (Instant::now(), Backoff::new(BACK_SOON, BACK_LATE));
        while !*home.borrow() {
            tokio::time::sleep(backoff.wait()).await;
            match self.connect().await {
                Ok(()) => {
                    let absence = u64::try_from(broke.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.crowd.longest_absence.fetch_max(absence, Ordering::Relaxed);
                    self.crowd.resumed.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(Failure::Call(error)) if is_over(&error) => {
                    return self.crowd.died(self.index, &error.to_string());
                }
                Err(_) => {}
            }
        }
    }
}

fn is_over(error: &drumline::Error) -> bool {
    matches!(error.reason(), Reason::SessionEnded | Reason::SessionSuperseded)
}

impl Line {
    /// Says the hello and waits for the welcome, which tells the session.
    async fn open(client: Client, hello: Hello) -> Result<(Line, String), Status> {
        let (up, frames) = mpsc::unbounded_channel();
        let hello = pb::ConnectRequest {
            request_number: 1,
            frame: Some(Up::Hello(pb::ConnectHello { session: Some(hello) })),
        };
        // The other end is held here.
        let _sent = up.send(hello);
        let mut down = client
            .stubs()
            .sessions()
            .connect(UnboundedReceiverStream::new(frames))
            .await?
            .into_inner();
        let welcome = down.message().await?;
        let Some(Down::Welcome(welcome)) = welcome.and_then(|message| message.frame) else {
            return Err(Status::internal("an agent was not welcomed first"));
        };
        let line = Line {
            _client: client,
            up,
            down,
            number: 1,
            nonce: 0,
            asked: None,
            silent: false,
        };
        Ok((line, welcome.session_id))
    }

    fn say(&mut self, frame: Up) -> u64 {
        self.number += 1;
        // A stream that is over says so on its way down.
        let _sent = self.up.send(pb::ConnectRequest {
            request_number: self.number,
            frame: Some(frame),
        });
        self.number
    }

    async fn serve(
        mut self,
        crowd: &Crowd,
        index: usize,
        orders: &mut Option<mpsc::UnboundedReceiver<Order>>,
        home: &mut watch::Receiver<bool>,
    ) -> End {
        let every = crowd.ttl / 3;
        // Not all at the same time.
        let first = Instant::now() + every.mul_f64(rand::random::<f64>());
        let mut beat = tokio::time::interval_at(first.into(), every);
        loop {
            tokio::select! {
                _changed = home.changed() => return self.go_home().await,
                Some(order) = next_order(orders) => match order {
                    Order::Die => return End::Killed,
                    Order::FallSilent => self.silent = true,
                },
                _tick = beat.tick(), if !self.silent => self.beat(crowd),
                message = self.down.message() => match message {
                    Ok(Some(message)) => self.hear(crowd, index, message),
                    Ok(None) => return End::Broken,
                    Err(_status) if self.silent => return End::Killed,
                    Err(status) => {
                        let error = drumline::Error::from(status);
                        return if is_over(&error) { End::Died(error.to_string()) } else { End::Broken };
                    }
                },
            }
        }
    }

    fn beat(&mut self, crowd: &Crowd) {
        if self.asked.is_some() && crowd.counting.load(Ordering::Relaxed) {
            crowd.late.fetch_add(1, Ordering::Relaxed);
        }
        let nonce = self.nonce;
        let said = Instant::now();
        let number = self.say(Up::Heartbeat(pb::ConnectHeartbeat { nonce }));
        self.asked = Some((number, said));
    }

    fn hear(&mut self, crowd: &Crowd, index: usize, message: pb::ConnectResponse) {
        match message.frame {
            Some(Down::Nonce(nonce)) => {
                self.nonce = nonce.nonce;
                if let Some((_, said)) = self.asked.take_if(|(number, _)| *number == message.request_number) {
                    crowd.beat(said.elapsed());
                }
            }
            Some(Down::Assignment(assignment)) => self.work(crowd, index, assignment),
            _ => {}
        }
    }

    /// Begins with a task, and ends it at once if another has begun it before.
    fn work(&mut self, crowd: &Crowd, index: usize, assignment: pb::TaskAssignment) {
        let pb::Task { task_id, input, .. } = assignment.task.unwrap_or_default();
        let heard = Heard {
            worker: index,
            task_id: task_id.clone(),
            attempt: assignment.attempt,
            at: Instant::now(),
        };
        let attempt_token = assignment.attempt_token;
        if assignment.attempt > 1 {
            self.say(Up::CompleteTask(pb::CompleteTaskRequest {
                request_id: request_id(),
                task_id,
                attempt_token,
                result: input,
                ..Default::default()
            }));
        } else {
            self.say(Up::AcceptTask(pb::AcceptTaskRequest {
                request_id: request_id(),
                task_id,
                attempt_token,
                ..Default::default()
            }));
        }
        // Who asked for it waits for it.
        let _told = crowd.heard.send(heard);
    }

    /// Says goodbye, and waits for the answer.
    async fn go_home(mut self) -> End {
        if !self.silent {
            self.say(Up::DeregisterAgent(pb::DeregisterAgentRequest {
                request_id: request_id(),
                ..Default::default()
            }));
            let answered = async {
                while let Ok(Some(message)) = self.down.message().await {
                    if matches!(message.frame, Some(Down::DeregisterAgent(_))) {
                        break;
                    }
                }
            };
            // Who is not answered has gone all the same.
            let _late = tokio::time::timeout(GOODBYE, answered).await;
        }
        End::Home
    }
}

async fn next_order(orders: &mut Option<mpsc::UnboundedReceiver<Order>>) -> Option<Order> {
    match orders {
        Some(orders) => orders.recv().await,
        None => std::future::pending().await,
    }
}
