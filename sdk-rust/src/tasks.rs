//! Delegating work to whoever can do it, and waiting for what comes of it.
//!
//! A task lives at the server: it survives the death of the agent that has it and of the caller that waits for it. A
//! handle is only its id; [`Tasks::handle`] makes one again in another process.

use std::future::IntoFuture;
use std::time::Duration;

use drumline_proto::v1 as pb;
use futures::Stream;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use pb::task::State;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{Client, request_id};
use crate::error::{Error, Result};
use crate::stream::{Opened, Source, paged, resumed};
use crate::{payload, time};

/// How long one call waits for a task's end before it asks again.
const WAIT: Duration = Duration::from_secs(30);

/// `TaskService`, the delegating side. The working side is [`crate::Agent`].
#[derive(Clone, Debug)]
pub struct Tasks {
    client: Client,
}

impl Tasks {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Delegates a task to whoever has the capability. Await it, or say more first.
    pub fn delegate<T: Serialize + ?Sized>(&self, capability: &str, input: &T) -> Delegate {
        let delegate = self.new_task(payload::json(input));
        delegate.change(|request| request.capability = capability.into())
    }

    /// Delegates a task, with a payload as it is, to whoever has the capability.
    pub fn delegate_payload(&self, capability: &str, input: pb::Payload) -> Delegate {
        self.new_task(Ok(input))
            .change(|request| request.capability = capability.into())
    }

    /// Delegates a task to one agent.
    pub fn delegate_to<T: Serialize + ?Sized>(&self, agent_id: &str, input: &T) -> Delegate {
        self.new_task(payload::json(input)).agent(agent_id)
    }

    fn new_task(&self, input: Result<pb::Payload>) -> Delegate {
        let request = pb::DelegateTaskRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            ..Default::default()
        };
        Delegate {
            client: self.client.clone(),
            input,
            request,
        }
    }

    /// The handle of a task that was delegated before.
    pub fn handle(&self, task_id: impl Into<String>) -> TaskHandle {
        TaskHandle {
            client: self.client.clone(),
            task_id: task_id.into(),
        }
    }

    /// A task as it is now.
    pub async fn get(&self, task_id: &str) -> Result<pb::Task> {
        self.handle(task_id).get().await
    }

    /// The tasks that a request asks for, newest first, page by page as they are asked for.
    pub fn list(&self, request: pb::ListTasksRequest) -> BoxStream<'static, Result<pb::Task>> {
        let client = self.client.clone();
        Box::pin(paged(move |page_token| {
            let client = client.clone();
            let namespace = client.namespace();
            let request = pb::ListTasksRequest {
                namespace,
                page_token,
                ..request.clone()
            };
            async move {
                let response = client
                    .call(request, |stubs, request| async move {
                        stubs.tasks().list_tasks(request).await
                    })
                    .await?;
                Ok((response.tasks, response.next_page_token))
            }
        }))
    }
}

/// A task that has not been delegated yet.
#[derive(Debug)]
#[must_use = "nothing is delegated until this is awaited"]
pub struct Delegate {
    client: Client,
    input: Result<pb::Payload>,
    request: pb::DelegateTaskRequest,
}

impl Delegate {
    fn change(mut self, change: impl FnOnce(&mut pb::DelegateTaskRequest)) -> Self {
        change(&mut self.request);
        self
    }

    /// An id of the caller's own; refused with `TaskExists` if it was used before.
    pub fn task_id(self, id: impl Into<String>) -> Self {
        self.change(|request| request.task_id = id.into())
    }

    /// The one agent that it is for.
    pub fn agent(self, agent_id: impl Into<String>) -> Self {
        self.change(|request| request.target_agent = agent_id.into())
    }

