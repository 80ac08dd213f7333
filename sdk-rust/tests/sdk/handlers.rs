//! Agents and handlers that the tests share.

use std::time::Duration;

use drumline::agent::CancelCause;
use drumline::v1::{self as pb, connect_response::Frame as Down};
use drumline::{Agent, AgentBuilder, Client, TaskContext, TaskFailure};
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::fake::Stream;

type Work = BoxFuture<'static, Result<i64, TaskFailure>>;
/// Why handlers were told to stop, as they are.
pub type Causes = mpsc::UnboundedReceiver<Option<CancelCause>>;

pub const TTL: Duration = Duration::from_millis(900);
pub const LONG: Duration = Duration::from_secs(60);

pub fn agent(client: &Client) -> AgentBuilder {
    Agent::builder(client, "a")
        .max_concurrent_tasks(4)
        .cancel_grace(Duration::from_millis(200))
}

pub async fn double(_task: TaskContext, number: i64) -> Result<i64, TaskFailure> {
    Ok(number * 2)
}

pub fn json(payload: Option<pb::Payload>) -> String {
    match payload.and_then(|payload| payload.content) {
        Some(pb::payload::Content::Json(text)) => text,
        other => panic!("not JSON: {other:?}"),
    }
}

pub fn complete(stream: &Stream, number: u64) {
    stream.answer(number, Down::CompleteTask(Default::default()));
}

/// A handler that waits to be told to stop, and tells the test why it was.
pub fn waiting() -> (impl Fn(TaskContext, i64) -> Work + Clone, Causes) {
    let (told, why) = mpsc::unbounded_channel();
    let work = move |task: TaskContext, _number: i64| {
        let told = told.clone();
        let waits: Work = Box::pin(async move {
            task.cancelled().await;
            let _gone = told.send(task.cancel_cause());
            std::future::pending().await
        });
        waits
    };
    (work, why)
}
