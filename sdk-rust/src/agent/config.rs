//! What an agent is and how it behaves, fixed when it starts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1 as pb;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::capability::Handler;
use crate::client::Client;

/// What the driver needs to know of its agent.
pub(crate) struct Config {
    pub(crate) client: Client,
    pub(crate) registration: pb::RegisterAgentRequest,
    pub(crate) handlers: HashMap<String, Handler>,
    pub(crate) fallback: Option<Handler>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) cancel_grace: Duration,
    pub(crate) deregister: bool,
    /// Where handlers run.
    pub(crate) runtime: Handle,
}

impl Config {
    pub(crate) fn agent_id(&self) -> &str {
        &self.registration.agent_id
    }

    pub(crate) fn handler(&self, capability: &str) -> Option<Handler> {
        self.handlers.get(capability).or(self.fallback.as_ref()).cloned()
    }
}
