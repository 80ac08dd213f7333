//! The door of the workflows room.
//!
//! A workflow is checked whole before it starts, its expressions too, in a thread that may block: no lane ever compiles what a stranger
//! wrote for the first time. Reads go to the store. Results may be far larger than a message, so what is read of them is bounded in bytes.

mod convert;
mod view;
mod watch;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::workflow_service_server::WorkflowService;
use futures::Stream;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::rules::start::{self, Start};
use super::{Transition, Workflow, WorkflowType, plan, rules};
use crate::app::App;
use crate::edge::Context;
use crate::edge::check::Check;
use crate::edge::page::{self, Page};
use crate::edge::payload;
use crate::error::{Reason, Refusal};
use crate::lane::{Urgency, refusal_of};
use crate::machine;
use crate::store::Selection;
use crate::store::row::Value;
use crate::tail::Cursor;

/// The longest wait for a workflow's end.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// How long a cause may be.
const MAX_CAUSE: usize = 1_024;

/// The service.
pub struct Workflows {
    app: Arc<App>,
}

impl Workflows {
    /// The service of a server.
    pub fn new(app: Arc<App>) -> Workflows {
        Workflows { app }
    }
}

#[tonic::async_trait]
impl WorkflowService for Workflows {
    async fn start_workflow(
        &self,
        request: Request<v1::StartWorkflowRequest>,
    ) -> Result<Response<v1::StartWorkflowResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            start_workflow(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn get_workflow(
        &self,
        request: Request<v1::GetWorkflowRequest>,
    ) -> Result<Response<v1::GetWorkflowResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            get_workflow(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn list_workflows(
        &self,
        request: Request<v1::ListWorkflowsRequest>,
    ) -> Result<Response<v1::ListWorkflowsResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            list_workflows(&self.app, &context, request.into_inner()).await?,
        ))
    }

    type WatchWorkflowStream = Pin<Box<dyn Stream<Item = Result<v1::WatchWorkflowResponse, Status>> + Send>>;

    async fn watch_workflow(
        &self,
        request: Request<v1::WatchWorkflowRequest>,
    ) -> Result<Response<Self::WatchWorkflowStream>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        let workflow_id = checked_id(&request.get_ref().workflow_id)?;
        let leaving = context.leaving(&self.app);
        let stream = watch::watch(Arc::clone(&self.app), leaving, context.namespace, workflow_id).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn cancel_workflow(
        &self,
        request: Request<v1::CancelWorkflowRequest>,
    ) -> Result<Response<v1::CancelWorkflowResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            cancel_workflow(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn get_workflow_history(
        &self,
        request: Request<v1::GetWorkflowHistoryRequest>,
    ) -> Result<Response<v1::GetWorkflowHistoryResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            get_workflow_history(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn list_step_results(
        &self,
        request: Request<v1::ListStepResultsRequest>,
    ) -> Result<Response<v1::ListStepResultsResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            list_step_results(&self.app, &context, request.into_inner()).await?,
        ))
    }
}

/// Checks a workflow whole and starts it.
///
/// # Errors
/// INVALID_REQUEST, INVALID_EXPRESSION, PAYLOAD_TOO_LARGE, WORKFLOW_EXISTS, SESSION_ENDED, and those of every change.
pub async fn start_workflow(
    app: &App,
    context: &Context,
    request: v1::StartWorkflowRequest,
) -> Result<v1::StartWorkflowResponse, Refusal> {
    let call = context.call("StartWorkflow", &request.request_id, &request, Urgency::Normal);
    let start = start_of(app, context, request).await?;
    let reads = Arc::clone(&start);
    let committed = app
        .lanes
        .run(
            call,
            move |world| start::want_start(world, &reads),
            move |world| start::start(world, &start),
        )
        .await?;
    Ok(v1::StartWorkflowResponse {
        workflow_id: committed.answer,
        position: committed.position,
        cursor: cursor(committed.epoch, committed.position),
    })
}

