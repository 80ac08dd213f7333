//! The way down to the agent: bounded, with a place kept for the word that ends it.

use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::connect_response::Frame;
use tokio::sync::mpsc;
use tonic::Status;

use crate::edge::decode;
use crate::error::{Reason, Refusal};

/// How many frames wait for the transport.
const BUFFER: usize = 32;
/// How long a frame waits for the agent to read.
const PATIENCE: Duration = Duration::from_secs(10);

/// In a box, because a channel keeps room for many, and most frames are as small as a nonce while a task is not: with thousands of streams that
/// room is most of what they cost.
type Sent = Box<Result<v1::ConnectResponse, Status>>;

/// Where frames to the agent go.
pub(super) struct Down {
    sender: mpsc::Sender<Sent>,
    /// The place for how the stream ends: an agent that does not read shall learn why it was cut off, once it reads.
    last: Option<mpsc::OwnedPermit<Sent>>,
}

/// Whether somebody reads a stream. Does not keep the stream open.
pub(super) struct Reader(mpsc::WeakSender<Sent>);

impl Reader {
    pub(super) fn is_gone(&self) -> bool {
        self.0.upgrade().is_none_or(|sender| sender.is_closed())
    }
}

/// Why a stream ends.
pub(super) enum Ending {
    /// The agent is gone, or cannot be reached.
    Gone,
    /// The agent has nothing more to say.
    Silent,
    /// The agent has sent something that is no frame, or too large a one.
    Unreadable(Refusal),
    /// The agent does not read.
    Slow,
    /// The agent has said goodbye.
    Goodbye,
    /// The server is stopping.
    Draining(Refusal),
    /// The session is over, or goes on elsewhere.
    Over(Refusal),
}

impl Ending {
    /// The end of a stream whose next frame could not be taken in.
    pub(super) fn of_status(status: &Status) -> Ending {
        decode::refusal_of(status).map_or(Ending::Gone, Ending::Unreadable)
    }
}

impl Down {
    /// A way down, and what the transport reads of it.
    pub(super) fn new() -> (Down, mpsc::Receiver<Sent>) {
        let (sender, receiver) = mpsc::channel(BUFFER + 1);
        let last = sender.clone().try_reserve_owned().ok();
        (Down { sender, last }, receiver)
    }

    /// Sends a frame: the answer to one with this number, or 0.
    pub(super) async fn send(&self, request_number: u64, frame: Frame) -> Result<(), Ending> {
        let response = v1::ConnectResponse {
            request_number,
            frame: Some(frame),
        };
        match tokio::time::timeout(PATIENCE, self.sender.send(Box::new(Ok(response)))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ending::Gone),
            Err(_) => Err(Ending::Slow),
        }
    }

    /// Whether somebody reads, for who asks later.
    pub(super) fn reader(&self) -> Reader {
        Reader(self.sender.downgrade())
    }

    /// Resolves when nobody reads any more.
    pub(super) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Ends the stream, with a refusal if there is one.
    pub(super) fn end(mut self, refusal: Option<Refusal>) {
        if let (Some(refusal), Some(last)) = (refusal, self.last.take()) {
            last.send(Box::new(Err(refusal.into())));
        }
    }
}

/// What an agent hears that does not read what it is sent.
pub(super) fn too_slow(cursor: &str) -> Refusal {
    Refusal::new(
        Reason::SlowConsumer,
        "the agent does not read what it is sent; connect again with the session",
    )
    .with("cursor", cursor)
    .retry_after(Duration::from_millis(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_asks_later_learns_that_nobody_reads() {
        let (down, receiver) = Down::new();
        let reader = down.reader();
        assert!(!reader.is_gone());
        drop(receiver);
        assert!(reader.is_gone());
        let (down, _receiver) = Down::new();
        let reader = down.reader();
        down.end(None);
        assert!(reader.is_gone());
    }

    #[tokio::test]
    async fn an_agent_that_does_not_read_learns_why_it_was_cut_off() {
        let (down, mut receiver) = Down::new();
        for number in 0..BUFFER as u64 {
            let frame = Frame::Nonce(v1::ConnectNonce { nonce: number });
            assert!(down.send(0, frame).await.is_ok());
        }
        assert!(
            down.sender.try_reserve().is_err(),
            "the channel is full but for the last word"
        );
        down.end(Some(too_slow("1.1")));
        let mut frames = 0;
        loop {
            match receiver.recv().await.map(|sent| *sent) {
                Some(Ok(_)) => frames += 1,
                Some(Err(status)) => break assert_eq!(status.code(), tonic::Code::ResourceExhausted),
                None => panic!("the stream ended without a word"),
            }
        }
        assert_eq!(frames, BUFFER);
        assert!(receiver.recv().await.is_none());
    }
}
