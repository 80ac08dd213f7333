//! Signs of life on their way into a shared store: gathered from all sessions, and written many at a time.
//!
//! A sign of life counts when it is written, and is answered after that: an agent whose server cannot reach the store hears nothing and
//! goes to another. Nothing is written while nobody says anything.
//!
//! Failure: what the store does not take is told to whoever waits. A session that is not there, or that a batch is deciding on, is for the
//! lane to say something of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::gap::{Asker, Gap};
use crate::error::Refusal;
use crate::lane::refusal_of;
use crate::machine;
use crate::store::{Store, StoreError};

/// The least time between two writes, so that many signs of life go together.
const BREATH: Duration = Duration::from_millis(25);
/// How many are written at a time.
const AT_ONCE: usize = 2_000;

struct Said {
    namespace: Arc<str>,
    session_id: String,
    answer: oneshot::Sender<Result<bool, Refusal>>,
}

/// Writes signs of life. Cheap to clone; it ends with its last clone.
#[derive(Clone)]
pub struct Pulse {
    said: mpsc::UnboundedSender<Said>,
}

impl Pulse {
    /// Starts to write to a store that servers share, under this server's name.
    pub fn start(store: Store, home: String, gap: &Gap) -> Pulse {
        let (said, heard) = mpsc::unbounded_channel();
        machine::spawn(run(store, home, gap.asker(), heard));
        Pulse { said }
    }

    /// Notes a sign of life; returns when it is written. False if the store has no such session, or is deciding on it.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn beat(&self, namespace: &Arc<str>, session_id: &str) -> Result<bool, Refusal> {
        let (answer, written) = oneshot::channel();
        // A session has few signs of life under way, so what waits is bounded by the sessions.
        let _ = self.said.send(Said {
            namespace: Arc::clone(namespace),
            session_id: session_id.to_owned(),
            answer,
        });
        let stopped = || refusal_of(&StoreError::unavailable("the server is stopping"));
        written.await.unwrap_or_else(|_| Err(stopped()))
    }
}

async fn run(store: Store, home: String, asker: Asker, mut heard: mpsc::UnboundedReceiver<Said>) {
    let mut said = Vec::new();
    while heard.recv_many(&mut said, AT_ONCE).await > 0 {
        // In the order of their keys, as everybody who writes many; each once.
        let mut sessions: BTreeMap<(Arc<str>, String), Vec<_>> = BTreeMap::new();
        for said in said.drain(..) {
            let session = sessions.entry((said.namespace, said.session_id)).or_default();
            session.push(said.answer);
        }
        let (sessions, answers): (Vec<_>, Vec<_>) = sessions.into_iter().unzip();
        let written = asker.heard(store.beat(&sessions, &home)).await;
        if let Err(error) = &written {
            tracing::warn!(%error, sessions = sessions.len(), "signs of life could not be written");
        }
        for (place, answers) in answers.into_iter().enumerate() {
            for answer in answers {
                let there = match &written {
                    Ok(there) => Ok(there.get(place).copied().unwrap_or(false)),
                    Err(error) => Err(refusal_of(error)),
                };
                // The call may have been given up.
                let _ = answer.send(there);
            }
        }
        tokio::time::sleep(BREATH).await;
    }
}
