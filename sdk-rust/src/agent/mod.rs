//! The agent runtime: an agent is a set of functions, and the rest is done here.
//!
//! ```no_run
//! use drumline::{Agent, Client, TaskContext, TaskFailure};
//!
//! async fn count(_task: TaskContext, text: String) -> Result<usize, TaskFailure> {
//!     Ok(text.split_whitespace().count())
//! }
//!
//! # async fn example() -> drumline::Result<()> {
//! let client = Client::connect("http://127.0.0.1:7400").await?;
//! let agent = Agent::builder(&client, "counter-1").capability("count_words", count).build();
//! agent.run(async { drop(tokio::signal::ctrl_c().await) }).await
//! # }
//! ```
//!
//! What is promised:
//! - Handlers run on the caller's runtime; the stream and its heartbeats on a thread of their own. A busy handler does not
//!   kill its agent, and a panicking one is a failed attempt.
//! - A handler is told to stop when its task is cancelled, its time is up, or its session is over *or may be*, by this
//!   process's clock, which is before the server gives the task to another because of silence.
//! - Where the client has several addresses, an agent whose server is gone, silent or stopping goes on with the same session at
//!   another, its handlers undisturbed.
//! - A result is said until it is answered, over any number of reconnects, as long as the session lives.
//! - An attempt is begun once. A task may be attempted more than once: effects outside are at least once.
//!
//! How it fails: when another process registers the same agent, [`AgentHandle::wait`] returns that error and the agent
//! does not come back by itself. When the session has ended it registers anew, with nothing held.

mod attempt;
mod attempts;
mod capability;
mod config;
mod context;
mod driver;
mod frames;
mod handle;
mod leaving;
mod life;
mod link;
mod outbox;
mod watch;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drumline_proto::v1 as pb;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch as watched};

use self::capability::Handler;
use self::config::Config;
use self::driver::Driver;
use self::handle::Snapshot;
use self::leaving::Leaving;
use crate::client::{Client, request_id};
use crate::error::{Error, Result};
use crate::time;

pub use capability::{Capability, TaskFailure};
pub use context::{CancelCause, TaskContext};
pub use handle::{AgentHandle, SessionInfo, Status};

/// The most tasks that the server gives one agent at once.
const MOST_TASKS: i32 = 10_000;

/// An agent that has not started yet.
#[derive(Clone)]
#[must_use = "an agent does nothing until it runs"]
pub struct Agent {
    client: Client,
    registration: pb::RegisterAgentRequest,
    handlers: HashMap<String, Handler>,
    fallback: Option<Handler>,
    cancel_grace: Duration,
    drain_timeout: Option<Duration>,
    deregister: bool,
}

/// Makes an [`Agent`].
#[derive(Clone)]
#[must_use]
pub struct AgentBuilder(Agent);

impl AgentBuilder {
    fn change(mut self, change: impl FnOnce(&mut Agent)) -> Self {
        change(&mut self.0);
        self
    }