async fn start_of(app: &App, context: &Context, request: v1::StartWorkflowRequest) -> Result<Arc<Start>, Refusal> {
    let mut check = Check::default();
    let workflow_type = match request.workflow_type() {
        v1::WorkflowType::Sequential => WorkflowType::Sequential,
        v1::WorkflowType::Parallel => WorkflowType::Parallel,
        v1::WorkflowType::MapReduce => WorkflowType::MapReduce,
        v1::WorkflowType::Graph | v1::WorkflowType::Unspecified => WorkflowType::Graph,
    };
    if v1::WorkflowType::try_from(request.workflow_type).is_err() {
        check.violation("workflow_type", "is not a type that this server knows");
    }
    check.optional_id("request_id", &request.request_id);
    let deadline = check.optional_duration("deadline", request.deadline);
    if deadline.is_some_and(|deadline| deadline.is_zero()) {
        check.violation("deadline", "must be longer than nothing");
    }
    let input = check
        .take(payload::from_proto("input", request.input, &app.limits))
        .flatten();
    let steps = convert::steps(&mut check, request.steps, &app.limits, &app.defaults);
    let result = check.text("result", &request.result, super::expr::MAX_TEXT_BYTES);
    let start = Start {
        workflow_id: check.optional_id("workflow_id", &request.workflow_id),
        workflow_name: check.text("workflow_name", &request.workflow_name, crate::edge::check::MAX_ID),
        workflow_type,
        steps: Vec::new(),
        input,
        max_concurrent: check.number(
            "max_concurrent_delegates",
            request.max_concurrent_delegates,
            app.defaults.max_concurrent_delegates,
            1..=super::MAX_CONCURRENCY,
        ),
        result: result.clone(),
        deadline,
        correlation_id: check.optional_id("correlation_id", &request.correlation_id),
        labels: check.labels("labels", request.labels.into_iter().collect()),
        session_id: check.session_id(request.session_id),
        traceparent: context.traceparent.clone(),
    };
    let planned = machine::compute(move || plan::plan(workflow_type, steps, &result)).await;
    let planned = planned.ok_or_else(|| Refusal::new(Reason::Internal, "the server failed on this request"))?;
    let steps = match (check.finish(), planned) {
        (Ok(()), planned) => planned?,
        (Err(refusal), Ok(_)) => return Err(refusal),
        (Err(refusal), Err(of_plan)) => {
            let violations = [refusal.violations(), of_plan.violations()].concat();
            return Err(if refusal.violations().is_empty() {
                refusal
            } else {
                Refusal::of_violations(violations)
            });
        }
    };
    Ok(Arc::new(Start { steps, ..start }))
}

/// Returns a workflow as it is, after its end if asked to wait for that.
///
/// # Errors
/// WORKFLOW_NOT_FOUND, DRAINING while it waits.
pub async fn get_workflow(
    app: &App,
    context: &Context,
    request: v1::GetWorkflowRequest,
) -> Result<v1::GetWorkflowResponse, Refusal> {
    let mut check = Check::default();
    let workflow_id = check.id("workflow_id", &request.workflow_id);
    let wait = check.duration(
        "wait_timeout",
        request.wait_timeout,
        Duration::ZERO,
        Duration::ZERO..=MAX_WAIT,
    );
    check.finish()?;
    if !wait.is_zero() {
        watch::await_end(app, context, &workflow_id, Instant::now() + context.patience(wait)).await?;
    }
    let workflow = view::whole(app, &context.namespace, &workflow_id).await?;
    Ok(v1::GetWorkflowResponse {
        workflow: Some(workflow.ok_or_else(|| not_found(&workflow_id))?),
    })
}

/// Lists workflows, newest first.
///
/// # Errors
/// INVALID_REQUEST, INVALID_PAGE_TOKEN.
pub async fn list_workflows(
    app: &App,
    context: &Context,
    request: v1::ListWorkflowsRequest,
) -> Result<v1::ListWorkflowsResponse, Refusal> {
    let mut check = Check::default();
    let labels = check.labels("labels", request.labels.clone().into_iter().collect());
    check.finish()?;
    let states = convert::states(&request.states)?;
    let list = format!("workflows {states:?} {labels:?}");
    let page = Page::new(request.page_size, &request.page_token, &list)?;
    let selection = Selection {
        index: Workflow::BY_AGE,
        prefix: Vec::new(),
        after: page.after,
        limit: page.size,
        backwards: true,
    };
    let rows = app.store.select::<Workflow>(&context.namespace, selection).await;
    let (_, rows) = rows.map_err(|error| refusal_of(&error))?;
    let is_wanted = |row: &Workflow| {
        let has = |(name, value): (&String, &String)| row.labels.get(name) == Some(value);
        (states.is_empty() || states.contains(&row.state)) && labels.iter().all(has)
    };
    let token = |row: &Workflow| {
        page::token(
            &[Value::Int(row.started_at.0), Value::Text(row.workflow_id.clone())],
            &list,
        )
    };
    let is_full = rows.len() == page.size;
    let past_the_page = rows.last().filter(|_| is_full).map(token).unwrap_or_default();
    let wanted: Vec<&Workflow> = rows.iter().filter(|row| is_wanted(row)).collect();
    let workflows = view::outlines(app, &context.namespace, &wanted).await?;
    let next_page_token = match workflows.len().checked_sub(1) {
        Some(last) if workflows.len() < wanted.len() => token(wanted[last]),
        _ => past_the_page,
    };
    Ok(v1::ListWorkflowsResponse {
        workflows,
        next_page_token,
    })
}

