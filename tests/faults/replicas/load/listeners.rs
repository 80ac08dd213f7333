//! Those who listen: one to every event, the others to what publishers say. A stream that ends, or says nothing for too long, is opened
//! again on the next replica, from the last cursor; and now and then one that is well, too.

use std::time::Duration;

use drumline_proto::v1;
use tonic::Status;
use v1::subscribe_response::Content;

use super::caller::Caller;
use super::publishers::TYPE;
use super::{Kind, Notes, place_of};
use crate::support::{duration, metadata_of, reason_of};

/// How long a stream may say nothing: it has to say every second how far it has come.
const SILENCE: Duration = Duration::from_secs(4);
/// How many events are heard on one stream, if it lasts so long.
const ENOUGH: usize = 150;

/// What one listener heard.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Whether it listened to every event.
    pub hears_all: bool,
    /// The events in the order in which they came.
    pub events: Vec<HeardEvent>,
    /// Where it was told that there is no going on.
    pub gaps: Vec<Gap>,
}

/// An event as it was heard.
#[derive(Clone, Debug)]
pub struct HeardEvent {
    /// Its id.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Its epoch and position.
    pub place: (i64, i64),
}

/// A cursor that was refused.
#[derive(Clone, Debug)]
pub struct Gap {
    /// Why: EXPIRED, AHEAD or LOST.
    pub problem: String,
    /// The cursor.
    pub cursor: String,
    /// How many events were heard before.
    pub after: usize,
}

/// Listens until everything was heard that was acknowledged.
pub async fn listen(mut caller: Caller) -> Notes {
    let mut heard = Heard {
        hears_all: caller.number == 0,
        ..Heard::default()
    };
    let mut cursor = String::new();
    while !is_done(&caller, &cursor) {
        match hear(&caller, &mut heard, &mut cursor).await {
            Ok(()) => {}
            Err(status) if reason_of(&status) == "CURSOR_OUT_OF_RANGE" => {
                heard.gaps.push(Gap {
                    problem: metadata_of(&status, "problem"),
                    cursor: std::mem::replace(&mut cursor, metadata_of(&status, "earliest_cursor")),
                    after: heard.events.len(),
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        caller.turn();
    }
    Notes {
        listened: vec![heard],
        ..Notes::default()
    }
}

fn is_done(caller: &Caller, cursor: &str) -> bool {
    let end = caller.shared.end.get();
    end.is_some_and(|end| !cursor.is_empty() && place_of(cursor) >= *end)
}

/// Listens on one stream.
async fn hear(caller: &Caller, heard: &mut Heard, cursor: &mut String) -> Result<(), Status> {
    let start = match cursor.as_str() {
        "" => v1::subscribe_request::Start::Beginning(true),
        cursor => v1::subscribe_request::Start::Cursor(cursor.to_owned()),
    };
    let event_types = if heard.hears_all {
        Vec::new()
    } else {
        vec![TYPE.to_owned()]
    };
    let request = v1::SubscribeRequest {
        namespace: caller.shared.namespace.clone(),
        filter: Some(v1::EventFilter {
            event_types,
            ..Default::default()
        }),
        start: Some(start),
        progress_interval: duration(Duration::from_secs(1)),
    };
    let mut client = v1::event_service_client::EventServiceClient::new(caller.channel());
    let mut stream = in_time(client.subscribe(request)).await?.into_inner();
    let enough = heard.events.len() + ENOUGH;
    while !is_done(caller, cursor) && (heard.hears_all || heard.events.len() < enough) {
        let Some(response) = in_time(stream.message()).await? else {
            return Ok(());
        };
        match response.content {
            Some(Content::Event(event)) => {
                let now = caller.shared.clock.now();
                caller.shared.succeeded(Kind::Receive, now, now, None);
                heard.events.push(HeardEvent {
                    place: place_of(&event.cursor),
                    event_id: event.event_id,
                    event_type: event.event_type,
                });
                *cursor = event.cursor;
            }
            Some(Content::Progress(progress)) => *cursor = progress.cursor,
            None => caller.shared.complain("a stream said nothing at all".to_owned()),
        }
    }
    Ok(())
}

async fn in_time<T>(what: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let silent = || Err(Status::unavailable("silence"));
    tokio::time::timeout(SILENCE, what).await.unwrap_or_else(|_| silent())
}
