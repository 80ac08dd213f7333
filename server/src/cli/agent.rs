//! `drumline agent exec`: any program as an agent.
//!
//! Each attempt is a process: the task's input is its standard input (JSON, or bytes as they are), its standard output must be one JSON
//! value, the result. An exit code other than 0, or output that is not JSON, is a failed attempt, with the end of standard
//! error in its message. When the attempt is cancelled, times out, or may be over, the process group gets SIGTERM, then
//! SIGKILL. Nothing that the program has started outlives it.
//!
//! The first SIGINT or SIGTERM drains: no more tasks are taken, and those that run are finished. The second one stops them.

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use drumline::v1::Payload;
use drumline::{Agent, AgentHandle, Capability, TaskContext, TaskFailure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, Command as Program};
use tokio::sync::oneshot;

use super::child::{Child, Reach, exit_code};
use super::connection::Connection;
use super::screen::note;
use super::signals::Orders;
use super::{Failure, human, parse};

/// How much of standard error goes into a failure.
const STDERR_TAIL: usize = 4 << 10;
/// The most that is read from standard output: more than the server takes.
const MOST_OUTPUT: u64 = 4 << 20;
/// How long an output may stay open after its process group was killed.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);
/// A checkpoint larger than this does not go into the environment.
const MOST_CHECKPOINT: usize = 32 << 10;

/// Run a program as an agent.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Serve a capability by a program: JSON in on standard input, JSON out on standard output
    Exec(Exec),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The program finds in its environment: DRUMLINE_TASK_ID, DRUMLINE_ATTEMPT, DRUMLINE_ATTEMPT_TOKEN, \
DRUMLINE_CAPABILITY, DRUMLINE_AGENT_ID, DRUMLINE_SESSION_ID, DRUMLINE_CORRELATION_ID, DRUMLINE_WORKFLOW_ID, \
DRUMLINE_STEP_ID, DRUMLINE_ITEM_KEY, DRUMLINE_TIMEOUT_MS, DRUMLINE_CHECKPOINT, DRUMLINE_SERVER, DRUMLINE_NAMESPACE, TRACEPARENT."
)]
struct Exec {
    /// What the program can do; may be given again
    #[arg(long, required = true, value_name = "NAME")]
    capability: Vec<String>,
    /// A sentence about what it does
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// A file with the JSON Schema that inputs must fit
    #[arg(long, value_name = "FILE")]
    input_schema: Option<String>,
    /// How many tasks it takes at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    concurrency: i32,
    /// The agent's id [default: capability@host:process]
    #[arg(long, value_name = "ID")]
    agent_id: Option<String>,
    /// A name for people
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// A label; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::pair)]
    label: Vec<(String, String)>,
    /// After this long without a heartbeat the agent is dead
    #[arg(long, value_parser = parse::duration, value_name = "DURATION", default_value = "3s")]
    session_ttl: Duration,
    /// How long the program may take to end after SIGTERM
    #[arg(long, value_parser = parse::duration, value_name = "DURATION", default_value = "5s")]
    grace: Duration,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    program: Vec<String>,
}

/// What every attempt needs to know.
#[derive(Debug)]
struct Runner {
    program: Vec<String>,
    grace: Duration,
    server: String,
    namespace: String,
    agent_id: String,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let Command::Exec(exec) = args.command;
    let mut orders = Orders::listen()?;
    let handle = tokio::select! {
        biased;
        order = orders.next() => return Err(Failure::Code(order.exit_code())),
        handle = start(&args.connection, &exec) => handle?,
    };
    let order = tokio::select! {
        ended = handle.wait() => return Ok(ended?),
        order = orders.next() => order,
    };
    note("finishing what is under way; a second signal stops it");
    tokio::select! {
        drained = handle.drain() => Ok(drained?),
        _second = orders.next() => {
            handle.stop().await?;
            Err(Failure::Code(order.exit_code()))
        }
    }
}

