//! What is no longer kept, and what was lost: both are said, neither is a silent gap.

use std::path::Path;

use drumline_proto::v1;

use super::{epoch_of, start};
use crate::events::{Reader, Start, list, list_all, positions, publish, publish_many};
use crate::support::server::Server;
use crate::support::wait::until;
use crate::support::{Stage, connect, metadata_of, reason, reason_of};

/// Changes the file of a server that is not running.
fn change(directory: &Path, statement: &str) {
    let connection = rusqlite::Connection::open(directory.join("drumline.db")).expect("the file");
    assert!(
        connection.execute(statement, []).expect("a statement") > 0,
        "{statement} changed nothing"
    );
}

async fn moved(stage: &Stage, server: &Server) -> Stage {
    Stage {
        channel: connect(&server.address).await,
        ..stage.clone()
    }
}

async fn refusal(stage: &Stage, start: Start) -> Option<tonic::Status> {
    Reader::try_open(stage, Some(start), None).await.err()
}

#[tokio::test]
async fn events_that_are_no_longer_kept_are_told_to_those_who_ask_for_them() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path());
    let stage = Stage::new(&server.address).await;
    let first = v1::NewEvent {
        event_id: "first".into(),
        ..crate::events::event("note.made")
    };
    let old = publish(&stage, vec![first.clone()]).await;
    publish_many(&stage, "note.made", 59).await;
    let sixtieth = publish_many(&stage, "note.made", 40).await.events[0].position - 1;
    server.kill();
    change(
        directory.path(),
        &format!(
            "UPDATE events SET at = at - {} WHERE position <= {sixtieth}",
            7_200_000_000_i64
        ),
    );

    let server = start(directory.path());
    let stage = moved(&stage, &server).await;
    until("the end of the old events", || async {
        refusal(&stage, Start::Position(1)).await.is_some()
    })
    .await;
    for start in [
        Start::Position(1),
        Start::Position(60),
        Start::Cursor(old.cursor.clone()),
    ] {
        let status = refusal(&stage, start.clone())
            .await
            .unwrap_or_else(|| panic!("{start:?} was accepted"));
        assert_eq!(
            (status.code(), reason_of(&status).as_str()),
            (tonic::Code::OutOfRange, "CURSOR_OUT_OF_RANGE")
        );
        assert_eq!(metadata_of(&status, "problem"), "EXPIRED");
        assert_eq!(metadata_of(&status, "earliest_position"), "61");
        assert_eq!(metadata_of(&status, "latest_position"), "100");
        let earliest = Start::Cursor(metadata_of(&status, "earliest_cursor"));
        let mut reader = Reader::open(&stage, earliest, Default::default()).await;
        assert_eq!(positions(&reader.catch_up().await.0), (61..=100).collect::<Vec<_>>());
    }
    for start in [
        Start::Beginning(true),
        Start::Position(61),
        Start::Time(Default::default()),
    ] {
        let mut reader = Reader::open(&stage, start, Default::default()).await;
        assert_eq!(positions(&reader.catch_up().await.0), (61..=100).collect::<Vec<_>>());
    }
    for newest_first in [false, true] {
        let request = v1::ListEventsRequest {
            newest_first,
            ..list(&stage)
        };
        assert_eq!(list_all(&stage, request.clone()).await.0.len(), 40);
        let request = v1::ListEventsRequest {
            after_cursor: old.cursor.clone(),
            ..request
        };
        assert_eq!(reason(stage.events().list_events(request).await), "CURSOR_OUT_OF_RANGE");
    }
    let get = v1::GetEventRequest {
        namespace: stage.ns(),
        event_id: "first".into(),
    };
    assert_eq!(reason(stage.events().get_event(get).await), "EVENT_NOT_FOUND");
    let again = publish(&stage, vec![first]).await;
    assert_eq!((again.events[0].position, again.events[0].duplicate), (101, false));
}

#[tokio::test]
async fn a_cursor_that_saw_what_a_restore_has_lost_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let backup = tempfile::tempdir().unwrap();
    let server = start(directory.path());
    let stage = Stage::new(&server.address).await;
    let kept = publish_many(&stage, "note.made", 5).await.cursor;
    server.kill();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, backup.path().join(path.file_name().unwrap())).unwrap();
    }

    let server = start(directory.path());
    let stage = moved(&stage, &server).await;
    let lost = publish_many(&stage, "note.made", 5).await.cursor;
    server.kill();

    // The operator's step after a restore: an epoch above any that was.
    let above = format!("UPDATE meta SET value = {} WHERE name = 'epoch'", epoch_of(&lost) + 1);
    change(backup.path(), &above);
    let server = start(backup.path());
    let stage = moved(&stage, &server).await;
    let status = refusal(&stage, Start::Cursor(lost.clone()))
        .await
        .expect("it is ahead of the log");
    assert_eq!(metadata_of(&status, "problem"), "AHEAD");
    let after = publish_many(&stage, "note.made", 20).await;
    assert!(epoch_of(&after.cursor) > epoch_of(&lost));
    // The log has grown past it, and the events there are others.
    let status = refusal(&stage, Start::Cursor(lost)).await.expect("what it saw is lost");
    assert_eq!(reason_of(&status), "CURSOR_OUT_OF_RANGE");
    assert_eq!(metadata_of(&status, "problem"), "LOST");
    let mut reader = Reader::open(&stage, Start::Cursor(kept), Default::default()).await;
    assert_eq!(positions(&reader.catch_up().await.0), (6..=25).collect::<Vec<_>>());
    // It goes on being told so after another restart.
    let lost = format!("{:x}.8", epoch_of(&after.cursor) - 1);
    server.signal("TERM");
    tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    let server = start(backup.path());
    let stage = moved(&stage, &server).await;
    let status = refusal(&stage, Start::Cursor(lost)).await.expect("what it saw is lost");
    assert_eq!(metadata_of(&status, "problem"), "LOST");
}
