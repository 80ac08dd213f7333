//! The log: positions without gaps, in the order of the commits; what was acknowledged is in it, or was lost and is said to be.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Batch, Check, Verdict};
use crate::events::Event;
use crate::store::Head;
use crate::store::simulated::Memory;
use crate::tail::Cursor;
use crate::time::Time;

/// The log of a namespace.
#[derive(Default)]
pub struct Log {
    head: Option<Head>,
    /// Every event, by position less one.
    events: Vec<Arc<Event>>,
    /// The ids that clients gave to events.
    ids: BTreeSet<String>,
    /// What standbys had not heard of.
    lost: Vec<Lost>,
    /// The epoch that a standby began.
    next_epoch: i64,
}

/// The end of a history that was lost.
struct Lost {
    /// The epoch that began instead.
    epoch: i64,
    /// The last position that was kept.
    kept: i64,
    events: Vec<Arc<Event>>,
    batches: i64,
}

/// What a client was told: that everything up to a cursor happened, and that something of it did.
pub struct Claim<'a> {
    pub cursor: &'a str,
    pub position: i64,
}

impl Log {
    pub(super) fn begin_epoch(&mut self, epoch: i64) {
        self.next_epoch = epoch;
    }

    /// The position of the last event.
    pub fn position(&self) -> i64 {
        self.events.len() as i64
    }

    /// The event at a position.
    pub fn event(&self, position: i64) -> Option<&Arc<Event>> {
        self.events.get(usize::try_from(position - 1).ok()?)
    }

    /// The events after a position.
    pub fn after(&self, position: i64) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().skip(usize::try_from(position).unwrap_or(0))
    }

    /// How often something was lost.
    pub fn losses(&self) -> usize {
        self.lost.iter().filter(|lost| lost.batches > 0).count()
    }

    /// Whether what a cursor has seen was lost, in part.
    pub fn is_lost(&self, cursor: Cursor) -> bool {
        self.lost
            .iter()
            .any(|lost| cursor.epoch < lost.epoch && cursor.position > lost.kept)
    }

    /// Whether an event was lost.
    pub fn has_lost(&self, position: i64, id: &str) -> bool {
        let mut lost = self.lost.iter().flat_map(|lost| &lost.events);
        lost.any(|event| event.position == position && event.id() == id)
    }

    /// The cursor of a claim that is not lost; nothing of one that is.
    ///
    /// # Errors
    /// If it is ahead of everything that ever happened.
    pub fn stands(&self, claim: &Claim) -> Result<Option<Cursor>, String> {
        let cursor = Cursor::decode(claim.cursor, "cursor").map_err(|_| format!("no cursor: {}", claim.cursor))?;
        if cursor.position != claim.position {
            return Err(format!("cursor {cursor:?} beside position {}", claim.position));
        }
        if self.is_lost(cursor) {
            return Ok(None);
        }
        let epoch = self.head.as_ref().map_or(0, |head| head.epoch).max(self.next_epoch);
        if cursor.position > self.position() || cursor.epoch > epoch {
            return Err(format!(
                "told of {cursor:?}, but the log is at {} in epoch {epoch}",
                self.position()
            ));
        }
        Ok(Some(cursor))
    }

    fn check(&self, batch: &Batch) -> Verdict {
        let head = batch.head;
        let empty = Head::new(Time(0));
        let before = self.head.as_ref().unwrap_or(&empty);
        if head.batch != before.batch + 1 {
            return Err(format!("it follows batch {}", before.batch));
        }
        for (position, event) in (before.position + 1..).zip(&batch.events) {
            if event.position != position || event.at != head.now {
                return Err(format!(
                    "an event at {} where {position} is next: {event:?}",
                    event.position
                ));
            }
        }
        if head.position != before.position + batch.events.len() as i64 {
            return Err(format!("it leaves the log at {}", head.position));
        }
        let runs_back = head.now < before.now
            || head.epoch < before.epoch.max(self.next_epoch)
            || head.last_token < before.last_token
            || head.first_position < before.first_position;
        if runs_back {
            return Err(format!("{head:?} runs back from {before:?}"));
        }
        Ok(())
    }
}

impl Check for Log {
    fn committed(&mut self, batch: &Batch) -> Verdict {
        let mut verdict = self.check(batch);
        for id in batch.events.iter().filter_map(|event| event.given_id.clone()) {
            if !self.ids.insert(id.clone()) {
                verdict = verdict.and(Err(format!("an event {id} was there")));
            }
        }
        self.head = Some(batch.head.clone());
        self.events.extend(batch.events.iter().cloned());
        verdict
    }

    fn failed_over(&mut self, namespace: &str, memory: &Memory) {
        let head = memory.head(namespace, Time(0));
        let kept = usize::try_from(head.position).unwrap_or(0);
        let before = self.head.as_ref().map_or(0, |head| head.batch);
        let events = self.events.split_off(kept.min(self.events.len()));
        for id in events.iter().filter_map(|event| event.given_id.as_ref()) {
            self.ids.remove(id);
        }
        self.lost.push(Lost {
            epoch: self.next_epoch,
            kept: head.position,
            batches: before - head.batch,
            events,
        });
        self.head = (head.batch > 0).then_some(head);
    }
}
