//! What stands between a client and a server of the tests, and makes the server die or hang at will.

use std::net::SocketAddr;

use drumline::Client;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::server::Router;

use crate::fake::serve;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Open,
    /// They are taken, and nothing goes through them.
    Stalled,
    /// They are broken, and no more are taken.
    Dead,
}

/// A server that can be made to die or hang.
pub struct Gate {
    pub url: String,
    mode: watch::Sender<Mode>,
}

impl Gate {
    /// Serves a router behind a gate.
    pub async fn before(router: Router) -> Self {
        let (server, _client) = serve(router).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (mode, watched) = watch::channel(Mode::Open);
        tokio::spawn(accept(listener, server, watched));
        Self { url, mode }
    }

    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stalled);
    }

    pub fn kill(&self) {
        self.mode.send_replace(Mode::Dead);
    }
}

/// A client that has all of them as its addresses.
pub fn client(gates: &[Gate]) -> drumline::ClientBuilder {
    let urls: Vec<&str> = gates.iter().map(|gate| gate.url.as_str()).collect();
    Client::builder(urls.join(","))
}

async fn accept(listener: TcpListener, server: SocketAddr, mode: watch::Receiver<Mode>) {
    let mut dead = mode.clone();
    loop {
        tokio::select! {
            biased;
            _ = dead.wait_for(|mode| *mode == Mode::Dead) => return,
            accepted = listener.accept() => {
                let (client, _) = accepted.expect("a connection");
                tokio::spawn(connection(client, server, mode.clone()));
            }
        }
    }
}

async fn connection(client: TcpStream, server: SocketAddr, mode: watch::Receiver<Mode>) {
    let server = TcpStream::connect(server).await.expect("the server");
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut dead = mode.clone();
    tokio::select! {
        biased;
        _ = dead.wait_for(|mode| *mode == Mode::Dead) => {}
        () = pump(from_client, to_server, mode.clone()) => {}
        () = pump(from_server, to_client, mode) => {}
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if mode.wait_for(|mode| *mode != Mode::Stalled).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
