//! Between a bus and its Redis: stalls one direction, or breaks what is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// They pass.
    Open,
    /// Those to the server do not, on connections that are there.
    ToServerStalls,
    /// Those to the client do not, on connections that are there.
    ToClientStalls,
}

/// A proxy to a port of this machine. Gone when this is.
pub(super) struct Proxy {
    pub(super) port: u16,
    way: watch::Sender<Way>,
    accepted: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(super) async fn to(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (way, ways) = watch::channel(Way::Open);
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                count.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(("127.0.0.1", server)).await.expect("a server");
                // What is asked of a connection concerns those that are there when it is asked.
                let mut ways = ways.clone();
                ways.mark_unchanged();
                tokio::spawn(carry(client, server, ways));
            }
        });
        Proxy {
            port,
            way,
            accepted,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Stalls the connections that are there, until the end of the test.
    pub(super) fn stall(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// How many connections there have been.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn carry(client: TcpStream, server: TcpStream, ways: watch::Receiver<Way>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = pass(&mut from_client, &mut to_server, ways.clone(), Way::ToServerStalls);
    let down = pass(&mut from_server, &mut to_client, ways, Way::ToClientStalls);
    // When one direction ends both do.
    tokio::select! { () = up => {}, () = down => {} }
}

async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut ways: watch::Receiver<Way>,
    stalls: Way,
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        tokio::select! {
            read = from.read(&mut bytes) => match read {
                Ok(count) if count > 0 && to.write_all(&bytes[..count]).await.is_ok() => {}
                _ => return,
            },
            Ok(()) = ways.changed() => {
                if *ways.borrow() == stalls {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}
