//! A refusal as a gRPC status, with `ErrorInfo`, `BadRequest` and `RetryInfo` where they belong.

use std::collections::HashMap;

use drumline_proto::v1;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::pb;

use crate::error::{Class, Reason, Refusal};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "drumline";

/// The code of a class of reasons.
fn code(class: Class) -> Code {
    match class {
        Class::InvalidArgument => Code::InvalidArgument,
        Class::NotFound => Code::NotFound,
        Class::AlreadyExists => Code::AlreadyExists,
        Class::FailedPrecondition => Code::FailedPrecondition,
        Class::Aborted => Code::Aborted,
        Class::OutOfRange => Code::OutOfRange,
        Class::ResourceExhausted => Code::ResourceExhausted,
        Class::Unavailable => Code::Unavailable,
        Class::Unknown => Code::Unknown,
        Class::DeadlineExceeded => Code::DeadlineExceeded,
        Class::Internal => Code::Internal,
    }
}

fn any<M: Message>(name: &str, message: &M) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let info = pb::ErrorInfo {
            reason: refusal.reason().name().to_owned(),
            domain: DOMAIN.to_owned(),
            metadata: refusal
                .metadata()
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect::<HashMap<_, _>>(),
        };
        let mut details = vec![any("google.rpc.ErrorInfo", &info)];
        if !refusal.violations().is_empty() {
            let field_violations = refusal
                .violations()
                .iter()
                .map(|violation| pb::bad_request::FieldViolation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                    ..Default::default()
                });
            let bad_request = pb::BadRequest {
                field_violations: field_violations.collect(),
            };
            details.push(any("google.rpc.BadRequest", &bad_request));
        }
        if let Some(delay) = refusal.retry_delay() {
            let retry = pb::RetryInfo {
                retry_delay: prost_types::Duration::try_from(delay).ok(),
            };
            details.push(any("google.rpc.RetryInfo", &retry));
        }
        if let Some(document) = refusal.document() {
            details.push(any("drumline.v1.State", &crate::state::rpc::to_proto(document)));
        }
        let code = code(refusal.reason().class());
        let status = pb::Status {
            code: code as i32,
            message: refusal.message().to_owned(),
            details,
        };
        Status::with_details(code, refusal.message(), status.encode_to_vec().into())
    }
}

/// A refusal as an answer on a stream.
pub fn to_error(refusal: &Refusal) -> v1::Error {
    v1::Error {
        code: code(refusal.reason().class()) as i32,
        message: refusal.message().to_owned(),
        reason: to_reason(refusal.reason()) as i32,
        metadata: refusal
            .metadata()
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect(),
        retry_delay: refusal
            .retry_delay()
            .and_then(|delay| prost_types::Duration::try_from(delay).ok()),
    }
}

fn to_reason(reason: Reason) -> v1::Reason {
    v1::Reason::from_str_name(&format!("REASON_{}", reason.name())).unwrap_or(v1::Reason::Unspecified)
}
