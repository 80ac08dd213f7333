//! Publishing: what clients say becomes part of the log.

use super::{Draft, EventIdRecord, made_id};
use crate::lane::{BatchRecord, Decision, RequestRecord, World};
use crate::locks::rules::{Guard, check_guards, want_guards};
use crate::sessions::rules::{caller, want_caller};
use crate::store::Trim;
use crate::store::row::{Row, Value};
use crate::time::Time;

/// The first segments of the types that only the server makes.
pub const RESERVED: [&str; 5] = ["agent", "task", "resource", "state", "workflow"];
/// How many events one job deletes at most.
const TRIM_CHUNK: i64 = 2_000;

/// Events to be published, all or none.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The events. Their source is the session's agent.
    pub drafts: Vec<Draft>,
    /// Locks that must be held.
    pub guards: Vec<Guard>,
    /// The session that the caller acts under.
    pub session_id: Option<String>,
}

/// What became of a publication. It is kept with the request, so it is short: a line for each stretch of events whose positions follow
/// one another, not for each event.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Published {
    /// The time of those that were appended.
    at: Time,
    /// In the order of the publication.
    stretches: Vec<Stretch>,
}

/// Events of a publication that follow one another.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Stretch {
    /// The position of the first.
    position: i64,
    /// How many there are.
    count: i64,
    /// Whether they were there before.
    duplicate: bool,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedEvent {
    /// Its position; for a duplicate, that of the first.
    pub position: i64,
    /// Whether an event with its id was there before.
    pub duplicate: bool,
    /// Its id.
    pub event_id: String,
}

impl Published {
    fn add(&mut self, position: i64, duplicate: bool) {
        match self.stretches.last_mut() {
            Some(last) if last.duplicate == duplicate && last.position + last.count == position => last.count += 1,
            _ => self.stretches.push(Stretch {
                position,
                count: 1,
                duplicate,
            }),
        }
    }

    /// What became of each event of the publication.
    pub fn events<'a>(&'a self, publication: &'a Publication) -> impl Iterator<Item = PublishedEvent> + 'a {
        let places = self.stretches.iter().flat_map(|stretch| {
            let positions = stretch.position..stretch.position + stretch.count;
            positions.map(|position| (position, stretch.duplicate))
        });
        let drafts = publication.drafts.iter().zip(places);
        drafts.map(|(draft, (position, duplicate))| PublishedEvent {
            position,
            duplicate,
            event_id: draft.given_id.clone().unwrap_or_else(|| made_id(self.at, position)),
        })
    }
}

/// Says what [`publish`] will read.
pub fn want_publish(world: &mut World, publication: &Publication) {
    want_caller(world, &publication.session_id);
    want_guards(world, &publication.guards);
    for id in publication.drafts.iter().filter_map(|draft| draft.given_id.as_ref()) {
        world.event_ids.want(id);
    }
}

/// Appends events to the log.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED, STALE_FENCING_TOKEN.
pub fn publish(world: &mut World, publication: &Publication) -> Decision<Published> {
    let session = caller(world, &publication.session_id)?;
    check_guards(world, &publication.guards)?;
    let agent = session.map(|session| session.agent_id.clone()).unwrap_or_default();
    let mut published = Published {
        at: world.now(),
        stretches: Vec::new(),
    };
    for draft in &publication.drafts {
        if let Some(id) = &draft.given_id {
            if let Some(first) = world.event_ids.get(id)? {
                published.add(first.position, true);
                continue;
            }
            let position = world.head().position + 1;
            world.event_ids.put(EventIdRecord {
                event_id: id.clone(),
                position,
            });
        }
        published.add(world.emit(draft.clone().source(&agent)), false);
    }
    Ok(published)
}

/// Deletes events that are no longer kept, a bounded number of them: those up to `last_expired`. Returns whether that was all.
pub fn forget(world: &mut World, last_expired: i64) -> Decision<bool> {
    let first = world.head().first_position;
    let up_to = last_expired.min(first + TRIM_CHUNK - 1).min(world.head().position);
    if up_to >= first {
        world.begin_log_at(up_to + 1);
        let limit = usize::try_from(up_to - first + 1).unwrap_or(0);
        let trim = |table, index| Trim {
            table,
            index,
            from: Value::Int(first),
            up_to: Value::Int(up_to),
            limit,
        };
        world.trim(trim(super::Event::TABLE, super::Event::PRIMARY));
        world.trim(trim(EventIdRecord::TABLE, EventIdRecord::BY_POSITION));
    }
    Ok(up_to >= last_expired)
}

/// Deletes answers to requests and notes of batches that are no longer kept, a bounded number of them: of which the oldest is from
/// `oldest`, or from later.
pub fn forget_requests(world: &mut World, oldest: Time, before: Time) -> Decision<()> {
    let trim = |table, index| Trim {
        table,
        index,
        from: Value::Int(oldest.0),
        up_to: Value::Int(before.0),
        limit: TRIM_CHUNK as usize,
    };
    world.trim(trim(RequestRecord::TABLE, RequestRecord::BY_AGE));
    world.trim(trim(BatchRecord::TABLE, BatchRecord::BY_AGE));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::position_of_made_id;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn positions_are_gapless_and_a_given_id_has_one(
            batches in prop::collection::vec(prop::collection::vec(prop::option::of("[abcdef]"), 1..8), 1..60),
        ) {
            let mut world = World::whole(Time(1_700_000_000_000_000), 3);
            let mut next = 1;
            let mut first: HashMap<String, i64> = HashMap::new();
            for ids in batches {
                let drafts: Vec<Draft> = ids
                    .iter()
                    .map(|id| Draft { given_id: id.clone(), ..Draft::new("review.note", "x") })
                    .collect();
                let publication = Publication { drafts, guards: Vec::new(), session_id: None };
                let published = world.attempt(|world| publish(world, &publication)).unwrap();
                prop_assert_eq!(published.events(&publication).count(), ids.len());
                for (id, published) in ids.iter().zip(published.events(&publication)) {
                    let known = id.as_ref().and_then(|id| first.get(id)).copied();
                    prop_assert_eq!(published.duplicate, known.is_some());
                    prop_assert_eq!(published.position, known.unwrap_or(next));
                    match id {
                        Some(id) => { first.entry(id.clone()).or_insert(published.position); }
                        None => prop_assert_eq!(position_of_made_id(&published.event_id), Some(published.position)),
                    }
                    next += i64::from(known.is_none());
                }
            }
            let positions: Vec<i64> = world.events().iter().map(|event| event.position).collect();
            prop_assert_eq!(positions, (1..next).collect::<Vec<_>>());
        }
    }
}
