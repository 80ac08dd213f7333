//! The hello: how a stream's session comes to be, and the stream's generation with it.

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::connect_hello::Session as Hello;
use drumline_proto::v1::connect_request::Frame;
use tonic::Streaming;

use super::down::{Down, Ending};
use crate::app::App;
use crate::edge::Context;
use crate::edge::check::Check;
use crate::error::{Reason, Refusal};
use crate::lane::{Call, Committed, Urgency, refusal_of};
use crate::registry::rpc::Registering;
use crate::registry::rules::{self as registry, Registered};
use crate::sessions::{Session, rules};
use crate::tail::{Cursor, Feed, Filter, Pattern, Subscription};

/// How long the hello may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stream that is open.
pub(super) struct Opened {
    pub(super) request_number: u64,
    pub(super) context: Context,
    pub(super) registered: Registered,
    /// Whether the session has tasks, some perhaps from before.
    pub(super) goes_on: bool,
    pub(super) feed: Arc<Feed>,
    /// What is meant for the agent, from before the stream was opened.
    pub(super) events: Subscription,
    /// Where the stream was opened.
    pub(super) cursor: Cursor,
}

/// Which events a stream is pushed something for.
pub(super) fn filter(agent_id: &str) -> Filter {
    Filter {
        types: vec![Pattern::new("task.**"), Pattern::new("resource.expired")],
        target: Some(agent_id.to_owned()),
        ..Filter::default()
    }
}

/// Waits for the hello, and opens the stream.
pub(super) async fn open(
    app: &Arc<App>,
    call: &Context,
    up: &mut Streaming<v1::ConnectRequest>,
    down: &Down,
) -> Result<Opened, Ending> {
    let first = crate::select! {
        first = tokio::time::timeout(PATIENCE, up.message()) => first,
        () = app.draining.cancelled() => return Err(Ending::Draining(draining())),
        () = down.closed() => return Err(Ending::Gone),
    };
    let first = match first {
        Ok(Ok(Some(first))) => first,
        Ok(Ok(None)) => return Err(Ending::Gone),
        Ok(Err(status)) => return Err(Ending::of_status(&status)),
        Err(_) => return Err(Ending::Over(Refusal::invalid("hello", "did not come within 10 s"))),
    };
    let hello = match first.frame {
        Some(Frame::Hello(v1::ConnectHello { session: Some(session) })) => session,
        Some(Frame::Hello(_)) => return Err(Ending::Over(Refusal::invalid("hello.session", "must be set"))),
        _ => {
            return Err(Ending::Over(Refusal::invalid(
                "frame",
                "the first frame must be the hello",
            )));
        }
    };
    let opened = match hello {
        Hello::Register(register) => by_registering(app, call, register, down).await,
        Hello::Resume(resume) => by_resuming(app, call, resume, down).await,
    };
    let mut opened = opened.map_err(Ending::Over)?;
    opened.request_number = first.request_number;
    Ok(opened)
}

async fn by_registering(
    app: &Arc<App>,
    call: &Context,
    request: v1::RegisterAgentRequest,
    down: &Down,
) -> Result<Opened, Refusal> {
    let context = call.of_a_frame(&request.namespace)?;
    let call = context.call("RegisterAgent", &request.request_id, &request, Urgency::High);
    let mut registering = Registering::new(app, request, app.defaults.stream_session_ttl, &context.traceparent)?;
    if let Some(session_id) = &registering.resume
        && registering.registration.agent_id.is_empty()
    {
        registering.registration.agent_id = agent_of(app, &context, session_id).await?;
    }
    // First the events, then the generation: what is assigned from then on is not missed.
    let feed = app.tail.feed(&context.namespace).await?;
    let events = feed.subscribe(filter(&registering.registration.agent_id));
    let wanted = registering.clone();
    let beats = app.beats.clone();
    let committed = app
        .lanes
        .run(
            call,
            move |world| registry::want_register(world, &wanted.registration.agent_id, wanted.resume.as_deref()),
            move |world| {
                let Registering {
                    registration,
                    session_id,
                    resume,
                } = registering.clone();
                let registered = registry::register(world, registration, &session_id, resume.as_deref())?;
                let session = rules::connect(world, &registered.session.session_id)?;
                beats.revive(world, &session);
                Ok(Registered { session, ..registered })
            },
        )
        .await?;
    if committed.repeated {
        // The registration stands; this stream of it is a new one.
        let session = &committed.answer.session;
        let agent_id = session.agent_id.clone();
        let events = feed.subscribe(filter(&agent_id));
        let committed = connect(app, &context, &session.session_id, &agent_id, down).await?;
        return Ok(opened(context, committed, feed, events));
    }
    Ok(opened(context, committed, feed, events))
}

