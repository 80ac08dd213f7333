//! Compare-and-swap: each write names the version that it replaces, and must make the next one.
//!
//! With a document for each caller nobody is ever in the way. With `--hot` all write the same one, and a conflict is no
//! error but a call more: the operation goes on, from the document that the refusal carries, until its write is in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use drumline::v1::state_service_client::StateServiceClient;
use drumline::{Client, Reason, v1 as pb};
use tonic::Status;
use tonic::transport::Channel;

use super::load::{Done, Workload};
use super::tally::{Checked, is_unknown};
use super::{Args, filler, request, request_id};

/// The workload.
#[derive(Debug)]
pub struct Cas {
    run: String,
    hot: bool,
    filler: String,
    namespace: String,
    conflicts: AtomicU64,
}

/// One writer.
#[derive(Debug)]
pub struct Caller {
    stub: StateServiceClient<Channel>,
    state_id: String,
    /// The version that it knows of.
    version: i64,
    written: u64,
    /// Writes whose fate is unknown.
    unknown: u64,
    problems: Vec<String>,
}

impl Cas {
    /// The workload of one run.
    pub fn new(run: &str, args: &Args) -> Cas {
        Cas {
            run: run.to_owned(),
            hot: args.hot,
            filler: filler(args.payload_bytes),
            namespace: args.connection.namespace.clone(),
            conflicts: AtomicU64::new(0),
        }
    }

    async fn put(&self, caller: &mut Caller) -> Result<i64, Status> {
        let text = format!(r#"{{"n":{},"x":"{}"}}"#, caller.version + 1, self.filler);
        let payload = pb::Payload {
            content: Some(pb::payload::Content::Json(text)),
            ..Default::default()
        };
        let put = pb::PutStateRequest {
            namespace: self.namespace.clone(),
            request_id: request_id(),
            state_id: caller.state_id.clone(),
            payload: Some(payload),
            expected_version: Some(caller.version),
            ..Default::default()
        };
        Ok(caller.stub.put_state(request(put)).await?.into_inner().version)
    }

    async fn version(&self, stub: &mut StateServiceClient<Channel>, state_id: &str) -> Result<(i64, String), Status> {
        let (namespace, state_id) = (self.namespace.clone(), state_id.to_owned());
        let get = pb::GetStateRequest {
            namespace,
            state_id,
            version: 0,
        };
        let state = stub
            .get_state(request(get))
            .await?
            .into_inner()
            .state
            .unwrap_or_default();
        let content = drumline::payload::decode_opt::<serde_json::Value>(state.payload.as_ref()).unwrap_or_default();
        Ok((state.version, content["n"].to_string()))
    }
}

impl Workload for Cas {
    type Target = Client;
    type Caller = Caller;

    async fn caller(&self, index: usize, client: &Client) -> Result<Caller, Status> {
        let own = if self.hot { "hot".to_owned() } else { index.to_string() };
        Ok(Caller {
            stub: client.stubs().state(),
            state_id: format!("bench/{}/{own}", self.run),
            version: 0,
            written: 0,
            unknown: 0,
            problems: Vec::new(),
        })
    }

    async fn operate(&self, caller: &mut Caller, _intended: Instant) -> Result<Done, Status> {
        let mut calls = 1;
        loop {
            let status = match self.put(caller).await {
                Ok(version) => {
                    if version != caller.version + 1 {
                        caller
                            .problems
                            .push(format!("version {version} came after {}", caller.version));
                    }
                    (caller.version, caller.written) = (version, caller.written + 1);
                    return Ok(Done { calls, ops: 1 });
                }
                Err(status) => status,
            };
            let error = drumline::Error::from(status.clone());
            if error.reason() == Reason::VersionConflict && (self.hot || caller.unknown > 0) {
                let current = error.get("current_version").and_then(|version| version.parse().ok());
                caller.version = current.unwrap_or(caller.version);
                self.conflicts.fetch_add(1, Ordering::Relaxed);
                calls += 1;
                continue;
            }
            caller.unknown += u64::from(is_unknown(&status));
            return Err(status);
        }
    }

    async fn check(self, callers: Vec<Caller>, client: &Client) -> Checked {
        let mut documents = std::collections::BTreeMap::<String, (u64, u64)>::new();
        let mut problems = Vec::new();
        for caller in callers {
            let (written, unknown) = documents.entry(caller.state_id).or_default();
            *written += caller.written;
            *unknown += caller.unknown;
            problems.extend(caller.problems);
        }
        let mut stub = client.stubs().state();
        for (state_id, (written, unknown)) in documents.iter().filter(|(_, (written, _))| *written > 0) {
            match self.version(&mut stub, state_id).await {
                Ok((version, content)) => {
                    let found = u64::try_from(version).unwrap_or(0);
                    if found < *written || found > written + unknown {
                        problems.push(format!("{state_id} has version {version} after {written} writes"));
                    }
                    if content != version.to_string() {
                        problems.push(format!(
                            "{state_id} has version {version} with the content of {content}"
                        ));
                    }
                }
                Err(status) => problems.push(format!("{state_id} cannot be read: {}", status.message())),
            }
        }
        let checked = "every write made the next version, and the last version is the number of writes";
        let figures = vec![("conflicts", self.conflicts.load(Ordering::Relaxed))];
        Checked {
            figures,
            ..Checked::new(checked, problems)
        }
    }
}
