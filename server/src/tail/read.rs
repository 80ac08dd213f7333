//! Batches as they are read from the store: what a server that did not hear of a commit makes of the rows that it left.
//!
//! The row of a batch says how many events it has and which agents and sessions it changed; those are read as they are now, which may be
//! newer than the batch. Other rows whoever wants them reads for themselves.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::track::Place;
use crate::events::Event;
use crate::lane::{BatchRecord, Changed, Commit, EpochRecord};
use crate::machine::HashMap;
use crate::registry::Agent;
use crate::sessions::Session;
use crate::store::row::{Row, Value};
use crate::store::{Head, Selection, Store, StoreError, TablePlan, TableRows};

/// How many batches are read at a time.
const BATCHES: usize = 256;
/// How many events.
const EVENTS: usize = 4_096;
/// More epochs than a log can have.
const EPOCHS: usize = 10_000;

/// Batches that follow a place.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) commits: Vec<Commit>,
    /// Whether there are no more.
    pub(super) is_last: bool,
}

/// The log does not go on from a place.
#[derive(Debug)]
pub(super) struct Lost {
    /// Where the log is now.
    pub(super) head: Place,
    /// Whether what was handed on may not have happened: else batches after it are just not kept any more.
    pub(super) history: bool,
}

/// The head and the epochs of a log.
pub(super) async fn epochs(store: &Store, namespace: &str) -> Result<(Head, Vec<EpochRecord>), StoreError> {
    store.select(namespace, after(Vec::new(), EPOCHS)).await
}

/// Reads what follows a place.
pub(super) async fn page(
    store: &Store,
    namespace: &Arc<str>,
    place: Place,
    with_events: bool,
) -> Result<Result<Page, Lost>, StoreError> {
    let mut plan = vec![
        of::<BatchRecord>(after(vec![Value::Int(place.batch)], BATCHES)),
        of::<EpochRecord>(after(vec![Value::Int(place.epoch)], EPOCHS)),
    ];
    if with_events {
        plan.push(of::<Event>(after(vec![Value::Int(place.position)], EVENTS)));
    }
    let (head, rows) = store.read(namespace, plan).await?;
    let mut rows = rows.into_iter();
    let batches: Vec<BatchRecord> = decode(rows.next())?;
    let epochs: Vec<EpochRecord> = decode(rows.next())?;
    let mut events: Vec<Event> = decode(rows.next())?;

    let lost = |history| Lost {
        head: Place {
            epoch: head.epoch,
            batch: head.batch,
            position: head.position,
        },
        history,
    };
    let another = epochs.iter().any(|epoch| epoch.first_batch <= place.batch);
    // The epoch of a store that is this server's alone began with its opening, and there may be no batch of it yet.
    let earlier = store.is_shared() && head.epoch < place.epoch;
    if another || head.batch < place.batch || earlier {
        return Ok(Err(lost(true)));
    }
    if head.batch > place.batch && batches.first().is_none_or(|first| first.batch != place.batch + 1) {
        return Ok(Err(lost(false)));
    }
    if with_events && let Some(first) = batches.first() {
        // The first batch is read whole, however many events it has.
        while events.len().is_multiple_of(EVENTS)
            && let Some(last) = events.last().map(|event| event.position)
            && last < first.position
        {
            let selection = after(vec![Value::Int(last)], EVENTS);
            let (_, more) = store.select::<Event>(namespace, selection).await?;
            if more.is_empty() {
                break;
            }
            events.extend(more);
        }
    }
    let covered = covered(batches, &events, with_events, head.position);
    let is_last = covered.last().map_or(place.batch, |last| last.batch) >= head.batch;
    let rows = changed_rows(store, namespace, &covered).await?;
    Ok(Ok(Page {
        commits: commits(namespace, covered, events, &rows),
        is_last,
    }))
}

/// The batches whose events were all read.
fn covered(mut batches: Vec<BatchRecord>, events: &[Event], with_events: bool, head: i64) -> Vec<BatchRecord> {
    if with_events && events.len() >= EVENTS {
        let last = events.last().map_or(head, |event| event.position);
        let all = batches.iter().take_while(|batch| batch.position <= last).count();
        batches.truncate(all.max(1));
    }
    batches
}

