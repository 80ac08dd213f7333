//! `drumline tasks`: delegating work and following it.

use std::time::{Duration, SystemTime};

use drumline::v1 as pb;
use futures::StreamExt;
use pb::task::State;

use super::connection::Connection;
use super::screen::{Screen, Shown};
use super::{Failure, human, parse};

/// Delegate tasks and follow them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Delegate a task to whoever has a capability, or to one agent
    Delegate(Box<Delegate>),
    /// Wait for the end of a task; exits 1 unless it is COMPLETED, 3 if it has not ended in time
    Await {
        /// The task's id
        task_id: String,
        /// How long to wait [default: for ever]
        #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
        wait: Option<Duration>,
        /// Print the result alone
        #[arg(long)]
        raw: bool,
    },
    /// List tasks, the newest first
    List(List),
    /// Show a task in full
    Get {
        /// The task's id
        task_id: String,
    },
    /// Show a task as it is, then each change, until it has ended
    Watch {
        /// The task's id
        task_id: String,
    },
    /// Cancel a task
    Cancel {
        /// The task's id
        task_id: String,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        cause: String,
    },
}

#[derive(Debug, clap::Args)]
struct Delegate {
    /// The capability that it needs; with --agent, - leaves it open
    capability: String,
    /// The input: JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    input: Option<String>,
    /// The input's media type; if it is not JSON, the input is taken as bytes
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// The one agent that it is for
    #[arg(long, value_name = "AGENT_ID")]
    agent: Option<String>,
    /// An id of one's own
    #[arg(long, value_name = "ID")]
    task_id: Option<String>,
    /// Links events of one undertaking
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Higher goes first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// How long one attempt may take [default: 600s]
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// How long all of it may take
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    deadline: Option<Duration>,
    /// How long to wait before the first attempt
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    delay: Option<Duration>,
    /// How many attempts may fail [default: 5]
    #[arg(long, value_name = "N")]
    max_attempts: Option<i32>,
    /// A label that the agent must have; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::pair)]
    require_label: Vec<(String, String)>,
    /// Wait for its end; exits 1 unless it is COMPLETED
    #[arg(long)]
    wait: bool,
    /// Wait for its end, and print the result alone
    #[arg(long)]
    raw: bool,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only tasks in this state: pending, assigned, running, completed, failed, cancelled, timed-out; may be given again
    #[arg(long, value_parser = state)]
    state: Vec<State>,
    /// Only tasks of this capability
    #[arg(long, default_value = "", hide_default_value = true)]
    capability: String,
    /// Only tasks that this agent has, or had last
    #[arg(long, value_name = "AGENT_ID", default_value = "", hide_default_value = true)]
    agent: String,
    /// Only tasks with this correlation id
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    correlation_id: String,
    /// Only tasks of this workflow
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    workflow: String,
    /// At most this many; 0 is all
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

fn state(text: &str) -> Result<State, String> {
    parse::named(text, "STATE_", State::from_str_name)
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client().await?;
    let screen = args.connection.screen();
    let tasks = client.tasks();
    match args.command {
        Command::Delegate(delegate) => delegate.run(&tasks, screen).await,
        Command::Await { task_id, wait, raw } => {
            let handle = tasks.handle(&task_id);
            let ended = handle.wait_end();
            let task = match wait {
                None => ended.await?,
                Some(wait) => match tokio::time::timeout(wait, ended).await {
                    Ok(task) => task?,
                    // As it is now: the wait is over, not the task.
                    Err(_elapsed) => handle.get().await?,
                },
            };
            end(&task, screen, raw)
        }
        Command::List(list) => {
            let request = pb::ListTasksRequest {
                states: list.state.into_iter().map(|state| state as i32).collect(),
                capability: list.capability,
                agent_id: list.agent,
                correlation_id: list.correlation_id,
                workflow_id: list.workflow,
                ..Default::default()
            };
            screen.list(tasks.list(request), list.limit).await
        }
        Command::Get { task_id } => screen.one(&tasks.get(&task_id).await?, "Task"),
        Command::Watch { task_id } => {
            let mut changes = tasks.handle(&task_id).watch();
            let mut live = screen.live::<pb::Task>();
            while let Some(change) = changes.next().await {
                live.show(&change?.task.unwrap_or_default())?;
            }
            Ok(())
        }
        Command::Cancel { task_id, cause } => {
            tasks.handle(&task_id).cancel(cause).await?;
            screen.one(&tasks.get(&task_id).await?, "Task")
        }
    }
}

/// Shows a task that was waited for; an error unless it has ended well.
fn end(task: &pb::Task, screen: Screen, raw: bool) -> Result<(), Failure> {
    if raw && task.state() == State::Completed {
        return screen.raw(task.result.as_ref());
    }
    if !raw {
        screen.one(task, "Task")?;
    }
    let name = human::name(task.state().as_str_name());
    match task.state() {
        State::Completed => Ok(()),
        State::Pending | State::Assigned | State::Running => {
            Err(Failure::Late(format!("task {} is still {name}", task.task_id)))
        }
        _ => {
            let error = task.error.clone().unwrap_or_default();
            Err(Failure::message(format!(
                "task {} is {name}: {}: {}",
                task.task_id, error.kind, error.message
            )))
        }
    }
}

impl Delegate {
    async fn run(self, tasks: &drumline::tasks::Tasks, screen: Screen) -> Result<(), Failure> {
        let (wait, raw) = (self.wait, self.raw);
        let handle = self.request(tasks)?.await?;
        if wait || raw {
            return end(&handle.wait_end().await?, screen, raw);
        }
        screen.one(&handle.get().await?, "Task")
    }

