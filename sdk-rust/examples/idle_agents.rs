//! Many agents that have nothing to do: what they cost a server. Prints when all are connected, and again when time is up, how many
//! still are.
//!
//! ```text
//! cargo run --release -p drumline --example idle_agents -- 1000 30
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use drumline::v1;
use drumline::v1::connect_request::Frame as Up;
use drumline::v1::connect_response::Frame as Down;
use drumline::v1::session_service_client::SessionServiceClient;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// How many streams share a connection.
const STREAMS: usize = 250;
const TTL: Duration = Duration::from_secs(10);

/// One agent: registers, then sends a sign of life three times in its TTL, with the nonce that it last got.
async fn idle(channel: Channel, number: usize, alive: Arc<AtomicUsize>) -> Result<(), tonic::Status> {
    let (up, frames) = mpsc::channel(4);
    let register = v1::RegisterAgentRequest {
        agent_id: format!("idle-{number}"),
        capabilities: vec![v1::Capability {
            name: "idle".into(),
            ..Default::default()
        }],
        session_ttl: prost_types::Duration::try_from(TTL).ok(),
        ..Default::default()
    };
    let hello = v1::ConnectHello {
        session: Some(v1::connect_hello::Session::Register(register)),
    };
    let first = v1::ConnectRequest {
        request_number: 1,
        frame: Some(Up::Hello(hello)),
    };
    let gone = || tonic::Status::unavailable("the stream is gone");
    up.send(first).await.map_err(|_| gone())?;
    let mut down = SessionServiceClient::new(channel)
        .connect(ReceiverStream::new(frames))
        .await?
        .into_inner();
    let (mut nonce, mut counted) = (0, false);
    let mut beat = tokio::time::interval(TTL / 3);
    loop {
        tokio::select! {
            frame = down.next() => match frame.ok_or_else(gone)??.frame {
                Some(Down::Nonce(next)) => nonce = next.nonce,
                Some(Down::Welcome(_)) if !counted => {
                    counted = true;
                    alive.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            },
            _ = beat.tick() => {
                let frame = Some(Up::Heartbeat(v1::ConnectHeartbeat { nonce }));
                up.send(v1::ConnectRequest { request_number: 0, frame }).await.map_err(|_| gone())?;
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().unwrap_or_else(|| "1000".into()).parse()?;
    let seconds: u64 = arguments.next().unwrap_or_else(|| "30".into()).parse()?;
    let url = std::env::var("DRUMLINE_SERVER").unwrap_or_else(|_| "http://127.0.0.1:7400".into());
    let alive = Arc::new(AtomicUsize::new(0));
    let mut agents = tokio::task::JoinSet::new();
    let mut channel = Channel::from_shared(url.clone())?.connect().await?;
    for number in 0..count {
        if number % STREAMS == STREAMS - 1 {
            channel = Channel::from_shared(url.clone())?.connect().await?;
        }
        agents.spawn(idle(channel.clone(), number, Arc::clone(&alive)));
    }
    while alive.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some(ended) = agents.try_join_next() {
            ended??;
        }
    }
    println!("connected {count}");
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    println!("still connected {}", agents.len());
    Ok(())
}
