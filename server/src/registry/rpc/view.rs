//! Agents and capabilities between the wire and the house.

use std::time::Duration;

use drumline_proto::v1;

use crate::app::App;
use crate::edge::check::{Check, MAX_ID};
use crate::edge::payload;
use crate::machine::Instant;
use crate::registry::rules::Registration;
use crate::registry::{Agent, Capability, SaidStatus, schema};
use crate::sessions::{MAX_TTL, MIN_TTL, Session};
use crate::time::Time;

/// How many capabilities an agent may have.
const MAX_CAPABILITIES: usize = 100;
/// How many tags a capability may have.
const MAX_TAGS: usize = 64;
/// How long a description may be, in bytes.
const MAX_DESCRIPTION: usize = 4_096;
/// How many tasks an agent may take at once.
const MAX_SLOTS: i32 = 10_000;

/// An agent as others see it, with what is known of its last heartbeat.
pub fn seen(app: &App, namespace: &str, agent: &Agent, session: Option<&Session>) -> v1::Agent {
    let session = session.filter(|session| session.is_live());
    let last = session.and_then(|session| app.beats.last(namespace, &session.session_id));
    heard(agent, session, last.map(|last| Clock::now().time(last)))
}

/// Both clocks of this machine at one moment.
pub(super) struct Clock {
    instant: Instant,
    time: Time,
}

impl Clock {
    pub(super) fn now() -> Clock {
        Clock {
            instant: Instant::now(),
            time: Time::of_this_machine(),
        }
    }

    /// The time of a moment that has passed.
    pub(super) fn time(&self, instant: Instant) -> Time {
        self.time - self.instant.saturating_duration_since(instant)
    }
}

/// An agent as others see it, last heard of then.
pub(super) fn heard(agent: &Agent, session: Option<&Session>, last_heartbeat: Option<Time>) -> v1::Agent {
    let session = session.filter(|session| session.is_live());
    let assigned = session.map(|session| session.last_assigned_at);
    v1::Agent {
        agent_id: agent.agent_id.clone(),
        agent_name: agent.agent_name.clone(),
        base_url: agent.base_url.clone(),
        labels: agent.labels.0.clone().into_iter().collect(),
        max_concurrent_tasks: agent.max_concurrent_tasks,
        capabilities: agent.capabilities.iter().map(capability_to_proto).collect(),
        status: status(agent, session) as i32,
        last_heartbeat: last_heartbeat.map(payload::timestamp),
        in_flight_tasks: session.map_or(0, |session| session.in_flight),
        session_incarnation: agent.incarnation,
        register_time: Some(payload::timestamp(agent.registered_at)),
        last_assign_time: assigned.filter(|at| *at > Time(0)).map(payload::timestamp),
        offline_time: agent.offline_at.map(payload::timestamp),
    }
}

/// What an agent is doing: what it says, or what the server sees. A session without a stream or a poll is there all the same.
pub(super) fn status(agent: &Agent, session: Option<&Session>) -> v1::agent::Status {
    match (session, agent.said_status) {
        (None, _) => v1::agent::Status::Offline,
        (_, SaidStatus::Draining) => v1::agent::Status::Draining,
        (_, SaidStatus::Busy) => v1::agent::Status::Busy,
        (session, SaidStatus::Active) if agent.free_slots(session) == 0 => v1::agent::Status::Busy,
        _ => v1::agent::Status::Active,
    }
}

fn capability_to_proto(capability: &Capability) -> v1::Capability {
    v1::Capability {
        name: capability.name.clone(),
        description: capability.description.clone(),
        input_schema: capability.input_schema.clone(),
        output_schema: capability.output_schema.clone(),
        estimated_duration: capability.estimated_duration.map(payload::duration),
        tags: capability.tags.clone(),
    }
}

/// A registration from the wire. `default_ttl` is that of the way in which it came.
pub fn registration(
    check: &mut Check,
    app: &App,
    request: v1::RegisterAgentRequest,
    default_ttl: Duration,
    traceparent: &str,
) -> Registration {
    let slots = check.number("max_concurrent_tasks", request.max_concurrent_tasks, 1, 1..=MAX_SLOTS);
    Registration {
        agent_id: check.optional_id("agent_id", &request.agent_id),
        agent_name: name(check, "agent_name", &request.agent_name),
        base_url: url(check, "base_url", &request.base_url),
        labels: check.labels("labels", request.labels.into_iter().collect()),
        max_concurrent_tasks: slots,
        capabilities: capabilities(check, app, "capabilities", request.capabilities),
        ttl: check.duration("session_ttl", request.session_ttl, default_ttl, MIN_TTL..=MAX_TTL),
        traceparent: traceparent.to_owned(),
    }
}

pub(super) fn name(check: &mut Check, field: &str, name: &str) -> String {
    check.text(field, name, MAX_ID)
}

pub(super) fn url(check: &mut Check, field: &str, url: &str) -> String {
    if url.chars().any(char::is_control) {
        check.violation(field, "must not have control characters");
    }
    check.text(field, url, 2_048)
}

pub(super) fn slots(check: &mut Check, field: &str, slots: i32) -> i32 {
    check.number(field, slots, 1, 1..=MAX_SLOTS)
}

/// Capabilities from the wire, with their schemas checked.
pub(super) fn capabilities(
    check: &mut Check,
    app: &App,
    field: &str,
    capabilities: Vec<v1::Capability>,
) -> Vec<Capability> {
    if capabilities.len() > MAX_CAPABILITIES {
        check.violation(field, format!("has more than {MAX_CAPABILITIES} capabilities"));
        return Vec::new();
    }
    let bytes: usize = capabilities
        .iter()
        .map(|capability| capability.input_schema.len() + capability.output_schema.len())
        .sum();
    if bytes > app.limits.max_payload_bytes {
        let limit = app.limits.max_payload_bytes;
        check.violation(
            field,
            format!("has {bytes} bytes of schemas, at most {limit} are allowed"),
        );
        return Vec::new();
    }
    let mut names = std::collections::HashSet::new();
    let mut taken = Vec::with_capacity(capabilities.len());
    for (index, capability) in capabilities.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        if !names.insert(capability.name.clone()) {
            check.violation(format!("{field}.name"), "is the name of another capability too");
        }
        taken.push(capability_of(check, &field, capability));
    }
    taken
}

fn capability_of(check: &mut Check, field: &str, capability: v1::Capability) -> Capability {
    let tags_field = format!("{field}.tags");
    if capability.tags.len() > MAX_TAGS {
        check.violation(&tags_field, format!("has more than {MAX_TAGS} tags"));
    }
    for tag in capability.tags.iter().take(MAX_TAGS) {
        check.id(&tags_field, tag);
    }
    schema_of(check, format!("{field}.input_schema"), &capability.input_schema);
    schema_of(check, format!("{field}.output_schema"), &capability.output_schema);
    Capability {
        name: check.id(format!("{field}.name"), &capability.name),
        description: check.text(format!("{field}.description"), &capability.description, MAX_DESCRIPTION),
        input_schema: capability.input_schema,
        output_schema: capability.output_schema,
        estimated_duration: check
            .optional_duration(format!("{field}.estimated_duration"), capability.estimated_duration),
        tags: capability.tags,
    }
}

fn schema_of(check: &mut Check, field: String, text: &str) {
    if text.contains('\0') {
        check.violation(field, "must not have the character U+0000");
    } else if !text.is_empty()
        && let Err(problem) = schema::check(text)
    {
        check.violation(field, problem);
    }
}
