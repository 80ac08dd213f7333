//! Plans and changes as statements with their parameters, and answers as rows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use deadpool_postgres::Object;
use tokio_postgres::Row;

use super::connection::Failure;
use super::pipeline::Request;
use super::sql;
use super::value::{Parameter, read_row};
use crate::events::Event;
use crate::lane::RequestRecord;
use crate::store::action::Action;
use crate::store::row::{Row as _, Table, Value};
use crate::store::{Columns, Head, MAX_DELAY, Plan, Rows, Save, Selection, StoreError, TablePlan, TableRows};
use crate::time::{Time, micros};

pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
pub(super) const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
pub(super) const COMMIT: &str = "COMMIT";
/// A commit may wait for a standby for as long as that takes; ended by a timeout it would count as done without it.
pub(super) const NO_TIMEOUT: &str = "SET LOCAL statement_timeout = 0";

/// Locks a namespace. What was committed under the lock before is seen by the statements that follow, each of which looks anew.
pub(super) const LOCK_HEAD: &str = "SELECT 1 FROM heads WHERE namespace = $1 FOR UPDATE";

/// Makes a new namespace. If another transaction is making it, this waits for that one's end.
pub(super) const MAKE_HEAD: &str = "INSERT INTO heads (namespace) VALUES ($1) ON CONFLICT (namespace) DO NOTHING";

/// Reads a head, which is the newest batch, and the time in any case.
pub(super) const READ_HEAD: &str = "\
    SELECT coalesce(batch, 0), coalesce(position, 0), coalesce(first_position, 1), coalesce(epoch, 0), coalesce(last_token, 0), \
    greatest(at, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
    FROM (VALUES (true)) AS once (asked) LEFT JOIN LATERAL \
    (SELECT batch, position, first_position, epoch, last_token, at FROM batches WHERE namespace = $1 ORDER BY batch DESC LIMIT 1) \
    AS head ON true";

pub(super) const NAMESPACES: &str = "SELECT namespace FROM heads ORDER BY namespace";

/// The newest batch of each namespace, with its epoch.
pub(super) const HEADS: &str = "\
    SELECT heads.namespace, newest.batch, newest.epoch, newest.position FROM heads CROSS JOIN LATERAL \
    (SELECT batch, epoch, position FROM batches WHERE batches.namespace = heads.namespace ORDER BY batch DESC LIMIT 1) AS newest";

/// Notes signs of life: `$1` namespaces, `$2` sessions, `$3` who heard them; gives those that are there and that nobody holds: a batch
/// that holds one is deciding on it.
pub(super) const BEAT: &str = "\
    WITH heard AS MATERIALIZED (SELECT there.place, k.number FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY \
    AS k(namespace, session_id, number) CROSS JOIN LATERAL (SELECT ctid AS place FROM beats \
    WHERE namespace = k.namespace AND session_id = k.session_id OFFSET 0 FOR UPDATE SKIP LOCKED) AS there) \
    UPDATE beats SET home = $3, at = greatest(at, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) \
    FROM heard WHERE beats.ctid = heard.place RETURNING heard.number";

pub(super) const FIND_BATCH: &str = "SELECT 1 FROM batches WHERE namespace = $1 AND batch = $2 AND batch_id = $3";

/// The texts of statements, made once.
#[derive(Default)]
pub(super) struct Texts {
    of_tables: Mutex<HashMap<(&'static str, Action), Arc<str>>>,
    /// [`sql::journal`], by what it has: answers, events, a check.
    journals: [OnceLock<String>; 8],
}

impl Texts {
    fn of(&self, table: &'static Table, action: Action) -> Arc<str> {
        let mut texts = self.of_tables.lock().unwrap_or_else(PoisonError::into_inner);
        let text = texts.entry((table.name, action));
        Arc::clone(text.or_insert_with(|| sql::text(table, action).into()))
    }

    fn journal(&self, answers: bool, events: bool, checked: bool) -> &str {
        let place = usize::from(answers) + 2 * usize::from(events) + 4 * usize::from(checked);
        self.journals[place].get_or_init(|| sql::journal(answers, events, checked))
    }
}

/// A connection, as statements are prepared on it.
pub(super) struct Preparer<'a> {
    pub(super) client: &'a Object,
    pub(super) texts: &'a Texts,
    pub(super) namespace: &'a str,
    /// Whether what is read is decided on: in a transaction that has the head locked.
    pub(super) decides: bool,
}

