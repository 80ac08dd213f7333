//! The database's side of a transaction. It goes on without the process that began it, until it notices that nobody is there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::server::{self, Server, Turn};
use super::{Link, gone, silent};
use crate::machine;
use crate::store::row::Value;
use crate::store::step::{Reply, Step};
use crate::store::{Head, Plan, Rows, Save, StoreError};

/// How long a transaction may do nothing before it is ended.
const MAX_SILENCE: Duration = Duration::from_secs(8);
/// How long a turn is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(4);
/// How long a commit is waited for, and looked for after that.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30);

pub(super) type Opened = (mpsc::Sender<Step>, Head, Rows);

/// Serves one transaction from its beginning to its end.
pub(super) async fn serve(server: Arc<Server>, link: Arc<Link>, namespace: String, plan: Plan, reply: Reply<Opened>) {
    let opened = timeout(server::PATIENCE, open(&server, &link, &namespace, &plan)).await;
    let (mut turn, head, rows) = match opened.unwrap_or_else(|_| Err(silent())) {
        Ok(opened) => opened,
        Err(error) => {
            let _ = reply.send(Err(error));
            return;
        }
    };
    let began = turn.life;
    let (steps, mut asked) = mpsc::channel(1);
    let _ = reply.send(Ok((steps, head, rows)));
    loop {
        let step = tokio::select! {
            biased;
            () = server.outlives(began) => return,
            step = timeout(MAX_SILENCE, asked.recv()) => step,
        };
        match step {
            Ok(Some(Step::Load(plan, reply))) => {
                let load = timeout(server::PATIENCE, load(&server, &link, &mut turn, &plan));
                let loaded = tokio::select! {
                    biased;
                    () = server.outlives(began) => Err(gone()),
                    loaded = load => loaded.unwrap_or_else(|_| Err(silent())),
                };
                let failed = loaded.is_err();
                let _ = reply.send(loaded);
                if failed {
                    return;
                }
            }
            Ok(Some(Step::Commit(save, reply))) => return commit(&server, &link, turn, save, reply).await,
            // Rolled back, when the database hears of it.
            Ok(None) => return server.travel().await,
            Err(_) => return,
        }
    }
}

async fn open(
    server: &Arc<Server>,
    link: &Link,
    namespace: &str,
    plan: &Plan,
) -> Result<(Turn, Head, Rows), StoreError> {
    loop {
        server.deliver(link).await?;
        let began = server.life();
        let turn = tokio::select! {
            biased;
            () = server.outlives(began) => continue,
            turn = timeout(LOCK_PATIENCE, server.turn(namespace)) => turn,
        };
        let mut turn = turn.map_err(|_| StoreError::unavailable("others had their turn for too long"))?;
        let rows = read(server, &mut turn, plan);
        let head = server.state().memory.head(namespace, server::now());
        server.travel().await;
        return Ok((turn, head, rows));
    }
}

async fn load(server: &Server, link: &Link, turn: &mut Turn, plan: &Plan) -> Result<Rows, StoreError> {
    server.deliver(link).await?;
    if server.happens(|weather| weather.ended) {
        return Err(gone());
    }
    let rows = read(server, turn, plan);
    server.travel().await;
    Ok(rows)
}

/// Reads for a transaction, which holds what is written beside the lane.
fn read(server: &Server, turn: &mut Turn, plan: &Plan) -> Rows {
    for plan in plan.iter().filter(|plan| plan.table.beside) {
        for key in &plan.keys {
            if let [Value::Text(key)] = key.as_slice() {
                turn.hold(key);
            }
        }
    }
    server.state().memory.read(turn.namespace(), plan)
}

/// What becomes of a commit that is not answered.
#[derive(Clone, Copy)]
enum Fate {
    /// It was not made, and that is found out.
    NotMade,
    /// It was made, and that is found out.
    Made,
    /// It was not made, and nobody knows.
    NotMadeUnknown,
    /// It was made, and nobody knows.
    MadeUnknown,
    /// It is made when nobody waits for it any more.
    MadeLate,
}

async fn commit(server: &Arc<Server>, link: &Link, turn: Turn, save: Save, reply: Reply<()>) {
    // What makes the commit does not wait for those who ask for it, nor they for it.
    let (namespace, began) = (turn.namespace().to_owned(), turn.life);
    if server.happens(|weather| weather.unanswered) {
        return unanswered(server, turn, save, reply).await;
    }
    let delivered = tokio::select! {
        biased;
        () = server.outlives(began) => Ok(Err(gone())),
        delivered = timeout(COMMIT_PATIENCE, server.deliver(link)) => delivered,
    };
    let answer = match delivered {
        // Not sent, or rolled back: a look at the database tells.
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StoreError::unknown("the database did not answer")),
        Ok(Ok(())) => server.state().commit(&namespace, save),
    };
    drop(turn);
    server.travel().await;
    let _ = reply.send(answer);
}

async fn unanswered(server: &Arc<Server>, turn: Turn, save: Save, reply: Reply<()>) {
    use Fate::{Made, MadeLate, MadeUnknown, NotMade, NotMadeUnknown};
    // What an embedded store cannot say of a commit it has rolled back.
    let fates = if server.shared { 5 } else { 3 };
    let fate = [NotMade, Made, NotMadeUnknown, MadeUnknown, MadeLate][machine::random_range(0..fates)];
    let unknown = || StoreError::unknown("the commit was not answered, nor found");
    let namespace = turn.namespace().to_owned();
    let made = |save| server.state().commit(&namespace, save);
    let (early, late) = (machine::random_range(1..3_000), machine::random_range(1..3_000));
    server.travel().await;
    if turn.life != server.life() {
        let _ = reply.send(Err(gone()));
        return;
    }
    let answer = match fate {
        NotMade => Err(gone()),
        NotMadeUnknown => Err(unknown()),
        Made => made(save),
        MadeUnknown => made(save).and_then(|()| Err(unknown())),
        MadeLate => {
            // The namespace stays locked until then.
            sleep(Duration::from_millis(early)).await;
            let _ = reply.send(Err(unknown()));
            sleep(Duration::from_millis(late)).await;
            if turn.life == server.life() {
                let _ = made(save);
            }
            return;
        }
    };
    drop(turn);
    sleep(Duration::from_millis(early)).await;
    let _ = reply.send(answer);
}
