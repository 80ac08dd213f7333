//! A server in this process, whose answers are the test's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drumline::v1::session_service_server::{SessionService, SessionServiceServer};
use drumline::v1::{self as pb, connect_request::Frame as Up, connect_response::Frame as Down};
use drumline::{Client, Reason};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A refusal as the real server makes it.
pub fn refusal(code: Code, reason: Reason, metadata: &[(&str, &str)]) -> Status {
    let name = reason.as_str_name().trim_start_matches("REASON_");
    let pairs = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let mut details = ErrorDetails::new();
    details.set_error_info(name, "drumline", pairs.collect::<HashMap<_, _>>());
    Status::with_error_details(code, "refused", details)
}

/// Waits for what must come.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

/// Serves a router on a free port, and connects a client to it.
pub async fn serve(router: tonic::transport::server::Router) -> (SocketAddr, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let builder = Client::builder(format!("http://{address}")).timeout(Duration::from_secs(5));
    (address, builder.connect().await.expect("a client"))
}

type Answer = Result<pb::ConnectResponse, Status>;

/// A stream that an agent has opened.
pub struct Stream {
    up: mpsc::UnboundedReceiver<pb::ConnectRequest>,
    down: mpsc::UnboundedSender<Answer>,
    /// Whether heartbeats are answered.
    pub answers_beats: bool,
    nonce: u64,
    pub hello: pb::connect_hello::Session,
    hello_number: u64,
}

/// The streams that agents open.
pub struct Streams(mpsc::UnboundedReceiver<Stream>);

/// Hands every stream to the test.
#[derive(Clone)]
pub struct Sessions(Arc<Mutex<mpsc::UnboundedSender<Stream>>>);

#[tonic::async_trait]
impl SessionService for Sessions {
    type ConnectStream = UnboundedReceiverStream<Answer>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.expect("a hello");
        let Some(Up::Hello(hello)) = first.frame else {
            panic!("not a hello: {first:?}")
        };
        let (up, received) = mpsc::unbounded_channel();
        let (down, answers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                if up.send(frame).is_err() {
                    break;
                }
            }
        });
        let stream = Stream {
            up: received,
            down,
            answers_beats: true,
            nonce: 0,
            hello: hello.session.expect("a session"),
            hello_number: first.request_number,
        };
        let _unheard = self.0.lock().expect("not poisoned").send(stream);
        Ok(Response::new(UnboundedReceiverStream::new(answers)))
    }
}

/// A server of sessions alone, and a client.
pub async fn sessions() -> (Client, Streams) {
    let (url, streams) = sessions_at().await;
    (Client::connect(url).await.expect("a client"), streams)
}

/// A server of sessions alone, and its address.
pub async fn sessions_at() -> (String, Streams) {
    let (service, streams) = session_service();
    let (address, _) = serve(tonic::transport::Server::builder().add_service(service)).await;
    (format!("http://{address}"), streams)
}

/// The service of sessions.
pub fn session_service() -> (SessionServiceServer<Sessions>, Streams) {
    let (opened, streams) = mpsc::unbounded_channel();
    let service = SessionServiceServer::new(Sessions(Arc::new(Mutex::new(opened))));
    (service, Streams(streams))
}

impl Streams {
    /// The next stream that is opened.
    pub async fn next(&mut self) -> Stream {
        soon(self.0.recv()).await.expect("a stream")
    }

    /// The next stream, welcomed.
    pub async fn welcomed(&mut self, session_id: &str, ttl: Duration) -> Stream {
        let stream = self.next().await;
        stream.welcome(session_id, ttl);
        stream
    }

    /// Whether no stream is opened for a while.
    pub async fn quiet(&mut self, during: Duration) -> bool {
        tokio::time::timeout(during, self.0.recv()).await.is_err()
    }
}

impl Stream {
    pub fn welcome(&self, session_id: &str, ttl: Duration) {
        let resumed = matches!(self.hello, pb::connect_hello::Session::Resume(_));
        let welcome = pb::ConnectWelcome {
            session_id: session_id.into(),
            agent: Some(pb::Agent {
                agent_id: "a".into(),
                ..Default::default()
            }),
            session_ttl: Some(ttl.try_into().expect("a duration")),
            resumed,
            ..Default::default()
        };
        self.answer(self.hello_number, Down::Welcome(welcome));
    }

    pub fn answer(&self, request_number: u64, frame: Down) {
        let _gone = self.down.send(Ok(pb::ConnectResponse {
            request_number,
            frame: Some(frame),
        }));
    }

    pub fn refuse(&self, request_number: u64, code: Code, reason: Reason) {
        let (code, reason) = (code as i32, reason as i32);
        self.answer(
            request_number,
            Down::Error(pb::Error {
                code,
                reason,
                ..Default::default()
            }),
        );
    }

    /// Ends the stream with a status.
    pub fn end(self, status: Status) {
        let _gone = self.down.send(Err(status));
    }

    pub fn assign(&self, task_id: &str, attempt: i32, input: &str, expires_in: Duration) {
        let content = Some(pb::payload::Content::Json(input.into()));
        let task = pb::Task {
            task_id: task_id.into(),
            capability: "work".into(),
            input: Some(pb::Payload {
                content,
                content_type: String::new(),
            }),
            ..Default::default()
        };
        let assignment = pb::TaskAssignment {
            task: Some(task),
            attempt,
            attempt_token: format!("{task_id}-{attempt}"),
            expire_time: None,
            expires_in: Some(expires_in.try_into().expect("a duration")),
        };
        self.answer(0, Down::Assignment(assignment));
    }

    /// The next frame that is no heartbeat; those are answered by the way.
    pub async fn frame(&mut self) -> (u64, Up) {
        soon(self.next_frame()).await.expect("the stream goes on")
    }

    /// The next frame that is no heartbeat; none once the agent has closed the stream.
    pub async fn next_frame(&mut self) -> Option<(u64, Up)> {
        loop {
            let frame = self.up.recv().await?;
            match frame.frame.expect("a frame") {
                Up::Heartbeat(_) if self.answers_beats => {
                    self.nonce += 1;
                    self.answer(0, Down::Nonce(pb::ConnectNonce { nonce: self.nonce }));
                }
                Up::Heartbeat(_) => {}
                other => return Some((frame.request_number, other)),
            }
        }
    }

    /// The next result; acceptances are answered by the way.
    pub async fn result(&mut self) -> (u64, pb::CompleteTaskRequest) {
        loop {
            match self.frame().await {
                (number, Up::CompleteTask(complete)) => return (number, complete),
                (number, Up::AcceptTask(_)) => self.answer(number, Down::AcceptTask(Default::default())),
                (_, other) => panic!("not a result: {other:?}"),
            }
        }
    }

    /// The next failure; acceptances are answered by the way.
    pub async fn failure(&mut self) -> (u64, pb::TaskError) {
        loop {
            match self.frame().await {
                (number, Up::FailTask(fail)) => return (number, fail.error.expect("an error")),
                (number, Up::AcceptTask(_)) => self.answer(number, Down::AcceptTask(Default::default())),
                (_, other) => panic!("not a failure: {other:?}"),
            }
        }
    }

    /// Answers heartbeats, and acceptances, until the agent closes the stream.
    pub async fn idle(&mut self) {
        while let Some((number, frame)) = self.next_frame().await {
            if let Up::AcceptTask(_) = frame {
                self.answer(number, Down::AcceptTask(Default::default()));
            }
        }
    }
}
