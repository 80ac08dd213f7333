//! A worker without a stream: it registers, says that it is alive, asks for tasks, and registers again when its session is over.

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::work::{Session, see_through};
use super::{Actor, PATIENCE, capabilities, duration, millis, standing};
use crate::machine;
use crate::sim::happens;
use crate::sim::ledger::Beat;
use crate::sim::net::door;

pub(super) async fn run(mut actor: Actor) {
    let mut wish = v1::RegisterAgentRequest {
        namespace: actor.namespace.clone(),
        agent_id: actor.role.clone(),
        max_concurrent_tasks: 2,
        capabilities: capabilities(&actor.role),
        session_ttl: duration(millis(1_500..4_000)),
        ..Default::default()
    };
    loop {
        wish.request_id = actor.op();
        let asked_at = Instant::now();
        match actor
            .client
            .ask(PATIENCE, wish.clone(), door!(registry.register_agent))
            .await
        {
            Ok(registered) => {
                let (cursor, position) = (registered.cursor, registered.position);
                let session = Session::new(registered.session_id);
                actor.done("registered", &session.session_id, |space| {
                    standing(space, &cursor, position, |_| Ok(()))?;
                    // A repeated answer may be of a session that is over.
                    let beat = Beat {
                        session_id: &session.session_id,
                        at: asked_at,
                    };
                    space.lives.beat(&beat)
                });
                let ttl = registered.session_ttl.and_then(|ttl| ttl.try_into().ok());
                live(&mut actor, session, ttl.expect("a TTL")).await;
            }
            Err(failure) => actor.failed("register", &failure),
        }
        actor.rest(300).await;
    }
}

/// Lives until the session is over.
async fn live(actor: &mut Actor, session: Arc<Session>, ttl: Duration) {
    let beats = beat(actor.another(), Arc::clone(&session), ttl);
    let polls = poll(actor.another(), Arc::clone(&session));
    tokio::select! {
        biased;
        () = session.ended.wait_for(|ended| *ended) => {}
        () = beats => {}
        () = polls => {}
    }
    session.end();
}

async fn beat(mut actor: Actor, session: Arc<Session>, ttl: Duration) {
    loop {
        let request = v1::HeartbeatRequest {
            namespace: actor.namespace.clone(),
            session_id: session.session_id.clone(),
        };
        let at = Instant::now();
        match actor.client.once(ttl / 3, request, door!(registry.heartbeat)).await {
            Ok(_) => actor.done("beat", &session.session_id, |space| {
                let session_id = &session.session_id;
                space.lives.beat(&Beat { session_id, at })
            }),
            Err(failure) => {
                actor.failed("beat", &failure);
                session.hears(&failure);
                actor.client.move_on();
                actor.rest(100).await;
                continue;
            }
        }
        // Now and then it is nearly too late, or is; and now and then just in time, where its last server does not hear of it.
        let pause = match machine::random_range(0..20) {
            0..2 => machine::random_range(0.8..1.1),
            2 => machine::random_range(0.98..1.0),
            _ => 0.33,
        };
        if pause > 0.33 && happens(0.5) {
            actor.client.move_on();
        }
        sleep(ttl.mul_f64(pause)).await;
    }
}

async fn poll(mut actor: Actor, session: Arc<Session>) {
    let mut works: Vec<JoinHandle<()>> = Vec::new();
    loop {
        works.retain(|work| !work.is_finished());
        if works.len() >= 2 {
            actor.rest(50).await;
            continue;
        }
        let request = v1::PollTasksRequest {
            namespace: actor.namespace.clone(),
            session_id: session.session_id.clone(),
            max_tasks: 2 - works.len() as i32,
            wait_timeout: duration(millis(1..4_000)),
        };
        match actor.client.once(PATIENCE, request, door!(tasks.poll_tasks)).await {
            Ok(polled) => {
                for assignment in polled.assignments {
                    actor.done("polled", &assignment.attempt_token, |_| Ok(()));
                    // Now and then it loses one, and says nothing.
                    if !happens(0.03) {
                        let work = see_through(actor.another(), Arc::clone(&session), assignment);
                        works.push(machine::spawn(work));
                    }
                }
            }
            Err(failure) => {
                actor.failed("poll", &failure);
                session.hears(&failure);
                actor.client.move_on();
                actor.rest(200).await;
            }
        }
    }
}
