//! What a document becomes: put or deleted, if its version is the expected one.

use super::{Document, Version};
use crate::error::{Reason, Refusal};
use crate::events::Draft;
use crate::lane::{Decision, World};
use crate::locks::rules::{Guard, check_guards, want_guards};
use crate::payload::Payload;
use crate::sessions::rules::{caller, want_caller};

/// How many old versions one write deletes at most: a retention that was lowered is reached by and by.
const MAX_FORGOTTEN: i64 = 100;

/// A write of a document.
#[derive(Clone, Debug)]
pub struct Write {
    /// The document.
    pub state_id: String,
    /// The new content; none deletes it.
    pub payload: Option<Payload>,
    /// What the version must be; 0: it must not exist.
    pub expected_version: Option<i64>,
    /// Locks that must be held.
    pub guards: Vec<Guard>,
    /// The session that the caller acts under.
    pub session_id: Option<String>,
    /// The owner's version of the schema.
    pub schema_version: String,
    /// How many versions to keep; none leaves it as it is.
    pub retention: Option<i32>,
    /// How many versions a document keeps that nobody has said it of.
    pub default_retention: i32,
    /// Links the change's event to others.
    pub correlation_id: String,
    /// W3C trace context.
    pub traceparent: String,
}

/// What a write made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Written {
    /// The version.
    pub version: i64,
}

/// Says what [`write()`] will read.
pub fn want_write(world: &mut World, write: &Write) {
    want_caller(world, &write.session_id);
    want_guards(world, &write.guards);
    world.documents.want(&write.state_id);
}

/// Writes or deletes a document.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED, STALE_FENCING_TOKEN, VERSION_CONFLICT; STATE_NOT_FOUND for a deletion of nothing.
pub fn write(world: &mut World, write: &Write) -> Decision<Written> {
    let session = caller(world, &write.session_id)?;
    check_guards(world, &write.guards)?;
    let current = world.documents.get(&write.state_id)?;
    let existing = current.as_deref().filter(|document| document.payload.is_some());
    if write.payload.is_none() && existing.is_none() {
        return Err(not_found(&write.state_id).into());
    }
    let exposed = existing.map_or(0, |document| document.version);
    if let Some(expected) = write.expected_version
        && expected != exposed
    {
        return Err(conflict(&write.state_id, expected, existing).into());
    }

    let agent = session.map(|session| session.agent_id.clone()).unwrap_or_default();
    let version = current.as_ref().map_or(0, |document| document.version) + 1;
    let position = announce(world, write, version, &agent);
    let now = world.now();
    let document = Document {
        state_id: write.state_id.clone(),
        version,
        payload: write.payload.clone(),
        updated_by: agent,
        created_at: existing.map_or(now, |document| document.created_at),
        updated_at: now,
        position,
        schema_version: write.schema_version.clone(),
        retention: write
            .retention
            .or(current.as_ref().map(|document| document.retention))
            .unwrap_or(write.default_retention),
        first_version: current.as_ref().map_or(version, |document| document.first_version),
    };
    keep_versions(world, document);
    Ok(Written { version })
}

fn announce(world: &mut World, write: &Write, version: i64, agent: &str) -> i64 {
    let data = serde_json::json!({
        "state_id": write.state_id,
        "version": version,
        "deleted": write.payload.is_none(),
    });
    let draft = Draft::new("state.changed", &write.state_id)
        .data(&data)
        .source(agent)
        .correlation(&write.correlation_id)
        .trace(&write.traceparent);
    world.emit(draft)
}

/// Puts the document and its newest version, and deletes the versions that it no longer keeps.
fn keep_versions(world: &mut World, mut document: Document) {
    world.versions.put(Version {
        state_id: document.state_id.clone(),
        version: document.version,
        payload: document.payload.clone(),
        updated_by: document.updated_by.clone(),
        updated_at: document.updated_at,
        position: document.position,
        schema_version: document.schema_version.clone(),
    });
    let first_kept = document.version - i64::from(document.retention) + 1;
    let first_kept = first_kept.min(document.first_version + MAX_FORGOTTEN);
    while document.first_version < first_kept {
        world
            .versions
            .remove(&(document.state_id.clone(), document.first_version));
        document.first_version += 1;
    }
    world.documents.put(document);
}

/// The refusal of a document that is not there.
pub fn not_found(state_id: &str) -> Refusal {
    Refusal::new(Reason::StateNotFound, format!("there is no document {state_id}")).with("state_id", state_id)
}

fn conflict(state_id: &str, expected: i64, current: Option<&Document>) -> Refusal {
    let version = current.map_or(0, |document| document.version);
    let refusal = Refusal::new(
        Reason::VersionConflict,
        format!("the version of {state_id} is {version}, not {expected} as expected"),
    )
    .with("state_id", state_id)
    .with("expected_version", expected)
    .with("current_version", version);
    match current {
        Some(document) => refusal.with_document(document.clone()),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::DEFAULT_RETENTION;
    use crate::time::Time;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn a_write(state_id: &str, content: Option<i64>, expected_version: Option<i64>, retention: Option<i32>) -> Write {
        Write {
            state_id: state_id.to_owned(),
            payload: content.map(|content| Payload::of_json(&content.into())),
            expected_version,
            guards: Vec::new(),
            session_id: None,
            schema_version: String::new(),
            retention,
            default_retention: DEFAULT_RETENTION,
            correlation_id: String::new(),
            traceparent: String::new(),
        }
    }

    /// A document as its readers should see it.
    #[derive(Default)]
    struct Model {
        version: i64,
        content: Option<i64>,
    }

    proptest! {
        #[test]
        fn versions_go_up_by_one_and_no_update_is_lost(
            steps in prop::collection::vec(("[abc]", prop::option::of(0..9i64), prop::option::of(0..6i64), prop::option::of(1..4i32)), 1..200),
        ) {
            let mut world = World::whole(Time(1), 7);
            let mut models: HashMap<String, Model> = HashMap::new();
            for (id, content, expected, retention) in steps {
                let events = world.events().len();
                let outcome = world.attempt(|world| write(world, &a_write(&id, content, expected, retention)));
                let model = models.entry(id.clone()).or_default();
                let exposed = if model.content.is_some() { model.version } else { 0 };
                let wanted = expected.is_none_or(|expected| expected == exposed)
                    && (content.is_some() || model.content.is_some());
                match outcome {
                    Ok(written) => {
                        prop_assert!(wanted);
                        prop_assert_eq!(written.version, model.version + 1);
                        *model = Model { version: written.version, content };
                        prop_assert_eq!(world.events().len(), events + 1);
                    }
                    Err(refusal) => {
                        prop_assert!(!wanted, "{}", refusal);
                        prop_assert_eq!(world.events().len(), events);
                    }
                }
                let document = world.documents.get(&id).unwrap();
                if let Some(document) = document {
                    prop_assert_eq!(document.version, model.version);
                    prop_assert_eq!(&document.payload, &model.content.map(|content| Payload::of_json(&content.into())));
                    let kept: Vec<i64> = world.versions.known().iter().filter(|row| row.state_id == id).map(|row| row.version).collect();
                    let first = (document.version - i64::from(document.retention) + 1).max(document.first_version);
                    prop_assert_eq!(kept, (first..=document.version).collect::<Vec<_>>());
                }
            }
        }
    }
}