/// Agents and sessions as they are now; nothing for those that are gone.
#[derive(Default)]
struct Rows {
    agents: HashMap<String, Option<Arc<Agent>>>,
    sessions: HashMap<String, Option<Arc<Session>>>,
}

async fn changed_rows(store: &Store, namespace: &str, batches: &[BatchRecord]) -> Result<Rows, StoreError> {
    let (mut agents, mut sessions) = (BTreeSet::new(), BTreeSet::new());
    for changed in batches.iter().filter_map(changed) {
        agents.extend(changed.agents);
        sessions.extend(changed.sessions);
    }
    if agents.is_empty() && sessions.is_empty() {
        return Ok(Rows::default());
    }
    let keys = |ids: &BTreeSet<String>| ids.iter().map(|id| vec![Value::Text(id.clone())]).collect();
    let plan = vec![
        TablePlan {
            table: Agent::TABLE,
            keys: keys(&agents),
            selections: Vec::new(),
        },
        TablePlan {
            table: Session::TABLE,
            keys: keys(&sessions),
            selections: Vec::new(),
        },
    ];
    let (_, rows) = store.read(namespace, plan).await?;
    let mut rows = rows.into_iter();
    let mut read = Rows {
        agents: agents.into_iter().map(|id| (id, None)).collect(),
        sessions: sessions.into_iter().map(|id| (id, None)).collect(),
    };
    for columns in rows.next().unwrap_or_default().by_key {
        let agent = Agent::from_columns(columns)?;
        read.agents.insert(agent.agent_id.clone(), Some(Arc::new(agent)));
    }
    for columns in rows.next().unwrap_or_default().by_key {
        let session = Session::from_columns(columns)?;
        read.sessions
            .insert(session.session_id.clone(), Some(Arc::new(session)));
    }
    Ok(read)
}

fn changed(batch: &BatchRecord) -> Option<Changed> {
    let changed = batch.changed.as_deref()?;
    match serde_json::from_str(changed) {
        Ok(changed) => Some(changed),
        Err(error) => {
            tracing::error!(batch = batch.batch, %error, "what a batch changed cannot be read");
            None
        }
    }
}

fn commits(namespace: &Arc<str>, batches: Vec<BatchRecord>, events: Vec<Event>, rows: &Rows) -> Vec<Commit> {
    let mut events = events.into_iter().map(Arc::new).peekable();
    let of_batch = |batch: BatchRecord| {
        let mut own = Vec::new();
        while let Some(event) = events.next_if(|event| event.position <= batch.position) {
            own.push(event);
        }
        let head = Head {
            batch: batch.batch,
            position: batch.position,
            first_position: batch.first_position,
            epoch: batch.epoch,
            last_token: batch.last_token,
            now: batch.at,
        };
        let mut commit = Commit::new(Arc::clone(namespace), &head, own);
        commit.next_due = batch.next_due;
        if let Some(changed) = changed(&batch) {
            let agents = changed.agents.into_iter();
            commit.agents = agents
                .map(|id| (rows.agents.get(&id).cloned().flatten(), id))
                .map(flip)
                .collect();
            let sessions = changed.sessions.into_iter();
            commit.sessions = sessions
                .map(|id| (rows.sessions.get(&id).cloned().flatten(), id))
                .map(flip)
                .collect();
        }
        commit
    };
    batches.into_iter().map(of_batch).collect()
}

fn flip<A, B>((a, b): (A, B)) -> (B, A) {
    (b, a)
}

fn after(place: Vec<Value>, limit: usize) -> Selection {
    Selection {
        index: 0,
        prefix: Vec::new(),
        after: (!place.is_empty()).then_some(place),
        limit,
        backwards: false,
    }
}

fn of<R: Row>(selection: Selection) -> TablePlan {
    TablePlan {
        table: R::TABLE,
        keys: Vec::new(),
        selections: vec![selection],
    }
}

fn decode<R: Row>(rows: Option<TableRows>) -> Result<Vec<R>, StoreError> {
    let rows = rows.and_then(|mut rows| rows.selected.pop()).unwrap_or_default();
    Ok(rows.into_iter().map(R::from_columns).collect::<Result<_, _>>()?)
}
