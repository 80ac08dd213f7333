//! Connections: each is served by itself, so that it can be asked to go by itself.
//!
//! A client keeps its connection for as long as it can, so after a replica has been away, or another has come, one has them all. A
//! connection that has reached its age is therefore asked to go: new calls come on another one (GOAWAY), calls under way are finished,
//! and streams that would last for ever end with DRAINING and their cursor, or, for sessions, with the notice to connect again. The
//! age differs by up to a tenth from connection to connection, so that those made together do not come back together.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use crate::machine;

/// How long nothing is accepted after that failed: most often there are too many connections already.
const BREATH: Duration = Duration::from_millis(50);

/// What a call knows of the connection that it came on.
#[derive(Clone, Debug)]
pub struct Leaving(pub CancellationToken);

/// The one connection that is served.
pub(super) type Incoming = Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

/// Accepts connections until the server is to stop, and serves each with `serve_one` until it has ended. `age`: how old it may become.
pub(super) async fn serve<S, F>(serve_one: S, listener: TcpListener, age: Option<Duration>, stopping: CancellationToken)
where
    S: Fn(Incoming, BoxFuture<'static, ()>) -> F,
    F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
{
    let connections = TaskTracker::new();
    while let Some(accepted) = stopping.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                // Without it answers are only later.
                let _ = stream.set_nodelay(true);
                let (leaving, gone) = (stopping.child_token(), CancellationToken::new());
                let connection = Connection {
                    stream,
                    leaving: Leaving(leaving.clone()),
                    _gone: gone.clone().drop_guard(),
                };
                let incoming = tokio_stream::once(Ok(connection)).chain(tokio_stream::pending());
                let goes = Box::pin(goes(leaving, gone, age));
                connections.spawn(report(serve_one(Box::pin(incoming), goes)));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Until a connection has gone, or is to go: then its calls are told.
async fn goes(leaving: CancellationToken, gone: CancellationToken, age: Option<Duration>) {
    let is_old = async {
        match age {
            Some(age) => tokio::time::sleep(age.mul_f64(machine::random_range(0.9..1.1))).await,
            None => std::future::pending().await,
        }
    };
    crate::select! {
        () = leaving.cancelled() => {}
        () = gone.cancelled() => {}
        () = is_old => leaving.cancel(),
    }
}

async fn report(serving: impl Future<Output = Result<(), tonic::transport::Error>>) {
    if let Err(error) = serving.await {
        tracing::debug!(%error, "a connection failed");
    }
}

/// A connection that tells its calls when it is to go, and whoever serves it when it has gone.
pub(super) struct Connection {
    stream: TcpStream,
    leaving: Leaving,
    _gone: DropGuard,
}

impl Connected for Connection {
    type ConnectInfo = Leaving;

    fn connect_info(&self) -> Leaving {
        self.leaving.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
