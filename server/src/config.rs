//! What a server can be told. One struct, checked once.

use std::time::Duration;

/// What the server accepts from clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest payload, in bytes.
    pub max_payload_bytes: usize,
    /// The largest message, in bytes.
    pub max_message_bytes: usize,
    /// How long a broken stream may stay broken before its agent counts as dead.
    pub reconnect_grace: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_payload_bytes: 1 << 20,
            max_message_bytes: 4 << 20,
            reconnect_grace: Duration::from_secs(1),
        }
    }
}
