//! Heartbeats: each caller is an agent without a stream, and keeps its own session alive.

use std::time::{Duration, Instant};

use drumline::v1::registry_service_client::RegistryServiceClient;
use drumline::{Client, v1 as pb};
use tonic::Status;
use tonic::transport::Channel;

use super::load::{Done, Workload};
use super::tally::Checked;
use super::{Args, request, request_id};
use crate::cli::parse::proto_duration;

/// Long enough to outlive a server that does not answer for a while.
const TTL: Duration = Duration::from_secs(60);

/// The workload.
#[derive(Debug)]
pub struct Heartbeat {
    run: String,
    namespace: String,
}

/// One agent.
#[derive(Debug)]
pub struct Caller {
    stub: RegistryServiceClient<Channel>,
    agent_id: String,
    session_id: String,
    incarnation: i64,
    /// When its session ends without another heartbeat: seconds and nanoseconds.
    expires: (i64, i32),
    problems: Vec<String>,
}

impl Heartbeat {
    /// The workload of one run.
    pub fn new(run: &str, args: &Args) -> Heartbeat {
        Heartbeat {
            run: run.to_owned(),
            namespace: args.connection.namespace.clone(),
        }
    }

    /// Takes the agent off the list; tells what is wrong with it.
    async fn end(&self, caller: &mut Caller) -> Result<Option<String>, Status> {
        let get = pb::GetAgentRequest {
            namespace: self.namespace.clone(),
            agent_id: caller.agent_id.clone(),
        };
        let answer = caller.stub.get_agent(request(get)).await?.into_inner();
        let agent = answer.agent.unwrap_or_default();
        let is_there = agent.status() == pb::agent::Status::Active && agent.session_incarnation == caller.incarnation;
        let problem = (!is_there).then(|| {
            let (status, incarnation) = (agent.status().as_str_name(), agent.session_incarnation);
            format!(
                "{} is {status} in its incarnation {incarnation}, after {}",
                caller.agent_id, caller.incarnation
            )
        });
        let deregister = pb::DeregisterAgentRequest {
            namespace: self.namespace.clone(),
            request_id: request_id(),
            session_id: caller.session_id.clone(),
            ..Default::default()
        };
        caller.stub.deregister_agent(request(deregister)).await?;
        Ok(problem)
    }
}

impl Workload for Heartbeat {
    type Target = Client;
    type Caller = Caller;

    async fn caller(&self, index: usize, client: &Client) -> Result<Caller, Status> {
        let agent_id = format!("bench-{}-{index}", self.run);
        let mut stub = client.stubs().registry();
        let register = pb::RegisterAgentRequest {
            namespace: self.namespace.clone(),
            request_id: request_id(),
            agent_id: agent_id.clone(),
            session_ttl: Some(proto_duration(TTL)),
            ..Default::default()
        };
        let registered = stub.register_agent(request(register)).await?.into_inner();
        Ok(Caller {
            stub,
            agent_id,
            session_id: registered.session_id,
            incarnation: registered.agent.unwrap_or_default().session_incarnation,
            expires: (0, 0),
            problems: Vec::new(),
        })
    }

    async fn operate(&self, caller: &mut Caller, _intended: Instant) -> Result<Done, Status> {
        let beat = pb::HeartbeatRequest {
            namespace: self.namespace.clone(),
            session_id: caller.session_id.clone(),
        };
        let answer = caller.stub.heartbeat(request(beat)).await?.into_inner();
        let expires = answer.expire_time.map_or((0, 0), |time| (time.seconds, time.nanos));
        if expires <= caller.expires {
            caller.problems.push(format!(
                "a session ends at {expires:?}, earlier than at {:?}",
                caller.expires
            ));
        }
        caller.expires = expires;
        Ok(Done { calls: 1, ops: 1 })
    }

    async fn check(self, callers: Vec<Caller>, _client: &Client) -> Checked {
        let mut problems = Vec::new();
        for mut caller in callers {
            problems.append(&mut caller.problems);
            match self.end(&mut caller).await {
                Ok(problem) => problems.extend(problem),
                Err(status) => problems.push(format!("{} cannot be ended: {}", caller.agent_id, status.message())),
            }
        }
        problems.truncate(20);
        Checked::new(
            "every heartbeat put its session's end off, and all are alive in their first incarnation of the run",
            problems,
        )
    }
}
