//! `drumline bench`: a load generator over gRPC against any server.
//!
//! A workload is what one caller does again and again; [`load`] drives it, in a closed loop (each caller waits for its answer) or in
//! an open one (calls begin at a rate, whatever the server does, and latency counts from when a call *should* have begun, so that
//! a stall is not measured away). Every workload checks that what it counted is right: a figure of a server that loses updates
//! is worth nothing. Calls are made once, without the SDK's retries, so that each error is seen; mutations carry a `request_id`,
//! as the SDK's do.

mod cas;
mod deliver;
mod echo;
mod load;
mod lock;
mod pace;
mod ping;
mod publish;
mod report;
mod tally;
mod task;
mod workflow;

use std::time::Duration;

use clap::ValueEnum;
use drumline::Client;
use uuid::Uuid;

use self::load::{Plan, Workload};
use self::report::Report;
use super::connection::Connection;
use super::{Failure, parse};

/// How many callers share one connection.
const CALLERS_A_CONNECTION: usize = 64;
/// Where a bench works unless it is told otherwise: not among the data of others.
const NAMESPACE: &str = "bench";

/// Measure a server.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    /// What each caller does
    workload: Kind,
    /// How many callers there are; in an open loop, how many calls may be under way at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    callers: usize,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse::duration)]
    duration: Duration,
    /// How long to run before that
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse::duration)]
    warm_up: Duration,
    /// Open loop: so many operations a second are begun, whatever the server does
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// How many connections to open [default: one for every 64 callers]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    connections: Option<usize>,
    /// lock, cas: all callers on one resource or document
    #[arg(long)]
    hot: bool,
    /// publish: so many events a call
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    batch: usize,
    /// The size of payloads, roughly
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    payload_bytes: usize,
    /// deliver: how many subscribers receive each event
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = at_least_one)]
    subscribers: usize,
    /// task, workflow: how many echo agents there are
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    agents: usize,
    /// workflow: its shape
    #[arg(long, value_enum, default_value_t)]
    shape: Shape,
    /// workflow: how many steps (sequential) or items (map-reduce) it has
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    size: usize,
    /// workflow: how many of its tasks are in flight at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    delegates: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A health check: what the transport itself can do
    Ping,
    /// Compare-and-swap of a document
    Cas,
    /// Publish events
    Publish,
    /// Take a lock and give it back
    Lock,
    /// From publishing an event to its receipt by subscribers
    Deliver,
    /// From delegating a task to its result, by echo agents
    Task,
    /// From starting a workflow to its end, by echo agents
    Workflow,
}

/// The shape of a workflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// One step after the other
    #[default]
    Sequential,
    /// A map over a list, and a reduce
    MapReduce,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("a whole number, at least 1".into()),
    }
}

/// Runs the command.
pub async fn run(mut args: Args) -> Result<(), Failure> {
    if args.connection.namespace.is_empty() {
        args.connection.namespace = NAMESPACE.into();
    }
    if args.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e7)) {
        return Err(Failure::usage("--rate must be above 0, and at most 10000000"));
    }
    // What one run makes is not mistaken for another's.
    let run = Uuid::new_v4().simple().to_string()[..8].to_owned();
    let report = match args.workload {
        Kind::Ping => measure(ping::Ping, &args).await?,
        Kind::Cas => measure(cas::Cas::new(&run, &args), &args).await?,
        Kind::Publish => measure(publish::Publish::new(&run, &args), &args).await?,
        Kind::Lock => measure(lock::Lock::new(&run, &args), &args).await?,
        Kind::Deliver => measure(deliver::Deliver::start(&run, &args).await?, &args).await?,
        Kind::Task => measure(task::Task::start(&run, &args).await?, &args).await?,
        Kind::Workflow => measure(workflow::Workflow::start(&run, &args).await?, &args).await?,
    };
    report.show(&args.connection.screen())?;
    if report.is_right() {
        Ok(())
    } else {
        Err(Failure::message("what was counted is not right: see the checks"))
    }
}

async fn measure<W: Workload>(workload: W, args: &Args) -> Result<Report, Failure> {
    let connections = args.connections.unwrap_or(args.callers.div_ceil(CALLERS_A_CONNECTION));
    let clients = connect(&args.connection, connections).await?;
    let plan = Plan {
        callers: args.callers,
        warm_up: args.warm_up,
        duration: args.duration,
        rate: args.rate,
    };
    let (counted, checked) = load::drive(workload, &plan, &clients).await?;
    let name = args
        .workload
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default();
    Ok(Report::new(name, plan, connections, counted, checked))
}

/// So many clients, each with a connection of its own.
async fn connect(connection: &Connection, count: usize) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(connection.client().await?);
    }
    Ok(clients)
}

/// A request, which is given up after a while.
fn request<M>(message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_secs(60));
    request
}

fn request_id() -> String {
    Uuid::new_v4().to_string()
}

/// JSON text of about this many bytes.
fn filler(bytes: usize) -> String {
    "x".repeat(bytes.saturating_sub(10))
}
