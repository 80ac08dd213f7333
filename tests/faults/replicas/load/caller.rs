//! One who calls replicas as a careful client does: a call that is not answered is sent again, the very same, to the next replica, and
//! what cannot be known of it is said.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::support::reason_of;

/// How long one try may take, without what the call itself waits for.
const TRY: Duration = Duration::from_millis(1_500);
/// How long to wait between two tries.
const PAUSE: Duration = Duration::from_millis(30);
/// Who means well tries at least this long, whatever the fault.
pub const LONG: Duration = Duration::from_secs(90);
/// Who does not gives up this soon.
pub const SHORT: Duration = Duration::from_millis(300);

/// What came of a call.
#[derive(Debug)]
pub struct Called<R> {
    /// The answer.
    pub answer: Answer<R>,
    /// Whether a try that was not answered may have been carried out beside that.
    pub is_doubtful: bool,
    /// When it was sent first.
    pub sent: Duration,
    /// When it was answered, or given up.
    pub answered: Duration,
}

/// The last word on a call.
#[derive(Debug)]
pub enum Answer<R> {
    /// It was carried out.
    Done(R),
    /// It was refused for good.
    Refused(Status),
    /// It was given up.
    GivenUp,
}

/// Connections to all replicas.
pub fn channels(addresses: &[String]) -> Vec<Channel> {
    let endpoint = |address: &String| {
        Endpoint::from_shared(address.clone())
            .expect("an address")
            .connect_timeout(Duration::from_secs(1))
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(1))
            .keep_alive_while_idle(true)
            .connect_lazy()
    };
    addresses.iter().map(endpoint).collect()
}

/// A caller.
pub struct Caller {
    /// What all callers share.
    pub shared: Arc<Shared>,
    /// Its number among its kind.
    pub number: usize,
    /// How many calls it has begun.
    pub calls: u64,
    /// The replica that it turns to.
    at: usize,
}

impl Caller {
    /// A caller that turns to the replica of its number.
    pub fn new(shared: &Arc<Shared>, number: usize) -> Caller {
        Caller {
            at: number % shared.channels.len(),
            shared: Arc::clone(shared),
            number,
            calls: 0,
        }
    }

    /// Turns to another replica now and then, so that one that has come back is called too.
    pub fn wander(&mut self) {
        self.calls += 1;
        if self.calls.is_multiple_of(16) {
            self.turn();
        }
    }

    /// The connection to the replica that it turns to.
    pub fn channel(&self) -> Channel {
        self.shared.channels[self.at].clone()
    }

    /// Turns to the next replica.
    pub fn turn(&mut self) {
        self.at = (self.at + 1) % self.shared.channels.len();
    }

    /// Sends a request until it is answered for good, for as long as it has patience. `waits` is what the call waits for by itself.
    pub async fn call<Q, R, F, Fut>(&mut self, patience: Duration, waits: Duration, request: &Q, send: F) -> Called<R>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let sent = self.shared.clock.now();
        let mut is_doubtful = false;
        let answer = loop {
            let left = (sent + patience).saturating_sub(self.shared.clock.now());
            if left.is_zero() {
                break Answer::GivenUp;
            }
            let within = left.min(TRY + waits);
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(within);
            match tokio::time::timeout(within, send(self.channel(), attempt)).await {
                Ok(Ok(response)) => break Answer::Done(response.into_inner()),
                Ok(Err(status)) => match word_of(&status) {
                    Word::Final => break Answer::Refused(status),
                    Word::Defect => {
                        self.shared
                            .complain(format!("a server has a defect: {}", said(&status)));
                        break Answer::Refused(status);
                    }
                    Word::NotDone => {}
                    Word::Unknown => is_doubtful = true,
                },
                Err(_) => is_doubtful = true,
            }
            self.turn();
            tokio::time::sleep(PAUSE).await;
        };
        Called {
            answer,
            is_doubtful,
            sent,
            answered: self.shared.clock.now(),
        }
    }
}

/// A refusal in words.
pub fn said(status: &Status) -> String {
    format!("{}: {}", reason_of(status), status.message())
}

/// What an error says of the call.
enum Word {
    Final,
    Defect,
    NotDone,
    Unknown,
}

fn word_of(status: &Status) -> Word {
    match reason_of(status).as_str() {
        "STORE_UNAVAILABLE" | "OVERLOADED" | "DRAINING" | "DEADLINE_EXCEEDED" => Word::NotDone,
        "OUTCOME_UNKNOWN" => Word::Unknown,
        "INTERNAL" => Word::Defect,
        // Without a reason it is the transport's word.
        without if without.starts_with("no reason") => {
            if was_never_sent(status) {
                Word::NotDone
            } else {
                Word::Unknown
            }
        }
        _ => Word::Final,
    }
}

/// Whether there was nobody to send it to.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        if error.downcast_ref().is_some_and(refused) {
            return true;
        }
        cause = error.source();
    }
    false
}
