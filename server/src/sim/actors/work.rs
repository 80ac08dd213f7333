//! What a worker does with a task, however it came to it: accepts it or not, works for a while, says how far it is, locks something,
//! completes it or fails.

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{ABLE, Actor, duration, millis, one_of, standing};
use crate::machine::simulated::Switch;
use crate::sim::happens;
use crate::sim::net::{Failure, door, payload};

/// How long a worker tries to say something of a task.
const PATIENCE: Duration = Duration::from_secs(8);

/// A worker's life, as its tasks need it.
pub(super) struct Session {
    pub session_id: String,
    /// Set when the session is known to be over.
    pub ended: Switch<bool>,
}

impl Session {
    pub(super) fn new(session_id: String) -> Arc<Session> {
        Arc::new(Session {
            session_id,
            ended: Switch::new(false),
        })
    }

    pub(super) fn end(&self) {
        self.ended.change(|ended| *ended = true);
    }

    /// Whether a failure says that the session is over.
    pub(super) fn hears(&self, failure: &Failure) {
        if failure.is_end_of_session() {
            self.end();
        }
    }
}

/// Sees an assignment through.
pub(super) async fn see_through(mut actor: Actor, session: Arc<Session>, assignment: v1::TaskAssignment) {
    let Some(task) = assignment.task else { return };
    let work = Work {
        namespace: actor.namespace.clone(),
        session,
        task_id: task.task_id,
        attempt: assignment.attempt,
        attempt_token: assignment.attempt_token,
    };
    tokio::select! {
        biased;
        () = work.session.ended.wait_for(|ended| *ended) => {}
        () = work.run(&mut actor) => {}
    }
}

struct Work {
    namespace: String,
    session: Arc<Session>,
    task_id: String,
    attempt: i32,
    attempt_token: String,
}

impl Work {
    async fn run(&self, actor: &mut Actor) {
        actor.rest(20).await;
        // Whoever rejects a task is not given it again: one must be left who can do it.
        if !actor.role.contains(ABLE) && happens(0.05) {
            return self.reject(actor).await;
        }
        if !self.accept(actor).await {
            return;
        }
        sleep(if happens(0.1) {
            millis(1_000..6_000)
        } else {
            millis(1..400)
        })
        .await;
        if happens(0.3) && !self.progress(actor).await {
            return;
        }
        if happens(0.2) {
            self.write_under_a_lock(actor).await;
        }
        if happens(0.1) {
            self.fail(actor).await;
        } else {
            self.complete(actor).await;
        }
    }

    /// Notes that something was done under the session and for the attempt.
    fn done(&self, actor: &Actor, what: &'static str, asked_at: Instant, cursor: &str, position: i64) {
        let completed = what == "completed";
        actor.done(what, &self.attempt_token, |space| {
            standing(space, cursor, position, |space| {
                space.lives.acted(&self.session.session_id, asked_at)?;
                if completed {
                    space.tasks.completed(&self.task_id, &self.attempt_token)?;
                }
                Ok(())
            })
        });
    }

    fn refused(&self, actor: &Actor, what: &str, failure: &Failure) {
        actor.failed(&format!("{what} {}", self.attempt_token), failure);
        self.session.hears(failure);
    }

    async fn accept(&self, actor: &mut Actor) -> bool {
        let request = v1::AcceptTaskRequest {
            namespace: self.namespace.clone(),
            session_id: self.session.session_id.clone(),
            request_id: actor.op(),
            task_id: self.task_id.clone(),
            attempt_token: self.attempt_token.clone(),
        };
        let asked_at = Instant::now();
        match actor.client.ask(PATIENCE, request, door!(tasks.accept_task)).await {
            Ok(said) => {
                self.done(actor, "accepted", asked_at, &said.cursor, said.position);
                true
            }
            Err(failure) => {
                self.refused(actor, "accept", &failure);
                false
            }
        }
    }

    async fn reject(&self, actor: &mut Actor) {
        let request = v1::RejectTaskRequest {
            namespace: self.namespace.clone(),
            session_id: self.session.session_id.clone(),
            request_id: actor.op(),
            task_id: self.task_id.clone(),
            attempt_token: self.attempt_token.clone(),
            cause: "not today".to_owned(),
        };
        let asked_at = Instant::now();
        match actor.client.ask(PATIENCE, request, door!(tasks.reject_task)).await {
            Ok(said) => self.done(actor, "rejected", asked_at, &said.cursor, said.position),
            Err(failure) => self.refused(actor, "reject", &failure),
        }
    }

