//! Servers that die, stop, pause, or cannot write: each test has servers of its own, on a data directory of its own.

mod aging;
mod blocked;
mod crash;
mod drain;
mod history;
mod refused;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use drumline_proto::v1;
use tonic::{Code, Status};

use crate::common::{get, put};
use crate::events::{about, list, list_all, positions};
use crate::support::wait::until;
use crate::support::{Stage, json, reason_of, text_of};

/// A new server on a port that is free.
fn start(directory: &Path) -> crate::support::server::Server {
    crate::support::server::Server::start(directory, "127.0.0.1:0")
}

/// The epoch in a cursor.
fn epoch_of(cursor: &str) -> i64 {
    let (epoch, _) = cursor.split_once('.').expect("an epoch and a position");
    i64::from_str_radix(epoch, 16).expect("a number")
}

/// One who writes documents or publishes events, one request after another, and notes what was acknowledged.
#[derive(Clone, Debug, Default)]
struct Caller {
    number: usize,
    /// The versions, or the positions of the events, that were acknowledged, in the order of the requests.
    acknowledged: Vec<i64>,
    /// The cursor of the last.
    cursor: String,
}

impl Caller {
    fn writes(&self) -> bool {
        self.number.is_multiple_of(2)
    }

    fn document(&self) -> String {
        format!("doc-{}", self.number)
    }

    fn event_id(&self, request: usize) -> String {
        format!("event-{}-{request}", self.number)
    }

    /// Sends the next request: that which was not acknowledged, if there is one, the very same again.
    async fn step(&mut self, stage: &Stage) -> Result<(), Status> {
        let request = self.acknowledged.len() + 1;
        let request_id = format!("{}-{request}", self.number);
        if self.writes() {
            let message = v1::PutStateRequest {
                request_id,
                ..put(stage, &self.document(), json(&request.to_string()))
            };
            let answer = stage.state().put_state(message).await?.into_inner();
            self.acknowledged.push(answer.version);
            self.cursor = answer.cursor;
        } else {
            let event = v1::NewEvent {
                event_id: self.event_id(request),
                ..about("load.made", self.number.to_string())
            };
            let message = v1::PublishEventsRequest {
                namespace: stage.ns(),
                request_id,
                events: vec![event],
                ..Default::default()
            };
            let answer = stage.events().publish_events(message).await?.into_inner();
            self.acknowledged.push(answer.position);
            self.cursor = answer.cursor;
        }
        Ok(())
    }
}

/// Callers at work. They go on until they are told to stop, or a call fails.
struct Load {
    callers: Vec<tokio::task::JoinHandle<(Caller, Option<Status>)>>,
    acknowledged: Arc<AtomicUsize>,
    stop: tokio_util::sync::CancellationToken,
}

impl Load {
    fn start(stage: &Stage, callers: Vec<Caller>) -> Load {
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let stop = tokio_util::sync::CancellationToken::new();
        let callers = callers.into_iter().map(|mut caller| {
            let (stage, acknowledged, stop) = (stage.clone(), Arc::clone(&acknowledged), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    if let Err(status) = caller.step(&stage).await {
                        return (caller, Some(status));
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                (caller, None)
            })
        });
        Load {
            callers: callers.collect(),
            acknowledged,
            stop,
        }
    }

    /// Waits until so many requests more were acknowledged.
    async fn acknowledges(&self, more: usize) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        until("the acknowledgements", || async {
            self.acknowledged.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    /// What became of the callers, once each has stopped or failed.
    async fn end(self) -> Vec<(Caller, Option<Status>)> {
        let callers = crate::support::wait::soon("the end of the calls", futures::future::join_all(self.callers)).await;
        callers.into_iter().map(|caller| caller.expect("no panic")).collect()
    }
}

fn callers(count: usize) -> Vec<Caller> {
    (0..count)
        .map(|number| Caller {
            number,
            ..Caller::default()
        })
        .collect()
}

/// Fails unless what was acknowledged is there, done once and in order, and the log has no gap.
async fn assert_kept(stage: &Stage, callers: &[Caller]) {
    let (events, _) = list_all(stage, list(stage)).await;
    assert_eq!(positions(&events), (1..=events.len() as i64).collect::<Vec<_>>());
    for caller in callers {
        let count = caller.acknowledged.len() as i64;
        if caller.writes() {
            assert_eq!(
                caller.acknowledged,
                (1..=count).collect::<Vec<_>>(),
                "the versions of {}",
                caller.document()
            );
            if count > 0 {
                let state = get(stage, &caller.document()).await.expect("it was acknowledged");
                // One more may have been committed without an answer.
                assert!(
                    (count..=count + 1).contains(&state.version),
                    "{} is {}",
                    caller.document(),
                    state.version
                );
                assert_eq!(text_of(&state.payload), state.version.to_string());
            }
        } else {
            for (index, position) in caller.acknowledged.iter().enumerate() {
                let event = &events[usize::try_from(position - 1).expect("a position")];
                assert_eq!(
                    (event.event_id.clone(), event.position),
                    (caller.event_id(index + 1), *position)
                );
            }
            let made = events
                .iter()
                .filter(|event| event.subject == caller.number.to_string())
                .count() as i64;
            assert!(
                (count..=count + 1).contains(&made),
                "{made} events of caller {}",
                caller.number
            );
        }
    }
}

/// Whether a call may be tried again because the server, or its store, was away.
fn was_away(status: &Status) -> bool {
    [Code::Unavailable, Code::Unknown, Code::Cancelled].contains(&status.code())
        || reason_of(status) == "OUTCOME_UNKNOWN"
}
