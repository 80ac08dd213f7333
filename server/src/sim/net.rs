//! The network between agents and servers: calls and streams through the servers' own doors, without sockets.
//!
//! What is said takes time, gets lost, or is not answered; who does not wait any more takes the call with them, as a reset does. A link
//! between an agent and a server can be cut: then nothing comes through, and nobody is told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use drumline_proto::v1;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::codec::Codec;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

use super::happens;
use super::ledger::Ledger;
use crate::app::App;
use crate::machine;
use crate::machine::simulated::{Process, Switch};

/// The traits of the services, for [`door`].
pub mod services {
    pub use drumline_proto::v1::event_service_server::EventService;
    pub use drumline_proto::v1::lock_service_server::LockService;
    pub use drumline_proto::v1::registry_service_server::RegistryService;
    pub use drumline_proto::v1::session_service_server::SessionService;
    pub use drumline_proto::v1::state_service_server::StateService;
    pub use drumline_proto::v1::task_service_server::TaskService;
    pub use drumline_proto::v1::workflow_service_server::WorkflowService;
}

/// The services of a server.
pub struct Doors {
    pub app: Arc<App>,
    pub events: crate::events::rpc::Events,
    pub locks: crate::locks::rpc::Locks,
    pub registry: crate::registry::rpc::Registry,
    pub sessions: crate::sessions::rpc::Sessions,
    pub states: crate::state::rpc::States,
    pub tasks: crate::tasks::rpc::Tasks,
    pub workflows: crate::workflows::rpc::Workflows,
}

impl Doors {
    pub fn new(app: Arc<App>) -> Doors {
        Doors {
            events: crate::events::rpc::Events::new(Arc::clone(&app)),
            locks: crate::locks::rpc::Locks::new(Arc::clone(&app)),
            registry: crate::registry::rpc::Registry::new(Arc::clone(&app)),
            sessions: crate::sessions::rpc::Sessions::new(Arc::clone(&app)),
            states: crate::state::rpc::States::new(Arc::clone(&app)),
            tasks: crate::tasks::rpc::Tasks::new(Arc::clone(&app)),
            workflows: crate::workflows::rpc::Workflows::new(Arc::clone(&app)),
            app,
        }
    }
}

/// How long a stream may take to open.
const OPENING: Duration = Duration::from_secs(10);

/// Calls a door: `door!(locks.acquire_lock)`.
macro_rules! door {
    ($room:ident . $method:ident) => {
        |doors: std::sync::Arc<$crate::sim::net::Doors>, request| {
            #[allow(unused_imports)]
            use $crate::sim::net::services::*;
            Box::pin(async move { doors.$room.$method(request).await })
        }
    };
}
pub(super) use door;

/// What the network is like. Chances are of 1.
#[derive(Clone, Debug)]
pub struct Weather {
    /// How long what is said takes, one way.
    pub latency: std::ops::Range<Duration>,
    /// That a call does not come to its server.
    pub lost: f64,
    /// That its answer does not come back.
    pub unanswered: f64,
    /// That its connection breaks while it is being served.
    pub broken: f64,
}

impl Weather {
    pub fn calm() -> Weather {
        Weather {
            latency: Duration::from_micros(100)..Duration::from_micros(400),
            lost: 0.0,
            unanswered: 0.0,
            broken: 0.0,
        }
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It was refused, for this reason.
    Refused(String, Box<Status>),
    /// Nobody knows what became of it.
    Unknown,
    /// It did not come to a server: nothing has happened.
    Unreached,
}

impl Failure {
    /// The reason, if it was refused.
    pub fn reason(&self) -> &str {
        match self {
            Failure::Refused(reason, _) => reason,
            Failure::Unknown | Failure::Unreached => "",
        }
    }

    /// Whether the session that it was made under is over.
    pub fn is_end_of_session(&self) -> bool {
        matches!(self.reason(), "SESSION_ENDED" | "SESSION_SUPERSEDED")
    }

