//! What tells a stranger what is there: reflection and health.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::on_every_composition;

/// The services of the contract, by their full names.
pub fn services() -> Vec<prost_types::ServiceDescriptorProto> {
    let files = FileDescriptorSet::decode(drumline_proto::FILE_DESCRIPTOR_SET)
        .expect("descriptors")
        .file;
    let ours = files.into_iter().filter(|file| file.package() == "drumline.v1");
    ours.flat_map(|file| file.service).collect()
}

fn names() -> BTreeSet<String> {
    services()
        .iter()
        .map(|service| format!("drumline.v1.{}", service.name()))
        .collect()
}

macro_rules! reflect {
    ($version:ident, $channel:expr, $requests:expr) => {{
        use pb::server_reflection_request::MessageRequest;
        use pb::server_reflection_response::MessageResponse;
        use tonic_reflection::pb::$version as pb;
        let mut client = pb::server_reflection_client::ServerReflectionClient::new($channel);
        let mut services = BTreeSet::new();
        let mut files: Vec<FileDescriptorProto> = Vec::new();
        let ask = |message_request| pb::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message_request),
        };
        let requests: Vec<_> = std::iter::once(ask(MessageRequest::ListServices(String::new())))
            .chain(
                $requests
                    .into_iter()
                    .map(|symbol| ask(MessageRequest::FileContainingSymbol(symbol))),
            )
            .collect();
        let answers = client.server_reflection_info(tokio_stream::iter(requests)).await;
        let mut answers = answers.expect("reflection").into_inner();
        while let Some(answer) = answers.message().await.expect("an answer") {
            match answer.message_response.expect("a response") {
                MessageResponse::ListServicesResponse(list) => {
                    services.extend(list.service.into_iter().map(|service| service.name));
                }
                MessageResponse::FileDescriptorResponse(response) => {
                    for file in response.file_descriptor_proto {
                        files.push(FileDescriptorProto::decode(file.as_slice()).expect("a descriptor"));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        (services, files)
    }};
}

#[tokio::test]
async fn reflection_lists_every_service_in_both_versions() {
    on_every_composition(|stage| async move {
        let symbols = || -> Vec<String> {
            let mut symbols: Vec<String> = names().into_iter().collect();
            symbols.push("drumline.v1.Payload".into());
            symbols.push("google.rpc.ErrorInfo".into());
            symbols
        };
        let (services, files) = reflect!(v1, stage.channel.clone(), symbols());
        assert!(services.is_superset(&names()), "{services:?}");
        assert!(services.contains("grpc.health.v1.Health"), "{services:?}");
        assert_eq!(files.len(), symbols().len());
        let (old, old_files) = reflect!(v1alpha, stage.channel.clone(), symbols());
        assert!(old.is_superset(&names()), "{old:?}");
        assert_eq!(old_files, files);
    })
    .await;
}

#[tokio::test]
async fn grpcurl_finds_its_way_where_it_is_installed() {
    on_every_composition(|stage| async move {
        let address = stage.address.trim_start_matches("http://").to_owned();
        let data = format!(
            r#"{{"namespace": "{}", "state_id": "typed", "payload": {{"value": {{"n": 1}}}}}}"#,
            stage.namespace
        );
        let calls: [&[&str]; 2] = [&["list"], &["drumline.v1.StateService/PutState"]];
        for call in calls {
            let mut command = tokio::process::Command::new("grpcurl");
            command.arg("-plaintext");
            if call[0] != "list" {
                command.args(["-d", &data]);
            }
            let Ok(output) = command.arg(&address).args(call).output().await else {
                eprintln!("no grpcurl here");
                return;
            };
            let out = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success(),
                "{out}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let wanted = if call[0] == "list" {
                "drumline.v1.EventService"
            } else {
                "\"version\": \"1\""
            };
            assert!(out.contains(wanted), "{out}");
        }
    })
    .await;
}

#[tokio::test]
async fn health_is_known_of_each_service() {
    on_every_composition(|stage| async move {
        let mut health = HealthClient::new(stage.channel.clone());
        for service in names().into_iter().chain([String::new()]) {
            let request = HealthCheckRequest {
                service: service.clone(),
            };
            let status = health
                .check(request)
                .await
                .unwrap_or_else(|status| panic!("{service}: {status}"));
            let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
            assert_eq!(status.into_inner().status(), serving, "{service}");
        }
        let unknown = HealthCheckRequest {
            service: "drumline.v1.NoService".into(),
        };
        assert_eq!(health.check(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
    })
    .await;
}
