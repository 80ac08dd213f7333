//! SIGTERM: the server says that it goes, ends its streams with a place to go on from, finishes what is under way, and exits.

use drumline_proto::v1;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::{Load, assert_kept, callers, start, was_away};
use crate::common::{assert_well, put};
use crate::events::{Reader, Start, list, list_all, publish_many};
use crate::support::server::Server;
use crate::support::wait::{soon, until};
use crate::support::{Stage, connect, json, metadata_of, reason_of};

/// Waits for a server's end without holding up the test's own tasks.
async fn exit_of(server: Server) -> std::process::ExitStatus {
    let waiting = tokio::task::spawn_blocking(move || server.wait());
    soon("the end of the server", waiting).await.expect("no panic")
}

/// Reads up to the status that the subscription ends with; gives the positions that came.
async fn read_to_the_end(mut reader: Reader) -> (Vec<i64>, tonic::Status) {
    let mut seen = Vec::new();
    loop {
        match reader.try_next().await {
            Ok(v1::subscribe_response::Content::Event(event)) => seen.push(event.position),
            Ok(_) => {}
            Err(status) => return (seen, status),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_says_so_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path());
    let stage = Stage::new(&server.address).await;
    let mut health = HealthClient::new(connect(&server.address).await);
    let watched = HealthCheckRequest {
        service: "drumline.v1.EventService".into(),
    };
    let mut health = health.watch(watched).await.unwrap().into_inner();
    let status = health.message().await.unwrap().expect("a status");
    assert_eq!(status.status(), ServingStatus::Serving);

    let reader = Reader::from_the_beginning(&stage).await;
    let reading = tokio::spawn(read_to_the_end(reader));
    let load = Load::start(&stage, callers(16));
    load.acknowledges(100).await;
    server.signal("TERM");
    let status = soon("the status", health.message()).await.unwrap().expect("a status");
    assert_eq!(status.status(), ServingStatus::NotServing);
    assert!(soon("the end of health", health.message()).await.unwrap().is_none());

    let (mut seen, status) = soon("the end of the stream", reading).await.unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason_of(&status), "DRAINING");
    assert!(status.get_details_retry_info().is_some(), "{status}");
    let mut callers = Vec::new();
    for (caller, failure) in load.end().await {
        let status = failure.expect("the server is gone");
        assert!(was_away(&status), "caller {}: {status}", caller.number);
        callers.push(caller);
    }
    assert_eq!(exit_of(server).await.code(), Some(0));

    let server = start(directory.path());
    let stage = Stage {
        channel: connect(&server.address).await,
        ..stage
    };
    assert_kept(&stage, &callers).await;
    // The subscriber goes on from the cursor that it was given.
    let start = Start::Cursor(metadata_of(&status, "cursor"));
    let mut reader = Reader::open(&stage, start, Default::default()).await;
    seen.extend(crate::events::positions(&reader.catch_up().await.0));
    let all = list_all(&stage, list(&stage)).await.0.len() as i64;
    assert_eq!(seen, (1..=all).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_kind_of_stream_ends_with_a_cursor_when_the_server_stops() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path());
    let stage = Stage::new(&server.address).await;
    publish_many(&stage, "note.made", 3).await;
    stage.state().put_state(put(&stage, "doc", json("1"))).await.unwrap();
    let mut idle = Reader::open(&stage, Start::Now(true), Default::default()).await;
    idle.catch_up().await;
    let request = v1::WatchStateRequest {
        namespace: stage.ns(),
        target: Some(v1::watch_state_request::Target::StateId("doc".into())),
        ..Default::default()
    };
    let mut watch = stage.state().watch_state(request.clone()).await.unwrap().into_inner();
    while !soon("the mark", watch.message())
        .await
        .unwrap()
        .expect("a message")
        .caught_up
    {}
    server.signal("TERM");
    let of_events = read_to_the_end(idle).await.1;
    let of_documents = soon("the end of the stream", watch.message()).await.unwrap_err();
    for status in [&of_events, &of_documents] {
        assert_eq!(
            (status.code(), reason_of(status).as_str()),
            (Code::Unavailable, "DRAINING")
        );
        assert!(metadata_of(status, "cursor").ends_with(".4"), "{status:?}");
    }
    assert_eq!(exit_of(server).await.code(), Some(0));

    let server = start(directory.path());
    let stage = Stage {
        channel: connect(&server.address).await,
        ..stage
    };
    stage.state().put_state(put(&stage, "doc", json("2"))).await.unwrap();
    let mut reader = Reader::open(
        &stage,
        Start::Cursor(metadata_of(&of_events, "cursor")),
        Default::default(),
    )
    .await;
    assert_eq!(reader.event().await.position, 5);
    let resumed = v1::WatchStateRequest {
        cursor: metadata_of(&of_documents, "cursor"),
        ..request
    };
    let mut watch = stage.state().watch_state(resumed).await.unwrap().into_inner();
    let news = soon("the news", watch.message()).await.unwrap().expect("a message");
    assert_eq!(news.state.expect("the document").version, 2);
}

#[tokio::test]
async fn an_ephemeral_server_leaves_nothing_behind() {
    let mut server = Server::with(&["--ephemeral", "--listen", "127.0.0.1:0"]);
    let files = |server: &Server| server.temporary.path().read_dir().unwrap().count();
    assert_eq!(files(&server), 1, "it has a place for its data");
    assert_well(&Stage::new(&server.address).await).await;
    server.signal("TERM");
    until("its end", || {
        let ended = server.exited();
        async move { ended.is_some() }
    })
    .await;
    assert_eq!(server.exited().and_then(|status| status.code()), Some(0));
    assert_eq!(files(&server), 0);
}
