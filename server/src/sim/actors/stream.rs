//! A worker with a stream: it says hello, proves with each heartbeat that it hears, is given tasks, and resumes its session when the
//! stream breaks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::connect_hello::Session as Hello;
use drumline_proto::v1::connect_request::Frame as Up;
use drumline_proto::v1::connect_response::Frame;
use tokio::time::{Instant, interval};

use super::work::{Session, see_through};
use super::{Actor, capabilities, duration, millis, one_of};
use crate::machine;
use crate::sim::happens;
use crate::sim::ledger::Ledger;
use crate::sim::net::{Link, reason_of};

/// A stream that says nothing for this many TTLs is given up.
const SILENCES: u32 = 2;

pub(super) async fn run(mut actor: Actor) {
    let mut wish = v1::RegisterAgentRequest {
        namespace: actor.namespace.clone(),
        agent_id: actor.role.clone(),
        max_concurrent_tasks: 3,
        capabilities: capabilities(&actor.role),
        session_ttl: duration(millis(1_500..4_000)),
        ..Default::default()
    };
    let mut session: Option<Arc<Session>> = None;
    loop {
        let hello = match &session {
            Some(session) => Hello::Resume(v1::ResumeSession {
                namespace: actor.namespace.clone(),
                session_id: session.session_id.clone(),
            }),
            None => {
                wish.request_id = actor.op();
                Hello::Register(wish.clone())
            }
        };
        match actor.client.connect().await {
            Ok(link) => {
                let mut stream = Stream {
                    actor: &mut actor,
                    link,
                    session: &mut session,
                    nonce: 0,
                    numbers: 0,
                };
                stream.run(hello).await;
            }
            Err(failure) => actor.failed("connect", &failure),
        }
        if let Some(ended) = session.take_if(|session| session.ended.look(|ended| *ended)) {
            ended.end();
        }
        // Sometimes it is back before anybody has noticed that it was away.
        actor.rest(one_of(&[5, 30, 300, 300, 300, 3_000])).await;
        actor.client.move_on();
    }
}

/// That an agent has a stream of its session.
struct Linked {
    ledger: Arc<Mutex<Ledger>>,
    session_id: String,
}

impl Linked {
    fn new(actor: &Actor, session: Option<&Arc<Session>>) -> Linked {
        let session_id = session.map_or(String::new(), |session| session.session_id.clone());
        let since = (actor.namespace.clone(), Instant::now());
        actor.ledger().links.insert(session_id.clone(), since);
        Linked {
            ledger: Arc::clone(&actor.client.net.ledger),
            session_id,
        }
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        let mut ledger = self.ledger.lock().expect("no panic under this lock");
        ledger.links.remove(&self.session_id);
    }
}

struct Stream<'a> {
    actor: &'a mut Actor,
    link: Link,
    session: &'a mut Option<Arc<Session>>,
    nonce: u64,
    numbers: u64,
}

impl Stream<'_> {
    async fn say(&mut self, frame: Up) -> bool {
        self.numbers += 1;
        let request = v1::ConnectRequest {
            request_number: self.numbers,
            frame: Some(frame),
        };
        self.link.up.send(request).await.is_ok()
    }

    /// Lives until the stream breaks, or the session is over.
    async fn run(&mut self, hello: Hello) {
        if !self.say(Up::Hello(v1::ConnectHello { session: Some(hello) })).await {
            return;
        }
        let Some(ttl) = self.welcome().await else { return };
        let _linked = Linked::new(self.actor, self.session.as_ref());
        let mut beat = interval(ttl / 3);
        // Now and then it hangs up by itself.
        let until = Instant::now() + millis(2_000..60_000);
        let mut heard = Instant::now();
        loop {
            let silent = heard + ttl * SILENCES;
            let next = tokio::select! {
                biased;
                next = self.link.down.recv() => next,
                _ = beat.tick() => {
                    if !self.say(Up::Heartbeat(v1::ConnectHeartbeat { nonce: self.nonce })).await {
                        return;
                    }
                    continue;
                }
                () = tokio::time::sleep_until(until.min(silent)) => return,
            };
            heard = Instant::now();
            match next {
                Some(Ok(response)) => self.frame(response.frame),
                Some(Err(status)) => return self.over(&status),
                None => return,
            }
        }
    }

    async fn welcome(&mut self) -> Option<Duration> {
        let first = tokio::time::timeout(Duration::from_secs(5), self.link.down.recv()).await;
        match first.ok().flatten()? {
            Ok(response) => {
                let Some(Frame::Welcome(welcome)) = response.frame else {
                    let violation = format!("{} was not welcomed: {response:?}", self.actor.name);
                    self.actor.ledger().violation(violation);
                    return None;
                };
                self.actor.done("welcome", &welcome.session_id, |_| Ok(()));
                let goes_on = self
                    .session
                    .as_ref()
                    .is_some_and(|session| session.session_id == welcome.session_id);
                if !goes_on {
                    *self.session = Some(Session::new(welcome.session_id));
                }
                welcome.session_ttl?.try_into().ok()
            }
            Err(status) => {
                self.over(&status);
                None
            }
        }
    }

    /// What the stream ended with.
    fn over(&mut self, status: &tonic::Status) {
        let reason = reason_of(status);
        self.actor
            .ledger()
            .note("cut off", || format!("{reason} {}", status.message()));
        match reason.as_str() {
            // After a loss the session may be one that never was.
            "SESSION_ENDED" | "SESSION_SUPERSEDED" => {
                if let Some(session) = self.session.take() {
                    session.end();
                }
            }
            "INTERNAL" | "" => {
                let violation = format!("{} was cut off for no good reason: {status:?}", self.actor.name);
                self.actor.ledger().violation(violation);
            }
            _ => {}
        }
    }

    fn frame(&mut self, frame: Option<Frame>) {
        match frame {
            Some(Frame::Nonce(nonce)) => {
                self.nonce = nonce.nonce;
                self.actor.done("nonce", "", |_| Ok(()));
            }
            Some(Frame::Assignment(assignment)) => {
                self.actor.done("assigned", &assignment.attempt_token, |_| Ok(()));
                if let Some(session) = self.session.as_ref().filter(|_| !happens(0.03)) {
                    let work = see_through(self.actor.another(), Arc::clone(session), assignment);
                    machine::spawn(work);
                }
            }
            _ => {}
        }
    }
}
