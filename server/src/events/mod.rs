//! Events: what happened in a namespace, in one gapless log, and what agents tell each other through it.
//!
//! Every room appends to the log through [`crate::lane::World::emit`]; this room publishes what clients say, and serves
//! the log from the store and the tail. An event points at inputs and results rather than copy them.

pub mod list;
pub mod rpc;
pub mod rules;
pub mod store;
pub mod subscribe;

use std::time::Duration;

use crate::payload::Payload;
use crate::time::Time;

/// An event in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its place in the namespace's log: 1, 2, 3… without gaps.
    pub position: i64,
    /// The id that the client gave; without one it is made from time and position.
    pub given_id: Option<String>,
    /// What kind of thing happened, dotted.
    pub event_type: String,
    /// The owner's version of the payload's schema.
    pub schema_version: String,
    /// The agent that said it.
    pub source_agent: String,
    /// The agent that it is meant for; empty for all.
    pub target_agent: String,
    /// What it is about.
    pub subject: String,
    /// The data.
    pub payload: Option<Payload>,
    /// When it was committed.
    pub at: Time,
    /// Links events of one undertaking; nothing if it is not known to be of any.
    pub correlation_id: Option<String>,
    /// What caused it.
    pub causation_id: String,
    /// Higher is more urgent.
    pub priority: i32,
    /// After this time nobody is sent it.
    pub expire_at: Option<Time>,
    /// W3C trace context.
    pub traceparent: String,
}

/// An event before it has a place in the log.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// See [`Event::given_id`].
    pub given_id: Option<String>,
    /// See [`Event::event_type`].
    pub event_type: String,
    /// See [`Event::schema_version`].
    pub schema_version: String,
    /// See [`Event::source_agent`].
    pub source_agent: String,
    /// See [`Event::target_agent`].
    pub target_agent: String,
    /// See [`Event::subject`].
    pub subject: String,
    /// See [`Event::payload`].
    pub payload: Option<Payload>,
    /// See [`Event::correlation_id`].
    pub correlation_id: String,
    /// See [`Event::causation_id`].
    pub causation_id: String,
    /// See [`Event::priority`].
    pub priority: i32,
    /// How long it is sent to anybody; as long as the log keeps it if none.
    pub ttl: Option<Duration>,
    /// See [`Event::traceparent`].
    pub traceparent: String,
}

/// The first position of an event whose id a client gave.
#[derive(Clone, Debug, PartialEq)]
pub struct EventIdRecord {
    /// The id.
    pub event_id: String,
    /// The position.
    pub position: i64,
}

impl Draft {
    /// A server-made event of a type about a subject.
    pub fn new(event_type: &str, subject: impl Into<String>) -> Draft {
        Draft {
            event_type: event_type.to_owned(),
            subject: subject.into(),
            ..Draft::default()
        }
    }

    /// The same with JSON data.
    pub fn data(mut self, data: &serde_json::Value) -> Draft {
        self.payload = Some(Payload::of_json(data));
        self
    }

    /// The same with the agent that did it.
    pub fn source(mut self, agent: impl Into<String>) -> Draft {
        self.source_agent = agent.into();
        self
    }

    /// The same with the agent that it is meant for.
    pub fn target(mut self, agent: impl Into<String>) -> Draft {
        self.target_agent = agent.into();
        self
    }

    /// The same as part of an undertaking.
    pub fn correlation(mut self, id: impl Into<String>) -> Draft {
        self.correlation_id = id.into();
        self
    }

    /// The same with what caused it.
    pub fn causation(mut self, id: impl Into<String>) -> Draft {
        self.causation_id = id.into();
        self
    }

    /// The same with the trace that it belongs to.
    pub fn trace(mut self, traceparent: impl Into<String>) -> Draft {
        self.traceparent = traceparent.into();
        self
    }

    /// The event at its place in the log.
    pub fn at(self, position: i64, at: Time) -> Event {
        Event {
            position,
            given_id: self.given_id,
            event_type: self.event_type,
            schema_version: self.schema_version,
            source_agent: self.source_agent,
            target_agent: self.target_agent,
            subject: self.subject,
            payload: self.payload,
            at,
            correlation_id: Some(self.correlation_id).filter(|id| !id.is_empty()),
            causation_id: self.causation_id,
            priority: self.priority,
            expire_at: self.ttl.map(|ttl| at + ttl),
            traceparent: self.traceparent,
        }
    }
}

impl Event {
    /// Its id: the client's, or a UUIDv7 in which the position is written, so that no index is needed to find it by.
    pub fn id(&self) -> String {
        match &self.given_id {
            Some(id) => id.clone(),
            None => made_id(self.at, self.position),
        }
    }

    /// Whether nobody is to be sent it any more.
    pub fn is_expired(&self, now: Time) -> bool {
        self.expire_at.is_some_and(|expire_at| expire_at <= now)
    }
}

/// The id of an event to which the client gave none.
fn made_id(at: Time, position: i64) -> String {
    let mut tail = [0u8; 10];
    tail[2..].copy_from_slice(&position.to_be_bytes());
    let millis = u64::try_from(at.millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &tail)
        .into_uuid()
        .to_string()
}

/// The position that is written in an id that [`made_id`] made.
pub fn position_of_made_id(id: &str) -> Option<i64> {
    let id = uuid::Uuid::parse_str(id).ok()?;
    let (_, low) = id.as_u64_pair();
    (id.get_version_num() == 7).then_some((low & (u64::MAX >> 2)) as i64)
}
