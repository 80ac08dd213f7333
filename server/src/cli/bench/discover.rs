//! Discovery: the fittest agents with a capability, among many that are registered for the run and taken off the list after it.
//!
//! A hundred agents share each capability, and callers ask for one after the other, so that answers come from all over the list. The
//! agents have no stream and are not kept alive: their sessions last as long as sessions may, which bounds the run.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use drumline::v1::registry_service_client::RegistryServiceClient;
use drumline::{Client, v1 as pb};
use futures::{StreamExt, TryStreamExt, stream};
use tonic::Status;
use tonic::transport::Channel;

use super::load::{Done, Workload};
use super::tally::Checked;
use super::{Args, connect, request, request_id};
use crate::cli::Failure;
use crate::cli::parse::proto_duration;

/// The longest that a session can be.
const TTL: Duration = Duration::from_secs(600);
/// How many agents have the same capability.
const ALIKE: usize = 100;
/// How many agents come or go at once.
const AT_ONCE: usize = 256;
/// How long the servers may take to see all agents.
const PATIENCE: Duration = Duration::from_secs(30);

/// The workload.
#[derive(Debug)]
pub struct Discover {
    run: String,
    namespace: String,
    page_size: i32,
    agents: usize,
    clients: Vec<Client>,
    sessions: Vec<String>,
}

/// One who looks for agents.
#[derive(Debug)]
pub struct Caller {
    stub: RegistryServiceClient<Channel>,
    /// Which capability is next.
    next: usize,
    problems: Vec<String>,
}

impl Discover {
    /// Registers the agents, and waits until every server sees them.
    pub async fn start(run: &str, args: &Args) -> Result<Discover, Failure> {
        let servers = &args.connection.server;
        let clients = connect(args, servers, args.connections(AT_ONCE, servers.len())).await?;
        let mut discover = Discover {
            run: run.to_owned(),
            namespace: args.connection.namespace.clone(),
            page_size: args.page_size,
            agents: args.discovered(),
            clients,
            sessions: Vec::new(),
        };
        let come = stream::iter(0..discover.agents).map(|index| discover.register(index));
        let registered: Vec<(String, i64)> = come.buffer_unordered(AT_ONCE).try_collect().await?;
        let last = registered.iter().map(|(_, position)| *position).max().unwrap_or(0);
        for client in &discover.clients {
            let seen = tokio::time::timeout(PATIENCE, discover.wait_until_seen(client, last)).await;
            seen.map_err(|_elapsed| Failure::message("a server does not see the agents that were registered"))??;
        }
        discover.sessions = registered.into_iter().map(|(session_id, _)| session_id).collect();
        Ok(discover)
    }

    fn capability(&self, number: usize) -> String {
        format!("bench-{}-{number}", self.run)
    }

    fn capabilities(&self) -> usize {
        self.agents.div_ceil(ALIKE)
    }

    /// How many agents must come back for a capability: agents have the capabilities in turn.
    fn expected(&self, capability: usize) -> usize {
        let have_it = (capability..self.agents).step_by(self.capabilities()).count();
        have_it.min(usize::try_from(self.page_size).unwrap_or(0))
    }

    fn stub(&self, number: usize) -> RegistryServiceClient<Channel> {
        self.clients[number % self.clients.len()].stubs().registry()
    }

    async fn register(&self, index: usize) -> Result<(String, i64), Status> {
        let register = pb::RegisterAgentRequest {
            namespace: self.namespace.clone(),
            request_id: request_id(),
            agent_id: format!("bench-{}-{index}", self.run),
            max_concurrent_tasks: 4,
            capabilities: vec![pb::Capability {
                name: self.capability(index % self.capabilities()),
                ..Default::default()
            }],
            session_ttl: Some(proto_duration(TTL)),
            ..Default::default()
        };
        let registered = self.stub(index).register_agent(request(register)).await?.into_inner();
        Ok((registered.session_id, registered.position))
    }

    async fn wait_until_seen(&self, client: &Client, position: i64) -> Result<(), Status> {
        let mut seen = -1;
        while seen < position {
            let list = pb::ListAgentsRequest {
                namespace: self.namespace.clone(),
                page_size: 1,
                min_position: position.to_string(),
                ..Default::default()
            };
            seen = client
                .stubs()
                .registry()
                .list_agents(request(list))
                .await?
                .into_inner()
                .position;
        }
        Ok(())
    }

    async fn deregister(&self, index: usize) -> Result<(), Status> {
        let deregister = pb::DeregisterAgentRequest {
            namespace: self.namespace.clone(),
            request_id: request_id(),
            session_id: self.sessions[index].clone(),
            ..Default::default()
        };
        self.stub(index).deregister_agent(request(deregister)).await?;
        Ok(())
    }
}

impl Workload for Discover {
    type Target = Client;
    type Caller = Caller;

    async fn caller(&self, index: usize, client: &Client) -> Result<Caller, Status> {
        Ok(Caller {
            stub: client.stubs().registry(),
            next: index,
            problems: Vec::new(),
        })
    }

    async fn operate(&self, caller: &mut Caller, _intended: Instant) -> Result<Done, Status> {
        let number = caller.next % self.capabilities();
        // A prime, so that all have their turn, and never neighbours.
        caller.next = number + 7_919;
        let capability = self.capability(number);
        let list = pb::ListAgentsRequest {
            namespace: self.namespace.clone(),
            filter: Some(pb::AgentFilter {
                capability: capability.clone(),
                ..Default::default()
            }),
            page_size: self.page_size,
            ..Default::default()
        };
        let agents = caller.stub.list_agents(request(list)).await?.into_inner().agents;
        let has_it = |agent: &pb::Agent| agent.capabilities.iter().any(|known| known.name == capability);
        let different: HashSet<&str> = agents.iter().map(|agent| agent.agent_id.as_str()).collect();
        if different.len() != self.expected(number) || agents.len() != different.len() || !agents.iter().all(has_it) {
            caller.problems.push(format!(
                "{} agents came back for {capability}, {} of them with it, of {} expected",
                agents.len(),
                agents.iter().filter(|agent| has_it(agent)).count(),
                self.expected(number)
            ));
        }
        Ok(Done { calls: 1, ops: 1 })
    }

    async fn check(self, callers: Vec<Caller>, _client: &Client) -> Checked {
        let mut problems: Vec<String> = callers
            .into_iter()
            .flat_map(|caller| caller.problems)
            .take(20)
            .collect();
        let gone = stream::iter(0..self.sessions.len()).map(|index| self.deregister(index));
        if let Err(status) = gone.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await {
            problems.push(format!("an agent cannot be taken off the list: {}", status.message()));
        }
        let figures = vec![("agents", self.agents as u64)];
        Checked {
            figures,
            ..Checked::new(
                "every agent that came back has the capability, and as many came as should",
                problems,
            )
        }
    }
}
