//! Bench.
use super::Failure;
/// Measure a server.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: super::connection::Connection,
    workload: String,
    #[arg(long, default_value_t = 64)]
    callers: usize,
    #[arg(long)]
    hot: bool,
}
/// Runs.
pub async fn run(_args: Args) -> Result<(), Failure> {
    Ok(())
}
