//! The one binary.

use clap::Parser;

#[derive(Parser)]
#[command(version, about)]
enum Cli {
    /// Run a server
    Serve(drumline_server::cli::serve::ServeArgs),
}

#[tokio::main]
async fn main() {
    let Cli::Serve(args) = Cli::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    if let Err(error) = drumline_server::cli::serve::run(args).await {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}
