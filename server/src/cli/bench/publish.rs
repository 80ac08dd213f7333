//! Publishing: one event a call, or a batch. Each event has a position of its own; a batch's follow one another.

use std::time::Instant;

use drumline::v1::event_service_client::EventServiceClient;
use drumline::{Client, v1 as pb};
use tonic::Status;
use tonic::transport::Channel;

use super::load::{Done, Workload};
use super::tally::Checked;
use super::{Args, filler, request, request_id};

/// The workload.
#[derive(Debug)]
pub struct Publish {
    event: pb::NewEvent,
    batch: usize,
    namespace: String,
}

/// One publisher.
#[derive(Debug)]
pub struct Caller {
    stub: EventServiceClient<Channel>,
    /// The first position of each batch.
    positions: Vec<i64>,
    problems: Vec<String>,
}

impl Publish {
    /// The workload of one run.
    pub fn new(run: &str, args: &Args) -> Publish {
        let text = format!(r#"{{"x":"{}"}}"#, filler(args.payload_bytes));
        let payload = pb::Payload {
            content: Some(pb::payload::Content::Json(text)),
            ..Default::default()
        };
        let event = pb::NewEvent {
            event_type: "bench.published".into(),
            correlation_id: run.to_owned(),
            payload: Some(payload),
            ..Default::default()
        };
        Publish {
            event,
            batch: args.batch,
            namespace: args.connection.namespace.clone(),
        }
    }
}

impl Workload for Publish {
    type Target = Client;
    type Caller = Caller;

    async fn caller(&self, _index: usize, client: &Client) -> Result<Caller, Status> {
        Ok(Caller {
            stub: client.stubs().events(),
            positions: Vec::new(),
            problems: Vec::new(),
        })
    }

    async fn operate(&self, caller: &mut Caller, _intended: Instant) -> Result<Done, Status> {
        let publish = pb::PublishEventsRequest {
            namespace: self.namespace.clone(),
            request_id: request_id(),
            events: vec![self.event.clone(); self.batch],
            ..Default::default()
        };
        let published = caller.stub.publish_events(request(publish)).await?.into_inner().events;
        let first = published.first().map_or(0, |event| event.position);
        let in_order = published
            .iter()
            .zip(first..)
            .all(|(event, position)| event.position == position);
        if published.len() != self.batch || !in_order || published.iter().any(|event| event.duplicate) {
            caller
                .problems
                .push(format!("a batch of {} was answered by {published:?}", self.batch));
        }
        caller.positions.push(first);
        Ok(Done {
            calls: 1,
            ops: self.batch as u64,
        })
    }

    async fn check(self, callers: Vec<Caller>, _client: &Client) -> Checked {
        let mut problems: Vec<String> = Vec::new();
        let mut firsts = Vec::new();
        for caller in callers {
            problems.extend(caller.problems);
            firsts.extend(caller.positions);
        }
        firsts.sort_unstable();
        let batch = i64::try_from(self.batch).unwrap_or(i64::MAX);
        if let Some(pair) = firsts.windows(2).find(|pair| pair[1] - pair[0] < batch) {
            problems.push(format!(
                "positions were given twice: batches begin at {} and {}",
                pair[0], pair[1]
            ));
        }
        problems.truncate(20);
        Checked::new("every event has a position of its own, and batches are whole", problems)
    }
}
