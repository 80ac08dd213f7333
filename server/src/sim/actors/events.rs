//! Publishes events, and reads the log: every event that is wanted once, in order, or an explicit word that it is not to be had.

use drumline_proto::v1;
use drumline_proto::v1::subscribe_request::Start;
use drumline_proto::v1::subscribe_response::Content;
use serde_json::json;
use tokio::sync::mpsc;

use super::{Actor, PATIENCE, duration, millis, one_of, standing};
use crate::events::Event;
use crate::machine;
use crate::sim::net::{door, payload, reason_of};
use crate::tail::Cursor;

pub(super) async fn publish(mut actor: Actor) {
    while actor.works() {
        let op = actor.op();
        let event = |number: usize| v1::NewEvent {
            event_type: one_of(&["sim.news", "sim.rumour"]).to_owned(),
            subject: format!("{op}-{number}"),
            payload: payload(&json!({ "number": number })),
            ..Default::default()
        };
        let mut events: Vec<v1::NewEvent> = (0..machine::random_range(1..4)).map(event).collect();
        let by_event_id = machine::random();
        if by_event_id {
            events
                .iter_mut()
                .for_each(|event| event.event_id = event.subject.clone());
        }
        let request = v1::PublishEventsRequest {
            namespace: actor.namespace.clone(),
            request_id: if by_event_id { String::new() } else { op.clone() },
            events: events.clone(),
            ..Default::default()
        };
        match actor.client.ask(PATIENCE, request, door!(events.publish_events)).await {
            Ok(published) => actor.done("published", &op, |space| {
                for (event, told) in events.iter().zip(&published.events) {
                    let cursor = Cursor::decode(&published.cursor, "cursor").map_err(|error| error.to_string())?;
                    let own = Cursor {
                        position: told.position,
                        ..cursor
                    };
                    standing(space, &own.encode(), told.position, |space| {
                        let there = space.log.event(told.position);
                        if there.is_some_and(|there| there.subject == event.subject) {
                            return Ok(());
                        }
                        Err(format!("{} is not at {}: {there:?}", event.subject, told.position))
                    })?;
                }
                Ok(())
            }),
            Err(failure) => actor.failed("publish", &failure),
        }
        actor.rest(400).await;
    }
}

/// What a subscriber wants.
#[derive(Clone, Copy)]
enum Wish {
    News,
    Tasks,
    Locks,
    Everything,
}

impl Wish {
    fn types(self) -> Vec<String> {
        let types: &[&str] = match self {
            Wish::News => &["sim.*"],
            Wish::Tasks => &["task.completed", "task.assigned"],
            Wish::Locks => &["resource.**"],
            Wish::Everything => &[],
        };
        types.iter().map(|name| (*name).to_owned()).collect()
    }

    fn wants(self, event: &Event) -> bool {
        match self {
            Wish::News => event.event_type.starts_with("sim."),
            Wish::Tasks => ["task.completed", "task.assigned"].contains(&event.event_type.as_str()),
            Wish::Locks => event.event_type.starts_with("resource."),
            Wish::Everything => true,
        }
    }
}

/// How far a subscriber has come.
struct Reader {
    wish: Wish,
    /// Where it goes on from; nothing before it has begun.
    cursor: Option<Cursor>,
    /// Everything up to here was seen.
    seen: i64,
    /// Whether the cursor was good when it was sent: a stream that goes on from it may have begun before something was lost.
    was_good: bool,
    /// Whether it has seen something that was lost: this stream must not go on as if nothing had happened.
    saw_lost: bool,
}

pub(super) async fn subscribe(mut actor: Actor) {
    let mut reader = Reader {
        wish: one_of(&[Wish::News, Wish::Tasks, Wish::Locks, Wish::Everything]),
        cursor: None,
        seen: 0,
        was_good: true,
        saw_lost: false,
    };
    // It reads until the end of everything.
    loop {
        let start = match reader.cursor {
            Some(cursor) => Start::Cursor(cursor.encode()),
            None => Start::Beginning(true),
        };
        let request = v1::SubscribeRequest {
            namespace: actor.namespace.clone(),
            filter: Some(v1::EventFilter {
                event_types: reader.wish.types(),
                ..Default::default()
            }),
            start: Some(start),
            progress_interval: duration(millis(1_000..3_000)),
        };
        reader.was_good = !is_lost(&actor, &reader);
        match actor.client.listen(request, door!(events.subscribe)).await {
            Ok(stream) => read(&actor, &mut reader, stream).await,
            Err(failure) if failure.reason() == "CURSOR_OUT_OF_RANGE" => refused(&actor, &mut reader),
            Err(failure) => actor.failed("subscribe", &failure),
        }
        actor.rest(200).await;
        actor.client.move_on();
    }
}

