//! The door of the state room.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::state_service_server::StateService;
use futures::Stream;
use tonic::{Request, Response, Status};

use super::rules::{self, Write};
use super::{Document, MAX_RETENTION, Version, watch};
use crate::app::App;
use crate::edge::Context;
use crate::edge::check::Check;
use crate::edge::page::{self, Page};
use crate::edge::payload;
use crate::error::{Reason, Refusal};
use crate::lane::{Urgency, refusal_of};
use crate::store::Selection;
use crate::store::row::Value;
use crate::tail::Cursor;

/// The service.
pub struct States {
    app: Arc<App>,
}

impl States {
    /// The service of a server.
    pub fn new(app: Arc<App>) -> States {
        States { app }
    }
}

/// A document for the wire.
pub fn to_proto(document: &Document) -> v1::State {
    v1::State {
        state_id: document.state_id.clone(),
        version: document.version,
        payload: document.payload.as_ref().map(payload::to_proto),
        deleted: document.payload.is_none(),
        updated_by: document.updated_by.clone(),
        create_time: Some(payload::timestamp(document.created_at)),
        update_time: Some(payload::timestamp(document.updated_at)),
        position: document.position,
        schema_version: document.schema_version.clone(),
        version_retention: document.retention,
    }
}

fn version_to_proto(document: &Document, version: &Version) -> v1::State {
    v1::State {
        state_id: version.state_id.clone(),
        version: version.version,
        payload: version.payload.as_ref().map(payload::to_proto),
        deleted: version.payload.is_none(),
        updated_by: version.updated_by.clone(),
        create_time: Some(payload::timestamp(document.created_at)),
        update_time: Some(payload::timestamp(version.updated_at)),
        position: version.position,
        schema_version: version.schema_version.clone(),
        version_retention: document.retention,
    }
}

/// The session that a request names, if it names one.
fn put_command(app: &App, context: &Context, request: v1::PutStateRequest) -> Result<Write, Refusal> {
    let mut check = Check::default();
    if request.payload.is_none() {
        check.violation("payload", "must be set; to delete a document, use DeleteState");
    }
    let payload = check
        .take(payload::from_proto("payload", request.payload, &app.limits))
        .flatten();
    if request.expected_version.is_some_and(|version| version < 0) {
        check.violation("expected_version", "must not be negative");
    }
    let retention = check.number("version_retention", request.version_retention, 0, 1..=MAX_RETENTION);
    let write = Write {
        state_id: check.id("state_id", &request.state_id),
        payload,
        expected_version: request.expected_version,
        guards: payload::guards(&mut check, request.guards),
        session_id: check.session_id(request.session_id),
        schema_version: check.text("schema_version", &request.schema_version, 255),
        retention: (retention > 0).then_some(retention),
        default_retention: app.defaults.state_versions,
        correlation_id: check.optional_id("correlation_id", &request.correlation_id),
        traceparent: context.traceparent.clone(),
    };
    check.optional_id("request_id", &request.request_id);
    check.finish()?;
    Ok(write)
}

fn delete_command(app: &App, context: &Context, request: v1::DeleteStateRequest) -> Result<Write, Refusal> {
    let mut check = Check::default();
    if request.expected_version.is_some_and(|version| version < 1) {
        check.violation(
            "expected_version",
            "must be at least 1: a document that does not exist cannot be deleted",
        );
    }
    let write = Write {
        state_id: check.id("state_id", &request.state_id),
        payload: None,
        expected_version: request.expected_version,
        guards: payload::guards(&mut check, request.guards),
        session_id: check.session_id(request.session_id),
        schema_version: String::new(),
        retention: None,
        default_retention: app.defaults.state_versions,
        correlation_id: check.optional_id("correlation_id", &request.correlation_id),
        traceparent: context.traceparent.clone(),
    };
    check.optional_id("request_id", &request.request_id);
    check.finish()?;
    Ok(write)
}

