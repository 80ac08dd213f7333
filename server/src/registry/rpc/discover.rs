//! Discovery: the fittest agents that match, from the directory that the tail keeps in memory.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use prost::Message;

use super::view;
use crate::app::App;
use crate::edge::Context;
use crate::edge::check::{Check, MAX_ID};
use crate::edge::page::{self, Page};
use crate::error::{Reason, Refusal};
use crate::machine::HashSet;
use crate::store::row::Value;
use crate::tail::{Cursor, Directory, Entry, Feed, Place};
use crate::time::Time;

/// How many agents are looked at under one lock of the directory: commits wait for it.
const CHUNK: usize = 1_000;
/// How long a list waits for a position.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which agents.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    capability: Option<String>,
    statuses: Vec<v1::agent::Status>,
    labels: BTreeMap<String, String>,
    minimum_free_slots: i32,
    /// In small letters.
    text: String,
}

impl Wanted {
    pub(super) fn new(check: &mut Check, filter: Option<v1::AgentFilter>) -> Wanted {
        let filter = filter.unwrap_or_default();
        let mut statuses = Vec::new();
        for status in filter.statuses.iter().take(16) {
            match v1::agent::Status::try_from(*status) {
                Ok(v1::agent::Status::Unspecified) | Err(_) => {
                    check.violation("filter.statuses", "has a status that is not one");
                }
                Ok(status) if statuses.contains(&status) => {}
                Ok(status) => statuses.push(status),
            }
        }
        let capability = check.optional_id("filter.capability", &filter.capability);
        if filter.minimum_free_slots < 0 {
            check.violation("filter.minimum_free_slots", "must not be negative");
        }
        Wanted {
            capability: (!capability.is_empty()).then_some(capability),
            statuses,
            labels: check.labels("filter.labels", filter.labels.into_iter().collect()),
            minimum_free_slots: filter.minimum_free_slots,
            text: check.text("filter.text", &filter.text, MAX_ID).to_lowercase(),
        }
    }

    /// Whether an agent is wanted.
    pub(super) fn matches(&self, entry: &Entry) -> bool {
        self.capability.as_ref().is_none_or(|name| {
            let mut names = entry.agent.capabilities.iter().map(|capability| &capability.name);
            names.any(|known| known == name)
        }) && self.matches_beside(entry)
    }

    /// Whether an agent that has the capability is wanted.
    fn matches_beside(&self, entry: &Entry) -> bool {
        let agent = &entry.agent;
        let status = view::status(agent, entry.session.as_deref());
        let has_status = match self.statuses.as_slice() {
            [] => status != v1::agent::Status::Offline,
            statuses => statuses.contains(&status),
        };
        has_status
            && entry.free_slots() >= self.minimum_free_slots
            && self
                .labels
                .iter()
                .all(|(name, value)| agent.labels.get(name) == Some(value))
            && self.has_text(entry)
    }

    fn has_text(&self, entry: &Entry) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&self.text);
        let agent = &entry.agent;
        self.text.is_empty()
            || has(&agent.agent_id)
            || has(&agent.agent_name)
            || agent.capabilities.iter().any(|capability| {
                has(&capability.name) || has(&capability.description) || capability.tags.iter().any(|tag| has(tag))
            })
    }

    /// Whether nobody from this place on can be wanted: the fittest come first.
    fn is_over(&self, place: &Place) -> bool {
        let least = if self.statuses.is_empty() { 0 } else { -1 };
        place.free.0 < self.minimum_free_slots.max(least)
    }

    /// What a page token belongs to.
    fn list(&self) -> String {
        format!("agents/{self:?}")
    }
}

/// What a look at the directory found.
pub(super) struct Found {
    /// The agents that match.
    pub(super) entries: Vec<Entry>,
    /// After this place it goes on; nothing if that was all.
    pub(super) next: Option<Place>,
    /// What the directory has seen.
    pub(super) position: i64,
}

/// Looks at some agents from a place on, at most until `most` of them match.
pub(super) fn look(directory: &Directory, wanted: &Wanted, after: Option<&Place>, most: usize) -> Found {
    let mut found = Found {
        entries: Vec::new(),
        next: None,
        position: directory.position(),
    };
    let mut last: Option<&Place> = None;
    for (looked, (place, entry)) in directory.ranked(wanted.capability.as_deref(), after).enumerate() {
        if wanted.is_over(place) {
            return found;
        }
        if looked == CHUNK || found.entries.len() == most {
            found.next = last.cloned();
            return found;
        }
        last = Some(place);
        if wanted.matches_beside(entry) {
            found.entries.push(entry.clone());
        }
    }
    found
}

