//! One stream of a session, from its hello to its end.
//!
//! The stream of the newest generation is the session's; an older one ends as soon as it hears of a newer. A stream that breaks takes its agent
//! off the offers at once and ends the session after a grace ([`crate::sessions::broken`]); a stream that ends because its session is over, or goes
//! on elsewhere, touches nothing. What the agent said before the end is still decided, and answered where that can be.
//!
//! A hello that resumes may be read when its agent has long given up waiting for the welcome and tries anew: because the server stood still,
//! or the network did. So the end of a stream that resumed, and on which nothing more was said, is no sign that its agent has died: that has its TTL.

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1;
use drumline_proto::v1::connect_notice::{Drain, Notice};
use drumline_proto::v1::connect_response::Frame;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tonic::Streaming;

use super::down::{Down, Ending, too_slow};
use super::frames::{Answered, Nonces};
use super::hello::{self, Opened};
use super::push::Loaded;
use crate::app::App;
use crate::edge::{Context, payload, stream};
use crate::error::{Reason, Refusal};
use crate::machine::{self, Instant};
use crate::registry::rpc::view;
use crate::registry::rules::Registered;
use crate::sessions::beats::Sign;
use crate::sessions::broken::Broken;
use crate::sessions::{self, rules};
use crate::tail::{Feed, Subscription};

/// How many frames of one stream are being decided at a time; the next waits with the transport.
const MAX_IN_FLIGHT: usize = 64;
/// How long the answers that are under way may take once the stream has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// A stream that is open.
pub(super) struct Link {
    pub(super) app: Arc<App>,
    pub(super) context: Context,
    pub(super) session_id: String,
    pub(super) agent_id: String,
    generation: i64,
    sign: watch::Receiver<Sign>,
    pub(super) down: Down,
    pub(super) feed: Arc<Feed>,
    pub(super) events: Subscription,
    /// Where in the log the stream was opened.
    pub(super) opened_at: i64,
    pub(super) loaded: Loaded,
    pub(super) nonces: Nonces,
    /// Whether its agent is known to have been at the other end: not by a hello that resumes alone.
    heard: bool,
    pub(super) answers: FuturesUnordered<BoxFuture<'static, Answered>>,
}

/// The first frame down.
struct Welcome {
    request_number: u64,
    frame: v1::ConnectWelcome,
}

/// Serves a stream.
pub(super) async fn run(app: Arc<App>, call: Context, mut up: Streaming<v1::ConnectRequest>, down: Down) {
    // What the hello and the end need is not kept for as long as the stream lives.
    let opened = match Box::pin(hello::open(&app, &call, &mut up, &down)).await {
        Ok(opened) => opened,
        Err(Ending::Over(refusal) | Ending::Draining(refusal) | Ending::Unreadable(refusal)) => {
            return down.end(Some(refusal));
        }
        Err(_) => return,
    };
    let session = &opened.registered.session;
    let broken = |at| Broken {
        namespace: Arc::clone(&opened.context.namespace),
        session_id: session.session_id.clone(),
        agent_id: session.agent_id.clone(),
        generation: session.generation,
        ttl: session.ttl,
        at,
    };
    let mut broken = broken(Instant::now());
    let resumed = opened.registered.resumed;
    let ending = match follow(&app, &opened).await {
        Ok(sign) => {
            let welcome = welcome(&app, &opened);
            let link = Link::new(Arc::clone(&app), opened, down, sign);
            link.serve(&mut up, welcome).await
        }
        Err(refusal) => {
            down.end(Some(refusal));
            Broke::of(!resumed)
        }
    };
    drop(up);
    broken.at = Instant::now();
    match ending {
        Broke::Yes => Box::pin(broken.run(&app)).await,
        Broke::Unheard => Box::pin(broken.withdraw(&app)).await,
        Broke::WithTheServer => {
            // What its agent would be given now nobody could send it. If this fails, the next start sees to it.
            let _ = broken.disconnect(&app).await;
        }
        Broke::ToMove => {
            // It has been asked to go, so it is given longer to come back than one that broke.
            broken.at += broken.ttl;
            broken.run(&app).await;
        }
        Broke::No => {}
    }
}

/// Whether a session is without its stream now.
enum Broke {
    Yes,
    /// And its agent may never have known of it.
    Unheard,
    /// Because the server is stopping: that says nothing of the agent.
    WithTheServer,
    /// Because its connection has reached its age.
    ToMove,
    /// The session is over, or has another stream.
    No,
}

impl Broke {
    /// A stream whose agent is known to have been at the other end, or is not.
    fn of(heard: bool) -> Broke {
        if heard { Broke::Yes } else { Broke::Unheard }
    }
}

fn welcome(app: &App, opened: &Opened) -> Welcome {
    let Registered {
        agent,
        session,
        resumed,
    } = &opened.registered;
    Welcome {
        request_number: opened.request_number,
        frame: v1::ConnectWelcome {
            session_id: session.session_id.clone(),
            agent: Some(view::seen(app, &opened.context.namespace, agent, Some(session))),
            session_ttl: Some(payload::duration(session.ttl)),
            reconnect_grace: Some(payload::duration(app.limits.reconnect_grace)),
            resumed: *resumed,
            cursor: opened.cursor.encode(),
        },
    }
}

