//! A store that cannot be written for a while, because somebody else has it locked.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt;

use super::{Caller, assert_kept, callers, start};
use crate::common::{assert_well, get, put};
use crate::support::wait::soon;
use crate::support::{Stage, json, reason_of};

/// A caller that tries again what was refused because the store was away; gives whether that ever happened.
async fn persist(
    stage: Stage,
    mut caller: Caller,
    requests: usize,
    blocked: tokio::sync::mpsc::Sender<()>,
) -> (Caller, bool) {
    let mut refused = false;
    while caller.acknowledged.len() < requests {
        let Err(status) = caller.step(&stage).await else {
            continue;
        };
        assert_eq!(
            (status.code(), reason_of(&status).as_str()),
            (Code::Unavailable, "STORE_UNAVAILABLE")
        );
        assert!(status.get_details_retry_info().is_some());
        assert!(
            !status.message().contains("SQL") && !status.message().contains("locked"),
            "{status}"
        );
        refused = true;
        // The test may have heard enough.
        let _ = blocked.try_send(());
    }
    (caller, refused)
}

#[tokio::test]
async fn a_store_that_is_locked_by_another_loses_nothing_and_is_fine_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path());
    let stage = Stage::new(&server.address).await;
    stage.state().put_state(put(&stage, "before", json("1"))).await.unwrap();

    let file = directory.path().join("drumline.db");
    let other = rusqlite::Connection::open(file).expect("the file");
    other.busy_timeout(Duration::from_secs(5)).expect("patience");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let (blocked, mut heard) = tokio::sync::mpsc::channel(1);
    let persistent: Vec<_> = callers(16)
        .into_iter()
        .map(|caller| tokio::spawn(persist(stage.clone(), caller, 5, blocked.clone())))
        .collect();
    // Who has less patience than the store is told in time.
    let mut hasty = tonic::Request::new(put(&stage, "hasty", json("1")));
    hasty.set_timeout(Duration::from_millis(300));
    let status = soon("the end of its time", stage.state().put_state(hasty))
        .await
        .unwrap_err();
    assert!(
        [Code::DeadlineExceeded, Code::Cancelled].contains(&status.code()),
        "{status}"
    );
    // Who reads is not hindered.
    assert_eq!(get(&stage, "before").await.unwrap().version, 1);

    soon("a refusal", heard.recv()).await.expect("a caller is refused");
    other.execute_batch("ROLLBACK").expect("the lock is given back");
    let mut callers = Vec::new();
    let mut refused = 0;
    for caller in persistent {
        let (caller, was_refused) = soon("the end of the calls", caller).await.expect("no panic");
        refused += usize::from(was_refused);
        callers.push(caller);
    }
    assert!(refused > 0);
    assert_kept(&stage, &callers).await;
    for caller in callers.iter().filter(|caller| caller.writes()) {
        assert_eq!(get(&stage, &caller.document()).await.unwrap().version, 5);
    }
    assert_eq!(reason_of(&get(&stage, "hasty").await.unwrap_err()), "STATE_NOT_FOUND");
    assert_well(&stage).await;
    assert_eq!(server.exited(), None);
}
