//! Taking a lock and giving it back: one operation, two calls. With `--hot` all want the same lock, and wait for it in the queue.
//!
//! The positions of the log tell who held it when: no two tenures may overlap, and each has a higher token than the one before.

use std::time::{Duration, Instant};

use drumline::v1::lock_service_client::LockServiceClient;
use drumline::{Client, v1 as pb};
use tonic::Status;
use tonic::transport::Channel;

use super::load::{Done, Workload};
use super::tally::Checked;
use super::{Args, request, request_id};
use crate::cli::parse::proto_duration;

/// The length of leases; longer than anything waits.
const TTL: Duration = Duration::from_secs(120);
/// How long to wait for a hot lock: less than a call may take.
const WAIT: Duration = Duration::from_secs(50);

/// The workload.
#[derive(Debug)]
pub struct Lock {
    run: String,
    hot: bool,
    namespace: String,
}

/// One tenure, from its grant to its release, by positions of the log.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    granted: i64,
    released: i64,
    token: i64,
}

/// One caller.
#[derive(Debug)]
pub struct Caller {
    stub: LockServiceClient<Channel>,
    resource_id: String,
    holder_id: String,
    tenures: Vec<Tenure>,
}

impl Lock {
    /// The workload of one run.
    pub fn new(run: &str, args: &Args) -> Lock {
        Lock {
            run: run.to_owned(),
            hot: args.hot,
            namespace: args.connection.namespace.clone(),
        }
    }
}

impl Workload for Lock {
    type Target = Client;
    type Caller = Caller;

    async fn caller(&self, index: usize, client: &Client) -> Result<Caller, Status> {
        let own = if self.hot { "hot".to_owned() } else { index.to_string() };
        Ok(Caller {
            stub: client.stubs().locks(),
            resource_id: format!("bench/{}/{own}", self.run),
            holder_id: format!("bench-{index}"),
            tenures: Vec::new(),
        })
    }

    async fn operate(&self, caller: &mut Caller, _intended: Instant) -> Result<Done, Status> {
        let acquire = pb::AcquireLockRequest {
            namespace: self.namespace.clone(),
            request_id: request_id(),
            resource_id: caller.resource_id.clone(),
            holder_id: caller.holder_id.clone(),
            ttl: Some(proto_duration(TTL)),
            wait_timeout: self.hot.then(|| proto_duration(WAIT)),
            ..Default::default()
        };
        let answer = caller.stub.acquire_lock(request(acquire)).await?.into_inner();
        let (granted, token) = (answer.position, answer.lock.unwrap_or_default().fencing_token);
        let release = pb::ReleaseLockRequest {
            namespace: self.namespace.clone(),
            request_id: request_id(),
            resource_id: caller.resource_id.clone(),
            fencing_token: token,
            ..Default::default()
        };
        let released = caller.stub.release_lock(request(release)).await?.into_inner().position;
        caller.tenures.push(Tenure {
            granted,
            released,
            token,
        });
        Ok(Done { calls: 2, ops: 1 })
    }

    async fn check(self, callers: Vec<Caller>, _client: &Client) -> Checked {
        let problems = if self.hot {
            check_tenures(callers.into_iter().flat_map(|caller| caller.tenures).collect())
        } else {
            callers
                .into_iter()
                .flat_map(|caller| check_tenures(caller.tenures))
                .collect()
        };
        Checked::new(
            "every token is higher than the last, and nobody held a lock beside another",
            problems,
        )
    }
}

/// What is wrong with the tenures of one lock.
fn check_tenures(mut tenures: Vec<Tenure>) -> Vec<String> {
    tenures.sort_unstable_by_key(|tenure| (tenure.granted, tenure.token));
    let pairs = tenures.windows(2).map(|pair| (pair[0], pair[1]));
    let wrong = pairs.filter(|(one, next)| next.token <= one.token || next.granted < one.released);
    wrong
        .take(20)
        .map(|(one, next)| format!("{next:?} came after {one:?}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenures_that_overlap_or_go_back_are_found() {
        let tenure = |granted, released, token| Tenure {
            granted,
            released,
            token,
        };
        assert!(check_tenures(vec![tenure(5, 7, 2), tenure(1, 4, 1), tenure(7, 9, 3)]).is_empty());
        assert_eq!(check_tenures(vec![tenure(1, 4, 1), tenure(3, 6, 2)]).len(), 1);
        assert_eq!(check_tenures(vec![tenure(1, 2, 2), tenure(3, 4, 2)]).len(), 1);
    }
}