impl<'a> Preparer<'a> {
    /// A statement without parameters.
    pub(super) async fn bare(&self, text: &str) -> Result<Request<'a>, Failure> {
        self.request(text, Vec::new()).await
    }

    /// A statement whose only parameter is the namespace.
    pub(super) async fn head(&self, text: &str) -> Result<Request<'a>, Failure> {
        self.request(text, vec![Parameter::Text(self.namespace)]).await
    }

    /// Looks for the batch of a save.
    pub(super) async fn batch(&self, save: &'a Save) -> Result<Request<'a>, Failure> {
        let batch = [
            Parameter::Text(self.namespace),
            Parameter::Int(save.head.batch),
            Parameter::Text(&save.note.batch_id),
        ];
        self.request(FIND_BATCH, batch.into()).await
    }

    async fn of_table(
        &self,
        table: &'static Table,
        action: Action,
        parameters: Vec<Parameter<'a>>,
    ) -> Result<Request<'a>, Failure> {
        let mut all = vec![Parameter::Text(self.namespace)];
        all.extend(parameters);
        self.request(&self.texts.of(table, action), all).await
    }

    /// Prepares a statement, if this connection does not have it yet.
    async fn request(&self, text: &str, parameters: Vec<Parameter<'a>>) -> Result<Request<'a>, Failure> {
        let statement = self.client.prepare_cached(text).await?;
        Ok(Request { statement, parameters })
    }

    /// What a plan reads.
    pub(super) async fn plan(&self, plan: &'a Plan) -> Result<Vec<Request<'a>>, Failure> {
        let mut requests = Vec::new();
        for plan in plan {
            if !plan.keys.is_empty() {
                let keys = arrays(plan.table, 0..plan.table.key, plan.keys.iter().map(|key| key.iter()))?;
                let hold = self.decides && plan.table.beside;
                let action = if hold { Action::GetAndHold } else { Action::Get };
                requests.push(self.of_table(plan.table, action, keys).await?);
            }
            for (action, selections) in alike(plan) {
                let index = &plan.table.indexes[selections[0].1.index];
                let after = selections[0].1.after.as_ref().map_or(0, Vec::len);
                let columns = index.prefix.iter().chain(&index.order[..after]).copied();
                let values = selections
                    .iter()
                    .map(|(_, it)| it.prefix.iter().chain(it.after.iter().flatten()));
                let mut parameters = arrays(plan.table, columns, values)?;
                let limits = selections
                    .iter()
                    .map(|(_, it)| Some(i64::try_from(it.limit).unwrap_or(i64::MAX)));
                parameters.push(Parameter::Ints(limits.collect()));
                requests.push(self.of_table(plan.table, action, parameters).await?);
            }
        }
        Ok(requests)
    }

    /// What a batch changes, the batch itself last; if it follows on `newest` at once, that is checked.
    pub(super) async fn save(&self, save: &'a Save, newest: Option<&'a str>) -> Result<Vec<Request<'a>>, Failure> {
        let mut requests = Vec::new();
        let (mut answers, mut events) = (&[][..], &[][..]);
        for changes in &save.tables {
            let table = changes.table;
            let mut inserts = &changes.inserts[..];
            // What is trimmed is trimmed of what is added too, so that has to come before.
            let in_journal = save.trims.is_empty();
            if in_journal && table == RequestRecord::TABLE && answers.is_empty() {
                answers = std::mem::take(&mut inserts);
            } else if in_journal && table == Event::TABLE && events.is_empty() {
                events = std::mem::take(&mut inserts);
            }
            for (action, columns, rows) in [
                (Action::Delete, table.key, &changes.deletes[..]),
                (Action::Upsert, table.columns.len(), &changes.upserts),
                (Action::Insert, table.columns.len(), inserts),
            ] {
                if !rows.is_empty() {
                    let values = arrays(table, 0..columns, rows.iter().map(|row| row.iter()))?;
                    requests.push(self.of_table(table, action, values).await?);
                }
            }
        }
        for trim in &save.trims {
            let first = trim.table.indexes[trim.index].order[0];
            let parameters = vec![
                Parameter::one(trim.table, first, &trim.from)?,
                Parameter::one(trim.table, first, &trim.up_to)?,
                Parameter::Int(i64::try_from(trim.limit).unwrap_or(i64::MAX)),
            ];
            requests.push(
                self.of_table(trim.table, Action::Trim { index: trim.index }, parameters)
                    .await?,
            );
        }
        requests.push(self.journal(save, newest, answers, events).await?);
        Ok(requests)
    }

    /// Notes a batch, with the answers to its requests and its events.
    async fn journal(
        &self,
        save: &'a Save,
        newest: Option<&'a str>,
        answers: &'a [Columns],
        events: &'a [Columns],
    ) -> Result<Request<'a>, Failure> {
        let Head {
            batch,
            position,
            first_position,
            epoch,
            last_token,
            now,
        } = save.head;
        let numbers = [
            batch,
            position,
            first_position,
            epoch,
            last_token,
            now.0,
            save.note.events,
        ];
        let mut parameters = vec![Parameter::Text(self.namespace)];
        parameters.extend(numbers.map(Parameter::Int));
        parameters.push(Parameter::Text(&save.note.batch_id));
        parameters.push(Parameter::MaybeInt(save.note.next_due.map(|due| due.0)));
        parameters.push(Parameter::MaybeText(save.note.changed.as_deref()));
        if let Some(newest) = newest {
            parameters.push(Parameter::Text(newest));
            parameters.push(Parameter::Int(micros(MAX_DELAY)));
        }
        for (table, rows) in [(RequestRecord::TABLE, answers), (Event::TABLE, events)] {
            if !rows.is_empty() {
                parameters.extend(arrays(
                    table,
                    0..table.columns.len(),
                    rows.iter().map(|row| row.iter()),
                )?);
            }
        }
        let text = self
            .texts
            .journal(!answers.is_empty(), !events.is_empty(), newest.is_some());
        self.request(text, parameters).await
    }
}