async fn start(connection: &Connection, exec: &Exec) -> Result<AgentHandle, Failure> {
    let client = connection.client().await?;
    let agent_id = exec.agent_id.clone().unwrap_or_else(|| default_id(&exec.capability[0]));
    let runner = Arc::new(Runner {
        program: exec.program.clone(),
        grace: exec.grace,
        server: connection.server.join(","),
        namespace: connection.namespace.clone(),
        agent_id: agent_id.clone(),
    });
    let mut agent = Agent::builder(&client, &agent_id)
        .name(&exec.name)
        .max_concurrent_tasks(exec.concurrency)
        .session_ttl(exec.session_ttl)
        // After the program's own grace, which must have room in it.
        .cancel_grace(exec.grace + Duration::from_secs(2));
    for (name, value) in &exec.label {
        agent = agent.label(name, value);
    }
    for capability in exec.capabilities()? {
        let runner = runner.clone();
        agent = agent.raw_capability(capability, move |task, input| attempt(runner.clone(), task, input));
    }
    let handle = agent.build().start()?;
    let session = handle.ready().await?;
    note(&format!(
        "agent {} serves {}",
        session.agent.agent_id,
        exec.capability.join(", ")
    ));
    Ok(handle)
}

fn default_id(capability: &str) -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{capability}@{host}:{}", std::process::id())
}

impl Exec {
    fn capabilities(&self) -> Result<Vec<Capability>, Failure> {
        let schema = match &self.input_schema {
            None => None,
            Some(path) => {
                let wrong = |error: String| Failure::usage(format!("{path}: {error}"));
                let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
                Some(serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?)
            }
        };
        let capability = |name: &String| {
            let capability = Capability::new(name).description(&self.description);
            schema
                .iter()
                .fold(capability, |capability, schema| capability.input_schema(schema))
        };
        Ok(self.capability.iter().map(capability).collect())
    }
}

/// One attempt: one process.
async fn attempt(runner: Arc<Runner>, task: TaskContext, input: Payload) -> Result<Payload, TaskFailure> {
    let input = drumline::payload::to_bytes(&input)?;
    let program = runner.program(&task);
    let mut child = Child::spawn(program, Reach::Group)
        .map_err(|error| TaskFailure::new("spawn_failed", format!("{}: {error}", runner.program[0])))?;
    if let Some(stdin) = child.process.stdin.take() {
        tokio::spawn(feed(stdin, input));
    }
    let (too_long, overflow) = oneshot::channel();
    let stdout = tokio::spawn(read_all(child.process.stdout.take(), too_long));
    let stderr = tokio::spawn(keep_tail(child.process.stderr.take()));
    let status = tokio::select! {
        biased;
        () = task.cancelled() => {
            let cause = task.cancel_cause();
            child.stop(runner.grace).await?;
            return Err(TaskFailure::new("stopped", format!("the program was stopped: {cause:?}")));
        }
        Ok(()) = overflow => {
            child.stop(Duration::ZERO).await?;
            let message = format!("the program wrote more than {MOST_OUTPUT} bytes");
            return Err(TaskFailure::new("result_too_large", message).permanent());
        }
        status = child.wait() => status?,
    };
    // What it left behind may hold its outputs open.
    child.kill_group();
    let said = tokio::time::timeout(OUTPUT_PATIENCE, stderr).await;
    let said = said.ok().and_then(Result::ok).unwrap_or_default();
    if !status.success() {
        return Err(TaskFailure::new(
            "exit_code",
            with_stderr(format!("exit code {}", exit_code(status)), &said),
        ));
    }
    let output = tokio::time::timeout(OUTPUT_PATIENCE, stdout)
        .await
        .ok()
        .and_then(Result::ok);
    result_of(output.unwrap_or_default(), &said)
}

/// The result that a program has written.
fn result_of(output: Vec<u8>, said: &str) -> Result<Payload, TaskFailure> {
    match String::from_utf8(output) {
        Ok(text) if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() => {
            // As it was written: every digit of it.
            let content = drumline::v1::payload::Content::Json(text.trim().to_owned());
            Ok(Payload {
                content: Some(content),
                content_type: String::new(),
            })
        }
        Ok(text) => {
            let begin: String = text.chars().take(200).collect();
            Err(TaskFailure::new(
                "invalid_output",
                with_stderr(format!("the output is not JSON: {begin:?}"), said),
            ))
        }
        Err(_error) => Err(TaskFailure::new(
            "invalid_output",
            with_stderr("the output is not UTF-8".into(), said),
        )),
    }
}

