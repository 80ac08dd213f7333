//! Server streams: a task that sends into a bounded channel, ended by its own refusal, by the client going away, or by the server
//! stopping.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::error::{Reason, Refusal};
use crate::machine;

/// How many messages wait for the transport at most.
const BUFFER: usize = 64;

/// Where a stream's work sends its messages.
pub struct Outlet<T> {
    sender: mpsc::Sender<Result<T, Status>>,
    /// Set when the stream is to end and be made again elsewhere.
    pub leaving: CancellationToken,
}

/// The client has gone: there is nobody to send to.
pub struct Gone;

impl From<Gone> for End {
    fn from(_: Gone) -> End {
        End::Gone
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refused(refusal)
    }
}

/// Why a stream's work ended before its time.
pub enum End {
    /// The client has gone.
    Gone,
    /// The stream ends with this.
    Refused(Refusal),
}

impl<T> Outlet<T> {
    /// Sends a message, waiting for the client to read.
    pub async fn send(&self, message: T) -> Result<(), Gone> {
        self.sender.send(Ok(message)).await.map_err(|_| Gone)
    }
}

/// A stream of what `work` sends. `leaving` tells it when to end.
pub fn spawn<T, F>(leaving: CancellationToken, work: impl FnOnce(Outlet<T>) -> F) -> ReceiverStream<Result<T, Status>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), End>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BUFFER);
    let work = work(Outlet {
        sender: sender.clone(),
        leaving,
    });
    machine::spawn(async move {
        let end = crate::select! {
            end = work => end,
            () = sender.closed() => Ok(()),
        };
        if let Err(End::Refused(refusal)) = end {
            // If the client has gone there is nobody to tell.
            let _ = sender.send(Err(refusal.into())).await;
        }
    });
    ReceiverStream::new(receiver)
}

/// The end of a stream because its connection is to go, or the server is stopping; the client goes on from the cursor, on another
/// connection.
pub fn draining(cursor: &str) -> Refusal {
    Refusal::new(
        Reason::Draining,
        "the server is stopping, or asks to be connected to again; go on from the cursor",
    )
    .with("cursor", cursor)
    .retry_after(std::time::Duration::from_millis(200))
}