/// The selections of a plan that one statement can answer together, with their places in the plan.
fn alike(plan: &TablePlan) -> Vec<(Action, Vec<(usize, &Selection)>)> {
    let mut alike: Vec<(Action, Vec<(usize, &Selection)>)> = Vec::new();
    for (place, selection) in plan.selections.iter().enumerate() {
        let action = Action::of(selection);
        match alike.iter_mut().find(|(other, _)| *other == action) {
            Some((_, selections)) => selections.push((place, selection)),
            None => alike.push((action, vec![(place, selection)])),
        }
    }
    alike
}

/// The values of some rows, column by column.
fn arrays<'a>(
    table: &'static Table,
    columns: impl Iterator<Item = usize>,
    rows: impl Iterator<Item = impl Iterator<Item = &'a Value>>,
) -> Result<Vec<Parameter<'a>>, StoreError> {
    let rows: Vec<Vec<&Value>> = rows.map(Iterator::collect).collect();
    columns
        .enumerate()
        .map(|(place, column)| Parameter::array(table, column, rows.iter().map(|row| row.get(place).copied())))
        .collect()
}

/// The answers to what a plan reads, as the seam has them.
pub(super) fn read_plan(plan: &Plan, answers: Vec<Vec<Row>>) -> Result<Rows, StoreError> {
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or_default();
    plan.iter()
        .map(|plan| {
            let mut rows = TableRows::default();
            if !plan.keys.is_empty() {
                let found = next();
                rows.by_key = found
                    .iter()
                    .map(|row| read_row(row, 0, plan.table))
                    .collect::<Result<_, _>>()?;
            }
            rows.selected = vec![Vec::new(); plan.selections.len()];
            for (_, selections) in alike(plan) {
                for row in next() {
                    let number: i64 = row.get(0);
                    let asked = usize::try_from(number - 1)
                        .ok()
                        .and_then(|number| selections.get(number));
                    let (place, _) = asked.ok_or_else(|| StoreError::refused("an answer to nothing that was asked"))?;
                    rows.selected[*place].push(read_row(&row, 1, plan.table)?);
                }
            }
            Ok(rows)
        })
        .collect()
}

/// The head in an answer.
pub(super) fn read_head(answer: &[Row]) -> Option<Head> {
    let row = answer.first()?;
    Some(Head {
        batch: row.get(0),
        position: row.get(1),
        first_position: row.get(2),
        epoch: row.get(3),
        last_token: row.get(4),
        now: Time(row.get(5)),
    })
}