    async fn progress(&self, actor: &mut Actor) -> bool {
        let request = v1::ReportProgressRequest {
            namespace: self.namespace.clone(),
            session_id: self.session.session_id.clone(),
            request_id: actor.op(),
            task_id: self.task_id.clone(),
            attempt_token: self.attempt_token.clone(),
            progress: 0.5,
            progress_message: "half of it".to_owned(),
            checkpoint: payload(&json!({ "half": self.attempt })),
        };
        let asked_at = Instant::now();
        match actor.client.ask(PATIENCE, request, door!(tasks.report_progress)).await {
            Ok(said) => {
                self.done(actor, "progressed", asked_at, &said.cursor, said.position);
                true
            }
            Err(failure) => {
                self.refused(actor, "progress", &failure);
                false
            }
        }
    }

    async fn complete(&self, actor: &mut Actor) {
        let result = json!({ "by": actor.name, "attempt": self.attempt, "token": self.attempt_token });
        let request = v1::CompleteTaskRequest {
            namespace: self.namespace.clone(),
            session_id: self.session.session_id.clone(),
            request_id: actor.op(),
            task_id: self.task_id.clone(),
            attempt_token: self.attempt_token.clone(),
            result: payload(&result),
            guards: Vec::new(),
        };
        let asked_at = Instant::now();
        match actor.client.ask(PATIENCE, request, door!(tasks.complete_task)).await {
            Ok(said) => self.done(actor, "completed", asked_at, &said.cursor, said.position),
            Err(failure) => self.refused(actor, "complete", &failure),
        }
    }

    async fn fail(&self, actor: &mut Actor) {
        let request = v1::FailTaskRequest {
            namespace: self.namespace.clone(),
            session_id: self.session.session_id.clone(),
            request_id: actor.op(),
            task_id: self.task_id.clone(),
            attempt_token: self.attempt_token.clone(),
            error: Some(v1::TaskError {
                kind: "torn".to_owned(),
                message: "the cloth is torn".to_owned(),
                permanent: happens(0.1),
            }),
        };
        let asked_at = Instant::now();
        match actor.client.ask(PATIENCE, request, door!(tasks.fail_task)).await {
            Ok(said) => self.done(actor, "gave up", asked_at, &said.cursor, said.position),
            Err(failure) => self.refused(actor, "fail", &failure),
        }
    }

    /// A lock of the attempt, which ends with it, and a write that only its holder may do.
    async fn write_under_a_lock(&self, actor: &mut Actor) {
        let resource = one_of(&["bench", "press"]);
        let request = v1::AcquireLockRequest {
            namespace: self.namespace.clone(),
            session_id: self.session.session_id.clone(),
            request_id: actor.op(),
            resource_id: resource.to_owned(),
            attempt_token: self.attempt_token.clone(),
            ttl: duration(Duration::from_secs(5)),
            wait_timeout: duration(Duration::from_secs(2)),
            ..Default::default()
        };
        let asked_at = Instant::now();
        let token = match actor.client.ask(PATIENCE, request, door!(locks.acquire_lock)).await {
            Ok(acquired) => {
                self.done(actor, "locked", asked_at, &acquired.cursor, acquired.position);
                let token = acquired.lock.map_or(0, |lock| lock.fencing_token);
                actor.done("has", resource, |space| {
                    standing(space, &acquired.cursor, acquired.position, |space| {
                        space.locks.is_of_attempt(resource, token, &self.attempt_token)
                    })
                });
                token
            }
            Err(failure) => return self.refused(actor, "lock", &failure),
        };
        actor.rest(200).await;
        let op = actor.op();
        let state_id = format!("on-{resource}");
        let request = v1::PutStateRequest {
            namespace: self.namespace.clone(),
            session_id: if happens(0.5) {
                self.session.session_id.clone()
            } else {
                String::new()
            },
            request_id: op.clone(),
            state_id: state_id.clone(),
            payload: payload(&json!({ "op": op, "resource": resource, "token": token })),
            guards: vec![v1::Guard {
                resource_id: resource.to_owned(),
                fencing_token: token,
            }],
            ..Default::default()
        };
        match actor.client.ask(PATIENCE, request, door!(states.put_state)).await {
            Ok(put) => actor.done("guarded", &state_id, |space| {
                standing(space, &put.cursor, put.position, |space| {
                    space.states.made(&op, &state_id, put.version)
                })
            }),
            Err(failure) => self.refused(actor, "write", &failure),
        }
    }
}
