//! The door of the tasks room.
//!
//! What is delegated, looked at and cancelled is in [`delegating`], what waits in [`waiting`], what an agent says of its attempts in
//! [`working`] and [`polling`]. An agent's stream calls the very same functions as the unary calls.

mod convert;
mod delegating;
mod polling;
mod waiting;
mod working;

use std::pin::Pin;
use std::sync::Arc;

use drumline_proto::v1;
use drumline_proto::v1::task_service_server::TaskService;
use futures::Stream;
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::edge::Context;
use crate::lane::Committed;
use crate::tail::Cursor;
pub use delegating::{cancel_task, delegate_task, get_task, list_tasks};
pub use polling::poll_tasks;
pub use waiting::{await_task, watch_task};
pub use working::{accept_task, assignment, complete_task, fail_task, reject_task, report_progress};

/// The service.
pub struct Tasks {
    app: Arc<App>,
}

impl Tasks {
    /// The service of a server.
    pub fn new(app: Arc<App>) -> Tasks {
        Tasks { app }
    }
}

/// Where something was committed, as clients have it.
fn cursor_of<T>(committed: &Committed<T>) -> String {
    Cursor {
        epoch: committed.epoch,
        position: committed.position,
    }
    .encode()
}

macro_rules! unary {
    ($($method:ident: $request:ident => $response:ident;)+) => {
        #[tonic::async_trait]
        impl TaskService for Tasks {
            $(async fn $method(&self, request: Request<v1::$request>) -> Result<Response<v1::$response>, Status> {
                let context = Context::new(&request, &request.get_ref().namespace)?;
                Ok(Response::new($method(&self.app, &context, request.into_inner()).await?))
            })+

            type WatchTaskStream = Pin<Box<dyn Stream<Item = Result<v1::WatchTaskResponse, Status>> + Send>>;

            async fn watch_task(
                &self,
                request: Request<v1::WatchTaskRequest>,
            ) -> Result<Response<Self::WatchTaskStream>, Status> {
                let context = Context::new(&request, &request.get_ref().namespace)?;
                let stream = watch_task(Arc::clone(&self.app), &context, request.into_inner()).await?;
                Ok(Response::new(Box::pin(stream)))
            }
        }
    };
}

unary! {
    delegate_task: DelegateTaskRequest => DelegateTaskResponse;
    get_task: GetTaskRequest => GetTaskResponse;
    list_tasks: ListTasksRequest => ListTasksResponse;
    cancel_task: CancelTaskRequest => CancelTaskResponse;
    await_task: AwaitTaskRequest => AwaitTaskResponse;
    poll_tasks: PollTasksRequest => PollTasksResponse;
    accept_task: AcceptTaskRequest => AcceptTaskResponse;
    reject_task: RejectTaskRequest => RejectTaskResponse;
    report_progress: ReportProgressRequest => ReportProgressResponse;
    complete_task: CompleteTaskRequest => CompleteTaskResponse;
    fail_task: FailTaskRequest => FailTaskResponse;
}
