//! Starting workflows and following them. What a workflow is made of is in [`crate::workflow`].
//!
//! A workflow lives at the server and needs nobody to watch it; a handle is only its id.

use std::time::Duration;

use drumline_proto::v1 as pb;
use futures::Stream;
use futures::stream::BoxStream;
use pb::workflow::State;
use serde::de::DeserializeOwned;

use crate::client::{Client, request_id};
use crate::error::{Error, Result};
use crate::stream::{Opened, Source, paged, resumed};
use crate::workflow::Workflow;
use crate::{payload, time};

/// How long one call waits for a workflow's end before it asks again.
const WAIT: Duration = Duration::from_secs(30);

/// `WorkflowService`.
#[derive(Clone, Debug)]
pub struct Workflows {
    client: Client,
}

impl Workflows {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Starts a workflow, which the server checks whole.
    pub async fn start(&self, workflow: Workflow) -> Result<WorkflowHandle> {
        self.start_request(workflow.into_request()?).await
    }

    /// Starts a workflow from a request, such as one that was read from a file.
    pub async fn start_request(&self, request: pb::StartWorkflowRequest) -> Result<WorkflowHandle> {
        let request = pb::StartWorkflowRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            ..request
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.workflows().start_workflow(request).await };
        let started = self.client.call(request, send).await?;
        Ok(self.handle(started.workflow_id))
    }

    /// The handle of a workflow that was started before.
    pub fn handle(&self, workflow_id: impl Into<String>) -> WorkflowHandle {
        WorkflowHandle {
            client: self.client.clone(),
            workflow_id: workflow_id.into(),
        }
    }

    /// The workflows that a request asks for, newest first, page by page as they are asked for.
    pub fn list(&self, request: pb::ListWorkflowsRequest) -> BoxStream<'static, Result<pb::Workflow>> {
        let client = self.client.clone();
        Box::pin(paged(move |page_token| {
            let client = client.clone();
            let namespace = client.namespace();
            let request = pb::ListWorkflowsRequest {
                namespace,
                page_token,
                ..request.clone()
            };
            async move {
                let response = client
                    .call(request, |stubs, request| async move {
                        stubs.workflows().list_workflows(request).await
                    })
                    .await?;
                Ok((response.workflows, response.next_page_token))
            }
        }))
    }
}

/// A workflow that was started. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct WorkflowHandle {
    client: Client,
    workflow_id: String,
}

impl WorkflowHandle {
    /// The workflow's id.
    pub fn id(&self) -> &str {
        &self.workflow_id
    }

    /// The workflow as it is now, with the first page of its subtasks and results.
    pub async fn get(&self) -> Result<pb::Workflow> {
        self.get_within(Duration::ZERO).await
    }

    async fn get_within(&self, wait: Duration) -> Result<pb::Workflow> {
        let request = pb::GetWorkflowRequest {
            namespace: self.client.namespace(),
            workflow_id: self.workflow_id.clone(),
            wait_timeout: Some(time::to_proto(wait)),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.workflows().get_workflow(request).await };
        let budget = wait + self.client.timeout();
        let answer = self.client.call_within(budget, request, send).await?;
        Ok(answer.message.workflow.unwrap_or_default())
    }

    /// Waits for the workflow's end and reads its final result. If it did not end well, the error has it: [`Error::workflow`].
    pub async fn wait<T: DeserializeOwned>(&self) -> Result<T> {
        let workflow = self.wait_end().await?;
        match workflow.state() {
            State::Completed => payload::decode_opt(workflow.final_result.as_ref()),
            _ => Err(Error::workflow_ended(workflow)),
        }
    }

    /// Waits for the workflow's end, however it ends.
    pub async fn wait_end(&self) -> Result<pb::Workflow> {
        loop {
            let workflow = self.get_within(WAIT).await?;
            if is_over(&workflow) {
                return Ok(workflow);
            }
        }
    }

    /// Cancels the workflow, and the tasks that it has under way.
    pub async fn cancel(&self, cause: impl Into<String>) -> Result<()> {
        let request = pb::CancelWorkflowRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            workflow_id: self.workflow_id.clone(),
            cause: cause.into(),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.workflows().cancel_workflow(request).await };
        self.client.call(request, send).await.map(|_| ())
    }

    /// The workflow as it is, then each change, until it has ended. After a break it begins with the workflow as it is then.
    pub fn watch(&self) -> impl Stream<Item = Result<pb::WatchWorkflowResponse>> + Send + Unpin + use<> {
        resumed(
            WorkflowWatch {
                handle: self.clone(),
                over: false,
            },
            None,
        )
    }

    /// Every transition, in order, page by page as they are asked for.
    pub fn history(&self) -> BoxStream<'static, Result<pb::WorkflowTransition>> {
        let handle = self.clone();
        Box::pin(paged(move |page_token| {
            let handle = handle.clone();
            async move {
                let request = pb::GetWorkflowHistoryRequest {
                    namespace: handle.client.namespace(),
                    workflow_id: handle.workflow_id.clone(),
                    page_size: 0,
                    page_token,
                };
                let response = handle
                    .client
                    .call(request, |stubs, request| async move {
                        stubs.workflows().get_workflow_history(request).await
                    })
                    .await?;
                Ok((response.transitions, response.next_page_token))
            }
        }))
    }

    /// The subtasks of a step with their results, in item order, page by page as they are asked for.
    pub fn step_results(&self, step_id: &str) -> BoxStream<'static, Result<pb::Subtask>> {
        let (handle, step_id) = (self.clone(), step_id.to_owned());
        Box::pin(paged(move |page_token| {
            let (handle, step_id) = (handle.clone(), step_id.clone());
            async move {
                let request = pb::ListStepResultsRequest {
                    namespace: handle.client.namespace(),
                    workflow_id: handle.workflow_id.clone(),
                    step_id,
                    page_size: 0,
                    page_token,
                };
                let response = handle
                    .client
                    .call(request, |stubs, request| async move {
                        stubs.workflows().list_step_results(request).await
                    })
                    .await?;
                Ok((response.subtasks, response.next_page_token))
            }
        }))
    }
}

/// Whether a workflow has ended.
pub fn is_over(workflow: &pb::Workflow) -> bool {
    matches!(
        workflow.state(),
        State::Completed | State::Failed | State::Cancelled | State::TimedOut
    )
}

struct WorkflowWatch {
    handle: WorkflowHandle,
    over: bool,
}

impl Source for WorkflowWatch {
    type Message = pb::WatchWorkflowResponse;

    fn client(&self) -> &Client {
        &self.handle.client
    }

    async fn open(&mut self) -> Result<Opened<Self::Message>> {
        let namespace = self.handle.client.namespace();
        let workflow_id = self.handle.workflow_id.clone();
        let request = pb::WatchWorkflowRequest { namespace, workflow_id };
        let send = |stubs: crate::Stubs, request| async move { stubs.workflows().watch_workflow(request).await };
        self.handle.client.open(request, send).await
    }

    fn seen(&mut self, message: &Self::Message) {
        self.over = message.workflow.as_ref().is_some_and(is_over);
    }

    fn is_over(&self) -> bool {
        self.over
    }
}
