//! The task behind an open transaction. It owns the connection, so that a call that is given up leaves no transaction open.
//!
//! Two round trips: one begins, locks the head and reads; one saves and commits. A commit that is not answered is looked for on
//! another connection: locking the head waits for the end of the old transaction, and then its batch is there or it is not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::Shared;
use super::connection::{Connection, Failure, PATIENCE, PAUSE, goes_on, patiently};
use super::pipeline::{Pipeline, Request};
use super::statements::{BEGIN, COMMIT, LOCK_HEAD, MAKE_HEAD, NO_TIMEOUT, Preparer, READ_HEAD, read_head, read_plan};
use crate::store::step::{Reply, Step};
use crate::store::{Head, Plan, Rows, Save, StoreError, overtaken};
use crate::time::Time;

/// How long an open transaction may do nothing. The server ends one that does nothing for longer.
const MAX_SILENCE: Duration = Duration::from_millis(2_500);
/// How long a commit may go unanswered before it is looked for elsewhere.
const COMMIT_PATIENCE: Duration = Duration::from_secs(15);
/// How long it is looked for.
const SEARCH_PATIENCE: Duration = Duration::from_secs(15);

pub(super) type Opened = (mpsc::Sender<Step>, Head, Rows);

/// Serves one transaction from its beginning to its end.
pub(super) async fn serve(shared: Arc<Shared>, namespace: String, plan: Plan, reply: Reply<Opened>) {
    let opened = patiently(async || {
        let connection = Connection::get(&shared.writers).await?;
        match open(&shared, &connection, &namespace, &plan).await {
            Ok((head, rows)) => Ok((connection, head, rows)),
            Err(failure) => Err(give_up(connection, failure).await),
        }
    });
    let (connection, head, rows) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            let _ = reply.send(Err(error));
            return;
        }
    };
    let (steps, mut asked) = mpsc::channel(1);
    // If nobody takes the reply, the sender in it is dropped, and that ends the transaction.
    let _ = reply.send(Ok((steps, head, rows)));
    loop {
        match timeout(MAX_SILENCE, asked.recv()).await {
            Ok(Some(Step::Load(plan, reply))) => {
                let loaded = timeout(PATIENCE, load(&shared, &connection, &namespace, &plan)).await;
                match loaded.unwrap_or_else(|_| Err(Failure::Lost(silent()))) {
                    Ok(rows) => drop(reply.send(Ok(rows))),
                    Err(failure) => {
                        let failure = give_up(connection, failure).await;
                        let _ = reply.send(Err(failure.into()));
                        return;
                    }
                }
            }
            Ok(Some(Step::Commit(save, reply))) => {
                let committed = commit(&shared, connection, &namespace, &save, None).await;
                let _ = reply.send(committed.map(|_| ()));
                return;
            }
            Ok(None) => return roll_back(connection).await,
            Err(_) => {
                tracing::warn!(%namespace, "a transaction did nothing for too long and is rolled back");
                return roll_back(connection).await;
            }
        }
    }
}

async fn open(shared: &Shared, connection: &Connection, namespace: &str, plan: &Plan) -> Result<(Head, Rows), Failure> {
    let prepare = shared.deciding(connection, namespace);
    let mut requests = vec![
        prepare.bare(BEGIN).await?,
        prepare.head(LOCK_HEAD).await?,
        prepare.head(READ_HEAD).await?,
    ];
    requests.extend(prepare.plan(plan).await?);
    let mut answers = run(connection, &requests).await?;
    if answers[1].is_empty() {
        // A new namespace. What was read was read without the lock.
        requests[0] = prepare.head(MAKE_HEAD).await?;
        answers = run(connection, &requests).await?;
    }
    let mut answers = answers.into_iter().skip(2);
    let head = read_head(&answers.next().unwrap_or_default());
    let head = head.ok_or_else(|| StoreError::refused("the head cannot be read"))?;
    shared.lineage.heard_of(head.epoch);
    if !shared.lineage.trusts(connection.made()) {
        return Err(Failure::Lost(outdated()));
    }
    Ok((head, read_plan(plan, answers.collect())?))
}

/// Said of a connection to a server that is not known to have the latest history.
fn outdated() -> StoreError {
    StoreError::unavailable("the database has a later history than this connection's server may know")
}

async fn load(shared: &Shared, connection: &Connection, namespace: &str, plan: &Plan) -> Result<Rows, Failure> {
    let requests = shared.deciding(connection, namespace).plan(plan).await?;
    let answers = run(connection, &requests).await?;
    Ok(read_plan(plan, answers)?)
}

