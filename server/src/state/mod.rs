//! State: versioned documents that agents share.
//!
//! The lane decides every write, so a compare-and-swap cannot lose an update. A deleted document keeps its row, so its versions
//! go on when it is made again. Old versions are kept up to the document's retention and deleted by the write that exceeds it.

pub mod rpc;
pub mod rules;
pub mod store;
pub mod watch;

use crate::payload::Payload;
use crate::time::Time;

/// How many versions of a document are kept unless it says otherwise.
pub const DEFAULT_RETENTION: i32 = 10;
/// How many versions of a document can be kept.
pub const MAX_RETENTION: i32 = 1_000;

/// A document as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its id.
    pub state_id: String,
    /// 1, 2, 3…; goes on through deletions.
    pub version: i64,
    /// The content; none when deleted.
    pub payload: Option<Payload>,
    /// Who wrote it last.
    pub updated_by: String,
    /// When it was first made.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
    /// Where in the log it last changed.
    pub position: i64,
    /// The owner's version of its schema.
    pub schema_version: String,
    /// How many versions of it are kept.
    pub retention: i32,
    /// The oldest version that is kept.
    pub first_version: i64,
}

/// A version of a document, the newest among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// The document.
    pub state_id: String,
    /// The version.
    pub version: i64,
    /// The content; none if this version is a deletion.
    pub payload: Option<Payload>,
    /// Who wrote it.
    pub updated_by: String,
    /// When.
    pub updated_at: Time,
    /// Where in the log.
    pub position: i64,
    /// The owner's version of its schema.
    pub schema_version: String,
}
