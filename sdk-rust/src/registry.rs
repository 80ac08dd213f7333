//! The registry: who is there, and what each can do.
//!
//! An agent that serves tasks is made with [`crate::Agent`]; what is here looks at the others, and is the
//! unary way for an agent without a stream, which must send its heartbeats itself.

use drumline_proto::v1 as pb;
use futures::Stream;
use futures::stream::BoxStream;

use crate::client::{Client, request_id};
use crate::error::Result;
use crate::stream::{Opened, Source, paged, resumed};

/// `RegistryService`.
#[derive(Clone, Debug)]
pub struct Registry {
    client: Client,
}

impl Registry {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// One agent.
    pub async fn get(&self, agent_id: &str) -> Result<pb::Agent> {
        let namespace = self.client.namespace();
        let request = pb::GetAgentRequest {
            namespace,
            agent_id: agent_id.into(),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.registry().get_agent(request).await };
        Ok(self.client.call(request, send).await?.agent.unwrap_or_default())
    }

    /// The agents that match, the fittest first, page by page as they are asked for.
    pub fn list(&self, filter: pb::AgentFilter) -> BoxStream<'static, Result<pb::Agent>> {
        self.list_at(filter, "")
    }

    /// The agents that have a capability, and are there.
    pub fn with_capability(&self, capability: &str) -> BoxStream<'static, Result<pb::Agent>> {
        self.list(pb::AgentFilter {
            capability: capability.into(),
            ..Default::default()
        })
    }

    /// The same, once the list has seen this cursor or position, to read what was just written.
    pub fn list_at(&self, filter: pb::AgentFilter, min_position: &str) -> BoxStream<'static, Result<pb::Agent>> {
        let (client, min_position) = (self.client.clone(), min_position.to_owned());
        Box::pin(paged(move |page_token| {
            let client = client.clone();
            let request = pb::ListAgentsRequest {
                namespace: client.namespace(),
                filter: Some(filter.clone()),
                page_token,
                min_position: min_position.clone(),
                ..Default::default()
            };
            async move {
                let response = client
                    .call(request, |stubs, request| async move {
                        stubs.registry().list_agents(request).await
                    })
                    .await?;
                Ok((response.agents, response.next_page_token))
            }
        }))
    }

    /// The agents that match as they are, then each change. After a break it begins with all of them again.
    pub fn watch(
        &self,
        filter: pb::AgentFilter,
    ) -> impl Stream<Item = Result<pb::WatchAgentsResponse>> + Send + Unpin + use<> {
        resumed(
            AgentWatch {
                client: self.client.clone(),
                filter,
            },
            None,
        )
    }

    /// Registers an agent without a stream. Use the session with [`Client::with_session`].
    pub async fn register(&self, request: pb::RegisterAgentRequest) -> Result<pb::RegisterAgentResponse> {
        let namespace = self.client.namespace();
        let request = pb::RegisterAgentRequest {
            namespace,
            request_id: request_id(),
            ..request
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.registry().register_agent(request).await };
        self.client.call(request, send).await
    }

    /// Keeps the client's session alive.
    pub async fn heartbeat(&self) -> Result<pb::HeartbeatResponse> {
        let (namespace, session_id) = (self.client.namespace(), self.client.session_id());
        let request = pb::HeartbeatRequest { namespace, session_id };
        let send = |stubs: crate::Stubs, request| async move { stubs.registry().heartbeat(request).await };
        self.client.call(request, send).await
    }

    /// Changes the registration of the client's session in the fields of the mask.
    pub async fn update(&self, agent: pb::Agent, fields: &[&str]) -> Result<pb::Agent> {
        let paths = fields.iter().map(|&field| field.to_owned()).collect();
        let request = pb::UpdateAgentRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            agent: Some(agent),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.registry().update_agent(request).await };
        Ok(self.client.call(request, send).await?.agent.unwrap_or_default())
    }

    /// Takes an agent off the list, and ends its session if it is the client's own.
    pub async fn deregister(&self, agent_id: &str) -> Result<()> {
        let request = pb::DeregisterAgentRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            agent_id: agent_id.into(),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.registry().deregister_agent(request).await };
        self.client.call(request, send).await.map(|_| ())
    }
}

struct AgentWatch {
    client: Client,
    filter: pb::AgentFilter,
}

impl Source for AgentWatch {
    type Message = pb::WatchAgentsResponse;

    fn client(&self) -> &Client {
        &self.client
    }

    async fn open(&mut self) -> Result<Opened<Self::Message>> {
        let request = pb::WatchAgentsRequest {
            namespace: self.client.namespace(),
            filter: Some(self.filter.clone()),
            progress_interval: None,
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.registry().watch_agents(request).await };
        self.client.open(request, send).await
    }

    fn seen(&mut self, _message: &Self::Message) {}
}
