//! What a bench can be told.

use std::time::Duration;

use clap::ValueEnum;

use super::agents;
use super::load::{Length, Plan};
use crate::cli::connection::Connection;
use crate::cli::{Failure, parse};

/// How many callers share one connection.
const CALLERS_A_CONNECTION: usize = 64;
/// How many echo agents there are unless it is said.
const ECHOES: usize = 4;
/// How many agents are discovered unless it is said.
const DISCOVERED: usize = 1_000;

/// Measure a server.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) connection: Connection,
    /// What each caller does
    pub(super) workload: Kind,
    /// How many callers there are; in an open loop, how many calls may be under way at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    pub(super) callers: usize,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse::duration)]
    duration: Duration,
    /// How long to run before that
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse::duration)]
    warm_up: Duration,
    /// So many operations instead, however long they take; a batch is one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "rate")]
    operations: Option<u64>,
    /// Open loop: so many operations a second are begun, whatever the server does
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// How many connections to open, spread over the servers [default: one for every 64 callers, at least one a server; agents: one for
    /// every agent]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    connections: Option<usize>,
    /// lock, cas: all callers on one resource or document
    #[arg(long)]
    pub(super) hot: bool,
    /// publish: so many events a call
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub(super) batch: usize,
    /// The size of payloads, roughly
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub(super) payload_bytes: usize,
    /// deliver: how many subscribers receive each event
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = at_least_one)]
    pub(super) subscribers: usize,
    /// task, workflow: how many echo agents there are [default: 4]; task: with none, tasks are delegated and left waiting.
    /// discover: how many agents are registered [default: 1000]
    #[arg(long, value_name = "N")]
    agents: Option<usize>,
    /// discover: how many agents an answer has at most
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub(super) page_size: i32,
    /// workflow: its shape
    #[arg(long, value_enum, default_value_t)]
    pub(super) shape: Shape,
    /// workflow: how many steps (sequential) or items (map-reduce) it has
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    pub(super) size: usize,
    /// workflow: how many of its tasks are in flight at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(super) delegates: i32,
    /// agents: how long each is thought alive after its last heartbeat; three go out in that time
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse::duration)]
    pub(super) ttl: Duration,
    /// agents: the server's processes, where they are on this machine, to tell what an agent costs them
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(super) server_pid: Vec<u32>,
    /// store: where the server keeps its data: sqlite:DIR or postgres://… [default: as `drumline serve`]
    #[arg(long, env = "DRUMLINE_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub(super) database_url: Option<String>,
}

/// What each caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// A health check: what the transport itself can do
    Ping,
    /// Find agents by capability
    Discover,
    /// Keep a session alive
    Heartbeat,
    /// Take a lock and give it back
    Lock,
    /// Compare-and-swap of a document
    Cas,
    /// Publish events
    Publish,
    /// From publishing an event to its receipt by subscribers
    Deliver,
    /// From delegating a task to its result, by echo agents
    Task,
    /// From starting a workflow to its end, by echo agents
    Workflow,
    /// Keep so many agents alive, each with a stream, while two of them die
    Agents,
    /// No server: what the store itself can do, in syncs, commits and rows a second
    Store,
}

/// The shape of a workflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Shape {
    /// One step after the other
    #[default]
    Sequential,
    /// A map over a list, and a reduce
    MapReduce,
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("a whole number, at least 1".into()),
    }
}

impl Args {
    /// Refuses what cannot be.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e7)) {
            return Err(Failure::usage("--rate must be above 0, and at most 10000000"));
        }
        if self.operations.is_none() && self.duration.is_zero() {
            return Err(Failure::usage("--duration must be above 0"));
        }
        if self.workload == Kind::Store && self.rate.is_some() {
            return Err(Failure::usage("store takes no --rate"));
        }
        let needs_agents = matches!(self.workload, Kind::Workflow | Kind::Discover);
        if needs_agents && self.agents == Some(0) {
            return Err(Failure::usage("--agents must be at least 1"));
        }
        if self.workload == Kind::Agents {
            if self.callers < agents::LEAST {
                return Err(Failure::usage(format!(
                    "agents needs at least {} --callers",
                    agents::LEAST
                )));
            }
            if self.rate.is_some() || self.operations.is_some() {
                return Err(Failure::usage("agents takes no --rate and no --operations"));
            }
        }
        Ok(())
    }

    /// The name of the workload.
    pub(super) fn name(&self) -> String {
        let value = self.workload.to_possible_value();
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How much load, and for how long.
    pub(super) fn plan(&self) -> Plan {
        let length = match self.operations {
            Some(count) => Length::Operations(count),
            None => Length::Time {
                warm_up: self.warm_up,
                duration: self.duration,
            },
        };
        Plan {
            callers: self.callers,
            length,
            rate: self.rate,
        }
    }

    /// How many connections so many callers share, to so many servers.
    pub(super) fn connections(&self, callers: usize, servers: usize) -> usize {
        let enough = callers.div_ceil(CALLERS_A_CONNECTION).max(servers);
        self.connections.unwrap_or(enough)
    }

    /// How many connections the agents share.
    pub(super) fn connections_of_agents(&self) -> usize {
        self.connections.unwrap_or(self.callers).min(self.callers)
    }

    /// How long to measure.
    pub(super) fn duration(&self) -> Duration {
        self.duration
    }

    /// How many agents answer tasks.
    pub(super) fn echoes(&self) -> usize {
        self.agents.unwrap_or(ECHOES)
    }

    /// How many agents are there to be found.
    pub(super) fn discovered(&self) -> usize {
        self.agents.unwrap_or(DISCOVERED)
    }
}
