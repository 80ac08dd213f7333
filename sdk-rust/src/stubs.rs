//! The generated clients, with the SDK's message limits.

use drumline_proto::v1::event_service_client::EventServiceClient;
use drumline_proto::v1::lock_service_client::LockServiceClient;
use drumline_proto::v1::registry_service_client::RegistryServiceClient;
use drumline_proto::v1::session_service_client::SessionServiceClient;
use drumline_proto::v1::state_service_client::StateServiceClient;
use drumline_proto::v1::task_service_client::TaskServiceClient;
use drumline_proto::v1::workflow_service_client::WorkflowServiceClient;
use tonic::transport::Channel;

/// The largest message that is read.
const LARGEST_MESSAGE: usize = 16 << 20;

/// The generated clients on one connection.
#[derive(Clone, Debug)]
pub struct Stubs {
    channel: Channel,
}

impl Stubs {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// The connection.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// `EventService`.
    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    /// `LockService`.
    pub fn locks(&self) -> LockServiceClient<Channel> {
        LockServiceClient::new(self.channel()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    /// `RegistryService`.
    pub fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.channel()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    /// `SessionService`.
    pub fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    /// `StateService`.
    pub fn state(&self) -> StateServiceClient<Channel> {
        StateServiceClient::new(self.channel()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    /// `TaskService`.
    pub fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    /// `WorkflowService`.
    pub fn workflows(&self) -> WorkflowServiceClient<Channel> {
        WorkflowServiceClient::new(self.channel()).max_decoding_message_size(LARGEST_MESSAGE)
    }
}