    /// Links events of one undertaking; the task's id if it is not set.
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.change(|request| request.correlation_id = id.into())
    }

    /// Higher goes first.
    pub fn priority(self, priority: i32) -> Self {
        self.change(|request| request.priority = priority)
    }

    /// How long one attempt may take; 600 s if it is not set.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.change(|request| request.timeout = Some(time::to_proto(timeout)))
    }

    /// How long all of it may take, from now.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.change(|request| request.deadline = Some(time::to_proto(deadline)))
    }

    /// How long to wait before the first attempt.
    pub fn delay(self, delay: Duration) -> Self {
        self.change(|request| request.delay = Some(time::to_proto(delay)))
    }

    /// How long an agent may take to accept it; 10 s if it is not set.
    pub fn accept_timeout(self, timeout: Duration) -> Self {
        self.change(|request| request.accept_timeout = Some(time::to_proto(timeout)))
    }

    /// How long an accepted attempt may say nothing.
    pub fn progress_timeout(self, timeout: Duration) -> Self {
        self.change(|request| request.progress_timeout = Some(time::to_proto(timeout)))
    }

    /// When to try again.
    pub fn retry_policy(self, policy: pb::RetryPolicy) -> Self {
        self.change(|request| request.retry_policy = Some(policy))
    }

    /// How many attempts may fail before the task does.
    pub fn max_attempts(self, attempts: i32) -> Self {
        self.change(|request| {
            request.retry_policy.get_or_insert_default().max_attempts = attempts;
        })
    }

    /// A label that the agent must have.
    pub fn require_label(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.change(|request| {
            request.label_requirements.insert(name.into(), value.into());
        })
    }

    /// The task that this one is part of.
    pub fn parent_task_id(self, id: impl Into<String>) -> Self {
        self.change(|request| request.parent_task_id = id.into())
    }

    /// Delegates it.
    pub async fn send(self) -> Result<TaskHandle> {
        let request = pb::DelegateTaskRequest {
            input: Some(self.input?),
            ..self.request
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.tasks().delegate_task(request).await };
        let task = self.client.call(request, send).await?.task.unwrap_or_default();
        Ok(TaskHandle {
            client: self.client,
            task_id: task.task_id,
        })
    }
}

impl IntoFuture for Delegate {
    type Output = Result<TaskHandle>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// A task that was delegated. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct TaskHandle {
    client: Client,
    task_id: String,
}

impl TaskHandle {
    /// The task's id.
    pub fn id(&self) -> &str {
        &self.task_id
    }

    /// The task as it is now.
    pub async fn get(&self) -> Result<pb::Task> {
        let namespace = self.client.namespace();
        let request = pb::GetTaskRequest {
            namespace,
            task_id: self.task_id.clone(),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.tasks().get_task(request).await };
        Ok(self.client.call(request, send).await?.task.unwrap_or_default())
    }

    /// Waits for the task's end and reads its result. If it did not end well, the error has it: [`Error::task`].
    pub async fn wait<T: DeserializeOwned>(&self) -> Result<T> {
        let task = self.wait_end().await?;
        match task.state() {
            State::Completed => payload::decode_opt(task.result.as_ref()),
            _ => Err(Error::task_ended(task)),
        }
    }

    /// Waits for the task's end, however it ends.
    pub async fn wait_end(&self) -> Result<pb::Task> {
        loop {
            let request = pb::AwaitTaskRequest {
                namespace: self.client.namespace(),
                task_id: self.task_id.clone(),
                wait_timeout: Some(time::to_proto(WAIT)),
            };
            let send = |stubs: crate::Stubs, request| async move { stubs.tasks().await_task(request).await };
            let budget = WAIT + self.client.timeout();
            let answer = self.client.call_within(budget, request, send).await?;
            let task = answer.message.task.unwrap_or_default();
            if is_over(&task) {
                return Ok(task);
            }
        }
    }

    /// Cancels the task: whoever has it is told to stop.
    pub async fn cancel(&self, cause: impl Into<String>) -> Result<()> {
        let request = pb::CancelTaskRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            task_id: self.task_id.clone(),
            cause: cause.into(),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.tasks().cancel_task(request).await };
        self.client.call(request, send).await.map(|_| ())
    }

    /// The task as it is, then each change, until it has ended. After a break it begins with the task as it is then.
    pub fn watch(&self) -> impl Stream<Item = Result<pb::WatchTaskResponse>> + Send + Unpin + use<> {
        resumed(
            TaskWatch {
                handle: self.clone(),
                over: false,
            },
            None,
        )
    }
}

/// Whether a task has ended.
pub fn is_over(task: &pb::Task) -> bool {
    matches!(
        task.state(),
        State::Completed | State::Failed | State::Cancelled | State::TimedOut
    )
}

struct TaskWatch {
    handle: TaskHandle,
    over: bool,
}

impl Source for TaskWatch {
    type Message = pb::WatchTaskResponse;

    fn client(&self) -> &Client {
        &self.handle.client
    }

    async fn open(&mut self) -> Result<Opened<Self::Message>> {
        let namespace = self.handle.client.namespace();
        let request = pb::WatchTaskRequest {
            namespace,
            task_id: self.handle.task_id.clone(),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.tasks().watch_task(request).await };
        self.handle.client.open(request, send).await
    }

    fn seen(&mut self, message: &Self::Message) {
        self.over = message.task.as_ref().is_some_and(is_over);
    }

    fn is_over(&self) -> bool {
        self.over
    }
}
