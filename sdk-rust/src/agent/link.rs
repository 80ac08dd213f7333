//! One stream of a session: how it is opened, and what its end means.

use std::time::{Duration, Instant};

use drumline_proto::v1 as pb;
use pb::connect_hello::Session;
use pb::connect_request::Frame as Up;
use pb::connect_response::Frame as Down;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};

use crate::addresses::place;
use crate::error::{Error, Kind, Reason, Result, innermost};
use crate::stubs::Stubs;

/// A stream that was welcomed.
pub(crate) struct Link {
    pub(crate) up: mpsc::UnboundedSender<pb::ConnectRequest>,
    pub(crate) down: Streaming<pb::ConnectResponse>,
    pub(crate) welcome: pb::ConnectWelcome,
    /// From before the hello was sent.
    pub(crate) sent: Instant,
}

/// Opens a stream on a connection of its own: one that went silent must not be used again.
pub(crate) async fn open(endpoint: Endpoint, number: u64, session: Session, patience: Duration) -> Result<Link> {
    let place = place(&endpoint);
    let opened = tokio::time::timeout(patience, say_hello(endpoint, number, session)).await;
    let opened = opened.unwrap_or_else(|_elapsed| Err(Error::transport("the hello was not answered in time")));
    opened.map_err(|error| error.at(&place))
}

async fn say_hello(endpoint: Endpoint, number: u64, session: Session) -> Result<Link> {
    let connected = endpoint.connect().await;
    let channel = connected.map_err(|error| Error::unreachable(innermost(&error)))?;
    let (up, frames) = mpsc::unbounded_channel();
    let hello = pb::ConnectHello { session: Some(session) };
    let sent = Instant::now();
    let first = pb::ConnectRequest {
        request_number: number,
        frame: Some(Up::Hello(hello)),
    };
    up.send(first)
        .map_err(|_closed| Error::transport("the stream closed"))?;
    let mut sessions = Stubs::new(channel).sessions();
    let mut down = sessions
        .connect(UnboundedReceiverStream::new(frames))
        .await?
        .into_inner();
    match down.message().await?.and_then(|response| response.frame) {
        Some(Down::Welcome(welcome)) => Ok(Link {
            up,
            down,
            welcome,
            sent,
        }),
        Some(Down::Error(error)) => Err(Error::from_frame(error)),
        _ => Err(Error::transport("the hello was not answered by a welcome")),
    }
}

/// What to do after a stream has ended or could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Open another, going on with the session.
    Again,
    /// The session is over: register anew.
    Register,
    /// Nothing can mend it, or mending it would harm another.
    Stop,
}

/// What the end of a stream means.
pub(crate) fn after(error: &Error) -> Next {
    match error.reason() {
        Reason::SessionEnded => return Next::Register,
        // Another process is this agent now, or this session: two that fight for it would both lose it for ever.
        Reason::SessionSuperseded | Reason::StreamSuperseded => return Next::Stop,
        _ => {}
    }
    let for_good = matches!(
        error.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::Unauthenticated
    );
    match error.kind() {
        Kind::Refused if for_good => Next::Stop,
        Kind::Config => Next::Stop,
        _ => Next::Again,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reason: Reason, code: Code) -> Error {
        let (reason, code) = (reason as i32, code as i32);
        Error::from_frame(pb::Error {
            reason,
            code,
            ..Default::default()
        })
    }

    #[test]
    fn an_ended_session_registers_anew_and_a_superseded_one_never() {
        let ended = told(Reason::SessionEnded, Code::FailedPrecondition);
        assert_eq!(after(&ended), Next::Register);
        let superseded = told(Reason::SessionSuperseded, Code::FailedPrecondition);
        assert_eq!(after(&superseded), Next::Stop);
        assert_eq!(after(&told(Reason::StreamSuperseded, Code::Aborted)), Next::Stop);
    }

    #[test]
    fn a_break_goes_on_and_a_wrong_hello_does_not() {
        assert_eq!(after(&Error::transport("broken")), Next::Again);
        assert_eq!(after(&told(Reason::Draining, Code::Unavailable)), Next::Again);
        assert_eq!(after(&told(Reason::Internal, Code::Internal)), Next::Again);
        assert_eq!(after(&told(Reason::InvalidRequest, Code::InvalidArgument)), Next::Stop);
    }
}