/// Whether something was lost that it has seen.
fn is_lost(actor: &Actor, reader: &Reader) -> bool {
    let mut ledger = actor.ledger();
    let log = &ledger.space(&actor.namespace).log;
    reader.cursor.is_some_and(|cursor| log.is_lost(cursor))
}

/// The cursor was refused: what it saw was lost, and it begins anew.
fn refused(actor: &Actor, reader: &mut Reader) {
    actor.done("lost", "a cursor", |space| match reader.cursor {
        Some(cursor) if !space.log.is_lost(cursor) => {
            Err(format!("{cursor:?} was refused, and nothing of it was lost"))
        }
        _ => Ok(()),
    });
    reader.cursor = None;
    reader.seen = 0;
    reader.saw_lost = false;
}

async fn read(
    actor: &Actor,
    reader: &mut Reader,
    mut stream: mpsc::Receiver<Result<v1::SubscribeResponse, tonic::Status>>,
) {
    let mut is_first = true;
    let patience = millis(5_000..60_000);
    let over = tokio::time::sleep(patience);
    tokio::pin!(over);
    loop {
        let next = tokio::select! {
            biased;
            next = stream.recv() => next,
            () = &mut over => None,
        };
        match next {
            Some(Ok(response)) => {
                if std::mem::take(&mut is_first) {
                    resumed(actor, reader);
                }
                match response.content {
                    Some(Content::Event(event)) => received(actor, reader, &event),
                    Some(Content::Progress(progress)) => progressed(actor, reader, &progress),
                    None => {}
                }
            }
            Some(Err(status)) => {
                // Where something was lost, whoever reads is cut off, also who has not seen it: that is found out with the cursor.
                let is_loss = reason_of(&status) == "CURSOR_OUT_OF_RANGE";
                actor.done("cut off", status.message(), |space| {
                    if is_loss && space.log.losses() == 0 {
                        return Err(format!("cut off, and nothing was lost: {status:?}"));
                    }
                    Ok(())
                });
                return;
            }
            None => return,
        }
    }
}

/// A stream goes on from the cursor: nothing that it saw was lost when it asked.
fn resumed(actor: &Actor, reader: &mut Reader) {
    reader.saw_lost = is_lost(actor, reader);
    actor.done("resumed", "a stream", |_| match reader.was_good {
        true => Ok(()),
        false => Err(format!("{:?} is lost, and a stream goes on from it", reader.cursor)),
    });
}

fn received(actor: &Actor, reader: &mut Reader, event: &v1::Event) {
    let (wish, seen) = (reader.wish, reader.seen);
    let mut saw_lost = reader.saw_lost;
    actor.done("received", &format!("{} {}", event.position, event.subject), |space| {
        let log = &space.log;
        let next = log.after(seen).find(|event| wish.wants(event));
        let is_next = next.is_some_and(|next| next.position == event.position && next.id() == event.event_id);
        if is_next && !saw_lost {
            return Ok(());
        }
        if log.has_lost(event.position, &event.event_id) {
            saw_lost = true;
            return Ok(());
        }
        Err(format!(
            "received {event:?} after {seen}, lost: {saw_lost}; next is {next:?}"
        ))
    });
    reader.saw_lost = saw_lost;
    reader.seen = event.position;
    reader.cursor = Cursor::decode(&event.cursor, "cursor").ok();
}

fn progressed(actor: &Actor, reader: &mut Reader, progress: &v1::SubscriptionProgress) {
    let (wish, seen) = (reader.wish, reader.seen);
    let mut saw_lost = reader.saw_lost;
    let cursor = Cursor::decode(&progress.cursor, "cursor").ok();
    actor.done("progress", &format!("{}", progress.position), |space| {
        let cursor = cursor.ok_or_else(|| format!("no cursor: {progress:?}"))?;
        if space.log.is_lost(cursor) || saw_lost {
            saw_lost = true;
            return Ok(());
        }
        let mut between = space
            .log
            .after(seen)
            .take_while(|event| event.position <= progress.position);
        if let Some(missed) = between.find(|event| wish.wants(event)) {
            return Err(format!("progress to {progress:?} from {seen}, without {missed:?}"));
        }
        if progress.position < seen || progress.position > space.log.position() {
            return Err(format!("progress to {progress:?} from {seen}"));
        }
        Ok(())
    });
    reader.saw_lost = saw_lost;
    reader.seen = progress.position;
    reader.cursor = cursor;
    if *actor.phase.borrow() == super::Phase::Finish {
        let mut ledger = actor.ledger();
        ledger.reached(&actor.role, &actor.namespace, progress.position);
    }
}
