//! `drumline workflows`: starting graphs of tasks and following them.

use std::time::SystemTime;

use drumline::v1 as pb;
use drumline::workflows::Workflows;
use futures::{StreamExt, stream};
use pb::workflow::State;

use super::connection::Connection;
use super::screen::{Screen, Shown};
use super::{Failure, human, parse, workflow_file};

/// Start workflows and follow them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Start a workflow
    Start(Start),
    /// Show a workflow, its steps and its first subtasks
    Get {
        /// The workflow's id
        workflow_id: String,
        /// Wait for its end first; exits 1 unless it is COMPLETED
        #[arg(long)]
        wait: bool,
        /// Print the final result alone
        #[arg(long)]
        raw: bool,
    },
    /// List workflows, the newest first
    List {
        /// Only workflows in this state: running, completed, failed, cancelled, timed-out; may be given again
        #[arg(long, value_parser = state)]
        state: Vec<State>,
        /// Only workflows with this label; may be given again
        #[arg(long, value_name = "NAME=VALUE", value_parser = parse::pair)]
        label: Vec<(String, String)>,
        /// At most this many; 0 is all
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show a workflow as it is, then each change, until it has ended
    Watch {
        /// The workflow's id
        workflow_id: String,
    },
    /// List every transition, in order
    History {
        /// The workflow's id
        workflow_id: String,
        /// At most this many; 0 is all
        #[arg(long, default_value_t = 0)]
        limit: usize,
    },
    /// List the subtasks of a step with their results, in item order
    Results {
        /// The workflow's id
        workflow_id: String,
        /// The step's id
        step_id: String,
        /// At most this many; 0 is all
        #[arg(long, default_value_t = 0)]
        limit: usize,
    },
    /// Cancel a workflow, and the tasks that it has under way
    Cancel {
        /// The workflow's id
        workflow_id: String,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        cause: String,
    },
}

#[derive(Debug, clap::Args)]
struct Start {
    /// A StartWorkflowRequest as JSON; - is standard input. Payloads may be plain JSON, enums leave out their prefix
    #[arg(short, long, value_name = "FILE")]
    file: String,
    /// The input, in place of the file's: JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    input: Option<String>,
    /// The id, in place of the file's
    #[arg(long, value_name = "ID")]
    workflow_id: Option<String>,
    /// Wait for its end; exits 1 unless it is COMPLETED
    #[arg(long)]
    wait: bool,
    /// Wait for its end, and print the final result alone
    #[arg(long)]
    raw: bool,
}

fn state(text: &str) -> Result<State, String> {
    parse::named(text, "STATE_", State::from_str_name)
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client().await?;
    let screen = args.connection.screen();
    let workflows = client.workflows();
    match args.command {
        Command::Start(start) => start.run(&client, screen).await,
        Command::Get { workflow_id, wait, raw } => {
            let handle = workflows.handle(workflow_id);
            match (wait, raw) {
                (true, _) => end(&handle.wait_end().await?, screen, raw).await,
                (false, true) => screen.raw(handle.get().await?.final_result.as_ref()),
                (false, false) => show(&handle.get().await?, screen).await,
            }
        }
        Command::List { state, label, limit } => {
            let request = pb::ListWorkflowsRequest {
                states: state.into_iter().map(|state| state as i32).collect(),
                labels: label.into_iter().collect(),
                ..Default::default()
            };
            screen.list(workflows.list(request), limit).await
        }
        Command::Watch { workflow_id } => watch(&workflows, screen, &workflow_id).await,
        Command::History { workflow_id, limit } => screen.list(workflows.handle(workflow_id).history(), limit).await,
        Command::Results {
            workflow_id,
            step_id,
            limit,
        } => {
            screen
                .list(workflows.handle(workflow_id).step_results(&step_id), limit)
                .await
        }
        Command::Cancel { workflow_id, cause } => {
            let handle = workflows.handle(workflow_id);
            handle.cancel(cause).await?;
            show(&handle.get().await?, screen).await
        }
    }
}

impl Start {
    async fn run(self, client: &drumline::Client, screen: Screen) -> Result<(), Failure> {
        if self.file == "-" && self.input.as_deref() == Some("-") {
            return Err(Failure::usage(
                "the workflow and its input cannot both come from standard input",
            ));
        }
        let mut request = workflow_file::read(&self.file)?;
        if let Some(input) = &self.input {
            request.input = Some(parse::payload(input, None)?);
        }
        if let Some(id) = self.workflow_id {
            request.workflow_id = id;
        }
        // What the command line says goes first; what the file says is better than nothing.
        let from_file = client.namespace().is_empty() && !request.namespace.is_empty();
        let client = if from_file {
            client.with_namespace(&request.namespace)
        } else {
            client.clone()
        };
        let handle = client.workflows().start_request(request).await?;
        if self.wait || self.raw {
            return end(&handle.wait_end().await?, screen, self.raw).await;
        }
        show(&handle.get().await?, screen).await
    }
}

async fn watch(workflows: &Workflows, screen: Screen, workflow_id: &str) -> Result<(), Failure> {
    let mut changes = workflows.handle(workflow_id).watch();
    let mut live = screen.live::<pb::Workflow>();
    while let Some(change) = changes.next().await {
        live.show(&change?.workflow.unwrap_or_default())?;
    }
    Ok(())
}

