//! The port: every service, health and reflection behind one listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use super::connection;
use crate::app::App;

/// How many calls may be under way on one connection.
const MAX_CONCURRENT_STREAMS: u32 = 8_192;
/// How many calls may be cancelled before the server has so much as looked at them. The default of 20 ends a connection, with all else
/// on it, when a busy client cancels a handful of calls at once.
const MAX_PENDING_RESETS: usize = 4_096;
/// Flow-control windows: measured, together with the number of streams, to be worth several times the defaults under load.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// How many connections may wait to be taken, as far as the system lets so many. After a restart all agents come back at once, and who finds no
/// room waits for seconds.
const BACKLOG: u32 = 4_096;
/// How long health says that the server is stopping before its streams end.
const HEALTH_FAREWELL: Duration = Duration::from_millis(200);

/// Listens on an address.
///
/// # Errors
/// When the address is taken or not this machine's.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A server that is started again must not wait for what is left of the old one's connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until the server is draining and the calls under way are finished. A connection that has reached its age is asked to go.
pub async fn serve(app: Arc<App>, listener: TcpListener, max_connection_age: Option<Duration>) {
    let (health, health_service) = tonic_health::server::health_reporter();
    let names = service_names();
    for name in &names {
        health
            .set_service_status(name, tonic_health::ServingStatus::Serving)
            .await;
    }
    let most = app.limits.max_message_bytes;
    macro_rules! service {
        ($module:ident :: $server:ident, $service:expr) => {
            v1::$module::$server::new($service)
                .max_decoding_message_size(most)
                .max_encoding_message_size(usize::MAX)
        };
    }
    let routes = Server::builder()
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .layer(tower::util::MapResponseLayer::new(super::decode::explain))
        .add_service(health_service)
        .add_service(reflection_v1())
        .add_service(reflection_v1alpha())
        .add_service(service!(
            event_service_server::EventServiceServer,
            crate::events::rpc::Events::new(Arc::clone(&app))
        ))
        .add_service(service!(
            lock_service_server::LockServiceServer,
            crate::locks::rpc::Locks::new(Arc::clone(&app))
        ))
        .add_service(service!(
            registry_service_server::RegistryServiceServer,
            crate::registry::rpc::Registry::new(Arc::clone(&app))
        ))
        .add_service(service!(
            session_service_server::SessionServiceServer,
            crate::sessions::rpc::Sessions::new(Arc::clone(&app))
        ))
        .add_service(service!(
            state_service_server::StateServiceServer,
            crate::state::rpc::States::new(Arc::clone(&app))
        ))
        .add_service(service!(
            workflow_service_server::WorkflowServiceServer,
            crate::workflows::rpc::Workflows::new(Arc::clone(&app))
        ))
        .add_service(service!(
            task_service_server::TaskServiceServer,
            crate::tasks::rpc::Tasks::new(Arc::clone(&app))
        ));

    tokio::spawn(say_farewell(app.draining.clone(), health, names));
    let one = move |incoming, goes| routes.clone().serve_with_incoming_shutdown(incoming, goes);
    connection::serve(one, listener, max_connection_age, app.draining.clone()).await;
}

/// Once the server is draining, health says so, and then no more.
async fn say_farewell(draining: CancellationToken, mut health: HealthReporter, names: Vec<String>) {
    draining.cancelled().await;
    for name in &names {
        health
            .set_service_status(name, tonic_health::ServingStatus::NotServing)
            .await;
    }
    tokio::time::sleep(HEALTH_FAREWELL).await;
    // Whoever watches health would otherwise keep the server from ending.
    for name in &names {
        health.clear_service_status(name).await;
    }
}

/// The names that health knows: every service, and the empty name for the server as a whole.
fn service_names() -> Vec<String> {
    let mut names = vec![String::new()];
    for service in ["Event", "State", "Lock", "Registry", "Session", "Task", "Workflow"] {
        names.push(format!("drumline.v1.{service}Service"));
    }
    names
}

fn reflection_v1()
-> tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection> {
    reflection_builder()
        .build_v1()
        .expect("the descriptors were compiled with the program")
}

fn reflection_v1alpha()
-> tonic_reflection::server::v1alpha::ServerReflectionServer<impl tonic_reflection::server::v1alpha::ServerReflection> {
    reflection_builder()
        .build_v1alpha()
        .expect("the descriptors were compiled with the program")
}

fn reflection_builder() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(drumline_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The details of errors, so that grpcurl can show them.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// Resolves when the process is asked to stop.
pub async fn termination() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
