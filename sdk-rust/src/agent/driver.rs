//! The life of an agent at the server: one stream after another, one session after another.
//!
//! It runs on a thread of its own, so that handlers that block their runtime cannot keep heartbeats from being sent. All
//! of its state is its own; handlers reach it through [`Command`]s, and it reaches them through their cancellation.
//!
//! ```text
//!             hello: register              stream breaks, or is silent for 2/3 TTL
//!   (start) ─────────────────▶ online ──────────────────────────────▶ offline
//!                 ▲              ▲  │ goodbye said                      │ │ │
//!                 │              │  ▼                                   │ │ │ TTL since the last confirmed beat:
//!                 │              │ (end)        hello: resume           │ │ └──▶ doubt: handlers told to stop
//!                 │              └──────────────────────────────────────┘ │
//!                 └──── SESSION_ENDED: everything given up ◀──────────────┤
//!                                       SESSION_SUPERSEDED: (end) ◀───────┘
//! ```
//!
//! Each stream is opened at another address than the one that failed, if the client has several: at once where one may work,
//! else after a wait. Where nothing breaks that the server can see, it buries a session no sooner than a TTL after the last heartbeat that it
//! confirmed, so handlers go on until then.
//!
//! The server is authoritative. What was said and not answered is said again after a resume (see `outbox`); what is
//! assigned again is not begun again (see `attempts`).

use std::future::Future;
use std::time::{Duration, Instant};

use drumline_proto::v1 as pb;
use pb::connect_hello::Session as Hello;
use pb::connect_request::Frame as Up;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use super::attempts::{AttemptKey, Attempts};
use super::config::Config;
use super::context::{Cancel, CancelCause, TaskContext};
use super::handle::Snapshot;
use super::leaving::Leaving;
use super::link::{self, Link, Next};
use super::outbox::Outbox;
use super::watch::DeathWatch;
use crate::addresses::Addresses;
use crate::error::{Error, Reason, Result};
use crate::retry::Tries;
use crate::session::SessionScope;

/// The largest frame that is sent: what the server takes in one message, less some room.
pub(crate) const LARGEST_FRAME: usize = (4 << 20) - (64 << 10);
/// How long a hello may wait for its welcome.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// How long the hello of a session to resume may wait at least.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// The same while there is another address that may be faster.
const LEAST_PATIENCE_AMONG_OTHERS: Duration = Duration::from_millis(250);
/// How long a stream must have lasted for the next wait to be a short one.
const STABLE: Duration = Duration::from_secs(1);
/// About how long the first wait before another try is.
const FIRST_WAIT: Duration = Duration::from_millis(40);
/// How long one is at most; while there is a session, no longer than between heartbeats: a server that stood still gives it a TTL from when
/// it goes on, no more.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What handlers and handles say to the driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Say something until it is answered, as long as this session lives.
    Send {
        session_id: String,
        frame: Up,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
    /// Say how far an attempt has come, as its handler last said.
    Progress(TaskContext),
    /// An attempt is over, its outcome said and answered.
    Over { key: AttemptKey },
    /// Take work, or do not for now.
    Busy(bool),
    /// Take no more work, finish what is there, and end.
    Drain,
    /// Tell all handlers to stop, and end.
    Stop,
}

/// A session as the driver has it.
pub(crate) struct Session {
    pub(crate) scope: SessionScope,
    pub(crate) watch: DeathWatch,
    /// Whether it may be over: handlers were told to stop.
    pub(crate) doubted: bool,
}

/// An attempt as the driver has it.
pub(crate) struct Running {
    pub(crate) cancel: Cancel,
    pub(crate) attempt_token: String,
}

/// How a time online ended.
pub(crate) enum End {
    /// The stream broke, or the server ended it.
    Broken(Error),
    /// The server asked to connect again.
    Moved,
    /// The agent has said goodbye.
    Finished,
}