/// Cancels a workflow, and the tasks that it has under way.
///
/// # Errors
/// WORKFLOW_NOT_FOUND, WORKFLOW_ENDED, SESSION_ENDED, and those of every change.
pub async fn cancel_workflow(
    app: &App,
    context: &Context,
    request: v1::CancelWorkflowRequest,
) -> Result<v1::CancelWorkflowResponse, Refusal> {
    let call = context.call("CancelWorkflow", &request.request_id, &request, Urgency::Normal);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    let workflow_id = check.id("workflow_id", &request.workflow_id);
    let cause = check.text("cause", &request.cause, MAX_CAUSE);
    let session_id = check.session_id(request.session_id);
    check.finish()?;
    let (wanted, session) = (workflow_id.clone(), session_id.clone());
    let committed = app
        .lanes
        .run(
            call,
            move |world| {
                crate::sessions::rules::want_caller(world, &session);
                world.workflows.want(&wanted);
            },
            move |world| rules::cancel(world, &session_id, &workflow_id, &cause),
        )
        .await?;
    Ok(v1::CancelWorkflowResponse {
        position: committed.position,
        cursor: cursor(committed.epoch, committed.position),
    })
}

/// Lists every transition of a workflow, in order.
///
/// # Errors
/// WORKFLOW_NOT_FOUND, INVALID_PAGE_TOKEN.
pub async fn get_workflow_history(
    app: &App,
    context: &Context,
    request: v1::GetWorkflowHistoryRequest,
) -> Result<v1::GetWorkflowHistoryResponse, Refusal> {
    let workflow_id = checked_id(&request.workflow_id)?;
    let list = format!("history {workflow_id}");
    let page = Page::new(request.page_size, &request.page_token, &list)?;
    let selection = Selection {
        index: Transition::BY_WORKFLOW,
        prefix: vec![Value::Text(workflow_id.clone())],
        after: page.after,
        limit: page.size,
        backwards: false,
    };
    let rows = app.store.select::<Transition>(&context.namespace, selection).await;
    let (_, rows) = rows.map_err(|error| refusal_of(&error))?;
    if rows.is_empty() {
        let workflow = app.store.get::<Workflow>(&context.namespace, &workflow_id).await;
        workflow
            .map_err(|error| refusal_of(&error))?
            .ok_or_else(|| not_found(&workflow_id))?;
    }
    let last = rows.last().filter(|_| rows.len() == page.size);
    Ok(v1::GetWorkflowHistoryResponse {
        next_page_token: last.map_or(String::new(), |last| page::token(&[Value::Int(last.sequence)], &list)),
        transitions: rows.into_iter().map(convert::transition).collect(),
    })
}

/// Pages through the results of a step, in item order.
///
/// # Errors
/// WORKFLOW_NOT_FOUND, STEP_NOT_FOUND, INVALID_PAGE_TOKEN.
pub async fn list_step_results(
    app: &App,
    context: &Context,
    request: v1::ListStepResultsRequest,
) -> Result<v1::ListStepResultsResponse, Refusal> {
    let mut check = Check::default();
    let workflow_id = check.id("workflow_id", &request.workflow_id);
    let step_id = check.id("step_id", &request.step_id);
    check.finish()?;
    let list = format!("results {workflow_id} {step_id}");
    let page = Page::new(request.page_size, &request.page_token, &list)?;
    let found = view::step(app, &context.namespace, &workflow_id, &step_id).await?;
    let Some(record) = found else {
        let workflow = app.store.get::<Workflow>(&context.namespace, &workflow_id).await;
        workflow
            .map_err(|error| refusal_of(&error))?
            .ok_or_else(|| not_found(&workflow_id))?;
        let refusal = Refusal::new(Reason::StepNotFound, "the workflow has no such step");
        return Err(refusal.with("workflow_id", workflow_id).with("step_id", step_id));
    };
    let (subtasks, last) = view::results(app, &context.namespace, &record, page.after, page.size).await?;
    Ok(v1::ListStepResultsResponse {
        subtasks,
        next_page_token: last.map_or(String::new(), |place| page::token(&[Value::Int(place)], &list)),
    })
}

fn checked_id(workflow_id: &str) -> Result<String, Refusal> {
    let mut check = Check::default();
    let workflow_id = check.id("workflow_id", workflow_id);
    check.finish()?;
    Ok(workflow_id)
}

fn not_found(workflow_id: &str) -> Refusal {
    Refusal::new(Reason::WorkflowNotFound, "there is no such workflow").with("workflow_id", workflow_id)
}

fn cursor(epoch: i64, position: i64) -> String {
    Cursor { epoch, position }.encode()
}
