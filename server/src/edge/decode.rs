//! Messages that cannot be taken in: what the transport says of them is said again in the terms of the contract, with a reason.

use tonic::{Code, Status};

use crate::error::{Reason, Refusal};

/// How the transport's words begin for bytes that are no message, or nest too deep.
const MALFORMED: &str = "failed to decode Protobuf message: ";
/// How they begin for a message that is longer than it may be.
const TOO_LONG: &str = "Error, decoded message length too large: ";

/// A response with a better status, where the transport refused the request.
pub fn explain<B>(mut response: http::Response<B>) -> http::Response<B> {
    let refusal = Status::from_header_map(response.headers()).and_then(|status| refusal_of(&status));
    if let Some(refusal) = refusal {
        // A status that does not fit into headers leaves the transport's in place.
        let _ = Status::from(refusal).add_header(response.headers_mut());
    }
    response
}

/// What is wrong with a message that the transport could not take in; nothing if the status says something else.
pub fn refusal_of(status: &Status) -> Option<Refusal> {
    if status.code() == Code::Internal {
        // Where it went wrong comes first, and may be long: a field for each level of nesting.
        let problem = status.message().strip_prefix(MALFORMED)?;
        let cause = problem.rsplit(": ").next().unwrap_or(problem);
        let message = format!("the message is malformed, or nests too deep: {cause}");
        return Some(Refusal::new(Reason::InvalidRequest, message));
    }
    let sizes = status.message().strip_prefix(TOO_LONG)?;
    let mut sizes = sizes
        .split(|letter: char| !letter.is_ascii_digit())
        .filter(|digits| !digits.is_empty());
    let (size, limit) = (sizes.next()?, sizes.next()?);
    let message = format!("the message has {size} bytes, at most {limit} are allowed");
    let refusal = Refusal::new(Reason::PayloadTooLarge, message);
    Some(
        refusal
            .with("field", "")
            .with("limit_bytes", limit)
            .with("size_bytes", size),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(status: Status) -> Status {
        let response = explain(status.into_http::<()>());
        Status::from_header_map(response.headers()).expect("a status")
    }

    #[test]
    fn the_transports_words_become_reasons() {
        let malformed = explained(Status::internal(format!("{MALFORMED}A.b: B.c: invalid varint")));
        assert_eq!(malformed.code(), Code::InvalidArgument);
        assert!(malformed.message().ends_with(": invalid varint"), "{malformed}");
        let long = explained(Status::out_of_range(format!(
            "{TOO_LONG}found 7 bytes, the limit is: 5 bytes"
        )));
        assert_eq!(long.code(), Code::InvalidArgument);
        assert_eq!(long.message(), "the message has 7 bytes, at most 5 are allowed");
    }

    #[test]
    fn what_the_house_says_itself_stays_as_it_is() {
        for status in [
            Status::internal("the server failed"),
            Status::out_of_range("the cursor is ahead"),
        ] {
            assert_eq!(explained(status.clone()).code(), status.code());
        }
    }
}
