//! Running a recursive function on a thread with a deep stack.

use std::any::Any;
use std::thread;

use super::error::{ErrorKind, ExprError};

/// Stack of a helper thread. Virtual memory: only the pages which are touched cost anything.
const DEEP_STACK_BYTES: usize = 64 << 20;

/// Runs `work` on a fresh thread with a deep stack and waits for it.
///
/// The inner error is the message of the panic `work` ended with, if it did; the outer one says
/// that the system could not start a thread.
pub(super) fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<Result<T, String>, ExprError> {
    thread::scope(|scope| {
        let spawned = thread::Builder::new()
            .name("expression".to_owned())
            .stack_size(DEEP_STACK_BYTES)
            .spawn_scoped(scope, work);
        match spawned {
            Ok(handle) => Ok(handle.join().map_err(|panic| panic_message(panic.as_ref()))),
            Err(error) => Err(ExprError::new(
                ErrorKind::Evaluation,
                format!("no thread could be started for the expression: {error}"),
            )),
        }
    })
}

/// What a panic said, as far as it is text.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text.as_str(),
        (None, None) => "unknown panic",
    };
    text.to_owned()
}
