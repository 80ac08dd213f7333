//! `drumline bench`: a load generator over gRPC against any server.
//!
//! A workload is what one caller does again and again; [`load`] drives it, in a closed loop (each caller waits for its answer) or in
//! an open one (calls begin at a rate, whatever the server does, and latency counts from when a call *should* have begun, so that
//! a stall is not measured away). Every workload checks that what it counted is right: a figure of a server that loses updates
//! is worth nothing. Calls are made once, without the SDK's retries, so that each error is seen; mutations carry a `request_id`,
//! as the SDK's do.

mod agents;
mod args;
mod cas;
mod deliver;
mod discover;
mod echo;
mod heartbeat;
mod load;
mod lock;
mod pace;
mod ping;
mod publish;
mod report;
mod store;
mod tally;
mod task;
mod workflow;

use std::time::Duration;

use drumline::Client;
use uuid::Uuid;

pub use self::args::Args;
use self::args::Kind;
use self::load::Workload;
use self::report::{Part, Report};
use super::Failure;

/// Where a bench works unless it is told otherwise: not among the data of others.
const NAMESPACE: &str = "bench";

/// Runs the command.
pub async fn run(mut args: Args) -> Result<(), Failure> {
    if args.connection.namespace.is_empty() {
        args.connection.namespace = NAMESPACE.into();
    }
    args.check()?;
    // What one run makes is not mistaken for another's.
    let run = Uuid::new_v4().simple().to_string()[..8].to_owned();
    let report = match args.workload {
        Kind::Ping => measure(ping::Ping, &args).await?,
        Kind::Discover => measure(discover::Discover::start(&run, &args).await?, &args).await?,
        Kind::Heartbeat => measure(heartbeat::Heartbeat::new(&run, &args), &args).await?,
        Kind::Lock => measure(lock::Lock::new(&run, &args), &args).await?,
        Kind::Cas => measure(cas::Cas::new(&run, &args), &args).await?,
        Kind::Publish => measure(publish::Publish::new(&run, &args), &args).await?,
        Kind::Deliver => deliver::run(&run, &args).await?,
        Kind::Task => measure(task::Task::start(&run, &args).await?, &args).await?,
        Kind::Workflow => measure(workflow::Workflow::start(&run, &args).await?, &args).await?,
        Kind::Agents => agents::run(&run, &args).await?,
        Kind::Store => store::run(&args).await?,
    };
    report.show(&args.connection.screen())?;
    if report.is_right() {
        Ok(())
    } else {
        Err(Failure::message("what was counted is not right: see the checks"))
    }
}

async fn measure<W: Workload<Target = Client>>(workload: W, args: &Args) -> Result<Report, Failure> {
    measure_at(workload, args, &args.connection.server).await
}

/// Measures with callers at these servers.
async fn measure_at<W: Workload<Target = Client>>(
    workload: W,
    args: &Args,
    servers: &[String],
) -> Result<Report, Failure> {
    let clients = connect(args, servers, args.connections(args.callers, servers.len())).await?;
    let plan = args.plan();
    let outcome = load::drive(workload, &plan, &clients).await?;
    let (part, checked) = Part::new(args.name(), &plan, outcome);
    let mut report = Report::of_one(part, checked);
    report.fact("connections", clients.len());
    Ok(report)
}

/// So many clients, each with a connection of its own, to each of the servers in turn.
async fn connect(args: &Args, servers: &[String], count: usize) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::with_capacity(count);
    for server in servers.iter().cycle().take(count) {
        clients.push(args.connection.client_of(server).await?);
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