    fn request(self, tasks: &drumline::tasks::Tasks) -> Result<drumline::tasks::Delegate, Failure> {
        let content_type = self.content_type.as_deref();
        let input = self
            .input
            .as_deref()
            .map(|text| parse::payload(text, content_type))
            .transpose()?;
        let open = self.capability == "-" && self.agent.is_some();
        let capability = if open { "" } else { self.capability.as_str() };
        let mut task = tasks
            .delegate_payload(capability, input.unwrap_or_default())
            .priority(self.priority);
        if let Some(agent) = self.agent {
            task = task.agent(agent);
        }
        if let Some(id) = self.task_id {
            task = task.task_id(id);
        }
        if let Some(id) = self.correlation_id {
            task = task.correlation_id(id);
        }
        if let Some(timeout) = self.timeout {
            task = task.timeout(timeout);
        }
        if let Some(deadline) = self.deadline {
            task = task.deadline(deadline);
        }
        if let Some(delay) = self.delay {
            task = task.delay(delay);
        }
        if let Some(attempts) = self.max_attempts {
            task = task.max_attempts(attempts);
        }
        Ok(self
            .require_label
            .into_iter()
            .fold(task, |task, (name, value)| task.require_label(name, value)))
    }
}

impl Shown for pb::Task {
    const NAME: &'static str = "Task";
    const HEADINGS: &'static [&'static str] = &[
        "TASK",
        "CAPABILITY",
        "STATE",
        "AGENT",
        "ATTEMPT",
        "PROGRESS",
        "AGE",
        "NOTE",
    ];

    fn cells(&self, now: SystemTime) -> Vec<String> {
        let note = match (self.state(), &self.error) {
            (State::Completed, _) if self.result.is_some() => human::payload(self.result.as_ref()),
            (State::Completed, _) | (_, None) => human::or_dash(&self.progress_message),
            (_, Some(error)) => format!("{}: {}", error.kind, error.message),
        };
        // Many agents never say how far they are.
        let progress = if self.progress > 0.0 {
            format!("{:.0}%", self.progress * 100.0)
        } else {
            human::or_dash("")
        };
        vec![
            self.task_id.clone(),
            human::or_dash(&self.capability),
            human::name(self.state().as_str_name()),
            human::or_dash(if self.agent_id.is_empty() {
                &self.target_agent
            } else {
                &self.agent_id
            }),
            self.attempt.to_string(),
            progress,
            human::age(self.create_time.as_ref(), now),
            note,
        ]
    }
}
