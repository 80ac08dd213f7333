//! An agent that runs, as its own process sees it.

use std::time::Duration;

use drumline_proto::v1 as pb;
use tokio::sync::{mpsc, watch};

use super::driver::Command;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::session::SessionScope;

/// Where an agent is.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// It has no stream and tries to get one.
    Connecting,
    /// It is there, under this session.
    Online(SessionInfo),
    /// It has had no proof of its session's life for a whole TTL: handlers were told to stop, and it tries to resume.
    Doubtful,
    /// It has left.
    Stopped,
}

/// The session of an agent.
#[derive(Clone, PartialEq)]
pub struct SessionInfo {
    /// The secret that the agent acts under.
    pub session_id: String,
    /// The registration as the server has it.
    pub agent: pb::Agent,
    /// After this long without a heartbeat the agent is dead.
    pub ttl: Duration,
}

impl std::fmt::Debug for SessionInfo {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SessionInfo")
            .field("agent_id", &self.agent.agent_id)
            .field("incarnation", &self.incarnation())
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl SessionInfo {
    /// How many times the agent has registered.
    pub fn incarnation(&self) -> i64 {
        self.agent.session_incarnation
    }
}

/// What the driver lets be seen.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) status: Status,
    pub(crate) scope: Option<SessionScope>,
}

/// An agent that runs. Dropping it stops the agent; [`AgentHandle::drain`] lets it finish first.
#[derive(Debug)]
pub struct AgentHandle {
    pub(crate) client: Client,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    pub(crate) done: watch::Receiver<Option<Result<()>>>,
}

impl AgentHandle {
    /// Where the agent is now.
    pub fn status(&self) -> Status {
        if self.done.borrow().is_some() {
            return Status::Stopped;
        }
        self.snapshot.borrow().status.clone()
    }

    /// The session, while the agent is online.
    pub fn session(&self) -> Option<SessionInfo> {
        match self.status() {
            Status::Online(session) => Some(session),
            _ => None,
        }
    }

    /// Waits until the agent is online; an error if it ends instead.
    pub async fn ready(&self) -> Result<SessionInfo> {
        let mut snapshot = self.snapshot.clone();
        let online = snapshot.wait_for(|now| matches!(now.status, Status::Online(_)));
        tokio::select! {
            online = online => match online.map(|now| now.status.clone()) {
                Ok(Status::Online(session)) => Ok(session),
                _ => Err(self.wait().await.err().unwrap_or_else(stopped)),
            },
            ended = self.wait() => Err(ended.err().unwrap_or_else(stopped)),
        }
    }

    /// A client that acts under the agent's session; an error while it has none that it may act under.
    pub fn client(&self) -> Result<Client> {
        let scope = self.snapshot.borrow().scope.clone();
        let scope = scope.ok_or_else(|| Error::lost("the agent has no session now"))?;
        Ok(self.client.with_scope(scope))
    }

    /// Says that the agent takes no work for now, or does again.
    pub fn set_busy(&self, busy: bool) {
        self.command(Command::Busy(busy));
    }

    /// Takes no more work, waits until every handler has ended and every result was answered, and leaves.
    pub async fn drain(&self) -> Result<()> {
        self.command(Command::Drain);
        self.wait().await
    }

    /// Tells every handler to stop, aborts those that do not within the grace, and leaves: what it had goes to others.
    pub async fn stop(&self) -> Result<()> {
        self.command(Command::Stop);
        self.wait().await
    }

    /// Waits until the agent has left: an error if it could not go on, above all if another process has taken its place.
    pub async fn wait(&self) -> Result<()> {
        let mut done = self.done.clone();
        let ended = done.wait_for(Option::is_some).await;
        match ended.map(|ended| (*ended).clone()) {
            Ok(Some(result)) => result,
            _ => Err(Error::lost("the agent's thread ended without a word")),
        }
    }

    fn command(&self, command: Command) {
        // An agent that has left needs no orders.
        let _sent = self.commands.send(command);
    }
}

impl Drop for AgentHandle {
    fn drop(&mut self) {
        self.command(Command::Stop);
    }
}

fn stopped() -> Error {
    Error::lost("the agent has left")
}