async fn by_resuming(
    app: &Arc<App>,
    call: &Context,
    request: v1::ResumeSession,
    down: &Down,
) -> Result<Opened, Refusal> {
    let mut check = Check::default();
    let session_id = check.id("session_id", &request.session_id);
    check.finish()?;
    let context = call.of_a_frame(&request.namespace)?;
    let agent_id = agent_of(app, &context, &session_id).await?;
    let feed = app.tail.feed(&context.namespace).await?;
    let events = feed.subscribe(filter(&agent_id));
    let committed = connect(app, &context, &session_id, &agent_id, down).await?;
    Ok(opened(context, committed, feed, events))
}

/// Whose session it is: by what is known here of the living, else by the store. Whether it may act is for the lane to decide.
async fn agent_of(app: &App, context: &Context, session_id: &str) -> Result<String, Refusal> {
    if let Some(agent_id) = app.beats.agent_of(&context.namespace, session_id) {
        return Ok(agent_id);
    }
    let session = app
        .store
        .get::<Session>(&context.namespace, &session_id.to_owned())
        .await
        .map_err(|error| refusal_of(&error))?;
    match session {
        Some(session) if session.is_live() => Ok(session.agent_id),
        Some(session) => Err(rules::ended(&session)),
        None => Err(rules::unknown()),
    }
}

/// Raises the generation of a session's stream, unless whoever asked for that has gone meanwhile: where thousands come back at once, some lose
/// patience, and a stream that nobody reads would have to be opened and then be seen to break.
async fn connect(
    app: &App,
    context: &Context,
    session_id: &str,
    agent_id: &str,
    down: &Down,
) -> Result<Committed<Registered>, Refusal> {
    let (session_id, agent_id) = (session_id.to_owned(), agent_id.to_owned());
    let wanted = (session_id.clone(), agent_id.clone());
    let (beats, reader) = (app.beats.clone(), down.reader());
    app.lanes
        .run(
            Call::internal(&context.namespace, Urgency::High),
            move |world| rules::want_agent(world, &wanted.0, &wanted.1),
            move |world| {
                if reader.is_gone() {
                    return Err(gone().into());
                }
                let session = rules::connect(world, &session_id)?;
                let agent = world.agents.get(&agent_id)?.ok_or_else(rules::unknown)?;
                beats.revive(world, &session);
                Ok(Registered {
                    agent: (*agent).clone(),
                    session,
                    resumed: true,
                })
            },
        )
        .await
}

fn opened(context: Context, committed: Committed<Registered>, feed: Arc<Feed>, events: Subscription) -> Opened {
    Opened {
        request_number: 0,
        context,
        goes_on: committed.answer.resumed && committed.answer.session.in_flight > 0,
        registered: committed.answer,
        feed,
        events,
        cursor: Cursor {
            epoch: committed.epoch,
            position: committed.position,
        },
    }
}

/// Said where nobody hears it.
fn gone() -> Refusal {
    Refusal::new(Reason::DeadlineExceeded, "the stream ended before it was opened")
}

fn draining() -> Refusal {
    Refusal::new(Reason::Draining, "the server is stopping").retry_after(Duration::from_millis(200))
}