/// The driver of one agent.
pub(crate) struct Driver {
    pub(crate) config: Config,
    pub(crate) addresses: Addresses,
    /// The address of the present stream, or of the next.
    pub(crate) address: usize,
    /// How many hellos may still reach a server, though nobody waits for their welcome: each takes the place of a later stream of
    /// this session at most once.
    pub(crate) loose_hellos: u32,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) own: mpsc::UnboundedSender<Command>,
    pub(crate) status: watch::Sender<Snapshot>,
    pub(crate) session: Option<Session>,
    /// The stream's upward side, while online.
    pub(crate) up: Option<mpsc::UnboundedSender<pb::ConnectRequest>>,
    pub(crate) nonce: u64,
    pub(crate) beat_at: Instant,
    pub(crate) move_at: Option<Instant>,
    /// When the loop last went round: what has come since may have waited as long.
    pub(crate) awake: Instant,
    pub(crate) outbox: Outbox<oneshot::Sender<Result<()>>>,
    pub(crate) attempts: Attempts<Running>,
    pub(crate) leaving: Leaving,
    /// Whether the agent itself says that it takes no work.
    pub(crate) busy: bool,
    /// Kept over the retries of one registration.
    pub(crate) register_id: String,
}

impl Driver {
    /// Runs until the agent has left, or cannot go on.
    pub(crate) async fn run(mut self) -> Result<()> {
        let ended = self.live().await;
        self.session_over();
        ended
    }

