//! Callers that publish events, one or a few at a time. What they were told is kept for those who compare it with what listeners heard.

use std::time::Duration;

use drumline_proto::v1;

use super::caller::{Answer, Caller, LONG, said};
use super::{Kind, Notes, place_of};

/// The type of the events.
pub const TYPE: &str = "load.said";

/// Publishes until it is told to stop.
pub async fn work(mut caller: Caller) -> Notes {
    while !caller.shared.is_over() {
        caller.wander();
        let (number, count) = (caller.number, caller.calls);
        let event = |index| v1::NewEvent {
            event_id: format!("event-{number}-{count}-{index}"),
            event_type: TYPE.to_owned(),
            subject: number.to_string(),
            ..Default::default()
        };
        let events: Vec<v1::NewEvent> = (0..=count % 3).map(event).collect();
        let request = v1::PublishEventsRequest {
            namespace: caller.shared.namespace.clone(),
            request_id: uuid::Uuid::new_v4().to_string(),
            events,
            ..Default::default()
        };
        let publishing = caller.call(LONG, Duration::ZERO, &request, |channel, request| async move {
            v1::event_service_client::EventServiceClient::new(channel)
                .publish_events(request)
                .await
        });
        let called = publishing.await;
        let shared = &caller.shared;
        match called.answer {
            Answer::Done(response) => {
                shared.succeeded(Kind::Publish, called.sent, called.answered, Some(&response.cursor));
                let (epoch, _) = place_of(&response.cursor);
                let mut published = shared.published.lock().expect("no panic");
                for event in response.events {
                    if event.duplicate {
                        shared.complain(format!("{} was there before", event.event_id));
                    }
                    published.insert(event.event_id, (epoch, event.position));
                }
            }
            Answer::Refused(status) => {
                shared.complain(format!("PublishEvents was refused: {}", said(&status)));
            }
            Answer::GivenUp => {}
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Notes::default()
}
