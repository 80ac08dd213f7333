//! A proxy that can cut connections at a chosen moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PASS: u8 = 0;
const CUT_ANSWERS: u8 = 1;
const CUT_REQUESTS: u8 = 2;

pub(super) struct Proxy {
    pub(super) url: String,
    mode: Arc<AtomicU8>,
}

impl Proxy {
    /// A proxy to the server of a URL like `postgres://user@host:port/…`.
    pub(super) async fn before(url: &str) -> Proxy {
        let (start, rest) = url.split_once('@').expect("a user in the URL");
        let (server, end) = rest.split_once('/').expect("a database in the URL");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mode = Arc::new(AtomicU8::new(PASS));
        tokio::spawn(accept(listener, server.to_owned(), Arc::clone(&mode)));
        Proxy {
            url: format!("{start}@127.0.0.1:{port}/{end}"),
            mode,
        }
    }

    /// Cuts the connection over which the next bytes come; if `arrives`, only once the server has answered them.
    pub(super) fn cut(&self, arrives: bool) {
        let mode = if arrives { CUT_ANSWERS } else { CUT_REQUESTS };
        self.mode.store(mode, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, server: String, mode: Arc<AtomicU8>) {
    while let Ok((client, _)) = listener.accept().await {
        if let Ok(server) = TcpStream::connect(&server).await {
            tokio::spawn(pass(client, server, Arc::clone(&mode)));
        }
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, mode: Arc<AtomicU8>) {
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let (cut, bytes, to) = tokio::select! {
            read = client.read(&mut asked) => (CUT_REQUESTS, &asked[..read.unwrap_or(0)], &mut server),
            read = server.read(&mut answered) => (CUT_ANSWERS, &answered[..read.unwrap_or(0)], &mut client),
        };
        if mode.load(Ordering::SeqCst) == cut {
            let mut last = bytes.to_vec();
            while cut == CUT_ANSWERS && !last.windows(7).any(|word| word == b"COMMIT\0") {
                // The commit may not have been asked for yet.
                tokio::select! {
                    read = client.read(&mut asked) => {
                        let _ = server.write_all(&asked[..read.unwrap_or(0)]).await;
                    }
                    _ = server.read_buf(&mut last) => {}
                }
            }
            mode.store(PASS, Ordering::SeqCst);
            return;
        }
        if bytes.is_empty() || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
