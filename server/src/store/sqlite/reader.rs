//! The threads that read. Each read sees one snapshot of the file and waits for no writer.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use super::session::{Session, refused};
use crate::store::step::Reply;
use crate::store::{Head, Plan, Rows, StoreError};

/// What is asked of a thread that reads.
pub(super) enum Read {
    Plan(String, Plan, Reply<(Head, Rows)>),
    Namespaces(Reply<Vec<String>>),
}

/// Works until nobody can ask for anything any more.
pub(super) fn run(mut session: Session, reads: &Arc<Mutex<Receiver<Read>>>) {
    loop {
        let read = reads.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(read) = read else {
            return;
        };
        // A read that panics must not take the others with it.
        let served = std::panic::catch_unwind(AssertUnwindSafe(|| serve(&mut session, read)));
        if served.is_err() {
            tracing::error!("a read panicked");
        }
        if !session.connection.is_autocommit()
            && let Err(error) = session.run("ROLLBACK")
        {
            tracing::error!(%error, "a read could not be ended");
        }
    }
}

fn serve(session: &mut Session, read: Read) {
    // Whoever asked may have gone.
    match read {
        Read::Plan(namespace, plan, reply) if !reply.is_closed() => {
            let _ = reply.send(read_plan(session, &namespace, &plan));
        }
        Read::Namespaces(reply) if !reply.is_closed() => {
            let _ = reply.send(namespaces(session));
        }
        _ => {}
    }
}

fn read_plan(session: &mut Session, namespace: &str, plan: &Plan) -> Result<(Head, Rows), StoreError> {
    session.run("BEGIN").map_err(refused)?;
    let head = session.head(namespace)?;
    let rows = session.read(namespace, plan)?;
    session.run("COMMIT").map_err(refused)?;
    Ok((head, rows))
}

fn namespaces(session: &Session) -> Result<Vec<String>, StoreError> {
    let read = || {
        let mut statement = session
            .connection
            .prepare_cached("SELECT namespace FROM heads ORDER BY namespace")?;
        statement
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()
    };
    read().map_err(refused)
}