/// Runs statements in one round trip. The first that fails is what is told: those after it fail because of it.
pub(super) async fn run(connection: &Connection, requests: &[Request<'_>]) -> Result<Vec<Vec<Row>>, Failure> {
    let mut pipeline = Pipeline::new(connection);
    for request in requests {
        if !pipeline.send(request) {
            break;
        }
    }
    let answers: Result<Vec<_>, _> = pipeline.finish().await.into_iter().collect();
    Ok(answers?)
}

async fn roll_back(connection: Connection) {
    if let Ok(Ok(())) = timeout(PATIENCE, connection.batch_execute("ROLLBACK")).await {
        connection.release();
    }
}

/// Leaves a transaction in which something failed.
async fn give_up(connection: Connection, failure: Failure) -> Failure {
    if let Failure::Answered(_) = failure {
        roll_back(connection).await;
    }
    failure
}

/// Saves and commits a batch in one round trip, if what it was decided on is so still.
pub(super) async fn append(shared: &Shared, namespace: &str, newest: &str, save: &Save) -> Result<Time, StoreError> {
    let connection = patiently(async || Connection::get(&shared.writers).await).await?;
    commit(shared, connection, namespace, save, Some(newest)).await
}

/// Saves and commits a batch, and tells the time: in the transaction that is open or, if it follows on `newest` at once, in one of its own.
async fn commit(
    shared: &Shared,
    connection: Connection,
    namespace: &str,
    save: &Save,
    newest: Option<&str>,
) -> Result<Time, StoreError> {
    let requests = match prepare_save(&shared.preparer(&connection, namespace), save, newest).await {
        Ok(requests) => requests,
        Err(failure) => return Err(give_up(connection, failure).await.into()),
    };
    // The last moment to hear of a later history. What was decided before this connection was made may have the epoch before its.
    let is_outrun = newest.is_some() && shared.lineage.epoch() > save.head.epoch;
    if is_outrun || !shared.lineage.trusts(connection.made()) {
        drop(requests);
        drop(connection);
        return Err(outdated());
    }
    let outcome = send_commit(&connection, &requests).await;
    drop(requests);
    match outcome {
        Outcome::Committed(answers) => {
            connection.release();
            // The last before the commit notes the batch, and tells the time.
            let noted = answers.iter().rev().nth(1).and_then(|rows| rows.first());
            Ok(noted.map_or(save.head.now, |row| Time(row.get(0))))
        }
        Outcome::Undone { failure, over: true } => {
            connection.release();
            Err(failure.into())
        }
        Outcome::Undone { failure, over: false } => Err(give_up(connection, failure).await.into()),
        Outcome::Unknown(lost) => {
            drop(connection);
            find(shared, namespace, save, &lost).await.map(|()| save.head.now)
        }
    }
}

/// What is known of a commit.
enum Outcome {
    /// With the answers to its statements.
    Committed(Vec<Vec<Row>>),
    Undone {
        failure: Failure,
        /// Whether the transaction has ended: nothing is left to roll back.
        over: bool,
    },
    Unknown(StoreError),
}

/// Sends what a batch changed, the commit last, and waits for the answers.
async fn send_commit(connection: &Connection, requests: &[Request<'_>]) -> Outcome {
    let mut pipeline = Pipeline::new(connection);
    // What could not be sent must not be followed by a commit of the rest.
    let sent = requests.iter().all(|request| pipeline.send(request));
    let Ok(answers) = timeout(COMMIT_PATIENCE, pipeline.finish()).await else {
        return Outcome::Unknown(silent());
    };
    let over = sent && matches!(answers.last(), Some(Ok(_)));
    let undone = |failure| Outcome::Undone { failure, over };
    match answers.into_iter().collect() {
        Ok(answers) => Outcome::Committed(answers),
        // Nothing but the check of what an append follows divides.
        Err(error) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => undone(overtaken().into()),
        // A statement failed, so the commit that came after it was none.
        Err(error) if goes_on(&error) || !sent => undone(error.into()),
        Err(error) => Outcome::Unknown(Failure::from(error).into()),
    }
}

fn silent() -> StoreError {
    StoreError::unavailable("the database did not answer in time")
}

async fn prepare_save<'a>(
    prepare: &Preparer<'a>,
    save: &'a Save,
    newest: Option<&'a str>,
) -> Result<Vec<Request<'a>>, Failure> {
    let mut requests = Vec::new();
    if newest.is_some() {
        requests.extend([prepare.bare(BEGIN).await?, prepare.head(LOCK_HEAD).await?]);
    }
    requests.extend(prepare.save(save, newest).await?);
    requests.push(prepare.bare(COMMIT).await?);
    Ok(requests)
}

/// Finds out what became of a commit that was not answered.
async fn find(shared: &Shared, namespace: &str, save: &Save, lost: &StoreError) -> Result<(), StoreError> {
    tracing::warn!(%namespace, cause = %lost, "a commit was not answered; looking for it");
    let search = async {
        loop {
            match look(shared, namespace, save).await {
                Ok(found) => return found,
                Err(error) => tracing::debug!(%error, "could not look for a commit"),
            }
            sleep(PAUSE).await;
        }
    };
    match timeout(SEARCH_PATIENCE, search).await {
        Ok(true) => Ok(()),
        // Nothing of it was kept.
        Ok(false) => Err(StoreError::unavailable(lost)),
        Err(_) => Err(StoreError::unknown(lost)),
    }
}

/// Waits for the end of the old transaction, by the head that it has locked, and looks for its batch.
async fn look(shared: &Shared, namespace: &str, save: &Save) -> Result<bool, StoreError> {
    let connection = Connection::get(&shared.writers).await?;
    let prepare = shared.preparer(&connection, namespace);
    let requests = [
        prepare.bare(BEGIN).await?,
        prepare.head(LOCK_HEAD).await?,
        prepare.batch(save).await?,
    ];
    let found = !run(&connection, &requests).await?[2].is_empty();
    drop(requests);
    if !found {
        roll_back(connection).await;
        return Ok(false);
    }
    // The old transaction's wait for a standby may have been cut short, by a restart of the server say: then its batch is here, and
    // nowhere else. Locking the head went into the log after it, so this commit waits until the standby has both.
    let requests = [prepare.bare(NO_TIMEOUT).await?, prepare.bare(COMMIT).await?];
    run(&connection, &requests).await?;
    drop(requests);
    connection.release();
    Ok(true)
}
