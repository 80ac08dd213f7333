//! Calls and streams over a server that breaks them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drumline::events::{Filter, NewEvent, Start};
use drumline::v1::event_service_server::{EventService, EventServiceServer};
use drumline::v1::{self as pb, subscribe_request, subscribe_response::Content};
use drumline::{Client, Reason};
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::{Code, Request, Response, Status};

use crate::fake::{refusal, serve, soon};

pub type Script = Vec<Result<pb::SubscribeResponse, Status>>;

/// Each subscription gets the next script; each publication the next answer.
#[derive(Clone, Default)]
pub struct Events {
    pub scripts: Arc<Mutex<Vec<Script>>>,
    pub starts: Arc<Mutex<Vec<Option<subscribe_request::Start>>>>,
    pub refusals: Arc<Mutex<Vec<Status>>>,
    pub published: Arc<Mutex<Vec<String>>>,
    /// Whether publications are left without an answer, and subscriptions open after their scripts.
    pub holds: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl EventService for Events {
    type SubscribeStream = BoxStream<'static, Result<pb::SubscribeResponse, Status>>;

    async fn publish_events(
        &self,
        request: Request<pb::PublishEventsRequest>,
    ) -> Result<Response<pb::PublishEventsResponse>, Status> {
        assert!(request.metadata().contains_key("grpc-timeout"));
        self.published
            .lock()
            .expect("not poisoned")
            .push(request.into_inner().request_id);
        if self.holds.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        match self.refusals.lock().expect("not poisoned").pop() {
            Some(refusal) => Err(refusal),
            None => Ok(Response::new(Default::default())),
        }
    }

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.starts
            .lock()
            .expect("not poisoned")
            .push(request.into_inner().start);
        let mut scripts = self.scripts.lock().expect("not poisoned");
        let script = if scripts.is_empty() {
            Vec::new()
        } else {
            scripts.remove(0)
        };
        let script = futures::stream::iter(script);
        Ok(Response::new(if self.holds.load(Ordering::SeqCst) {
            script.chain(futures::stream::pending()).boxed()
        } else {
            script.boxed()
        }))
    }

    async fn list_events(
        &self,
        _request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn get_event(
        &self,
        _request: Request<pb::GetEventRequest>,
    ) -> Result<Response<pb::GetEventResponse>, Status> {
        Err(refusal(Code::NotFound, Reason::EventNotFound, &[]))
    }
}

async fn events(scripts: Vec<Script>) -> (Events, Client) {
    let events = Events {
        scripts: Arc::new(Mutex::new(scripts)),
        ..Default::default()
    };
    let service = EventServiceServer::new(events.clone());
    let (_, client) = serve(tonic::transport::Server::builder().add_service(service)).await;
    (events, client)
}

pub fn event(position: i64) -> Result<pb::SubscribeResponse, Status> {
    let event = pb::Event {
        position,
        cursor: format!("c{position}"),
        ..Default::default()
    };
    Ok(pb::SubscribeResponse {
        content: Some(Content::Event(event)),
    })
}

fn progress(position: i64) -> Result<pb::SubscribeResponse, Status> {
    let cursor = format!("c{position}");
    let progress = pb::SubscriptionProgress {
        position,
        cursor,
        caught_up: true,
    };
    Ok(pb::SubscribeResponse {
        content: Some(Content::Progress(progress)),
    })
}

#[tokio::test]
async fn a_subscription_goes_on_from_its_cursor_until_that_is_out_of_range() {
    let slow = [("cursor", "c9")];
    let (server, client) = events(vec![
        vec![Err(refusal(
            Code::ResourceExhausted,
            Reason::SlowConsumer,
            &[("cursor", "c0")],
        ))],
        vec![event(1), event(2), Err(Status::unavailable("broken"))],
        vec![
            event(3),
            progress(5),
            Err(refusal(Code::Unavailable, Reason::Draining, &slow)),
        ],
        vec![event(6)],
        vec![Err(refusal(
            Code::OutOfRange,
            Reason::CursorOutOfRange,
            &[("problem", "EXPIRED")],
        ))],
    ])
    .await;
    let mut stream = client.events().subscribe(Filter::all()).from(Start::Beginning).events();
    let mut positions = Vec::new();
    let error = loop {
        match soon(stream.next()).await.expect("no silent end") {
            Ok(event) => positions.push(event.position),
            Err(error) => break error,
        }
    };
    assert_eq!(positions, [1, 2, 3, 6]);
    assert_eq!(error.reason(), Reason::CursorOutOfRange);
    assert_eq!(error.get("problem"), Some("EXPIRED"));
    assert!(soon(stream.next()).await.is_none(), "that is the end");
    assert_eq!(stream.cursor(), "c6");
    let cursor = |cursor: &str| Some(subscribe_request::Start::Cursor(cursor.to_owned()));
    let starts = server.starts.lock().expect("not poisoned").clone();
    let beginning = Some(subscribe_request::Start::Beginning(true));
    assert_eq!(
        starts,
        [beginning, cursor("c0"), cursor("c2"), cursor("c5"), cursor("c6")]
    );
}

#[tokio::test]
async fn a_change_is_sent_again_with_its_request_id_until_it_is_answered() {
    let (server, client) = events(vec![]).await;
    *server.refusals.lock().expect("not poisoned") = vec![
        refusal(Code::Unknown, Reason::OutcomeUnknown, &[]),
        refusal(Code::Unavailable, Reason::StoreUnavailable, &[]),
        Status::unavailable("broken"),
    ];
    client
        .events()
        .publish(NewEvent::new("a.b").data(&1))
        .await
        .expect("published");
    let ids = server.published.lock().expect("not poisoned").clone();
    assert_eq!(ids.len(), 4);
    assert!(!ids[0].is_empty() && ids.iter().all(|id| *id == ids[0]));
}

#[tokio::test]
async fn a_refusal_for_good_is_not_sent_again() {
    let (server, client) = events(vec![]).await;
    let refusals = vec![refusal(Code::InvalidArgument, Reason::EventTypeReserved, &[])];
    *server.refusals.lock().expect("not poisoned") = refusals;
    let error = client
        .events()
        .publish(NewEvent::new("task.x"))
        .await
        .expect_err("reserved");
    assert_eq!(error.reason(), Reason::EventTypeReserved);
    assert_eq!(server.published.lock().expect("not poisoned").len(), 1);
}

#[tokio::test]
async fn the_next_address_is_tried_when_the_first_is_not_there() {
    let (server, _) = events(vec![]).await;
    let service = EventServiceServer::new(server.clone());
    let (address, _) = serve(tonic::transport::Server::builder().add_service(service)).await;
    let builder = Client::builder("http://127.0.0.1:1").address(format!("http://{address}"));
    let client = builder
        .timeout(Duration::from_secs(5))
        .connect_lazy()
        .expect("a client");
    client.events().publish(NewEvent::new("a.b")).await.expect("published");
}
