//! An agent by hand: one stream, whose frames a test says and hears itself.

use drumline_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};
use v1::connect_request::Frame as Up;
use v1::connect_response::Frame as Down;

use super::Stage;
use super::wait::soon;

/// A stream that was welcomed.
pub struct Line {
    /// Where frames go up; dropped, the agent has nothing more to say.
    pub up: mpsc::UnboundedSender<v1::ConnectRequest>,
    down: Streaming<v1::ConnectResponse>,
    /// The answer to the hello.
    pub welcome: v1::ConnectWelcome,
    /// The last nonce that came down.
    pub nonce: u64,
}

/// A registration with one capability.
pub fn registration(stage: &Stage, agent_id: &str) -> v1::RegisterAgentRequest {
    v1::RegisterAgentRequest {
        namespace: stage.ns(),
        agent_id: agent_id.into(),
        capabilities: vec![v1::Capability {
            name: "work".into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Says a first frame, and returns what comes down.
pub async fn dial(
    stage: &Stage,
    first: Up,
) -> Result<
    (
        mpsc::UnboundedSender<v1::ConnectRequest>,
        Streaming<v1::ConnectResponse>,
    ),
    Status,
> {
    let (up, frames) = mpsc::unbounded_channel();
    let first = v1::ConnectRequest {
        request_number: 1,
        frame: Some(first),
    };
    up.send(first).expect("open");
    let channel = super::connect(&stage.address).await;
    let mut sessions = v1::session_service_client::SessionServiceClient::new(channel);
    let down = sessions
        .connect(UnboundedReceiverStream::new(frames))
        .await?
        .into_inner();
    Ok((up, down))
}

impl Line {
    /// Opens a stream by registering.
    pub async fn register(stage: &Stage, request: v1::RegisterAgentRequest) -> Result<Line, Status> {
        Line::open(stage, v1::connect_hello::Session::Register(request)).await
    }

    /// Opens a stream of a session.
    pub async fn resume(stage: &Stage, session_id: &str) -> Result<Line, Status> {
        let resume = v1::ResumeSession {
            namespace: stage.ns(),
            session_id: session_id.into(),
        };
        Line::open(stage, v1::connect_hello::Session::Resume(resume)).await
    }

    async fn open(stage: &Stage, session: v1::connect_hello::Session) -> Result<Line, Status> {
        let hello = v1::ConnectHello { session: Some(session) };
        let (up, mut down) = dial(stage, Up::Hello(hello)).await?;
        let first = soon("the welcome", down.message()).await?.expect("a first frame");
        let Some(Down::Welcome(welcome)) = first.frame else {
            panic!("not a welcome: {first:?}");
        };
        assert_eq!(first.request_number, 1);
        let mut line = Line {
            up,
            down,
            welcome,
            nonce: 0,
        };
        let first_nonce = line.hear().await?.expect("a nonce");
        assert_eq!(first_nonce.request_number, 0);
        assert!(matches!(first_nonce.frame, Some(Down::Nonce(_))));
        Ok(line)
    }

    /// The session's id.
    pub fn session_id(&self) -> String {
        self.welcome.session_id.clone()
    }

    /// Says a frame.
    pub fn say(&self, request_number: u64, frame: Up) {
        let request = v1::ConnectRequest {
            request_number,
            frame: Some(frame),
        };
        // A stream that has ended says so on its way down.
        let _ = self.up.send(request);
    }

    /// Says a heartbeat with the last nonce.
    pub fn beat(&self, request_number: u64) {
        let nonce = self.nonce;
        self.say(request_number, Up::Heartbeat(v1::ConnectHeartbeat { nonce }));
    }

    /// The next frame.
    pub async fn hear(&mut self) -> Result<Option<v1::ConnectResponse>, Status> {
        let response = soon("a frame", self.down.message()).await?;
        if let Some(Down::Nonce(nonce)) = response.as_ref().and_then(|response| response.frame.as_ref()) {
            self.nonce = nonce.nonce;
        }
        Ok(response)
    }

    /// The next frame that is no nonce.
    pub async fn answer(&mut self) -> Result<Option<v1::ConnectResponse>, Status> {
        loop {
            match self.hear().await? {
                Some(v1::ConnectResponse {
                    frame: Some(Down::Nonce(_)),
                    ..
                }) => {}
                other => return Ok(other),
            }
        }
    }

    /// How the stream ends, whatever comes before.
    pub async fn end(&mut self) -> Result<(), Status> {
        while self.hear().await?.is_some() {}
        Ok(())
    }
}
