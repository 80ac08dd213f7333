//! A relay before a server that can do to each direction of its connections what networks do: let nothing through, or let it through
//! late; and break them, and lead to another server from then on.
//!
//! It runs on a thread of its own, so that a test that computes does not hold up what passes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A relay. Its connections break when it goes.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    end: CancellationToken,
}

struct Shared {
    upstream: watch::Sender<String>,
    /// Raised to break every connection.
    breaks: watch::Sender<u64>,
    connections: AtomicU64,
    /// From who connects to the server.
    there: Direction,
    /// From the server to who connects.
    back: Direction,
}

/// One direction of all connections.
pub struct Direction {
    stalled: watch::Sender<bool>,
    delay: watch::Sender<Duration>,
    passed: AtomicU64,
}

impl Direction {
    fn new() -> Direction {
        Direction {
            stalled: watch::Sender::new(false),
            delay: watch::Sender::new(Duration::ZERO),
            passed: AtomicU64::new(0),
        }
    }

    /// Lets nothing through, without telling anybody.
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    /// Lets through what waits, and what comes.
    pub fn heal(&self) {
        self.stalled.send_replace(false);
    }

    /// Lets everything through that much later.
    pub fn delay(&self, delay: Duration) {
        self.delay.send_replace(delay);
    }

    /// How many bytes were let through.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

impl Proxy {
    /// A relay before a server, given as a host and a port.
    pub fn before(upstream: &str) -> Proxy {
        let shared = Arc::new(Shared {
            upstream: watch::Sender::new(upstream.to_owned()),
            breaks: watch::Sender::new(0),
            connections: AtomicU64::new(0),
            there: Direction::new(),
            back: Direction::new(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let end = CancellationToken::new();
        let (serving, ended) = (Arc::clone(&shared), end.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a socket");
                tokio::select! {
                    () = serve(serving, listener) => {}
                    () = ended.cancelled() => {}
                }
            });
        });
        Proxy { address, shared, end }
    }

    /// Where it listens: a host and a port.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What passes from who connects to the server.
    pub fn there(&self) -> &Direction {
        &self.shared.there
    }

    /// What passes from the server to who connects.
    pub fn back(&self) -> &Direction {
        &self.shared.back
    }

    /// Breaks every connection.
    pub fn reset(&self) {
        self.shared.breaks.send_modify(|count| *count += 1);
    }

    /// Leads to another server from now on, and breaks the connections to the one before.
    pub fn lead_to(&self, upstream: &str) {
        self.shared.upstream.send_replace(upstream.to_owned());
        self.reset();
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    while let Ok((client, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut breaks = shared.breaks.subscribe();
            breaks.mark_unchanged();
            // Ended is ended: the other side hears of it by its connection.
            tokio::select! {
                _ = relay(&shared, client) => {}
                _ = breaks.changed() => {}
            }
        });
    }
}

async fn relay(shared: &Shared, client: TcpStream) -> std::io::Result<()> {
    let upstream = shared.upstream.borrow().clone();
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pass(&shared.there, from_client, to_server);
    let back = pass(&shared.back, from_server, to_client);
    tokio::try_join!(there, back).map(|_| ())
}

async fn pass(direction: &Direction, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
    let mut stalled = direction.stalled.subscribe();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut chunk).await?;
        // What came while nothing passes waits, the end too.
        if stalled.wait_for(|stalled| !stalled).await.is_err() {
            return Ok(());
        }
        let delay = *direction.delay.borrow();
        tokio::time::sleep(delay).await;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..length]).await?;
        direction.passed.fetch_add(length as u64, Ordering::Relaxed);
    }
}
