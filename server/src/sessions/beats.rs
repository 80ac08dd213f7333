//! Signs of life: when each live session was last heard of. Kept beside the lane, because a heartbeat decides nothing.

use std::sync::Arc;

use crate::tail::Observer;

/// The last signs of life. Cheap to clone.
#[derive(Clone, Default)]
pub struct Beats;

impl Beats {
    /// No sign of life yet.
    pub fn new() -> Beats {
        Beats
    }

    /// What keeps the sessions in step with what is committed.
    pub fn observer(&self) -> Observer {
        Box::new(|_commit: &Arc<crate::lane::Commit>| {})
    }
}
