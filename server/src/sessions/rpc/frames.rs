//! Frames from the agent: each goes to the very handler that the unary call has, in the order in which they came, without waiting for the
//! one before.

use std::sync::Arc;

use drumline_proto::v1;
use drumline_proto::v1::connect_request::Frame as Up;
use drumline_proto::v1::connect_response::Frame;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::connect::Link;
use super::down::Ending;
use crate::edge::status::to_error;
use crate::error::{Reason, Refusal};
use crate::{machine, registry, sessions, tasks};

/// An answer on its way.
pub(super) struct Answered {
    request_number: u64,
    answer: Result<Answer, Refusal>,
    /// Whether the frame was a heartbeat: refused, it ends the stream.
    is_heartbeat: bool,
}

enum Answer {
    Frame(Frame),
    /// A heartbeat that the store or the lane had to be asked about counts.
    Beat,
}

/// The nonces that prove that an agent hears: it echoes one of the last two.
pub(super) struct Nonces {
    last: [u64; 2],
}

impl Nonces {
    /// Before the first an agent says 0.
    pub(super) fn new() -> Nonces {
        Nonces { last: [0, 0] }
    }

    /// Whether a heartbeat with this nonce counts.
    pub(super) fn counts(&self, nonce: u64) -> bool {
        self.last.contains(&nonce)
    }

    /// The next to be sent.
    pub(super) fn next(&mut self) -> v1::ConnectNonce {
        let [_, last] = self.last;
        let nonce = loop {
            let nonce = machine::random();
            if nonce != 0 && nonce != last {
                break nonce;
            }
        };
        self.last = [last, nonce];
        v1::ConnectNonce { nonce }
    }
}

/// Fills in what a frame leaves to the stream, and runs its handler.
macro_rules! handle {
    ($link:ident, $number:ident, $request:ident, $handler:path => $answer:path) => {{
        let mut request = $request;
        match $link.complete(&mut request.namespace, &mut request.session_id) {
            Ok(()) => {
                let (app, context) = (Arc::clone(&$link.app), $link.context.clone());
                let handled = async move { Ok(Answer::Frame($answer($handler(&app, &context, request).await?))) };
                $link.submit($number, false, handled.boxed()).await
            }
            Err(refusal) => $link.refuse($number, &refusal).await,
        }
    }};
}

impl Link {
    /// Takes a frame up.
    pub(super) async fn frame(&mut self, request: v1::ConnectRequest) -> Result<(), Ending> {
        let number = request.request_number;
        match request.frame {
            Some(Up::Heartbeat(heartbeat)) => self.heartbeat(number, heartbeat.nonce).await,
            Some(Up::AcceptTask(request)) => {
                handle!(self, number, request, tasks::rpc::accept_task => Frame::AcceptTask)
            }
            Some(Up::RejectTask(request)) => {
                handle!(self, number, request, tasks::rpc::reject_task => Frame::RejectTask)
            }
            Some(Up::ReportProgress(request)) => {
                handle!(self, number, request, tasks::rpc::report_progress => Frame::ReportProgress)
            }
            Some(Up::CompleteTask(request)) => {
                handle!(self, number, request, tasks::rpc::complete_task => Frame::CompleteTask)
            }
            Some(Up::FailTask(request)) => {
                handle!(self, number, request, tasks::rpc::fail_task => Frame::FailTask)
            }
            Some(Up::UpdateAgent(request)) => {
                handle!(self, number, request, registry::rpc::update_agent => Frame::UpdateAgent)
            }
            Some(Up::DeregisterAgent(request)) => {
                handle!(self, number, request, registry::rpc::deregister_agent => Frame::DeregisterAgent)
            }
            Some(Up::Hello(_)) => {
                let refusal = Refusal::invalid("frame.hello", "the stream is open already");
                self.refuse(number, &refusal).await
            }
            None => {
                let refusal = Refusal::invalid("frame", "must be set to one that this server knows");
                self.refuse(number, &refusal).await
            }
        }
    }

    /// A heartbeat counts if it proves that the agent hears, and is answered once it is written down.
    async fn heartbeat(&mut self, number: u64, nonce: u64) -> Result<(), Ending> {
        if !self.nonces.counts(nonce) {
            return Ok(());
        }
        let in_memory = self.app.pulse.is_none();
        if in_memory && self.app.beats.beat(&self.context.namespace, &self.session_id).is_some() {
            return self.send_nonce(number).await;
        }
        let (app, namespace) = (Arc::clone(&self.app), Arc::clone(&self.context.namespace));
        let session_id = self.session_id.clone();
        let asked = async move {
            sessions::watch::beat(&app, &namespace, &session_id).await?;
            Ok(Answer::Beat)
        };
        self.submit(number, true, asked.boxed()).await
    }

    pub(super) async fn send_nonce(&mut self, number: u64) -> Result<(), Ending> {
        let nonce = self.nonces.next();
        self.down.send(number, Frame::Nonce(nonce)).await
    }

    /// Fills in the stream's namespace and session where a frame leaves them empty.
    fn complete(&self, namespace: &mut String, session_id: &mut String) -> Result<(), Refusal> {
        for (field, value, own) in [
            ("namespace", namespace, &*self.context.namespace),
            ("session_id", session_id, self.session_id.as_str()),
        ] {
            if value.is_empty() {
                own.clone_into(value);
            } else if value != own {
                return Err(Refusal::invalid(field, "is not the stream's"));
            }
        }
        Ok(())
    }

    /// Starts a handler: when this returns its job is in the lane, so that jobs are there in the order of their frames.
    async fn submit(
        &mut self,
        request_number: u64,
        is_heartbeat: bool,
        handler: BoxFuture<'static, Result<Answer, Refusal>>,
    ) -> Result<(), Ending> {
        let mut answered = handler
            .map(move |answer| Answered {
                request_number,
                answer,
                is_heartbeat,
            })
            .boxed();
        match (&mut answered).now_or_never() {
            Some(answered) => self.answer(answered).await,
            None => {
                self.answers.push(answered);
                Ok(())
            }
        }
    }

    /// Sends an answer down.
    pub(super) async fn answer(&mut self, answered: Answered) -> Result<(), Ending> {
        let number = answered.request_number;
        match answered.answer {
            Ok(Answer::Beat) => self.send_nonce(number).await,
            Ok(Answer::Frame(frame)) => {
                let is_goodbye = matches!(frame, Frame::DeregisterAgent(_));
                self.down.send(number, frame).await?;
                if is_goodbye { Err(Ending::Goodbye) } else { Ok(()) }
            }
            Err(refusal) if answered.is_heartbeat && is_final(&refusal) => Err(Ending::Over(refusal)),
            // The store did not answer: the agent tries again with the same nonce.
            Err(_) if answered.is_heartbeat => Ok(()),
            Err(refusal) => self.refuse(number, &refusal).await,
        }
    }

    async fn refuse(&mut self, number: u64, refusal: &Refusal) -> Result<(), Ending> {
        self.down.send(number, Frame::Error(to_error(refusal))).await
    }
}

fn is_final(refusal: &Refusal) -> bool {
    matches!(refusal.reason(), Reason::SessionEnded | Reason::SessionSuperseded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_two_nonces_count() {
        let mut nonces = Nonces::new();
        assert!(nonces.counts(0));
        let first = nonces.next().nonce;
        assert!(nonces.counts(0) && nonces.counts(first));
        let second = nonces.next().nonce;
        assert!(!nonces.counts(0) && nonces.counts(first) && nonces.counts(second));
        let third = nonces.next().nonce;
        assert!(!nonces.counts(first) && nonces.counts(second) && nonces.counts(third));
    }
}
