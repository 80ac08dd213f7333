//! Events: publishing them, and reading the log from any place in it.
//!
//! A subscription goes on from its cursor after a break, so its reader misses nothing and sees nothing twice. Where
//! that cannot be kept (the cursor is out of range), the stream ends with an error that says so.

use std::future::IntoFuture;
use std::time::Duration;

use drumline_proto::v1 as pb;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::Serialize;

use crate::client::{Client, request_id};
use crate::error::{Error, Result};
use crate::stream::paged;
use crate::{payload, time};

pub use crate::subscribe::{EventStream, Filter, Start, Subscribe, Update, UpdateStream};

/// `EventService`.
#[derive(Clone, Debug)]
pub struct Events {
    client: Client,
}

impl Events {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Publishes one event. Await it, or add more events and guards first.
    pub fn publish(&self, event: NewEvent) -> Publish {
        self.publish_all([event])
    }

    /// Publishes several events, all or none.
    pub fn publish_all(&self, events: impl IntoIterator<Item = NewEvent>) -> Publish {
        let request = pb::PublishEventsRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            events: Vec::new(),
            guards: Vec::new(),
        };
        let publish = Publish {
            client: self.client.clone(),
            request,
            problem: None,
        };
        events.into_iter().fold(publish, Publish::event)
    }

    /// Begins a subscription to the events that match.
    pub fn subscribe(&self, filter: Filter) -> Subscribe {
        Subscribe::new(self.client.clone(), filter)
    }

    /// The kept events that match, in order, page by page as they are asked for. Says more: `ListEventsRequest` with
    /// [`Events::list_with`].
    pub fn list(&self, filter: Filter) -> BoxStream<'static, Result<pb::Event>> {
        self.list_with(pb::ListEventsRequest {
            filter: Some(filter.into_proto()),
            ..Default::default()
        })
    }

    /// The kept events that a request asks for, page by page.
    pub fn list_with(&self, request: pb::ListEventsRequest) -> BoxStream<'static, Result<pb::Event>> {
        let client = self.client.clone();
        Box::pin(paged(move |page_token| {
            let client = client.clone();
            let namespace = client.namespace();
            let request = pb::ListEventsRequest {
                namespace,
                page_token,
                ..request.clone()
            };
            async move {
                let response = client
                    .call(request, |stubs, request| async move {
                        stubs.events().list_events(request).await
                    })
                    .await?;
                Ok((response.events, response.next_page_token))
            }
        }))
    }

    /// One event.
    pub async fn get(&self, event_id: &str) -> Result<pb::Event> {
        let namespace = self.client.namespace();
        let request = pb::GetEventRequest {
            namespace,
            event_id: event_id.into(),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.events().get_event(request).await };
        Ok(self.client.call(request, send).await?.event.unwrap_or_default())
    }
}

/// An event to be published.
#[derive(Clone, Debug)]
#[must_use]
pub struct NewEvent {
    event: pb::NewEvent,
    problem: Option<Error>,
}

impl NewEvent {
    /// An event of a type, such as `review.finding`.
    pub fn new(event_type: impl Into<String>) -> Self {
        let event = pb::NewEvent {
            event_type: event_type.into(),
            ..Default::default()
        };
        Self { event, problem: None }
    }

    /// The data.
    pub fn data<T: Serialize + ?Sized>(mut self, data: &T) -> Self {
        match payload::json(data) {
            Ok(payload) => self.event.payload = Some(payload),
            Err(error) => self.problem = Some(error),
        }
        self
    }

    /// The data, as a payload.
    pub fn payload(mut self, payload: pb::Payload) -> Self {
        self.event.payload = Some(payload);
        self
    }

    /// Its id, unique in the namespace; the server makes one if it is not set.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.event.event_id = id.into();
        self
    }

    /// The agent that it is meant for.
    pub fn target_agent(mut self, agent_id: impl Into<String>) -> Self {
        self.event.target_agent = agent_id.into();
        self
    }

    /// What it is about.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.event.subject = subject.into();
        self
    }

    /// Links events of one undertaking.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.event.correlation_id = id.into();
        self
    }

    /// The event or request that caused this one.
    pub fn causation_id(mut self, id: impl Into<String>) -> Self {
        self.event.causation_id = id.into();
        self
    }

    /// The owner's version of the payload's schema.
    pub fn schema_version(mut self, version: impl Into<String>) -> Self {
        self.event.schema_version = version.into();
        self
    }

    /// Higher is more urgent.
    pub fn priority(mut self, priority: i32) -> Self {
        self.event.priority = priority;
        self
    }

    /// After this long nobody is sent it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.event.ttl = Some(time::to_proto(ttl));
        self
    }
}

/// Events that have not been sent yet.
#[derive(Debug)]
#[must_use = "nothing is published until it is awaited"]
pub struct Publish {
    client: Client,
    request: pb::PublishEventsRequest,
    problem: Option<Error>,
}

impl Publish {
    /// One more event in the same commit.
    pub fn event(mut self, event: NewEvent) -> Self {
        self.request.events.push(event.event);
        self.problem = self.problem.or(event.problem);
        self
    }

    /// Refuse all of them unless this lock is held.
    pub fn guard(mut self, guard: pb::Guard) -> Self {
        self.request.guards.push(guard);
        self
    }

    /// Sends them.
    pub async fn send(self) -> Result<pb::PublishEventsResponse> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let send = |stubs: crate::Stubs, request| async move { stubs.events().publish_events(request).await };
        self.client.call(self.request, send).await
    }
}

impl IntoFuture for Publish {
    type Output = Result<pb::PublishEventsResponse>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