async fn get(app: &App, context: &Context, request: v1::GetStateRequest) -> Result<v1::State, Refusal> {
    let mut check = Check::default();
    let state_id = check.id("state_id", &request.state_id);
    if request.version < 0 {
        check.violation("version", "must not be negative");
    }
    check.finish()?;
    let document = app
        .store
        .get::<Document>(&context.namespace, &state_id)
        .await
        .map_err(|error| refusal_of(&error))?;
    let document = document.ok_or_else(|| rules::not_found(&state_id))?;
    if request.version == 0 {
        return match document.payload {
            Some(_) => Ok(to_proto(&document)),
            None => Err(rules::not_found(&state_id)),
        };
    }
    let key = (state_id.clone(), request.version);
    let version = app
        .store
        .get::<Version>(&context.namespace, &key)
        .await
        .map_err(|error| refusal_of(&error))?;
    let version = version.ok_or_else(|| {
        Refusal::new(
            Reason::VersionNotFound,
            format!("version {} of {state_id} is not kept", request.version),
        )
        .with("state_id", &state_id)
        .with("version", request.version)
    })?;
    Ok(version_to_proto(&document, &version))
}

/// How many rows a page looks at: with a page's worth that matches or not, it then ends.
pub(super) const SCAN: usize = 1_000;

async fn list(app: &App, context: &Context, request: v1::ListStatesRequest) -> Result<v1::ListStatesResponse, Refusal> {
    let mut check = Check::default();
    let prefix = check.optional_id("prefix", &request.prefix);
    check.finish()?;
    let list = format!("states/{prefix}");
    let page = Page::new(request.page_size, &request.page_token, &list)?;
    let mut after = page.after.or_else(|| before_prefix(&prefix));
    let mut states = Vec::new();
    let mut bytes = 0;
    let limit = page.size.min(100);
    for _ in 0..SCAN.div_ceil(limit) {
        let selection = Selection {
            index: Document::PRIMARY,
            prefix: Vec::new(),
            after: after.clone(),
            limit,
            backwards: false,
        };
        let (_, documents) = app
            .store
            .select::<Document>(&context.namespace, selection)
            .await
            .map_err(|error| refusal_of(&error))?;
        let exhausted = documents.len() < limit;
        for document in documents {
            after = Some(vec![Value::Text(document.state_id.clone())]);
            if !document.state_id.starts_with(&prefix) {
                if document.state_id > prefix {
                    return Ok(v1::ListStatesResponse {
                        states,
                        next_page_token: String::new(),
                    });
                }
                continue;
            }
            if document.payload.is_none() {
                continue;
            }
            let mut state = to_proto(&document);
            bytes += document.payload.as_ref().map_or(0, |payload| payload.len());
            if request.without_payload {
                state.payload = None;
                bytes = 0;
            }
            states.push(state);
            if states.len() == page.size || bytes > app.limits.max_message_bytes / 2 {
                let next_page_token = page::token(after.as_deref().unwrap_or_default(), &list);
                return Ok(v1::ListStatesResponse {
                    states,
                    next_page_token,
                });
            }
        }
        if exhausted {
            return Ok(v1::ListStatesResponse {
                states,
                next_page_token: String::new(),
            });
        }
    }
    let next_page_token = page::token(after.as_deref().unwrap_or_default(), &list);
    Ok(v1::ListStatesResponse {
        states,
        next_page_token,
    })
}

/// A place before every id that begins with the prefix, and after nearly everything before it.
pub(super) fn before_prefix(prefix: &str) -> Option<Vec<Value>> {
    let mut before = prefix.to_owned();
    let last = before.pop()?;
    // The greatest id that is less than the prefix cannot be written down; one that is near enough can.
    if let Some(lower) = (last as u32).checked_sub(1).and_then(char::from_u32) {
        before.push(lower);
        before.push(char::MAX);
    }
    Some(vec![Value::Text(before)])
}

async fn list_versions(
    app: &App,
    context: &Context,
    request: v1::ListStateVersionsRequest,
) -> Result<v1::ListStateVersionsResponse, Refusal> {
    let mut check = Check::default();
    let state_id = check.id("state_id", &request.state_id);
    check.finish()?;
    let list = format!("versions/{state_id}");
    let page = Page::new(request.page_size, &request.page_token, &list)?;
    let document = app
        .store
        .get::<Document>(&context.namespace, &state_id)
        .await
        .map_err(|error| refusal_of(&error))?;
    let document = document.ok_or_else(|| rules::not_found(&state_id))?;
    let mut response = v1::ListStateVersionsResponse::default();
    let mut after = page.after;
    let mut bytes = 0;
    loop {
        let limit = (page.size - response.versions.len()).min(50);
        let prefix = vec![Value::Text(state_id.clone())];
        let selection = Selection {
            index: Version::BY_DOCUMENT,
            prefix,
            after,
            limit,
            backwards: true,
        };
        let (_, versions) = app
            .store
            .select::<Version>(&context.namespace, selection)
            .await
            .map_err(|error| refusal_of(&error))?;
        let exhausted = versions.len() < limit;
        after = versions.last().map(|version| vec![Value::Int(version.version)]);
        for version in &versions {
            bytes += version.payload.as_ref().map_or(0, |payload| payload.len());
            response.versions.push(version_to_proto(&document, version));
        }
        if exhausted {
            return Ok(response);
        }
        // Fifty payloads at most beyond this: the page fits a message of the default size unless they are large.
        if response.versions.len() == page.size || bytes > app.limits.max_message_bytes / 4 {
            response.next_page_token = page::token(after.as_deref().unwrap_or_default(), &list);
            return Ok(response);
        }
    }
}

