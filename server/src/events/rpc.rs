//! The door of the events room.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::event_service_server::EventService;
use futures::Stream;
use tonic::{Request, Response, Status};

use super::rules::{self, Publication, RESERVED};
use super::{Draft, Event, EventIdRecord, list, position_of_made_id, subscribe};
use crate::app::App;
use crate::edge::Context;
use crate::edge::check::Check;
use crate::edge::payload;
use crate::error::{Reason, Refusal};
use crate::lane::{Urgency, refusal_of};
use crate::tail::{Cursor, Filter, Pattern};
use crate::time::Time;

/// The service.
pub struct Events {
    app: Arc<App>,
}

impl Events {
    /// The service of a server.
    pub fn new(app: Arc<App>) -> Events {
        Events { app }
    }
}

/// An event for the wire.
pub fn to_proto(event: &Event, epoch: i64) -> v1::Event {
    v1::Event {
        event_id: event.id(),
        event_type: event.event_type.clone(),
        schema_version: event.schema_version.clone(),
        source_agent: event.source_agent.clone(),
        target_agent: event.target_agent.clone(),
        subject: event.subject.clone(),
        payload: event.payload.as_ref().map(payload::to_proto),
        timestamp: Some(payload::timestamp(event.at)),
        correlation_id: event.correlation_id.clone(),
        causation_id: event.causation_id.clone(),
        priority: event.priority,
        ttl: event
            .expire_at
            .map(|expire_at| payload::duration(expire_at.since(event.at))),
        position: event.position,
        cursor: Cursor {
            epoch,
            position: event.position,
        }
        .encode(),
        traceparent: event.traceparent.clone(),
    }
}

/// How many events one call may publish.
const MAX_EVENTS: usize = 1_000;

/// The name of a field of one of the events.
#[derive(Clone, Copy)]
struct FieldOf {
    index: usize,
    name: &'static str,
}

impl std::fmt::Display for FieldOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "events[{}].{}", self.index, self.name)
    }
}

fn draft(app: &App, context: &Context, check: &mut Check, index: usize, event: v1::NewEvent) -> Draft {
    let field = |name| FieldOf { index, name };
    let event_type = check.id(field("event_type"), &event.event_type);
    if event_type.split('.').any(str::is_empty) || event_type.contains('*') {
        check.violation(field("event_type"), "must be words with dots between them, without `*`");
    }
    if let Some(prefix) = event_type.split('.').next().filter(|prefix| RESERVED.contains(prefix)) {
        let message = format!("events of types under `{prefix}.` are made by the server alone");
        check.refusal(Refusal::new(Reason::EventTypeReserved, message).with("event_type", &event_type));
    }
    let ttl = check.optional_duration(field("ttl"), event.ttl);
    if ttl.is_some_and(|ttl| ttl < Duration::from_millis(1)) {
        check.violation(field("ttl"), "must be at least 1 ms");
    }
    let given_id = check.optional_id(field("event_id"), &event.event_id);
    Draft {
        given_id: (!given_id.is_empty()).then_some(given_id),
        event_type,
        schema_version: check.text(field("schema_version"), &event.schema_version, 255),
        source_agent: String::new(),
        target_agent: check.optional_id(field("target_agent"), &event.target_agent),
        subject: check.optional_id(field("subject"), &event.subject),
        payload: check
            .take(payload::from_proto(field("payload"), event.payload, &app.limits))
            .flatten(),
        correlation_id: check.optional_id(field("correlation_id"), &event.correlation_id),
        causation_id: check.optional_id(field("causation_id"), &event.causation_id),
        priority: event.priority,
        ttl: ttl.map(|ttl| ttl.min(app.retention.events)),
        traceparent: context.traceparent.clone(),
    }
}

