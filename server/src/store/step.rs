//! How the holder of an open transaction speaks with what works for it: a thread of the embedded store, a task on Postgres.

use tokio::sync::oneshot;

use super::{Plan, Rows, Save, StoreError};

/// Where an answer goes. Nobody may be waiting for it any more.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What is asked of an open transaction. When nobody can ask any more it is rolled back.
pub(super) enum Step {
    Load(Plan, Reply<Rows>),
    Commit(Save, Reply<()>),
}

/// Asks for something. Nothing if it could not be asked, or was not answered.
pub(super) async fn ask<T>(send: impl FnOnce(Reply<T>) -> bool) -> Option<Result<T, StoreError>> {
    let (reply, answer) = oneshot::channel();
    if !send(reply) {
        return None;
    }
    answer.await.ok()
}

/// Reads more in a transaction.
pub(super) async fn load(plan: Plan, send: impl FnOnce(Step) -> bool) -> Result<Rows, StoreError> {
    ask(|reply| send(Step::Load(plan, reply)))
        .await
        .unwrap_or_else(|| Err(ended()))
}

/// Ends a transaction with a commit.
pub(super) async fn commit(save: Save, send: impl FnOnce(Step) -> bool) -> Result<(), StoreError> {
    let mut sent = false;
    let answer = ask(|reply| {
        sent = send(Step::Commit(save, reply));
        sent
    });
    match answer.await {
        Some(answer) => answer,
        None if sent => Err(StoreError::unknown("the commit was not answered")),
        None => Err(ended()),
    }
}

fn ended() -> StoreError {
    StoreError::unavailable("the transaction was ended before it was committed")
}
