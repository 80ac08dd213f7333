//! What an agent can do: the description that others find it by, and the function that does it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1 as pb;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::TaskContext;
use crate::error::{Error, Reason};
use crate::{payload, time};

/// What a handler makes of a task.
pub(crate) type Outcome = Result<pb::Payload, TaskFailure>;
/// A handler, whatever its types.
pub(crate) type Handler = Arc<dyn Fn(TaskContext, pb::Payload) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// The description of something that an agent can do.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Capability(pub(crate) pb::Capability);

impl Capability {
    /// A capability of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(pb::Capability {
            name: name.into(),
            ..Default::default()
        })
    }

    /// For people and for language models.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.0.description = description.into();
        self
    }

    /// The JSON Schema that an input must fit, or the task is refused when it is delegated.
    pub fn input_schema(mut self, schema: &serde_json::Value) -> Self {
        self.0.input_schema = schema.to_string();
        self
    }

    /// The JSON Schema of the result, for readers.
    pub fn output_schema(mut self, schema: &serde_json::Value) -> Self {
        self.0.output_schema = schema.to_string();
        self
    }

    /// How long it usually takes.
    pub fn estimated_duration(mut self, duration: Duration) -> Self {
        self.0.estimated_duration = Some(time::to_proto(duration));
        self
    }

    /// A free word to find it by.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.0.tags.push(tag.into());
        self
    }
}

impl From<&str> for Capability {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// Why an attempt failed. Any error becomes one with `?`, and is then tried again; what is pointless to try
/// again is made [`permanent`](TaskFailure::permanent).
#[derive(Clone, Debug, PartialEq)]
pub struct TaskFailure(pub(crate) pb::TaskError);

impl TaskFailure {
    /// A failure of a kind, which is a short word that programs can tell apart.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        let mut message = message.into();
        truncate(&mut message, 16 << 10);
        Self(pb::TaskError {
            kind: kind.into(),
            message,
            permanent: false,
        })
    }

    /// The same, said to be pointless to try again.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.0.permanent = true;
        self
    }

    /// The short word.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether it is pointless to try again.
    pub fn is_permanent(&self) -> bool {
        self.0.permanent
    }
}

impl<E: std::error::Error + 'static> From<E> for TaskFailure {
    fn from(error: E) -> Self {
        let any: &(dyn std::error::Error + 'static) = &error;
        let kind = match any.downcast_ref::<Error>().map(Error::reason) {
            None | Some(Reason::Unspecified) => "error".to_owned(),
            Some(reason) => reason.as_str_name().trim_start_matches("REASON_").to_lowercase(),
        };
        Self::new(kind, error.to_string())
    }
}

/// Cuts a text to at most so many bytes, between characters.
pub(crate) fn truncate(text: &mut String, most: usize) {
    if text.len() > most {
        let mut end = most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}

/// Wraps a typed function.
pub(crate) fn typed<In, Out, F, Fut>(function: F) -> Handler
where
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + 'static,
    F: Fn(TaskContext, In) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, TaskFailure>> + Send + 'static,
{
    Arc::new(move |context, input| {
        let input = payload::decode::<In>(&input);
        let work = input.map(|input| function(context, input));
        Box::pin(async move {
            let work = work.map_err(|error| TaskFailure::new("invalid_input", error.to_string()).permanent())?;
            let output = work.await?;
            payload::json(&output).map_err(|error| TaskFailure::new("invalid_result", error.to_string()).permanent())
        })
    })
}

/// Wraps a function of payloads.
pub(crate) fn raw<F, Fut>(function: F) -> Handler
where
    F: Fn(TaskContext, pb::Payload) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    Arc::new(move |context, input| Box::pin(function(context, input)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_is_a_failure_that_is_tried_again() {
        fn fails() -> Result<(), TaskFailure> {
            "x".parse::<u8>()?;
            Ok(())
        }
        let failure = fails().expect_err("not a number");
        assert_eq!(failure.kind(), "error");
        assert!(!failure.is_permanent());
    }

    #[test]
    fn a_refusal_keeps_its_reason_as_the_kind() {
        let error = pb::Error {
            reason: Reason::LockHeld as i32,
            ..Default::default()
        };
        assert_eq!(TaskFailure::from(Error::from_frame(error)).kind(), "lock_held");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let failure = TaskFailure::new("k", "ä".repeat(9_000));
        assert_eq!(failure.message().len(), 16 << 10);
        let mut text = "aä".to_owned();
        truncate(&mut text, 2);
        assert_eq!(text, "a");
    }
}