/// What becomes of the session from now on.
async fn follow(app: &App, opened: &Opened) -> Result<watch::Receiver<Sign>, Refusal> {
    let namespace = &opened.context.namespace;
    let session_id = &opened.registered.session.session_id;
    if let Some(sign) = app.beats.follow(namespace, session_id) {
        return Ok(sign);
    }
    // It has ended since, or is not known here: the lane knows.
    sessions::watch::beat(app, namespace, session_id).await?;
    app.beats.follow(namespace, session_id).ok_or_else(rules::unknown)
}

impl Link {
    fn new(app: Arc<App>, opened: Opened, down: Down, sign: watch::Receiver<Sign>) -> Link {
        let heard = !opened.registered.resumed;
        let session = opened.registered.session;
        Link {
            app,
            context: opened.context,
            session_id: session.session_id,
            agent_id: session.agent_id,
            generation: session.generation,
            sign,
            down,
            feed: opened.feed,
            events: opened.events,
            opened_at: opened.cursor.position,
            loaded: Loaded::when(opened.goes_on),
            nonces: Nonces::new(),
            heard,
            answers: FuturesUnordered::new(),
        }
    }

    /// Serves the stream to its end.
    async fn serve(mut self, up: &mut Streaming<v1::ConnectRequest>, welcome: Welcome) -> Broke {
        let Err(ending) = self.live(up, welcome).await;
        match ending {
            Ending::Gone => {
                // What it said before is decided all the same: its jobs are in the lane, before what follows.
                machine::spawn(self.answers.for_each(|_| std::future::ready(())));
                Broke::of(self.heard)
            }
            Ending::Silent => {
                self.last_answers().await;
                self.down.end(None);
                Broke::of(self.heard)
            }
            Ending::Unreadable(refusal) => {
                // Nothing can be read behind it, but the agent is there: it connects again.
                self.last_answers().await;
                self.down.end(Some(refusal));
                Broke::Yes
            }
            Ending::Slow => {
                let cursor = self.feed.cursor(self.feed.position());
                self.down.end(Some(too_slow(&cursor)));
                Broke::Yes
            }
            Ending::Draining(refusal) => {
                self.last_answers().await;
                self.down.end(Some(refusal));
                match self.app.draining.is_cancelled() {
                    true => Broke::WithTheServer,
                    false => Broke::ToMove,
                }
            }
            Ending::Over(refusal) => {
                // Its own goodbye ends the session before it is answered.
                let said_goodbye = self.last_answers().await;
                self.down.end((!said_goodbye).then_some(refusal));
                Broke::No
            }
            Ending::Goodbye => {
                self.down.end(None);
                Broke::No
            }
        }
    }

    /// Lives until something ends it.
    async fn live(
        &mut self,
        up: &mut Streaming<v1::ConnectRequest>,
        welcome: Welcome,
    ) -> Result<std::convert::Infallible, Ending> {
        self.down
            .send(welcome.request_number, Frame::Welcome(welcome.frame))
            .await?;
        self.send_nonce(0).await?;
        let leaving = self.context.leaving(&self.app);
        loop {
            self.check_sign()?;
            let (takes_more, is_answering) = (self.answers.len() < MAX_IN_FLIGHT, !self.answers.is_empty());
            let load_at = self.loaded.again_at;
            crate::select! {
                request = up.message(), if takes_more => match request {
                    Ok(Some(request)) => {
                        // An older stream does not speak for the session any more.
                        self.check_sign()?;
                        self.heard = true;
                        self.frame(request).await?;
                    }
                    Ok(None) => return Err(Ending::Silent),
                    Err(status) => return Err(Ending::of_status(&status)),
                },
                Some(answered) = self.answers.next(), if is_answering => self.answer(answered).await?,
                delivery = self.events.next() => self.delivered(delivery).await?,
                () = sleep_until(load_at) => self.load().await?,
                changed = self.sign.changed() => if changed.is_err() {
                    self.check_sign()?;
                    return Err(Ending::Over(rules::unknown()));
                },
                () = leaving.cancelled() => return Err(self.drain().await),
                () = self.down.closed() => return Err(Ending::Gone),
            }
        }
    }

    /// Whether the session is over, or has a newer stream.
    fn check_sign(&self) -> Result<(), Ending> {
        let sign = *self.sign.borrow();
        if let Some(life) = sign.ended {
            return Err(Ending::Over(rules::ended_as(life, &self.agent_id)));
        }
        if sign.generation > self.generation {
            let message = "another stream of this session has taken this one's place";
            return Err(Ending::Over(Refusal::new(Reason::StreamSuperseded, message)));
        }
        Ok(())
    }

    /// Tells the agent to connect again: the server is stopping, or the connection has reached its age.
    async fn drain(&mut self) -> Ending {
        // Not all at the same time, where there are many.
        let delay = Duration::from_millis(machine::random_range(50..500));
        let drain = Drain {
            reconnect_delay: Some(payload::duration(delay)),
        };
        let notice = v1::ConnectNotice {
            notice: Some(Notice::Drain(drain)),
        };
        if let Err(ending) = self.down.send(0, Frame::Notice(notice)).await {
            return ending;
        }
        Ending::Draining(stream::draining(&self.feed.cursor(self.feed.position())))
    }

    /// Sends the answers that are under way, as long as that is possible. Says whether a goodbye was among them.
    async fn last_answers(&mut self) -> bool {
        let all = async {
            while let Some(answered) = self.answers.next().await {
                if let Err(ending) = self.answer(answered).await {
                    return matches!(ending, Ending::Goodbye);
                }
            }
            false
        };
        // Who waits longer asks again.
        tokio::time::timeout(LAST_ANSWERS, all).await.unwrap_or(false)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
