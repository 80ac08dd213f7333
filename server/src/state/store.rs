//! The rows of documents and their versions.

use super::{Document, Version};
use crate::payload::Payload;
use crate::row;
use crate::time::Time;

row! {
    Document: String = "documents" (state_id: String) {
        version: i64,
        payload: Option<Payload>,
        updated_by: String,
        created_at: Time,
        updated_at: Time,
        position: i64,
        schema_version: String,
        retention: i32,
        first_version: i64,
    }
}

row! {
    Version: (String, i64) = "document_versions" (state_id: String, version: i64) {
        payload: Option<Payload>,
        updated_by: String,
        updated_at: Time,
        position: i64,
        schema_version: String,
    }
    index BY_DOCUMENT = "document_versions_by_document": (state_id) -> (version);
}