    /// Something that the agent can do, and the function that does it. An input that does not fit the function's type fails the
    /// task for good, with kind `invalid_input`.
    pub fn capability<In, Out, F, Fut>(self, capability: impl Into<Capability>, function: F) -> Self
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + 'static,
        F: Fn(TaskContext, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, TaskFailure>> + Send + 'static,
    {
        self.handler(capability.into(), capability::typed(function))
    }

    /// Something that the agent can do, with payloads as they are.
    pub fn raw_capability<F, Fut>(self, capability: impl Into<Capability>, function: F) -> Self
    where
        F: Fn(TaskContext, pb::Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<pb::Payload, TaskFailure>> + Send + 'static,
    {
        self.handler(capability.into(), capability::raw(function))
    }

    fn handler(self, capability: Capability, handler: Handler) -> Self {
        self.change(|agent| {
            agent.handlers.insert(capability.0.name.clone(), handler);
            agent.registration.capabilities.push(capability.0);
        })
    }

    /// What to do with tasks that are for this agent whatever the capability.
    pub fn any_task<F, Fut>(self, function: F) -> Self
    where
        F: Fn(TaskContext, pb::Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<pb::Payload, TaskFailure>> + Send + 'static,
    {
        self.change(|agent| agent.fallback = Some(capability::raw(function)))
    }

    /// How many tasks it takes at once, up to 10,000; 1 if it is not set.
    pub fn max_concurrent_tasks(self, tasks: i32) -> Self {
        self.change(|agent| agent.registration.max_concurrent_tasks = tasks.clamp(1, MOST_TASKS))
    }

    /// A name for people.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.change(|agent| agent.registration.agent_name = name.into())
    }

    /// Where others can reach it; the server does not call it.
    pub fn base_url(self, url: impl Into<String>) -> Self {
        self.change(|agent| agent.registration.base_url = url.into())
    }

    /// A free label.
    pub fn label(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.change(|agent| {
            agent.registration.labels.insert(name.into(), value.into());
        })
    }

    /// After this long without a heartbeat the agent is dead: 1 s to 10 min; 3 s if it is not set.
    pub fn session_ttl(self, ttl: Duration) -> Self {
        self.change(|agent| agent.registration.session_ttl = Some(time::to_proto(ttl)))
    }

    /// How long a handler that was told to stop may take before it is aborted; 5 s if it is not set.
    pub fn cancel_grace(self, grace: Duration) -> Self {
        self.change(|agent| agent.cancel_grace = grace)
    }

    /// How long [`Agent::run`] drains before it stops what is still there; for ever if it is not set.
    pub fn drain_timeout(self, timeout: Duration) -> Self {
        self.change(|agent| agent.drain_timeout = Some(timeout))
    }

    /// Whether to go off the list when leaving (the default), which gives what it held to others at once. Otherwise it
    /// stays listed as OFFLINE, after the server's reconnect grace.
    pub fn deregister_on_leave(self, deregister: bool) -> Self {
        self.change(|agent| agent.deregister = deregister)
    }

    /// The agent.
    pub fn build(self) -> Agent {
        self.0
    }
}

impl Agent {
    /// Begins to make an agent with an id that is unique in the client's namespace; empty: the server makes one.
    pub fn builder(client: &Client, agent_id: impl Into<String>) -> AgentBuilder {
        let registration = pb::RegisterAgentRequest {
            namespace: client.namespace(),
            agent_id: agent_id.into(),
            max_concurrent_tasks: 1,
            ..Default::default()
        };
        AgentBuilder(Self {
            client: client.clone(),
            registration,
            handlers: HashMap::new(),
            fallback: None,
            cancel_grace: Duration::from_secs(5),
            drain_timeout: None,
            deregister: true,
        })
    }

    /// Runs until `shutdown` is ready, then drains. An error if the agent cannot go on.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let drain_timeout = self.drain_timeout;
        let agent = self.start()?;
        tokio::select! {
            ended = agent.wait() => return ended,
            () = shutdown => {}
        }
        match drain_timeout {
            None => agent.drain().await,
            Some(limit) => match tokio::time::timeout(limit, agent.drain()).await {
                Ok(ended) => ended,
                Err(_elapsed) => agent.stop().await,
            },
        }
    }

    /// Starts the agent in the background. Must be called on the runtime that its handlers are to run on.
    pub fn start(self) -> Result<AgentHandle> {
        let runtime = Handle::try_current().map_err(|error| Error::config(error.to_string()))?;
        let (commands, orders) = mpsc::unbounded_channel();
        let (status, snapshot) = watched::channel(Snapshot {
            status: Status::Connecting,
            scope: None,
        });
        let (end, done) = watched::channel(None);
        let client = self.client.clone();
        let driver = self.driver(runtime, orders, commands.clone(), status);
        let name = format!("drumline-{}", driver.config.agent_id());
        let thread = std::thread::Builder::new().name(name);
        let spawned = thread.spawn(move || end.send_replace(Some(drive(driver))));
        spawned.map_err(|error| Error::config(format!("no thread for the agent: {error}")))?;
        Ok(AgentHandle {
            client,
            commands,
            snapshot,
            done,
        })
    }

    fn driver(
        self,
        runtime: Handle,
        orders: mpsc::UnboundedReceiver<driver::Command>,
        commands: mpsc::UnboundedSender<driver::Command>,
        status: watched::Sender<Snapshot>,
    ) -> Driver {
        let slots = usize::try_from(self.registration.max_concurrent_tasks).unwrap_or(1);
        let addresses = self.client.addresses().clone();
        let config = Config {
            client: self.client,
            registration: self.registration,
            handlers: self.handlers,
            fallback: self.fallback,
            slots: Arc::new(Semaphore::new(slots)),
            cancel_grace: self.cancel_grace,
            deregister: self.deregister,
            runtime,
        };
        Driver {
            config,
            address: addresses.choose(None),
            addresses,
            loose_hellos: 0,
            commands: orders,
            own: commands,
            status,
            session: None,
            up: None,
            nonce: 0,
            beat_at: Instant::now(),
            move_at: None,
            awake: Instant::now(),
            outbox: outbox::Outbox::new(),
            attempts: attempts::Attempts::new(),
            leaving: Leaving::No,
            busy: false,
            register_id: request_id(),
        }
    }
}

/// The agent's thread: a runtime of its own for the stream and its heartbeats.
fn drive(driver: Driver) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::config(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(driver.run());
    runtime.shutdown_background();
    ended
}