/// Shows a workflow that was waited for; an error unless it has ended well.
async fn end(workflow: &pb::Workflow, screen: Screen, raw: bool) -> Result<(), Failure> {
    let completed = workflow.state() == State::Completed;
    if raw && completed {
        return screen.raw(workflow.final_result.as_ref());
    }
    if !raw {
        show(workflow, screen).await?;
    }
    if completed {
        return Ok(());
    }
    let state = human::name(workflow.state().as_str_name());
    let last = workflow.error_log.last().cloned().unwrap_or_default();
    Err(Failure::message(format!(
        "workflow {} is {state}: {last}",
        workflow.workflow_id
    )))
}

/// Shows a workflow in full: its own fields, then tables of its steps and of its first subtasks.
async fn show(workflow: &pb::Workflow, screen: Screen) -> Result<(), Failure> {
    if !screen.is_table() {
        return screen.one(workflow, "Workflow");
    }
    let own = pb::Workflow {
        steps: Vec::new(),
        subtasks: Vec::new(),
        partial_results: Default::default(),
        checkpoints: Vec::new(),
        ..workflow.clone()
    };
    screen.one(&own, "Workflow")?;
    screen.say("")?;
    screen
        .list(stream::iter(workflow.steps.iter().cloned().map(Ok)), 0)
        .await?;
    if workflow.subtasks.is_empty() {
        return Ok(());
    }
    screen.say("")?;
    let subtasks = workflow.subtasks.iter().cloned().map(|mut subtask| {
        // The page of results lies beside the page of subtasks.
        subtask.result = subtask
            .result
            .or_else(|| workflow.partial_results.get(&subtask.subtask_id).cloned());
        Ok(subtask)
    });
    screen.list(stream::iter(subtasks), 0).await
}

impl Shown for pb::Workflow {
    const NAME: &'static str = "Workflow";
    const HEADINGS: &'static [&'static str] =
        &["WORKFLOW", "NAME", "TYPE", "STATE", "STEPS", "IN FLIGHT", "AGE", "NOTE"];

    fn cells(&self, now: SystemTime) -> Vec<String> {
        use pb::step_status::State as StepState;
        let over = |step: &&pb::StepStatus| !matches!(step.state(), StepState::Waiting | StepState::Running);
        let note = match self.state() {
            State::Completed => human::payload(self.final_result.as_ref()),
            _ => human::or_dash(self.error_log.last().map_or("", String::as_str)),
        };
        vec![
            self.workflow_id.clone(),
            human::or_dash(&self.workflow_name),
            human::name(self.workflow_type().as_str_name()),
            human::name(self.state().as_str_name()),
            format!("{}/{}", self.steps.iter().filter(over).count(), self.steps.len()),
            self.in_flight.to_string(),
            human::age(self.start_time.as_ref(), now),
            note,
        ]
    }
}

impl Shown for pb::StepStatus {
    const NAME: &'static str = "StepStatus";
    const HEADINGS: &'static [&'static str] = &[
        "STEP",
        "STATE",
        "ITEMS",
        "IN FLIGHT",
        "COMPLETED",
        "FAILED",
        "NEEDS",
        "AFTER",
    ];

    fn cells(&self, _now: SystemTime) -> Vec<String> {
        let step = self.step.clone().unwrap_or_default();
        let needs = if step.capability.is_empty() {
            &step.agent_id
        } else {
            &step.capability
        };
        vec![
            step.step_id.clone(),
            human::name(self.state().as_str_name()),
            self.item_count.to_string(),
            self.in_flight_count.to_string(),
            self.completed_count.to_string(),
            self.failed_count.to_string(),
            human::or_dash(needs),
            human::or_dash(&step.depends_on.join(",")),
        ]
    }
}

impl Shown for pb::Subtask {
    const NAME: &'static str = "Subtask";
    const HEADINGS: &'static [&'static str] = &["SUBTASK", "STEP", "STATE", "AGENT", "ATTEMPT", "RESULT"];

    fn cells(&self, _now: SystemTime) -> Vec<String> {
        let result = match &self.error {
            Some(error) if self.state() == pb::subtask::State::Failed => format!("{}: {}", error.kind, error.message),
            _ => human::payload(self.result.as_ref()),
        };
        vec![
            self.subtask_id.clone(),
            self.step_id.clone(),
            human::name(self.state().as_str_name()),
            human::or_dash(&self.agent_id),
            self.attempt.to_string(),
            result,
        ]
    }
}

impl Shown for pb::WorkflowTransition {
    const NAME: &'static str = "WorkflowTransition";
    const HEADINGS: &'static [&'static str] = &["SEQ", "TIME", "POSITION", "KIND", "STEP", "INDEX", "TASK", "DETAIL"];

    fn cells(&self, _now: SystemTime) -> Vec<String> {
        vec![
            self.sequence.to_string(),
            human::time(self.time.as_ref()),
            self.position.to_string(),
            self.kind.clone(),
            human::or_dash(&self.step_id),
            self.index.to_string(),
            human::or_dash(&self.task_id),
            human::or_dash(&self.detail),
        ]
    }
}
