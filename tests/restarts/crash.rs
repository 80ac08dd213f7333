//! Servers that are killed, or stand still for a while, under load.

use std::time::Duration;

use super::{Load, assert_kept, callers, epoch_of, start, was_away};
use crate::events::{Reader, Start, list, list_all, positions, publish_many};
use crate::support::Stage;
use crate::support::server::{Server, lasting_address};

#[tokio::test]
async fn what_was_acknowledged_before_kill_nine_is_there_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let mut server = Server::start(directory.path(), &address);
    let mut stage = Stage::new(&server.address).await;
    let mut load = callers(32);
    let mut last_epoch = 0;
    for _ in 0..3 {
        let under_way = Load::start(&stage, load);
        under_way.acknowledges(400).await;
        server.kill();
        let outcomes = under_way.end().await;
        for (caller, failure) in &outcomes {
            let status = failure.as_ref().expect("a server that is killed answers nobody");
            assert!(was_away(status), "caller {}: {status}", caller.number);
        }
        load = outcomes.into_iter().map(|(caller, _)| caller).collect();

        server = Server::start(directory.path(), &address);
        stage = Stage {
            channel: crate::support::connect(&server.address).await,
            ..stage
        };
        assert_kept(&stage, &load).await;
        let (events, cursor) = list_all(&stage, list(&stage)).await;
        let epoch = epoch_of(&cursor);
        assert!(epoch > last_epoch, "the epoch was {last_epoch} and is {epoch}");
        last_epoch = epoch;
        // Cursors from before are as good as ever.
        for before in load
            .iter()
            .map(|caller| &caller.cursor)
            .filter(|cursor| !cursor.is_empty())
        {
            let mut reader = Reader::open(&stage, Start::Cursor(before.clone()), Default::default()).await;
            let (seen, mark) = reader.catch_up().await;
            let seen = positions(&seen);
            let first = events.len() as i64 - seen.len() as i64 + 1;
            assert_eq!(seen, (first..=events.len() as i64).collect::<Vec<_>>());
            assert_eq!(mark.position, events.len() as i64);
        }
    }
    // The requests that were not answered are sent again, and done once.
    let again = Load::start(&stage, load);
    again.acknowledges(100).await;
    again.stop.cancel();
    let mut load = Vec::new();
    for (caller, failure) in again.end().await {
        assert!(failure.is_none(), "caller {}: {failure:?}", caller.number);
        load.push(caller);
    }
    assert_kept(&stage, &load).await;
    let (events, _) = list_all(&stage, list(&stage)).await;
    let acknowledged: usize = load.iter().map(|caller| caller.acknowledged.len()).sum();
    assert_eq!(events.len(), acknowledged);
}

#[tokio::test]
async fn a_server_that_stood_still_goes_on_as_if_nothing_had_been() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path());
    let stage = Stage::new(&server.address).await;
    let mut reader = Reader::from_the_beginning(&stage).await;
    let load = Load::start(&stage, callers(8));
    load.acknowledges(50).await;
    server.signal("STOP");
    // The length of the fault, not a wait for anything.
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.signal("CONT");
    load.acknowledges(50).await;
    load.stop.cancel();
    let mut callers = Vec::new();
    for (caller, failure) in load.end().await {
        assert!(failure.is_none(), "caller {}: {failure:?}", caller.number);
        callers.push(caller);
    }
    assert_kept(&stage, &callers).await;
    let end = publish_many(&stage, "note.made", 1).await.position;
    let seen = reader.take(usize::try_from(end).unwrap()).await;
    assert_eq!(positions(&seen), (1..=end).collect::<Vec<_>>());
}