/// Publishes events.
pub async fn publish_events(
    app: &App,
    context: &Context,
    request: v1::PublishEventsRequest,
) -> Result<v1::PublishEventsResponse, Refusal> {
    let urgency = if request.events.len() > 16 {
        Urgency::Low
    } else {
        Urgency::Normal
    };
    let call = context.call("PublishEvents", &request.request_id, &request, urgency);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    if request.events.is_empty() || request.events.len() > MAX_EVENTS {
        check.violation(
            "events",
            format!("has {} events, must have 1 to {MAX_EVENTS}", request.events.len()),
        );
    }
    let events = request.events.into_iter().take(MAX_EVENTS).enumerate();
    let drafts = events
        .map(|(index, event)| draft(app, context, &mut check, index, event))
        .collect();
    let publication = Publication {
        drafts,
        guards: payload::guards(&mut check, request.guards),
        session_id: check.session_id(request.session_id),
    };
    check.finish()?;
    let publication = Arc::new(publication);
    let (reads, decides) = (Arc::clone(&publication), Arc::clone(&publication));
    let committed = app
        .lanes
        .run(
            call,
            move |world| rules::want_publish(world, &reads),
            move |world| rules::publish(world, &decides),
        )
        .await?;
    let published = committed.answer.events(&publication);
    let published = published.map(|published| v1::PublishedEvent {
        event_id: published.event_id,
        position: published.position,
        duplicate: published.duplicate,
    });
    Ok(v1::PublishEventsResponse {
        events: published.collect(),
        position: committed.position,
        cursor: Cursor {
            epoch: committed.epoch,
            position: committed.position,
        }
        .encode(),
    })
}

/// A filter from the wire.
pub fn filter(check: &mut Check, filter: Option<v1::EventFilter>) -> Filter {
    let filter = filter.unwrap_or_default();
    if filter.event_types.len() > 100 {
        check.violation("filter.event_types", "has more than 100 patterns");
    }
    for (index, pattern) in filter.event_types.iter().enumerate().take(100) {
        check.id(format!("filter.event_types[{index}]"), pattern);
    }
    let mut optional = |field: &str, text: &str| {
        let text = check.optional_id(field, text);
        (!text.is_empty()).then_some(text)
    };
    Filter {
        types: filter
            .event_types
            .iter()
            .take(100)
            .map(|text| Pattern::new(text))
            .collect(),
        source: optional("filter.source_agent", &filter.source_agent),
        target: optional("filter.target_agent", &filter.target_agent),
        correlation: optional("filter.correlation_id", &filter.correlation_id),
        causation: None,
        subject: None,
        subject_prefix: optional("filter.subject_prefix", &filter.subject_prefix).unwrap_or_default(),
        minimum_priority: filter.minimum_priority,
    }
}

/// Finds an event by its id.
pub async fn get_event(app: &App, context: &Context, request: v1::GetEventRequest) -> Result<v1::Event, Refusal> {
    let mut check = Check::default();
    let event_id = check.id("event_id", &request.event_id);
    check.finish()?;
    let record = app.store.get::<EventIdRecord>(&context.namespace, &event_id).await;
    let record = record.map_err(|error| refusal_of(&error))?;
    let position = record
        .map(|record| record.position)
        .or_else(|| position_of_made_id(&event_id));
    let event = match position {
        None => None,
        Some(position) => {
            let event = app.store.get::<Event>(&context.namespace, &position).await;
            event.map_err(|error| refusal_of(&error))?
        }
    };
    let now = Time::of_this_machine();
    let event = event
        .filter(|event| event.id() == event_id && !event.is_expired(now))
        .ok_or_else(|| {
            Refusal::new(Reason::EventNotFound, format!("there is no event {event_id}")).with("event_id", &event_id)
        })?;
    let epoch = app.tail.feed_as_it_is(&context.namespace).await?.epoch();
    Ok(to_proto(&event, epoch))
}

#[tonic::async_trait]
impl EventService for Events {
    async fn publish_events(
        &self,
        request: Request<v1::PublishEventsRequest>,
    ) -> Result<Response<v1::PublishEventsResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            publish_events(&self.app, &context, request.into_inner()).await?,
        ))
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        let stream = subscribe::subscribe(Arc::clone(&self.app), context, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            list::list_events(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn get_event(&self, request: Request<v1::GetEventRequest>) -> Result<Response<v1::GetEventResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        let event = get_event(&self.app, &context, request.into_inner()).await?;
        Ok(Response::new(v1::GetEventResponse { event: Some(event) }))
    }
}
