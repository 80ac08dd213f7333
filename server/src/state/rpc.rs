//! The door of the state room.

use drumline_proto::v1;

use super::{Document, Version};
use crate::edge::payload;

/// A document for the wire.
pub fn to_proto(document: &Document) -> v1::State {
    v1::State {
        state_id: document.state_id.clone(),
        version: document.version,
        payload: document.payload.as_ref().map(payload::to_proto),
        deleted: document.payload.is_none(),
        updated_by: document.updated_by.clone(),
        create_time: Some(payload::timestamp(document.created_at)),
        update_time: Some(payload::timestamp(document.updated_at)),
        position: document.position,
        schema_version: document.schema_version.clone(),
        version_retention: document.retention,
    }
}
