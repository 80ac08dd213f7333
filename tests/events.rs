//! The log: publishing, subscribing from anywhere, listing, and readers that are too slow.

mod delivery;
mod filters;
mod list;
mod order;
mod publish;
mod starts;

use drumline_proto::v1;
pub use drumline_proto::v1::NewEvent;
pub use drumline_proto::v1::subscribe_request::Start;
use drumline_proto::v1::subscribe_response::Content;
use tonic::{Status, Streaming};

use crate::support::Stage;
use crate::support::wait::soon;

/// An event of a type, to be published.
pub fn event(event_type: &str) -> v1::NewEvent {
    v1::NewEvent {
        event_type: event_type.into(),
        ..Default::default()
    }
}

/// An event of a type about a subject.
pub fn about(event_type: &str, subject: impl Into<String>) -> v1::NewEvent {
    v1::NewEvent {
        subject: subject.into(),
        ..event(event_type)
    }
}

/// Publishes events, if the server lets it.
pub async fn try_publish(stage: &Stage, events: Vec<v1::NewEvent>) -> Result<v1::PublishEventsResponse, Status> {
    let request = v1::PublishEventsRequest {
        namespace: stage.ns(),
        events,
        ..Default::default()
    };
    Ok(stage.events().publish_events(request).await?.into_inner())
}

/// Publishes events.
pub async fn publish(stage: &Stage, events: Vec<v1::NewEvent>) -> v1::PublishEventsResponse {
    try_publish(stage, events).await.expect("the events are fine")
}

/// Publishes so many events about 1, 2, 3…
pub async fn publish_many(stage: &Stage, event_type: &str, count: usize) -> v1::PublishEventsResponse {
    publish(stage, (1..=count).map(|n| about(event_type, n.to_string())).collect()).await
}

/// A filter by types.
pub fn types(patterns: &[&str]) -> v1::EventFilter {
    v1::EventFilter {
        event_types: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ..Default::default()
    }
}

/// A request to list everything from the beginning.
pub fn list(stage: &Stage) -> v1::ListEventsRequest {
    v1::ListEventsRequest {
        namespace: stage.ns(),
        ..Default::default()
    }
}

/// Every event of a listing, page by page, and the last page's cursor.
pub async fn list_all(stage: &Stage, request: v1::ListEventsRequest) -> (Vec<v1::Event>, String) {
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListEventsRequest {
            page_token,
            ..request.clone()
        };
        let page = stage.events().list_events(request).await.expect("a page").into_inner();
        events.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return (events, page.cursor);
        }
    }
}

/// Where events are in the log.
pub fn positions(events: &[v1::Event]) -> Vec<i64> {
    events.iter().map(|event| event.position).collect()
}

/// A subscriber.
pub struct Reader {
    stream: Streaming<v1::SubscribeResponse>,
}

impl Reader {
    /// Subscribes, if the server lets it.
    pub async fn try_open(
        stage: &Stage,
        start: Option<Start>,
        filter: Option<v1::EventFilter>,
    ) -> Result<Reader, Status> {
        let request = v1::SubscribeRequest {
            namespace: stage.ns(),
            filter,
            start,
            progress_interval: crate::support::duration(std::time::Duration::from_secs(1)),
        };
        let stream = stage.events().subscribe(request).await?.into_inner();
        Ok(Reader { stream })
    }

    /// Subscribes.
    pub async fn open(stage: &Stage, start: Start, filter: v1::EventFilter) -> Reader {
        Reader::try_open(stage, Some(start), Some(filter))
            .await
            .expect("a subscription")
    }

    /// Subscribes to everything from the beginning.
    pub async fn from_the_beginning(stage: &Stage) -> Reader {
        Reader::open(stage, Start::Beginning(true), v1::EventFilter::default()).await
    }

    /// The next message, or the status that the stream ends with.
    pub async fn try_next(&mut self) -> Result<Content, Status> {
        let message = soon("the next message", self.stream.message()).await?;
        Ok(message
            .expect("a subscription does not end by itself")
            .content
            .expect("a content"))
    }

    /// The next message.
    pub async fn next(&mut self) -> Content {
        self.try_next().await.expect("the subscription goes on")
    }

    /// The next event; progress is passed over.
    pub async fn event(&mut self) -> v1::Event {
        loop {
            if let Content::Event(event) = self.next().await {
                return event;
            }
        }
    }

    /// The next so many events.
    pub async fn take(&mut self, count: usize) -> Vec<v1::Event> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            events.push(self.event().await);
        }
        events
    }

    /// The events up to the mark that the reader has caught up, and the mark.
    pub async fn catch_up(&mut self) -> (Vec<v1::Event>, v1::SubscriptionProgress) {
        let mut events = Vec::new();
        loop {
            match self.next().await {
                Content::Event(event) => events.push(event),
                Content::Progress(progress) if progress.caught_up => return (events, progress),
                Content::Progress(_) => {}
            }
        }
    }

    /// The first mark that says that everything up to a position was looked at. No event comes before it.
    pub async fn nothing_up_to(&mut self, position: i64) -> v1::SubscriptionProgress {
        loop {
            match self.next().await {
                Content::Progress(progress) if progress.position >= position => return progress,
                Content::Progress(_) => {}
                Content::Event(event) => panic!("nothing should come, but {event:?} did"),
            }
        }
    }
}
