//! The door of the registry. Its mutations are free functions, so that the session stream calls the very same.

mod discover;
pub mod view;
mod watch;

use std::pin::Pin;
use std::sync::Arc;

use drumline_proto::v1;
use drumline_proto::v1::registry_service_server::RegistryService;
use futures::Stream;
use tonic::{Request, Response, Status};

use super::rules::{self, Change, Registered, Registration};
use super::{Agent, SaidStatus};
use crate::app::App;
use crate::edge::check::Check;
use crate::edge::{Context, payload};
use crate::error::{Reason, Refusal};
use crate::lane::{Committed, Urgency, refusal_of};
use crate::machine;
use crate::sessions::{self, Session};
use crate::tail::Cursor;
use crate::time::Time;

/// The service.
pub struct Registry {
    app: Arc<App>,
}

impl Registry {
    /// The service of a server.
    pub fn new(app: Arc<App>) -> Registry {
        Registry { app }
    }
}

/// A registration as a job: who, under which new session, or going on with which older one.
#[derive(Clone, Debug)]
pub struct Registering {
    /// Who.
    pub registration: Registration,
    /// The id of a new session: the secret that its opener acts under.
    pub session_id: String,
    /// The older session to go on with.
    pub resume: Option<String>,
}

impl Registering {
    /// A registration from the wire. An agent without an id is given one.
    ///
    /// # Errors
    /// INVALID_REQUEST.
    pub fn new(
        app: &App,
        request: v1::RegisterAgentRequest,
        default_ttl: std::time::Duration,
        traceparent: &str,
    ) -> Result<Registering, Refusal> {
        let mut check = Check::default();
        check.optional_id("request_id", &request.request_id);
        let resume = check.session_id(request.session_id.clone());
        let mut registration = view::registration(&mut check, app, request, default_ttl, traceparent);
        check.finish()?;
        if registration.agent_id.is_empty() && resume.is_none() {
            registration.agent_id = machine::new_id();
        }
        let session_id = format!("{:032x}", machine::random::<u128>());
        Ok(Registering {
            registration,
            session_id,
            resume,
        })
    }
}

/// Registers an agent.
///
/// # Errors
/// As documented on `RegisterAgent`.
pub async fn register_agent(
    app: &App,
    context: &Context,
    request: v1::RegisterAgentRequest,
) -> Result<v1::RegisterAgentResponse, Refusal> {
    let call = context.call("RegisterAgent", &request.request_id, &request, Urgency::Normal);
    let registering = Registering::new(app, request, app.defaults.session_ttl, &context.traceparent)?;
    let wanted = registering.clone();
    let beats = app.beats.clone();
    let committed = app
        .lanes
        .run(
            call,
            move |world| rules::want_register(world, &wanted.registration.agent_id, wanted.resume.as_deref()),
            move |world| {
                let Registering {
                    registration,
                    session_id,
                    resume,
                } = registering.clone();
                let registered = rules::register(world, registration, &session_id, resume.as_deref())?;
                beats.revive(world, &registered.session);
                Ok(registered)
            },
        )
        .await?;
    let Registered { agent, session, .. } = &committed.answer;
    Ok(v1::RegisterAgentResponse {
        session_id: session.session_id.clone(),
        agent: Some(view::seen(app, &context.namespace, agent, Some(session))),
        session_ttl: Some(payload::duration(session.ttl)),
        position: committed.position,
        cursor: cursor(&committed),
    })
}

fn cursor<T>(committed: &Committed<T>) -> String {
    let cursor = Cursor {
        epoch: committed.epoch,
        position: committed.position,
    };
    cursor.encode()
}

/// Keeps a session alive.
async fn heartbeat(
    app: &App,
    context: &Context,
    request: v1::HeartbeatRequest,
) -> Result<v1::HeartbeatResponse, Refusal> {
    let mut check = Check::default();
    let session_id = check.id("session_id", &request.session_id);
    check.finish()?;
    let ttl = sessions::watch::beat(app, &context.namespace, &session_id).await?;
    Ok(v1::HeartbeatResponse {
        expire_time: Some(payload::timestamp(Time::of_this_machine() + ttl)),
    })
}

/// Changes a registration.
///
/// # Errors
/// As documented on `UpdateAgent`.
pub async fn update_agent(
    app: &App,
    context: &Context,
    request: v1::UpdateAgentRequest,
) -> Result<v1::UpdateAgentResponse, Refusal> {
    let call = context.call("UpdateAgent", &request.request_id, &request, Urgency::Normal);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    let session_id = check.session_id(request.session_id);
    let agent = request.agent.unwrap_or_default();
    let agent_id = check.optional_id("agent.agent_id", &agent.agent_id);
    let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
    let change = change(&mut check, app, agent, &paths);
    check.finish()?;
    let session_id = session_id.ok_or_else(session_required)?;
    let traceparent = context.traceparent.clone();
    let wanted = (session_id.clone(), agent_id.clone());
    let committed = app
        .lanes
        .run(
            call,
            move |world| {
                world.sessions.want(&wanted.0);
                rules::want_register(world, &wanted.1, None);
            },
            move |world| rules::update(world, &session_id, &agent_id, change.clone(), &traceparent),
        )
        .await?;
    let Registered { agent, session, .. } = &committed.answer;
    Ok(v1::UpdateAgentResponse {
        agent: Some(view::seen(app, &context.namespace, agent, Some(session))),
        position: committed.position,
        cursor: cursor(&committed),
    })
}

fn session_required() -> Refusal {
    Refusal::new(
        Reason::SessionRequired,
        "only the agent itself can change its registration: give its session_id",
    )
}

