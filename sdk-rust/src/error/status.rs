//! Errors out of the statuses of calls and streams, with their `google.rpc` details.

use std::sync::Arc;

use drumline_proto::v1 as pb;
use prost::Message;
use tonic::Code;
use tonic_types::StatusExt;

use super::{Error, Kind, Reason, Violation};

/// The domain of the server's `google.rpc.ErrorInfo`.
const DOMAIN: &str = "drumline";
/// The type of the document in the details of a version conflict.
const STATE_TYPE: &str = "drumline.v1.State";

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let code = status.code();
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let kind = match (info.is_some(), code) {
            (true, Code::DeadlineExceeded) | (false, Code::DeadlineExceeded) => Kind::Deadline,
            (true, _) => Kind::Refused,
            // Without the server's own words these are what the transport makes of a broken connection.
            (false, Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled) => Kind::Transport,
            (false, _) => Kind::Refused,
        };
        let mut made = Self::local(kind, code, status.message());
        if let Some(info) = info {
            let name = format!("REASON_{}", info.reason);
            made.0.reason = Reason::from_str_name(&name).unwrap_or(Reason::Unspecified);
            made.0.metadata = info.metadata.clone().into_iter().collect();
        }
        made.0.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        if let Some(request) = details.bad_request() {
            let violations = request.field_violations.iter().map(|violation| Violation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            });
            made.0.violations = violations.collect();
        }
        made.0.conflict = conflict_in(&status);
        made.0.unsent = kind == Kind::Transport && is_unsent(&status);
        made.0.source = Some(Arc::new(status));
        made
    }
}

/// Whether it failed for want of a connection, so that nothing was sent.
fn is_unsent(status: &tonic::Status) -> bool {
    let first = std::error::Error::source(status);
    std::iter::successors(first, |error| error.source()).any(|error| error.is::<tonic::ConnectError>())
}

/// The current document in the details of a version conflict.
fn conflict_in(status: &tonic::Status) -> Option<pb::State> {
    let details = tonic_types::Status::decode(status.details()).ok()?.details;
    let any = details
        .into_iter()
        .find(|any| any.type_url.rsplit('/').next() == Some(STATE_TYPE))?;
    pb::State::decode(any.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use tonic_types::{ErrorDetail, ErrorInfo, RetryInfo};

    fn refused(code: Code, reason: &str, more: Vec<ErrorDetail>) -> tonic::Status {
        let info = ErrorInfo::new(reason, DOMAIN, [("resource_id".to_owned(), "r".to_owned())]);
        let mut details = vec![ErrorDetail::from(info)];
        details.extend(more);
        tonic::Status::with_error_details_vec(code, "no", details)
    }

    #[test]
    fn a_refusal_keeps_reason_metadata_and_retry_hint() {
        let hint = RetryInfo::new(Some(Duration::from_millis(70)));
        let status = refused(Code::ResourceExhausted, "OVERLOADED", vec![hint.into()]);
        let error = Error::from(status);
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(error.reason(), Reason::Overloaded);
        assert_eq!(error.get("resource_id"), Some("r"));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(70)));
        assert!(error.is_retryable());
        assert_eq!(error.to_string(), "OVERLOADED: no");
    }

    #[test]
    fn a_final_refusal_is_not_retried() {
        let error = Error::from(refused(Code::Aborted, "LOCK_HELD", vec![]));
        assert!(error.is_lock_held());
        assert!(!error.is_retryable());
        let exhausted = Error::from(refused(Code::ResourceExhausted, "SLOW_CONSUMER", vec![]));
        assert!(!exhausted.is_retryable());
    }

    #[test]
    fn a_broken_connection_is_transport_and_retried() {
        let error = Error::from(tonic::Status::unavailable("connection refused"));
        assert_eq!(error.kind(), Kind::Transport);
        assert!(error.is_retryable() && error.is_indeterminate());
        assert_eq!(Error::from(tonic::Status::unimplemented("")).kind(), Kind::Refused);
    }

    #[test]
    fn a_version_conflict_brings_the_current_document() {
        let state = pb::State {
            state_id: "s".into(),
            version: 7,
            ..Default::default()
        };
        let any = |url: &str, value: Vec<u8>| prost_types::Any {
            type_url: url.into(),
            value,
        };
        let whole = tonic_types::Status {
            code: Code::Aborted as i32,
            message: "conflict".into(),
            details: vec![any("type.googleapis.com/drumline.v1.State", state.encode_to_vec())],
        };
        let bytes = whole.encode_to_vec().into();
        let status = tonic::Status::with_details(Code::Aborted, "conflict", bytes);
        assert_eq!(Error::from(status).conflict(), Some(&state));
    }
}