pub(super) async fn list(
    app: &App,
    context: &Context,
    request: v1::ListAgentsRequest,
) -> Result<v1::ListAgentsResponse, Refusal> {
    let mut check = Check::default();
    let wanted = Wanted::new(&mut check, request.filter);
    check.finish()?;
    let list = wanted.list();
    let page = Page::new(request.page_size, &request.page_token, &list)?;
    let mut after = page.after.map(place_of).transpose()?;
    let feed = app.tail.feed_as_it_is(&context.namespace).await?;
    wait_for(&feed, context, &request.min_position).await?;

    let mut agents: Vec<v1::Agent> = Vec::new();
    let mut seen: HashSet<String> = HashSet::default();
    let mut bytes = 0;
    let mut next_page_token = String::new();
    let position = 'pages: loop {
        let most = page.size - agents.len() + 1;
        let found = feed
            .directory(|directory| look(directory, &wanted, after.as_ref(), most))
            .await?;
        let sessions = found.entries.iter().map(|entry| entry.session.as_deref());
        let clock = view::Clock::now();
        let heard = app.beats.last_of_each(&context.namespace, sessions);
        agents.reserve(found.entries.len().min(page.size - agents.len()));
        let mut last: Option<Entry> = None;
        for (entry, heard) in found.entries.into_iter().zip(heard) {
            if agents.len() == page.size || (bytes > app.limits.max_message_bytes / 2 && !agents.is_empty()) {
                after = last.map(|last| last.place()).or(after);
                next_page_token = after.map_or(String::new(), |after| token(&after, &list));
                break 'pages found.position;
            }
            if !seen.contains(&entry.agent.agent_id) {
                let agent = view::heard(
                    &entry.agent,
                    entry.session.as_deref(),
                    heard.map(|heard| clock.time(heard)),
                );
                bytes += agent.encoded_len();
                agents.push(agent);
            }
            last = Some(entry);
        }
        match found.next {
            Some(next) => after = Some(next),
            None => break found.position,
        }
        // An agent whose place changes between two looks is not sent twice.
        let sent = agents.iter().skip(seen.len());
        seen.extend(sent.map(|agent| agent.agent_id.clone()));
        tokio::task::yield_now().await;
    };
    Ok(v1::ListAgentsResponse {
        agents,
        next_page_token,
        position,
        cursor: feed.cursor(position),
    })
}

fn token(place: &Place, list: &str) -> String {
    let place = [
        Value::Int(i64::from(place.free.0)),
        Value::Int(place.last_assigned_at.0),
        Value::Text(place.agent_id.to_string()),
    ];
    page::token(&place, list)
}

fn place_of(after: Vec<Value>) -> Result<Place, Refusal> {
    match after.as_slice() {
        [Value::Int(free), Value::Int(last_assigned_at), Value::Text(agent_id)] => Ok(Place {
            free: Reverse(i32::try_from(*free).unwrap_or(i32::MAX)),
            last_assigned_at: Time(*last_assigned_at),
            agent_id: agent_id.as_str().into(),
        }),
        _ => Err(Refusal::new(
            Reason::InvalidPageToken,
            "the page token is not one of this list's",
        )),
    }
}

/// Waits until the directory has seen a position, given as a number or as a cursor.
async fn wait_for(feed: &Arc<Feed>, context: &Context, min_position: &str) -> Result<(), Refusal> {
    if min_position.is_empty() {
        return Ok(());
    }
    let cursor = match min_position.parse::<i64>() {
        Ok(position) if position >= 0 => Cursor {
            epoch: feed.epoch(),
            position,
        },
        _ => Cursor::decode(min_position, "min_position")?,
    };
    let mut position = feed.watch_position();
    let reached = position.wait_for(|position| *position >= cursor.position);
    // Whether it came or not: what is still ahead after that is refused.
    let _ = tokio::time::timeout(context.patience(PATIENCE), reached).await;
    feed.check_history(cursor).map(|_| ())
}
