//! A health check: no lane, no store, so what the transport itself can do.

use std::time::Instant;

use drumline::Client;
use tonic::Status;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::load::{Done, Workload};
use super::request;
use super::tally::Checked;

/// The workload.
#[derive(Debug)]
pub struct Ping;

impl Workload for Ping {
    type Target = Client;
    type Caller = HealthClient<Channel>;

    async fn caller(&self, _index: usize, client: &Client) -> Result<Self::Caller, Status> {
        Ok(HealthClient::new(client.stubs().channel()))
    }

    async fn operate(&self, caller: &mut Self::Caller, _intended: Instant) -> Result<Done, Status> {
        let answer = caller.check(request(HealthCheckRequest::default())).await?.into_inner();
        match answer.status() {
            ServingStatus::Serving => Ok(Done { calls: 1, ops: 1 }),
            _ => Err(Status::unavailable("the server says that it does not serve")),
        }
    }

    async fn check(self, _callers: Vec<Self::Caller>, _client: &Client) -> Checked {
        Checked::new("every answer was SERVING", Vec::new())
    }
}