fn with_stderr(message: String, said: &str) -> String {
    match said.trim() {
        "" => message,
        said => format!("{message}; it said: {said}"),
    }
}

impl Runner {
    fn program(&self, context: &TaskContext) -> Program {
        let task = context.task();
        let mut program = Program::new(&self.program[0]);
        program
            .args(&self.program[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut set = |name: &str, value: &str| {
            // What is not there must not be inherited from an attempt around this one.
            let _program = if value.is_empty() {
                program.env_remove(name)
            } else {
                program.env(name, value)
            };
        };
        set("DRUMLINE_SERVER", &self.server);
        set("DRUMLINE_NAMESPACE", &self.namespace);
        set("DRUMLINE_AGENT_ID", &self.agent_id);
        set("DRUMLINE_SESSION_ID", &context.client().session_id());
        set("DRUMLINE_TASK_ID", context.task_id());
        set("DRUMLINE_ATTEMPT", &context.attempt().to_string());
        set("DRUMLINE_ATTEMPT_TOKEN", context.attempt_token());
        set("DRUMLINE_CAPABILITY", context.capability());
        set("DRUMLINE_CORRELATION_ID", context.correlation_id());
        set("DRUMLINE_WORKFLOW_ID", &task.workflow_id);
        set("DRUMLINE_STEP_ID", &task.step_id);
        set("DRUMLINE_ITEM_KEY", &task.item_key);
        set("TRACEPARENT", &task.traceparent);
        set(
            "DRUMLINE_TIMEOUT_MS",
            &context
                .remaining()
                .map_or(String::new(), |left| left.as_millis().to_string()),
        );
        let checkpoint = task
            .checkpoint
            .as_ref()
            .map(|payload| human::payload(Some(payload)))
            .unwrap_or_default();
        set(
            "DRUMLINE_CHECKPOINT",
            if checkpoint.len() > MOST_CHECKPOINT {
                ""
            } else {
                &checkpoint
            },
        );
        program
    }
}

async fn feed(mut stdin: ChildStdin, input: bytes::Bytes) {
    // A program need not read its input.
    if let Err(error) = stdin.write_all(&input).await {
        tracing::debug!(%error, "the program did not read all of its input");
    }
}

/// Reads an output to its end; says at once where it is too long.
async fn read_all(pipe: Option<impl AsyncRead + Unpin>, too_long: oneshot::Sender<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What is there counts, also where reading breaks off.
        let _read = pipe.take(MOST_OUTPUT + 1).read_to_end(&mut bytes).await;
    }
    if bytes.len() as u64 > MOST_OUTPUT {
        // Who is not there any more does not need to know.
        let _told = too_long.send(());
    }
    bytes
}

/// Passes standard error on, and keeps its end.
async fn keep_tail(pipe: Option<ChildStderr>) -> String {
    let (mut tail, mut chunk) = (Vec::new(), [0; 4096]);
    let Some(mut pipe) = pipe else { return String::new() };
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        // Where our own standard error is gone there is nobody to tell.
        let _told = std::io::stderr().write_all(&chunk[..read]);
        tail.extend_from_slice(&chunk[..read]);
        if tail.len() > 2 * STDERR_TAIL {
            tail.drain(..tail.len() - STDERR_TAIL);
        }
    }
    human::tail(&tail, STDERR_TAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_json_as_it_was_written() {
        let result = result_of(b"{\"n\": 1.10}\n".to_vec(), "").expect("a result");
        assert_eq!(human::payload(Some(&result)), "{\"n\": 1.10}");
    }

    #[test]
    fn an_unreadable_output_fails_with_the_end_of_stderr() {
        for output in [&b""[..], b"text", b"{} {}", b"\xff"] {
            let failure = result_of(output.to_vec(), "boom\n").expect_err("not JSON");
            assert_eq!(failure.kind(), "invalid_output");
            assert!(failure.message().ends_with("it said: boom"), "{}", failure.message());
        }
    }
}
