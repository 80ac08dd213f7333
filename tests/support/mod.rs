//! Servers to test against, and a stage for each test: a namespace of its own.

pub mod agent;
pub mod history;
pub mod keeper;
pub mod postgres;
pub mod proxy;
pub mod redis;
pub mod server;
pub mod wait;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use drumline_proto::v1;
use tonic::transport::Channel;

/// Where a test plays: a server, and a namespace that nobody else uses.
#[derive(Clone)]
pub struct Stage {
    /// Which server, or one of them.
    pub address: String,
    /// All of them, separated by commas.
    pub servers: String,
    /// A namespace of its own.
    pub namespace: String,
    /// A connection to the server.
    pub channel: Channel,
}

/// Runs a test on every composition.
pub async fn on_every_composition<F, Fut>(test: F)
where
    F: Fn(Stage) -> Fut,
    Fut: Future<Output = ()>,
{
    for composition in server::compositions() {
        eprintln!("on {composition:?}");
        test(Stage::over(&server::shared(*composition)).await).await;
    }
}

impl Stage {
    /// A stage on a server.
    pub async fn new(address: &str) -> Stage {
        Stage::over(&[address.to_owned()]).await
    }

    /// A stage on servers that share a store: a call goes to any of them.
    pub async fn over(addresses: &[String]) -> Stage {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let namespace = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Stage {
            address: addresses[0].clone(),
            servers: addresses.join(","),
            namespace,
            channel: match addresses {
                [address] => connect(address).await,
                several => spread(several),
            },
        }
    }

    /// The state service.
    pub fn state(&self) -> v1::state_service_client::StateServiceClient<Channel> {
        v1::state_service_client::StateServiceClient::new(self.channel.clone())
    }

    /// The event service.
    pub fn events(&self) -> v1::event_service_client::EventServiceClient<Channel> {
        v1::event_service_client::EventServiceClient::new(self.channel.clone())
    }

    /// The lock service.
    pub fn locks(&self) -> v1::lock_service_client::LockServiceClient<Channel> {
        v1::lock_service_client::LockServiceClient::new(self.channel.clone())
    }

    /// The registry.
    pub fn registry(&self) -> v1::registry_service_client::RegistryServiceClient<Channel> {
        v1::registry_service_client::RegistryServiceClient::new(self.channel.clone())
    }

    /// The session service.
    pub fn sessions(&self) -> v1::session_service_client::SessionServiceClient<Channel> {
        v1::session_service_client::SessionServiceClient::new(self.channel.clone())
    }

    /// The task service.
    pub fn tasks(&self) -> v1::task_service_client::TaskServiceClient<Channel> {
        v1::task_service_client::TaskServiceClient::new(self.channel.clone())
    }

    /// The workflow service.
    pub fn workflows(&self) -> v1::workflow_service_client::WorkflowServiceClient<Channel> {
        v1::workflow_service_client::WorkflowServiceClient::new(self.channel.clone())
    }

    /// The namespace, for a request.
    pub fn ns(&self) -> String {
        self.namespace.clone()
    }
}

/// Connections to several servers, among which calls are spread.
fn spread(addresses: &[String]) -> Channel {
    let endpoints = addresses
        .iter()
        .map(|address| Channel::from_shared(address.clone()).expect("an address"));
    Channel::balance_list(endpoints)
}

/// A connection of its own.
pub async fn connect(address: &str) -> Channel {
    Channel::from_shared(address.to_owned())
        .expect("an address")
        .connect()
        .await
        .expect("the server listens")
}

/// A payload of JSON text.
pub fn json(text: &str) -> Option<v1::Payload> {
    Some(v1::Payload {
        content: Some(v1::payload::Content::Json(text.to_owned())),
        content_type: String::new(),
    })
}

/// The text of a payload that was sent as JSON.
pub fn text_of(payload: &Option<v1::Payload>) -> String {
    match payload.as_ref().and_then(|payload| payload.content.clone()) {
        Some(v1::payload::Content::Json(text)) => text,
        other => panic!("not JSON text: {other:?}"),
    }
}

/// The reason of a refused call.
pub fn reason<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> String {
    reason_of(&result.expect_err("the call should be refused"))
}

/// The reason in a status.
pub fn reason_of(status: &tonic::Status) -> String {
    use tonic_types::StatusExt;
    status
        .get_details_error_info()
        .map_or_else(|| format!("no reason: {status}"), |info| info.reason)
}

/// The metadata in a status.
pub fn metadata_of(status: &tonic::Status, key: &str) -> String {
    use tonic_types::StatusExt;
    status
        .get_details_error_info()
        .and_then(|info| info.metadata.get(key).cloned())
        .unwrap_or_default()
}

/// A duration for the wire.
pub fn duration(duration: std::time::Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}
