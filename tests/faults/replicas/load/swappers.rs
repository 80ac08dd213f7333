//! Callers that read documents and write them if nobody has meanwhile, or whatever they are, or delete them.

use std::time::Duration;

use drumline_proto::v1;
use tonic::Status;

use super::caller::{Answer, Called, Caller, LONG, SHORT, said};
use super::{Kind, Notes};
use crate::support::history::Recorded;
use crate::support::history::document::{Operation, Outcome};
use crate::support::{json, metadata_of, reason_of, text_of};

/// How many documents there are.
const DOCUMENTS: usize = 4;

/// A swapper at work.
struct Swapper {
    caller: Caller,
    document: String,
    notes: Vec<Recorded<Operation>>,
}

/// Reads and writes documents until it is told to stop.
pub async fn work(caller: Caller) -> Notes {
    let mut notes = Notes::default();
    let mut swapper = Swapper {
        document: String::new(),
        caller,
        notes: Vec::new(),
    };
    while !swapper.caller.shared.is_over() {
        swapper.caller.wander();
        let document = (swapper.caller.number + swapper.caller.calls as usize / 64) % DOCUMENTS;
        swapper.document = format!("document-{document}");
        swapper.turn().await;
        let history = notes.documents.entry(swapper.document.clone()).or_default();
        history.append(&mut swapper.notes);
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    notes
}

impl Swapper {
    async fn turn(&mut self) {
        let (count, number) = (self.caller.calls, self.caller.number as u64);
        let patience = if count % 13 == 5 { SHORT } else { LONG };
        let version = self.read().await;
        let content = number * 1_000_000 + count;
        if count.is_multiple_of(17) && version > 0 {
            self.delete(version, patience).await;
        } else {
            let expected = (!count.is_multiple_of(9)).then_some(version);
            self.put(expected, content, patience).await;
        }
    }

    /// The version of the document; 0 if it is not there.
    async fn read(&mut self) -> i64 {
        let request = v1::GetStateRequest {
            namespace: self.caller.shared.namespace.clone(),
            state_id: self.document.clone(),
            version: 0,
        };
        let reading = self
            .caller
            .call(LONG, Duration::ZERO, &request, |channel, request| async move {
                v1::state_service_client::StateServiceClient::new(channel)
                    .get_state(request)
                    .await
            });
        let called = reading.await;
        let seen = match called.answer {
            Answer::Done(response) => {
                let state = response.state.expect("a document");
                let content = text_of(&state.payload).parse().expect("a number");
                Some((state.version, content))
            }
            Answer::Refused(status) if reason_of(&status) == "STATE_NOT_FOUND" => None,
            Answer::Refused(status) => {
                self.unexpected("GetState", &status);
                return 0;
            }
            Answer::GivenUp => return 0,
        };
        self.record(Operation::Get(seen), called.sent, Some(called.answered));
        seen.map_or(0, |(version, _)| version)
    }

    async fn put(&mut self, expected: Option<i64>, content: u64, patience: Duration) {
        let request = v1::PutStateRequest {
            namespace: self.caller.shared.namespace.clone(),
            request_id: uuid::Uuid::new_v4().to_string(),
            state_id: self.document.clone(),
            payload: json(&content.to_string()),
            expected_version: expected,
            ..Default::default()
        };
        let writing = self
            .caller
            .call(patience, Duration::ZERO, &request, |channel, request| async move {
                v1::state_service_client::StateServiceClient::new(channel)
                    .put_state(request)
                    .await
            });
        let called = writing.await;
        let made = match &called.answer {
            Answer::Done(response) => Some((response.version, response.cursor.clone())),
            _ => None,
        };
        self.wrote(expected, Some(content), made, &called);
    }

    async fn delete(&mut self, version: i64, patience: Duration) {
        let request = v1::DeleteStateRequest {
            namespace: self.caller.shared.namespace.clone(),
            request_id: uuid::Uuid::new_v4().to_string(),
            state_id: self.document.clone(),
            expected_version: Some(version),
            ..Default::default()
        };
        let deleting = self
            .caller
            .call(patience, Duration::ZERO, &request, |channel, request| async move {
                v1::state_service_client::StateServiceClient::new(channel)
                    .delete_state(request)
                    .await
            });
        let called = deleting.await;
        let made = match &called.answer {
            Answer::Done(response) => Some((response.version, response.cursor.clone())),
            _ => None,
        };
        self.wrote(Some(version), None, made, &called);
    }

    /// Notes what came of a write, and one more of unknown outcome where a try of it may have been carried out besides.
    fn wrote<R>(
        &mut self,
        expected: Option<i64>,
        content: Option<u64>,
        made: Option<(i64, String)>,
        called: &Called<R>,
    ) {
        let outcome = match &called.answer {
            Answer::Done(_) => {
                let (version, cursor) = made.expect("an answer");
                let shared = &self.caller.shared;
                shared.succeeded(Kind::Swap, called.sent, called.answered, Some(&cursor));
                Outcome::Made(version)
            }
            Answer::GivenUp => Outcome::Unknown,
            Answer::Refused(status) => match reason_of(status).as_str() {
                "VERSION_CONFLICT" => {
                    let version = metadata_of(status, "current_version");
                    Outcome::Conflict(version.parse().expect("a version"))
                }
                "STATE_NOT_FOUND" => Outcome::NotFound,
                _ => return self.unexpected("a write", status),
            },
        };
        let operation = |outcome| Operation::Put {
            expected,
            content,
            outcome,
        };
        let is_refused = matches!(called.answer, Answer::Refused(_));
        if outcome != Outcome::Unknown {
            self.record(operation(outcome), called.sent, Some(called.answered));
        }
        if outcome == Outcome::Unknown || (is_refused && called.is_doubtful) {
            self.record(operation(Outcome::Unknown), called.sent, None);
        }
    }

    fn record(&mut self, operation: Operation, sent: Duration, answered: Option<Duration>) {
        self.notes.push(Recorded {
            operation,
            sent,
            answered,
        });
    }

    fn unexpected(&self, what: &str, status: &Status) {
        self.caller
            .shared
            .complain(format!("{what} was refused: {}", said(status)));
    }
}
