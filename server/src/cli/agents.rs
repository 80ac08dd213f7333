//! `drumline agents`: who is there, and what each can do.

use std::time::SystemTime;

use drumline::v1 as pb;
use futures::StreamExt;
use pb::agent::Status;

use super::connection::Connection;
use super::screen::Shown;
use super::{Failure, human, parse};

/// Find agents.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List agents, the fittest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most this many; 0 is all
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one agent in full
    Get {
        /// The agent's id
        agent_id: String,
    },
    /// Show the agents as they are, then each change
    Watch {
        #[command(flatten)]
        filter: Filter,
    },
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only agents that have this capability
    #[arg(long, value_name = "NAME")]
    capability: Option<String>,
    /// Only agents in this status: active, busy, draining, offline; may be given again
    #[arg(long, value_parser = status)]
    status: Vec<Status>,
    /// Offline agents too
    #[arg(long, conflicts_with = "status")]
    all: bool,
    /// Only agents with this label; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::pair)]
    label: Vec<(String, String)>,
    /// Only agents that can take so many tasks more
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    free_slots: i32,
    /// Only agents that have this in their id, their name, or a capability's name, description or tags
    #[arg(long)]
    text: Option<String>,
}

fn status(text: &str) -> Result<Status, String> {
    parse::named(text, "STATUS_", Status::from_str_name)
}

impl Filter {
    fn proto(self) -> pb::AgentFilter {
        const ALL: [Status; 4] = [Status::Active, Status::Busy, Status::Draining, Status::Offline];
        let statuses = if self.all { ALL.to_vec() } else { self.status };
        pb::AgentFilter {
            capability: self.capability.unwrap_or_default(),
            statuses: statuses.into_iter().map(|status| status as i32).collect(),
            labels: self.label.into_iter().collect(),
            minimum_free_slots: self.free_slots,
            text: self.text.unwrap_or_default(),
        }
    }
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client().await?;
    let screen = args.connection.screen();
    match args.command {
        Command::List { filter, limit } => screen.list(client.registry().list(filter.proto()), limit).await,
        Command::Get { agent_id } => screen.one(&client.registry().get(&agent_id).await?, "Agent"),
        Command::Watch { filter } => {
            let mut changes = client.registry().watch(filter.proto());
            let mut live = screen.live::<pb::WatchAgentsResponse>();
            while let Some(change) = changes.next().await {
                let change = change?;
                // Progress marks are for programs.
                if change.agent.is_some() || !screen.is_table() {
                    live.show(&change)?;
                }
            }
            Ok(())
        }
    }
}

fn capabilities(agent: &pb::Agent) -> String {
    let names: Vec<&str> = agent
        .capabilities
        .iter()
        .map(|capability| capability.name.as_str())
        .collect();
    human::or_dash(&names.join(","))
}

fn load(agent: &pb::Agent) -> String {
    format!("{}/{}", agent.in_flight_tasks, agent.max_concurrent_tasks)
}

impl Shown for pb::Agent {
    const NAME: &'static str = "Agent";
    const HEADINGS: &'static [&'static str] = &["AGENT", "STATUS", "TASKS", "HEARTBEAT", "LABELS", "CAPABILITIES"];

    fn cells(&self, now: SystemTime) -> Vec<String> {
        vec![
            self.agent_id.clone(),
            human::name(self.status().as_str_name()),
            load(self),
            human::age(self.last_heartbeat.as_ref(), now),
            human::pairs(&self.labels),
            capabilities(self),
        ]
    }
}

impl Shown for pb::WatchAgentsResponse {
    const NAME: &'static str = "WatchAgentsResponse";
    const HEADINGS: &'static [&'static str] = &["POSITION", "AGENT", "STATUS", "TASKS", "CAPABILITIES"];

    fn cells(&self, _now: SystemTime) -> Vec<String> {
        let agent = self.agent.clone().unwrap_or_default();
        let status = if self.removed {
            "GONE".to_owned()
        } else {
            human::name(agent.status().as_str_name())
        };
        vec![
            self.position.to_string(),
            agent.agent_id.clone(),
            status,
            load(&agent),
            capabilities(&agent),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_one_row() {
        let agent = pb::Agent {
            agent_id: "a".into(),
            status: Status::Busy as i32,
            max_concurrent_tasks: 2,
            in_flight_tasks: 2,
            capabilities: vec![pb::Capability {
                name: "lint".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(agent.cells(SystemTime::now()), ["a", "BUSY", "2/2", "-", "-", "lint"]);
        assert_eq!(pb::Agent::HEADINGS.len(), agent.cells(SystemTime::now()).len());
        let gone = pb::WatchAgentsResponse {
            agent: Some(agent),
            removed: true,
            ..Default::default()
        };
        assert_eq!(gone.cells(SystemTime::now())[2], "GONE");
    }
}
