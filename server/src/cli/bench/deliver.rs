//! Delivery: from when an event should have been published to its receipt, by each of k subscribers.
//!
//! Publishers and subscribers are in this process, so one monotonic clock times both ends. Each event has a number; in the
//! end every subscriber must have received every acknowledged event exactly once, in the order of positions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use drumline::events::{Filter, Update, UpdateStream};
use drumline::v1::event_service_client::EventServiceClient;
use drumline::{Client, v1 as pb};
use futures::StreamExt;
use serde::Deserialize;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;

use super::load::{Done, Window, Workload};
use super::report::Report;
use super::tally::{Checked, Latencies};
use super::{Args, connect, filler, measure_at, request, request_id};
use crate::cli::Failure;

/// How long the last events may take after the last publishing.
const PATIENCE: Duration = Duration::from_secs(10);
const EVENT_TYPE: &str = "bench.delivered";

/// The workload.
#[derive(Debug)]
pub struct Deliver {
    run: String,
    filler: String,
    namespace: String,
    epoch: Instant,
    window: Arc<OnceLock<Window>>,
    next: AtomicU64,
    subscribers: Vec<(Arc<Mutex<Received>>, JoinHandle<()>)>,
}

/// What one subscriber has received.
#[derive(Debug)]
struct Received {
    /// How often each number came.
    times: Vec<u8>,
    /// How many came that should have been published within the window, and their latencies.
    ops: u64,
    latencies: Latencies,
    last_position: i64,
    problems: Vec<String>,
}

/// The payload of an event.
#[derive(Deserialize)]
struct Sent {
    number: usize,
    /// When it should have been published, in microseconds since the run's epoch.
    at: u64,
}

/// One publisher.
#[derive(Debug)]
pub struct Caller {
    stub: EventServiceClient<Channel>,
    acknowledged: Vec<u64>,
}

/// Measures it. Where there are several servers, publishers and subscribers are at different ones.
pub async fn run(run: &str, args: &Args) -> Result<Report, Failure> {
    let servers = &args.connection.server;
    let (publishing, subscribed) = servers.split_at(servers.len() / 2);
    let publishing = if publishing.is_empty() { subscribed } else { publishing };
    let deliver = Deliver::start(run, args, subscribed).await?;
    measure_at(deliver, args, publishing).await
}

impl Deliver {
    /// Subscribes, and waits until every subscription is there.
    async fn start(run: &str, args: &Args, servers: &[String]) -> Result<Deliver, Failure> {
        let (epoch, window) = (Instant::now(), Arc::new(OnceLock::new()));
        let clients = connect(args, servers, args.connections(args.subscribers, servers.len())).await?;
        let mut subscribers = Vec::with_capacity(args.subscribers);
        for index in 0..args.subscribers {
            let filter = Filter::all().event_type(EVENT_TYPE).correlation_id(run);
            let mut updates = clients[index % clients.len()].events().subscribe(filter).updates();
            caught_up(&mut updates).await?;
            let received = Arc::new(Mutex::new(Received {
                times: Vec::new(),
                ops: 0,
                latencies: Latencies::new(),
                last_position: 0,
                problems: Vec::new(),
            }));
            let reader = tokio::spawn(receive(updates, received.clone(), epoch, window.clone()));
            subscribers.push((received, reader));
        }
        Ok(Deliver {
            run: run.to_owned(),
            filler: filler(args.payload_bytes),
            namespace: args.connection.namespace.clone(),
            epoch,
            window,
            next: AtomicU64::new(0),
            subscribers,
        })
    }
}

/// Waits for the stream to say that it has begun.
async fn caught_up(updates: &mut UpdateStream) -> Result<(), Failure> {
    loop {
        match tokio::time::timeout(PATIENCE, updates.next()).await {
            Ok(Some(Ok(Update::Progress(progress)))) if progress.caught_up => return Ok(()),
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) => return Err(error.into()),
            Ok(None) | Err(_) => return Err(Failure::message("a subscription did not begin")),
        }
    }
}

