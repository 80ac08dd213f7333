//! How a session begins, is kept alive, is doubted and ends, as its agent sees it.

use std::time::{Duration, Instant};

use drumline_proto::v1 as pb;
use pb::connect_request::Frame as Up;
use tokio::sync::mpsc;

use super::context::CancelCause;
use super::driver::{Driver, Session};
use super::handle::{SessionInfo, Snapshot, Status};
use super::watch::DeathWatch;
use crate::client::request_id;
use crate::error::Error;
use crate::session::SessionScope;
use crate::time;

impl Driver {
    /// Takes over a session: a new one, or the same one again.
    pub(crate) fn welcomed(
        &mut self,
        welcome: &pb::ConnectWelcome,
        sent: Instant,
        up: mpsc::UnboundedSender<pb::ConnectRequest>,
    ) {
        let ttl = time::from_proto(welcome.session_ttl).max(Duration::from_millis(100));
        let watch = DeathWatch::new(sent, ttl);
        let same = self
            .session
            .as_ref()
            .is_some_and(|old| old.scope.id() == welcome.session_id);
        if !same && self.session.is_some() {
            self.session_over();
        }
        let scope = match &self.session {
            Some(session) if !session.doubted => session.scope.clone(),
            _ => SessionScope::new(&welcome.session_id),
        };
        self.session = Some(Session {
            scope: scope.clone(),
            watch,
            doubted: false,
        });
        self.up = Some(up);
        self.addresses.note(self.address, sent, None);
        (self.nonce, self.beat_at, self.move_at) = (0, Instant::now(), None);
        self.outbox.resend().into_iter().for_each(|frame| self.send(frame));
        let agent = welcome.agent.clone().unwrap_or_default();
        if !same {
            // Where the server made the id, the agent keeps it when it registers anew.
            self.config.registration.agent_id.clone_from(&agent.agent_id);
            self.tell_own_status();
        }
        let info = SessionInfo {
            session_id: welcome.session_id.clone(),
            agent,
            ttl,
        };
        tracing::info!(agent = info.agent.agent_id, resumed = same, "the agent is online");
        self.status.send_replace(Snapshot {
            status: Status::Online(info),
            scope: Some(scope),
        });
    }

    pub(crate) fn stream_ended(&mut self) {
        self.up = None;
        if let Some(session) = &mut self.session {
            session.watch.stream_lost();
        }
        self.status.send_if_modified(|snapshot| {
            let online = matches!(snapshot.status, Status::Online(_));
            if online {
                snapshot.status = Status::Connecting;
            }
            online
        });
    }

    pub(crate) fn beat(&mut self, now: Instant) {
        let number = self.outbox.number();
        let Some(session) = &mut self.session else {
            return;
        };
        session.watch.beat(number, now);
        self.beat_at = now + session.watch.interval();
        let beat = pb::ConnectHeartbeat { nonce: self.nonce };
        self.send(pb::ConnectRequest {
            request_number: number,
            frame: Some(Up::Heartbeat(beat)),
        });
    }

    pub(crate) fn death_at(&self) -> Option<Instant> {
        let session = self.session.as_ref().filter(|session| !session.doubted)?;
        Some(session.watch.dead_at())
    }

    /// By this process's own clock the session may be over: stop acting under it, but try to resume it.
    pub(crate) fn doubt_if_silent(&mut self, now: Instant) {
        if self.death_at().is_none_or(|at| now < at) {
            return;
        }
        tracing::warn!(
            agent = self.config.agent_id(),
            "the session may be over: handlers are told to stop"
        );
        // Whoever is told to stop finds everything else changed already.
        self.status.send_replace(Snapshot {
            status: Status::Doubtful,
            scope: None,
        });
        if let Some(session) = &mut self.session {
            session.doubted = true;
            session.scope.over().cancel();
        }
        self.cancel_all(CancelCause::SessionLost);
    }

    /// The session is over: what was held is gone, and nobody waits for what was said.
    pub(crate) fn session_over(&mut self) {
        self.register_id = request_id();
        // Whoever is told to stop finds everything else changed already.
        self.status.send_replace(Snapshot {
            status: Status::Connecting,
            scope: None,
        });
        self.loose_hellos = 0;
        if let Some(session) = self.session.take() {
            session.scope.over().cancel();
        }
        self.cancel_all(CancelCause::SessionLost);
        for mut entry in self.outbox.clear() {
            if let Some(reply) = entry.reply() {
                // Who waited may have been dropped.
                let _told = reply.send(Err(Error::lost("the session is over")));
            }
        }
    }
}