/// The change that a mask picks. Without a mask it is every field that is set; `*` is every field, set or not.
fn change(check: &mut Check, app: &App, agent: v1::Agent, paths: &[String]) -> Change {
    const FIELDS: [&str; 6] = [
        "agent_name",
        "base_url",
        "labels",
        "max_concurrent_tasks",
        "capabilities",
        "status",
    ];
    for path in paths.iter().take(64) {
        if path != "*" && !FIELDS.contains(&path.as_str()) {
            let path: String = path.chars().take(64).collect();
            check.violation("update_mask", format!("{path:?} is not a field that can be changed"));
        }
    }
    let has_status = agent.status != v1::agent::Status::Unspecified as i32;
    let is_set = |field: &str| match field {
        "agent_name" => !agent.agent_name.is_empty(),
        "base_url" => !agent.base_url.is_empty(),
        "labels" => !agent.labels.is_empty(),
        "max_concurrent_tasks" => agent.max_concurrent_tasks != 0,
        "capabilities" => !agent.capabilities.is_empty(),
        _ => has_status,
    };
    let picked = FIELDS.map(|field| {
        let all = paths.iter().any(|path| path == "*") && (field != "status" || has_status);
        all || paths.iter().any(|path| path == field) || (paths.is_empty() && is_set(field))
    });
    let [name, url, labels, slots, capabilities, status] = picked;
    Change {
        agent_name: name.then(|| view::name(check, "agent.agent_name", &agent.agent_name)),
        base_url: url.then(|| view::url(check, "agent.base_url", &agent.base_url)),
        labels: labels.then(|| check.labels("agent.labels", agent.labels.into_iter().collect())),
        max_concurrent_tasks: slots
            .then(|| view::slots(check, "agent.max_concurrent_tasks", agent.max_concurrent_tasks)),
        capabilities: capabilities.then(|| view::capabilities(check, app, "agent.capabilities", agent.capabilities)),
        status: status.then(|| said_status(check, agent.status)),
    }
}

fn said_status(check: &mut Check, status: i32) -> SaidStatus {
    match v1::agent::Status::try_from(status) {
        Ok(v1::agent::Status::Active) => SaidStatus::Active,
        Ok(v1::agent::Status::Busy) => SaidStatus::Busy,
        Ok(v1::agent::Status::Draining) => SaidStatus::Draining,
        _ => {
            check.violation("agent.status", "must be ACTIVE, BUSY or DRAINING");
            SaidStatus::Active
        }
    }
}

/// Takes an agent off the list.
///
/// # Errors
/// As documented on `DeregisterAgent`.
pub async fn deregister_agent(
    app: &App,
    context: &Context,
    request: v1::DeregisterAgentRequest,
) -> Result<v1::DeregisterAgentResponse, Refusal> {
    let call = context.call("DeregisterAgent", &request.request_id, &request, Urgency::High);
    let mut check = Check::default();
    check.optional_id("request_id", &request.request_id);
    let session_id = check.session_id(request.session_id);
    let agent_id = check.optional_id("agent_id", &request.agent_id);
    if session_id.is_none() && agent_id.is_empty() {
        check.violation("agent_id", "must be given if session_id is not");
    }
    check.finish()?;
    let wanted = (session_id.clone(), agent_id.clone());
    let committed = app
        .lanes
        .run(
            call,
            move |world| rules::want_register(world, &wanted.1, wanted.0.as_deref()),
            move |world| rules::deregister(world, session_id.as_deref(), &agent_id),
        )
        .await?;
    Ok(v1::DeregisterAgentResponse {
        position: committed.position,
        cursor: cursor(&committed),
    })
}

async fn get(app: &App, context: &Context, request: v1::GetAgentRequest) -> Result<v1::Agent, Refusal> {
    let mut check = Check::default();
    let agent_id = check.id("agent_id", &request.agent_id);
    check.finish()?;
    let agent = app.store.get::<Agent>(&context.namespace, &agent_id).await;
    let agent = agent.map_err(|error| refusal_of(&error))?.filter(Agent::is_listed);
    let agent = agent.ok_or_else(|| rules::not_found(&agent_id))?;
    let session = match &agent.session_id {
        Some(session_id) => app.store.get::<Session>(&context.namespace, session_id).await,
        None => Ok(None),
    };
    let session = session.map_err(|error| refusal_of(&error))?;
    Ok(view::seen(app, &context.namespace, &agent, session.as_ref()))
}

#[tonic::async_trait]
impl RegistryService for Registry {
    async fn register_agent(
        &self,
        request: Request<v1::RegisterAgentRequest>,
    ) -> Result<Response<v1::RegisterAgentResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            register_agent(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            heartbeat(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn update_agent(
        &self,
        request: Request<v1::UpdateAgentRequest>,
    ) -> Result<Response<v1::UpdateAgentResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            update_agent(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn deregister_agent(
        &self,
        request: Request<v1::DeregisterAgentRequest>,
    ) -> Result<Response<v1::DeregisterAgentResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            deregister_agent(&self.app, &context, request.into_inner()).await?,
        ))
    }

    async fn get_agent(&self, request: Request<v1::GetAgentRequest>) -> Result<Response<v1::GetAgentResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        let agent = get(&self.app, &context, request.into_inner()).await?;
        Ok(Response::new(v1::GetAgentResponse { agent: Some(agent) }))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        Ok(Response::new(
            discover::list(&self.app, &context, request.into_inner()).await?,
        ))
    }

    type WatchAgentsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchAgentsResponse, Status>> + Send>>;

    async fn watch_agents(
        &self,
        request: Request<v1::WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        let context = Context::new(&request, &request.get_ref().namespace)?;
        let stream = watch::watch(Arc::clone(&self.app), context, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }
}
