//! What every call passes on its way in and out: who it is for, how long it may take, whether its fields are in order, and how a
//! refusal becomes a gRPC status.

pub mod check;
pub mod connection;
pub mod decode;
pub mod page;
pub mod payload;
pub mod server;
pub mod status;
pub mod stream;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::error::Refusal;
use crate::lane::{Call, Request, Urgency};
use crate::machine::Instant;
use connection::Leaving;

/// The namespace of a request that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What a handler knows of its call beside the message.
#[derive(Clone, Debug)]
pub struct Context {
    /// The namespace.
    pub namespace: Arc<str>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// W3C trace context; may be empty.
    pub traceparent: String,
    /// Set when the connection that the call came on is to go; nothing if it came on none.
    leaving: Option<CancellationToken>,
}

impl Context {
    /// The context of a request in a namespace, whose name is checked.
    ///
    /// # Errors
    /// INVALID_REQUEST for a namespace that is no id.
    pub fn new<T>(request: &tonic::Request<T>, namespace: &str) -> Result<Context, Refusal> {
        let metadata = request.metadata();
        let header = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        let deadline = header("grpc-timeout")
            .and_then(parse_timeout)
            .and_then(|left| Instant::now().checked_add(left));
        let traceparent = header("traceparent")
            .filter(|text| is_traceparent(text))
            .unwrap_or_default()
            .to_owned();
        Ok(Context {
            namespace: checked_namespace(namespace)?,
            deadline,
            traceparent,
            leaving: request.extensions().get::<Leaving>().map(|leaving| leaving.0.clone()),
        })
    }

    /// The context of a frame in a stream whose call had this one.
    ///
    /// # Errors
    /// INVALID_REQUEST for a namespace that is no id.
    pub fn of_a_frame(&self, namespace: &str) -> Result<Context, Refusal> {
        Ok(Context {
            namespace: checked_namespace(namespace)?,
            deadline: None,
            ..self.clone()
        })
    }

    /// Set when a stream that could last for ever is to end: its connection is to go, or the server is stopping.
    pub fn leaving(&self, app: &App) -> CancellationToken {
        self.leaving.clone().unwrap_or_else(|| app.draining.clone())
    }

    /// A call that changes something. `message` is the request as it came: a repetition with the same `request_id` must be the same.
    pub fn call<M: Message>(&self, method: &'static str, request_id: &str, message: &M, urgency: Urgency) -> Call {
        let request = (!request_id.is_empty()).then(|| Request {
            method,
            request_id: request_id.to_owned(),
            fingerprint: Bytes::copy_from_slice(&Sha256::digest(message.encode_to_vec())[..16]),
        });
        let namespace = Arc::clone(&self.namespace);
        Call {
            namespace,
            deadline: self.deadline,
            request,
            urgency,
            bytes: message.encoded_len(),
        }
    }

    /// How long the caller still waits, at most `most`. A little is kept back so that the answer arrives in time.
    pub fn patience(&self, most: Duration) -> Duration {
        let reserve = Duration::from_millis(50);
        let left = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(most, |left| left.saturating_sub(reserve).min(most))
    }
}

fn checked_namespace(namespace: &str) -> Result<Arc<str>, Refusal> {
    if namespace.is_empty() {
        return Ok(DEFAULT_NAMESPACE.into());
    }
    let mut check = check::Check::default();
    check.id("namespace", namespace);
    check.finish()?;
    Ok(namespace.into())
}

/// A `grpc-timeout` header: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

fn is_traceparent(text: &str) -> bool {
    let lengths = [2, 32, 16, 2];
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == lengths.len()
        && parts.iter().zip(lengths).all(|(part, length)| {
            part.len() == length
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
        })
}