#[tonic::async_trait]
impl StateService for States {
    async fn get_state(&self, request: Request<v1::GetStateRequest>) -> Result<Response<v1::GetStateResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        let state = get(&self.app, &context, request.into_inner()).await?;
        Ok(Response::new(v1::GetStateResponse { state: Some(state) }))
    }

    async fn put_state(&self, request: Request<v1::PutStateRequest>) -> Result<Response<v1::PutStateResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        let message = request.into_inner();
        let call = context.call("PutState", &message.request_id, &message, Urgency::Normal);
        let write = put_command(&self.app, &context, message)?;
        let reads = write.clone();
        let committed = self
            .app
            .lanes
            .run(
                call,
                move |world| rules::want_write(world, &reads),
                move |world| rules::write(world, &write),
            )
            .await?;
        let cursor = Cursor {
            epoch: committed.epoch,
            position: committed.position,
        }
        .encode();
        let version = committed.answer.version;
        Ok(Response::new(v1::PutStateResponse {
            version,
            position: committed.position,
            cursor,
        }))
    }

    async fn delete_state(
        &self,
        request: Request<v1::DeleteStateRequest>,
    ) -> Result<Response<v1::DeleteStateResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        let message = request.into_inner();
        let call = context.call("DeleteState", &message.request_id, &message, Urgency::Normal);
        let write = delete_command(&self.app, &context, message)?;
        let reads = write.clone();
        let committed = self
            .app
            .lanes
            .run(
                call,
                move |world| rules::want_write(world, &reads),
                move |world| rules::write(world, &write),
            )
            .await?;
        let cursor = Cursor {
            epoch: committed.epoch,
            position: committed.position,
        }
        .encode();
        let version = committed.answer.version;
        Ok(Response::new(v1::DeleteStateResponse {
            version,
            position: committed.position,
            cursor,
        }))
    }

    async fn list_states(
        &self,
        request: Request<v1::ListStatesRequest>,
    ) -> Result<Response<v1::ListStatesResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(list(&self.app, &context, request.into_inner()).await?))
    }

    async fn list_state_versions(
        &self,
        request: Request<v1::ListStateVersionsRequest>,
    ) -> Result<Response<v1::ListStateVersionsResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            list_versions(&self.app, &context, request.into_inner()).await?,
        ))
    }

    type WatchStateStream = Pin<Box<dyn Stream<Item = Result<v1::WatchStateResponse, Status>> + Send>>;

    async fn watch_state(
        &self,
        request: Request<v1::WatchStateRequest>,
    ) -> Result<Response<Self::WatchStateStream>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        let message = request.into_inner();
        let mut check = Check::default();
        let target = match message.target {
            Some(v1::watch_state_request::Target::StateId(id)) => watch::Target::Document(check.id("state_id", &id)),
            Some(v1::watch_state_request::Target::Prefix(prefix)) => {
                watch::Target::Prefix(check.optional_id("prefix", &prefix))
            }
            None => watch::Target::Prefix(String::new()),
        };
        let interval = check.duration(
            "progress_interval",
            message.progress_interval,
            Duration::from_secs(15),
            Duration::from_secs(1)..=Duration::from_secs(3_600),
        );
        check.finish()?;
        let cursor = match message.cursor.as_str() {
            "" => None,
            text => Some(Cursor::decode(text, "cursor")?),
        };
        let leaving = context.leaving(&self.app);
        let app = Arc::clone(&self.app);
        let stream = watch::watch(app, leaving, context.namespace, target, cursor, interval).await?;
        Ok(Response::new(Box::pin(stream)))
    }
}