async fn receive(
    mut updates: UpdateStream,
    received: Arc<Mutex<Received>>,
    epoch: Instant,
    window: Arc<OnceLock<Window>>,
) {
    while let Some(update) = updates.next().await {
        let now = Instant::now();
        let mut received = lock(&received);
        match update {
            Ok(Update::Event(event)) => received.take(&event, now, epoch, window.get()),
            Ok(Update::Progress(_)) => {}
            Err(error) => received.problems.push(format!("a subscription ended: {error}")),
        }
    }
}

fn lock(received: &Mutex<Received>) -> std::sync::MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Received {
    fn take(&mut self, event: &pb::Event, now: Instant, epoch: Instant, window: Option<&Window>) {
        if event.position <= self.last_position {
            self.problems
                .push(format!("position {} came after {}", event.position, self.last_position));
        }
        self.last_position = event.position;
        let Ok(sent) = drumline::payload::decode_opt::<Sent>(event.payload.as_ref()) else {
            return self
                .problems
                .push(format!("a payload came back as {:?}", event.payload));
        };
        if self.times.len() <= sent.number {
            self.times.resize(sent.number + 1, 0);
        }
        self.times[sent.number] = self.times[sent.number].saturating_add(1);
        let intended = epoch + Duration::from_micros(sent.at);
        if window.is_some_and(|window| window.contains(intended)) {
            self.latencies.record(now.saturating_duration_since(intended));
        }
        self.ops += u64::from(window.is_some_and(|window| window.contains(now)));
    }

    /// How many of these have come.
    fn has(&self, number: u64) -> u8 {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.times.get(number))
            .copied()
            .unwrap_or(0)
    }
}

impl Workload for Deliver {
    type Target = Client;
    type Caller = Caller;

    async fn caller(&self, _index: usize, client: &Client) -> Result<Caller, Status> {
        Ok(Caller {
            stub: client.stubs().events(),
            acknowledged: Vec::new(),
        })
    }

    fn begin(&self, window: Window) {
        // Called once.
        let _first = self.window.set(window);
    }

    async fn operate(&self, caller: &mut Caller, intended: Instant) -> Result<Done, Status> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let at = intended.saturating_duration_since(self.epoch).as_micros();
        let text = format!(r#"{{"number":{number},"at":{at},"x":"{}"}}"#, self.filler);
        let event = pb::NewEvent {
            event_type: EVENT_TYPE.into(),
            correlation_id: self.run.clone(),
            payload: Some(pb::Payload {
                content: Some(pb::payload::Content::Json(text)),
                ..Default::default()
            }),
            ..Default::default()
        };
        let publish = pb::PublishEventsRequest {
            namespace: self.namespace.clone(),
            request_id: request_id(),
            events: vec![event],
            ..Default::default()
        };
        caller.stub.publish_events(request(publish)).await?;
        caller.acknowledged.push(number);
        Ok(Done { calls: 1, ops: 1 })
    }

    async fn check(self, callers: Vec<Caller>, _client: &Client) -> Checked {
        let acknowledged: Vec<u64> = callers.into_iter().flat_map(|caller| caller.acknowledged).collect();
        let (mut problems, mut latencies, mut ops) = (Vec::new(), Latencies::new(), 0);
        let over = Instant::now() + PATIENCE;
        for (received, reader) in self.subscribers {
            let missing = || {
                acknowledged
                    .iter()
                    .filter(|number| lock(&received).has(**number) == 0)
                    .count()
            };
            while missing() > 0 && Instant::now() < over {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            reader.abort();
            let missing = missing();
            let received = lock(&received);
            let twice = received.times.iter().filter(|times| **times > 1).count();
            if missing > 0 || twice > 0 {
                problems.push(format!(
                    "of {} events {missing} did not come, {twice} came again",
                    acknowledged.len()
                ));
            }
            problems.extend(received.problems.iter().take(5).cloned());
            latencies.add(&received.latencies);
            ops += received.ops;
        }
        let checked = format!(
            "each of {} events came to every subscriber once, in order",
            acknowledged.len()
        );
        Checked {
            instead: Some((ops, latencies)),
            ..Checked::new(checked, problems)
        }
    }
}