    /// Whether it may help to try again, and whether it may have happened.
    fn retry(&self) -> Option<bool> {
        match self {
            Failure::Unreached => Some(false),
            Failure::Unknown => Some(true),
            Failure::Refused(reason, _) => match reason.as_str() {
                "STORE_UNAVAILABLE" | "OVERLOADED" | "DRAINING" => Some(false),
                "OUTCOME_UNKNOWN" | "DEADLINE_EXCEEDED" | "INTERNAL" => Some(true),
                _ => None,
            },
        }
    }
}

/// A server, while it is there.
#[derive(Clone)]
pub struct Serving {
    pub process: Arc<Process>,
    pub doors: Arc<Doors>,
}

/// The network.
pub struct Net {
    state: Mutex<State>,
    cuts: Switch<BTreeSet<(String, usize)>>,
    pub ledger: Arc<Mutex<Ledger>>,
}

struct State {
    weather: Weather,
    servers: Vec<Option<Serving>>,
}

impl Net {
    pub fn new(servers: usize, ledger: Arc<Mutex<Ledger>>) -> Arc<Net> {
        let state = State {
            weather: Weather::calm(),
            servers: (0..servers).map(|_| None).collect(),
        };
        Arc::new(Net {
            state: Mutex::new(state),
            cuts: Switch::default(),
            ledger,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Puts a server in its place, or takes it away.
    pub fn serve(&self, place: usize, serving: Option<Serving>) {
        self.lock().servers[place] = serving;
    }

    pub fn server(&self, place: usize) -> Option<Serving> {
        self.lock().servers[place].clone()
    }

    pub fn servers(&self) -> usize {
        self.lock().servers.len()
    }

    /// Cuts the link between an agent and a server, or joins it.
    pub fn set_cut(&self, who: &str, place: usize, cut: bool) {
        let link = (who.to_owned(), place);
        self.cuts.change(|cuts| {
            if cut {
                cuts.insert(link);
            } else {
                cuts.remove(&link);
            }
        });
    }

    pub fn join_all(&self) {
        self.cuts.change(BTreeSet::clear);
    }

    /// Something goes over a link: it takes its time, and waits while the link is cut.
    async fn travel(&self, who: &str, place: usize) {
        let latency = self.lock().weather.latency.clone();
        sleep(machine::random_range(latency)).await;
        let link = (who.to_owned(), place);
        self.cuts.wait_for(|cuts| !cuts.contains(&link)).await;
    }

    fn happens(&self, chance: impl Fn(&Weather) -> f64) -> bool {
        let chance = chance(&self.lock().weather);
        happens(chance)
    }
}

/// Somebody who calls servers.
#[derive(Clone)]
pub struct Client {
    pub net: Arc<Net>,
    /// Who it is, for links.
    pub who: String,
    /// The server that it calls.
    pub at: usize,
}

/// What a door makes of a request.
pub type Handled<A> = BoxFuture<'static, Result<Response<A>, Status>>;

impl Client {
    pub fn new(net: &Arc<Net>, who: &str) -> Client {
        Client {
            net: Arc::clone(net),
            who: who.to_owned(),
            at: machine::random_range(0..net.servers()),
        }
    }

    /// Goes to another server, if there is one.
    pub fn move_on(&mut self) {
        self.at = machine::random_range(0..self.net.servers());
    }

    /// Calls once. The answer, or why there is none.
    pub async fn once<Q, A>(
        &self,
        patience: Duration,
        request: Q,
        handler: impl FnOnce(Arc<Doors>, Request<Q>) -> Handled<A>,
    ) -> Result<A, Failure>
    where
        Q: Send + 'static,
        A: Send + 'static,
    {
        let mut request = Request::new(request);
        let deadline = format!("{}m", patience.as_millis());
        let deadline = deadline.parse().expect("a header");
        request.metadata_mut().insert("grpc-timeout", deadline);
        self.within(patience, request, handler).await
    }

    async fn within<Q, A>(
        &self,
        patience: Duration,
        request: Request<Q>,
        handler: impl FnOnce(Arc<Doors>, Request<Q>) -> Handled<A>,
    ) -> Result<A, Failure>
    where
        Q: Send + 'static,
        A: Send + 'static,
    {
        let mut delivered = false;
        match timeout(patience, self.call(request, handler, &mut delivered)).await {
            Ok(answer) => answer,
            Err(_) if delivered => Err(Failure::Unknown),
            Err(_) => Err(Failure::Unreached),
        }
    }

    async fn call<Q, A>(
        &self,
        request: Request<Q>,
        handler: impl FnOnce(Arc<Doors>, Request<Q>) -> Handled<A>,
        delivered: &mut bool,
    ) -> Result<A, Failure>
    where
        Q: Send + 'static,
        A: Send + 'static,
    {
        self.net.travel(&self.who, self.at).await;
        let Some(Serving { process, doors }) = self.net.server(self.at).filter(|_| !self.net.happens(|w| w.lost))
        else {
            return Err(Failure::Unreached);
        };
        *delivered = true;
        let handled = AbortOnDropHandle::new(process.spawn(handler(doors, request)));
        if self.net.happens(|weather| weather.broken) {
            sleep(machine::random_range(Duration::ZERO..Duration::from_millis(20))).await;
            return Err(Failure::Unknown);
        }
        // A process that was killed answers nothing.
        let Ok(answer) = handled.await else {
            return Err(Failure::Unknown);
        };
        self.net.travel(&self.who, self.at).await;
        if self.net.happens(|weather| weather.unanswered) {
            return Err(Failure::Unknown);
        }
        answer.map(Response::into_inner).map_err(|status| self.refused(status))
    }

    fn refused(&self, status: Status) -> Failure {
        let reason = reason_of(&status);
        if ["INTERNAL", "INVALID_REQUEST", ""].contains(&reason.as_str()) {
            let violation = format!("{} was refused for no good reason: {status:?}", self.who);
            self.net.ledger.lock().expect("no panic").violation(violation);
        }
        Failure::Refused(reason, Box::new(status))
    }

    /// Calls until there is an answer that stands, for this long. Only what can be repeated safely.
    pub async fn ask<Q, A, H>(&mut self, patience: Duration, request: Q, handler: H) -> Result<A, Failure>
    where
        Q: Clone + Send + 'static,
        A: Send + 'static,
        H: Fn(Arc<Doors>, Request<Q>) -> Handled<A>,
    {
        let until = Instant::now() + patience;
        let mut maybe = false;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let each = left.min(Duration::from_millis(machine::random_range(1_000..6_000)));
            let failure = match self.once(each, request.clone(), &handler).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match failure.retry() {
                None => return Err(failure),
                Some(may_have_happened) => maybe |= may_have_happened,
            }
            let pause = Duration::from_millis(machine::random_range(10..200));
            if Instant::now() + pause >= until {
                return Err(if maybe { Failure::Unknown } else { failure });
            }
            sleep(pause).await;
            if happens(0.5) {
                self.move_on();
            }
        }
    }

    /// Opens a stream that only the server speaks on.
    pub async fn listen<Q, T, S>(
        &self,
        request: Q,
        handler: impl FnOnce(Arc<Doors>, Request<Q>) -> Handled<S>,
    ) -> Result<mpsc::Receiver<Result<T, Status>>, Failure>
    where
        Q: Send + 'static,
        T: Send + 'static,
        S: Stream<Item = Result<T, Status>> + Send + 'static,
    {
        let stream = self.within(OPENING, Request::new(request), handler).await?;
        Ok(self.receive(Box::pin(stream)))
    }

    /// What a server sends, as it comes here. It ends when the server's process does, or when nobody reads it.
    fn receive<T: Send + 'static>(
        &self,
        mut stream: std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>,
    ) -> mpsc::Receiver<Result<T, Status>> {
        let (sender, receiver) = mpsc::channel(64);
        let (net, who, at) = (Arc::clone(&self.net), self.who.clone(), self.at);
        let Some(Serving { process, .. }) = net.server(at) else {
            return receiver;
        };
        process.spawn(async move {
            loop {
                let next = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    next = stream.next() => next,
                };
                net.travel(&who, at).await;
                let Some(next) = next else { return };
                if sender.send(next).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    /// Opens the stream of a session.
    pub async fn connect(&self) -> Result<Link, Failure> {
        let (up, mut said) = mpsc::channel::<v1::ConnectRequest>(64);
        let (forward, arrived) = mpsc::channel::<Bytes>(64);
        let (net, who, at) = (Arc::clone(&self.net), self.who.clone(), self.at);
        // The network has it: it comes whether or not the agent still runs.
        tokio::spawn(async move {
            while let Some(frame) = said.recv().await {
                net.travel(&who, at).await;
                if forward.send(encode(&frame)).await.is_err() {
                    return;
                }
            }
            net.travel(&who, at).await;
        });
        let frames = tokio_stream::wrappers::ReceiverStream::new(arrived);
        let frames = frames.map(|bytes| Ok::<_, Status>(http_body::Frame::data(bytes)));
        let body = http_body_util::StreamBody::new(frames);
        let decoder = tonic_prost::ProstCodec::<v1::ConnectResponse, v1::ConnectRequest>::default().decoder();
        let stream = tonic::Streaming::new_request(decoder, body, None, None);
        let down = self.listen(stream, door!(sessions.connect)).await?;
        Ok(Link { up, down })
    }
}

/// The stream of a session, as its agent has it.
pub struct Link {
    pub up: mpsc::Sender<v1::ConnectRequest>,
    pub down: mpsc::Receiver<Result<v1::ConnectResponse, Status>>,
}

fn encode(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).expect("a small message"));
    message.encode(&mut bytes).expect("a buffer that grows");
    bytes.freeze()
}

/// The reason that a status gives; empty if it gives none.
pub fn reason_of(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// A payload of JSON.
pub fn payload(json: &serde_json::Value) -> Option<v1::Payload> {
    Some(v1::Payload {
        content: Some(v1::payload::Content::Json(json.to_string())),
        content_type: String::new(),
    })
}
