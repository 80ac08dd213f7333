//! Redis servers of a test's own, to be killed, stopped and emptied.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::keeper::{Kept, Place};
use super::server::lasting_address;

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of a test's own. It goes with the value.
pub struct Redis {
    process: Option<Kept>,
    place: Place,
    address: String,
}

impl Redis {
    /// Starts a server.
    pub async fn start() -> Redis {
        let mut redis = Redis {
            process: None,
            place: Place::new(),
            address: lasting_address(),
        };
        redis.go().await;
        redis
    }

    /// Where it listens: a host and a port.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn process(&self) -> &Kept {
        self.process.as_ref().expect("it was started")
    }

    /// Starts it, on the same address if it was there before, and waits until it answers.
    pub async fn go(&mut self) {
        let (host, port) = self.address.split_once(':').expect("an address");
        let arguments = [
            "redis-server",
            "--bind",
            host,
            "--port",
            port,
            "--save",
            "",
            "--appendonly",
            "no",
        ];
        self.process = None;
        self.process = Some(Kept::start(
            &arguments.map(str::to_owned),
            &self.place.path().join("log"),
        ));
        let began = Instant::now();
        while self.ask("PING").await.ok().as_deref() != Some("+PONG") {
            let goes_on = self.process().runs() && began.elapsed() < PATIENCE;
            assert!(goes_on, "Redis does not start: {}", self.process().printed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it has not ended.
    pub fn runs(&self) -> bool {
        self.process().runs()
    }

    /// Kills it with -9.
    pub fn kill(&self) {
        self.process().kill();
    }

    /// Stops it in the middle of whatever it does.
    pub fn pause(&self) {
        self.process().signal(Signal::STOP);
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.process().is_stopped()
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process().signal(Signal::CONT);
    }

    /// The first line that it answers to a command.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn ask(&self, command: &str) -> std::io::Result<String> {
        let asking = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n") {
                if stream.read_buf(&mut answer).await? == 0 {
                    break;
                }
            }
            let answer = String::from_utf8_lossy(&answer).into_owned();
            Ok(answer.lines().next().unwrap_or_default().to_owned())
        };
        let answered = tokio::time::timeout(Duration::from_secs(2), asking).await;
        answered.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}