    async fn live(&mut self) -> Result<()> {
        let mut tries = Tries::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let opening = self.opening();
            let begun = Instant::now();
            let Some(opened) = self.offline(opening).await else {
                return Ok(());
            };
            let (end, was_online) = match opened {
                Ok(link) => (self.online(link).await, true),
                Err(error) => {
                    self.loose_hellos += u32::from(error.is_indeterminate());
                    (End::Broken(error), false)
                }
            };
            self.stream_ended();
            let error = match end {
                End::Finished => return Ok(()),
                End::Moved => Error::transport("the server is stopping"),
                End::Broken(error) => error,
            };
            match self.next(&error) {
                Next::Stop => return Err(error),
                Next::Register => self.session_over(),
                Next::Again => {}
            }
            if was_online && begun.elapsed() >= STABLE {
                tries.reset();
            }
            self.turn_away(&error, begun, was_online);
            tries.limit(self.longest_wait());
            let wait = tries.wait(&self.addresses, &error);
            tracing::info!(agent = self.config.agent_id(), %error, ?wait, "the agent is offline");
            if self.offline(tokio::time::sleep(wait)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// What the end of a stream means. One that was superseded by a hello of our own, come late, is opened again.
    fn next(&mut self, error: &Error) -> Next {
        let own = error.reason() == Reason::StreamSuperseded && self.loose_hellos > 0;
        if own {
            self.loose_hellos -= 1;
            return Next::Again;
        }
        link::after(error)
    }

    /// Leaves the address if the error speaks against it, or if it was of no use.
    fn turn_away(&mut self, error: &Error, begun: Instant, was_online: bool) {
        self.addresses.note(self.address, begun, Some(error));
        if error.is_of_address() || !was_online {
            self.address = self.addresses.choose(Some(self.address));
        }
    }

    /// Opens the next stream; never, where the agent is leaving and its session is over.
    fn opening(&mut self) -> impl Future<Output = Result<Link>> + use<> {
        let number = self.outbox.number();
        let session = (self.session.is_some() || !self.leaving.is_leaving()).then(|| self.hello());
        let endpoint = self.addresses.get(self.address).endpoint.clone();
        let patience = self.patience();
        async move {
            match session {
                Some(session) => link::open(endpoint, number, session, patience).await,
                None => std::future::pending().await,
            }
        }
    }

    /// How long the next hello may wait: what is left of the TTL must do for another address too, if there is one.
    fn patience(&self) -> Duration {
        let others = self.addresses.has_well(Some(self.address));
        match (&self.session, others) {
            (None, false) => HELLO_PATIENCE,
            (None, true) => HELLO_PATIENCE / 2,
            (Some(session), false) => session.watch.ttl().clamp(LEAST_PATIENCE, HELLO_PATIENCE),
            (Some(session), true) => (session.watch.ttl() / 6).clamp(LEAST_PATIENCE_AMONG_OTHERS, HELLO_PATIENCE),
        }
    }

    fn longest_wait(&self) -> Duration {
        let interval = self.session.as_ref().map(|session| session.watch.interval());
        interval.map_or(LONGEST_WAIT, |interval| interval.min(LONGEST_WAIT))
    }

    fn hello(&self) -> Hello {
        match &self.session {
            Some(session) => Hello::Resume(pb::ResumeSession {
                namespace: self.config.registration.namespace.clone(),
                session_id: session.scope.id().to_owned(),
            }),
            None => Hello::Register(pb::RegisterAgentRequest {
                request_id: self.register_id.clone(),
                ..self.config.registration.clone()
            }),
        }
    }

    /// Does something while there is no stream; `None` if the agent has left meanwhile.
    async fn offline<F: Future>(&mut self, work: F) -> Option<F::Output> {
        tokio::pin!(work);
        loop {
            let now = Instant::now();
            self.awake = now;
            self.doubt_if_silent(now);
            if self.has_left_offline(now) {
                return None;
            }
            let wake = self.death_at().into_iter().chain(self.leaving.until()).min();
            tokio::select! {
                output = &mut work => return Some(output),
                command = self.commands.recv() => self.command(command),
                () = sleep_or_never(wake) => {}
            }
        }
    }

    /// Lives on a stream until it ends.
    async fn online(&mut self, link: Link) -> End {
        let mut down = link.down;
        self.welcomed(&link.welcome, link.sent, link.up);
        self.awake = Instant::now();
        loop {
            let now = Instant::now();
            if let Some(end) = self.tick(now) {
                return end;
            }
            let wake = self.wake_at();
            let message = tokio::select! {
                () = sleep_or_never(wake) => None,
                command = self.commands.recv() => {
                    self.command(command);
                    None
                }
                message = down.message() => Some(message),
            };
            let end = match message {
                None => None,
                Some(Ok(Some(response))) => self.response(response),
                Some(Ok(None)) => Some(End::Broken(Error::transport("the server closed the stream"))),
                Some(Err(status)) => Some(End::Broken(status.into())),
            };
            if let Some(end) = end {
                return end;
            }
            self.awake = now;
        }
    }

    /// Does what is due; ends the stream if it went silent or the agent has left.
    fn tick(&mut self, now: Instant) -> Option<End> {
        self.doubt_if_silent(now);
        let silent = self
            .session
            .as_ref()
            .is_none_or(|session| session.watch.suspect_at() <= now);
        if silent {
            return Some(End::Broken(Error::transport("heartbeats were not answered")));
        }
        if self.move_at.is_some_and(|at| at <= now) {
            return Some(End::Moved);
        }
        if self.beat_at <= now {
            self.beat(now);
        }
        self.outbox.due(now).into_iter().for_each(|frame| self.send(frame));
        self.has_left_online(now).then_some(End::Finished)
    }

    fn wake_at(&self) -> Option<Instant> {
        let suspect = self.session.as_ref().map(|session| session.watch.suspect_at());
        let all = [
            Some(self.beat_at),
            suspect,
            self.move_at,
            self.outbox.next_due(),
            self.leaving.until(),
        ];
        all.into_iter().flatten().min()
    }

    pub(crate) fn cancel_all(&self, cause: CancelCause) {
        self.attempts.iter().for_each(|attempt| attempt.cancel.fire(cause));
    }

    /// Sends a frame if there is a stream; if not, the outbox has it for the next.
    pub(crate) fn send(&self, frame: pb::ConnectRequest) {
        if let Some(up) = &self.up {
            // A stream that is closed says so on its downward side.
            let _sent = up.send(frame);
        }
    }
}

async fn sleep_or_never(until: Option<Instant>) {
    match until {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
