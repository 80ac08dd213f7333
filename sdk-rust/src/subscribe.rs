//! Subscriptions: which events, from where, and a stream of them that goes on from its cursor after a break.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use drumline_proto::v1 as pb;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use pb::subscribe_response::Content;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::stream::{Opened, Source, resumed};
use crate::time;

/// Which events. Every condition that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Filter(pb::EventFilter);

impl Filter {
    pub(crate) fn into_proto(self) -> pb::EventFilter {
        self.0
    }

    /// All events.
    pub fn all() -> Self {
        Self::default()
    }

    /// Events of this type; `*` stands for one segment, `**` for any number. Given twice, either will do.
    pub fn event_type(mut self, pattern: impl Into<String>) -> Self {
        self.0.event_types.push(pattern.into());
        self
    }

    /// Said by this agent.
    pub fn source_agent(mut self, agent_id: impl Into<String>) -> Self {
        self.0.source_agent = agent_id.into();
        self
    }

    /// Meant for this agent alone.
    pub fn target_agent(mut self, agent_id: impl Into<String>) -> Self {
        self.0.target_agent = agent_id.into();
        self
    }

    /// With this correlation id.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.0.correlation_id = id.into();
        self
    }

    /// About something whose name begins so.
    pub fn subject_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.0.subject_prefix = prefix.into();
        self
    }

    /// At least as urgent as this.
    pub fn minimum_priority(mut self, priority: i32) -> Self {
        self.0.minimum_priority = Some(priority);
        self
    }
}

impl From<pb::EventFilter> for Filter {
    fn from(filter: pb::EventFilter) -> Self {
        Self(filter)
    }
}

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next event to be committed. Until the first message has come nothing is known of where that is: after a break
    /// before it, the stream begins anew.
    Now,
    /// With the oldest event that is kept.
    Beginning,
    /// After this cursor.
    After(String),
    /// With this position.
    Position(i64),
    /// With the first event at or after this time.
    Time(SystemTime),
}

/// A subscription that has not begun yet.
#[derive(Clone, Debug)]
#[must_use = "nothing is read until `events` or `updates` is called"]
pub struct Subscribe {
    client: Client,
    filter: pb::EventFilter,
    start: Start,
    progress_interval: Option<Duration>,
    give_up_after: Option<Duration>,
}

impl Subscribe {
    pub(crate) fn new(client: Client, filter: Filter) -> Self {
        Self {
            client,
            filter: filter.into_proto(),
            start: Start::Now,
            progress_interval: None,
            give_up_after: None,
        }
    }

    /// Where to begin; now if it is not said.
    pub fn from(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// How often to hear of progress when nothing matches; 15 s if it is not said, at least 1 s.
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.progress_interval = Some(interval);
        self
    }

    /// End with an error when the server could not be reached for this long; for ever if it is not said.
    pub fn give_up_after(mut self, after: Duration) -> Self {
        self.give_up_after = Some(after);
        self
    }

    /// The events.
    pub fn events(self) -> EventStream {
        let updates = self.updates();
        let cursor = updates.cursor.clone();
        let inner = updates.filter_map(|update| async {
            match update {
                Ok(Update::Event(event)) => Some(Ok(event)),
                Ok(Update::Progress(_)) => None,
                Err(error) => Some(Err(error)),
            }
        });
        EventStream {
            inner: inner.boxed(),
            cursor,
        }
    }

    /// The events, and how far the stream has come when nothing matches.
    pub fn updates(self) -> UpdateStream {
        let cursor = Cursor::default();
        let give_up_after = self.give_up_after;
        let source = Subscription {
            subscribe: self,
            cursor: cursor.clone(),
        };
        let inner = resumed(source, give_up_after).filter_map(|message| async {
            match message.map(|message| message.content) {
                Ok(Some(Content::Event(event))) => Some(Ok(Update::Event(event))),
                Ok(Some(Content::Progress(progress))) => Some(Ok(Update::Progress(progress))),
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            }
        });
        UpdateStream {
            inner: inner.boxed(),
            cursor,
        }
    }
}

/// One message of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// An event.
    Event(pb::Event),
    /// Everything up to here was looked at.
    Progress(pb::SubscriptionProgress),
}

/// The cursor of a stream, shared between its parts.
#[derive(Clone, Debug, Default)]
struct Cursor(Arc<Mutex<String>>);

impl Cursor {
    fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, cursor: &str) {
        if !cursor.is_empty() {
            cursor.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// The events of a subscription.
pub struct EventStream {
    inner: BoxStream<'static, Result<pb::Event>>,
    cursor: Cursor,
}

/// The events of a subscription, and its progress.
pub struct UpdateStream {
    inner: BoxStream<'static, Result<Update>>,
    cursor: Cursor,
}

impl EventStream {
    /// Where the stream has come: what to begin another after. Empty before the first message.
    pub fn cursor(&self) -> String {
        self.cursor.get()
    }
}

impl UpdateStream {
    /// Where the stream has come: what to begin another after. Empty before the first message.
    pub fn cursor(&self) -> String {
        self.cursor.get()
    }
}

impl Stream for EventStream {
    type Item = Result<pb::Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(context)
    }
}

impl Stream for UpdateStream {
    type Item = Result<Update>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(context)
    }
}

struct Subscription {
    subscribe: Subscribe,
    cursor: Cursor,
}

impl Source for Subscription {
    type Message = pb::SubscribeResponse;

    fn client(&self) -> &Client {
        &self.subscribe.client
    }

    async fn open(&mut self) -> Result<Opened<Self::Message>> {
        use pb::subscribe_request::Start as Wire;
        let cursor = self.cursor.get();
        let start = match &self.subscribe.start {
            _ if !cursor.is_empty() => Wire::Cursor(cursor),
            Start::Now => Wire::Now(true),
            Start::Beginning => Wire::Beginning(true),
            Start::After(cursor) => Wire::Cursor(cursor.clone()),
            Start::Position(position) => Wire::Position(*position),
            Start::Time(time) => Wire::Time(time::timestamp(*time)),
        };
        let client = &self.subscribe.client;
        let request = pb::SubscribeRequest {
            namespace: client.namespace(),
            filter: Some(self.subscribe.filter.clone()),
            progress_interval: self.subscribe.progress_interval.map(time::to_proto),
            start: Some(start),
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.events().subscribe(request).await };
        client.open(request, send).await
    }

    fn seen(&mut self, message: &Self::Message) {
        match &message.content {
            Some(Content::Event(event)) => self.cursor.set(&event.cursor),
            Some(Content::Progress(progress)) => self.cursor.set(&progress.cursor),
            None => {}
        }
    }

    fn broken(&mut self, error: &Error) {
        // Only where nothing was read: what was read last is the better place to go on from.
        if self.cursor.get().is_empty() {
            self.cursor.set(error.get("cursor").unwrap_or_default());
        }
    }
}
