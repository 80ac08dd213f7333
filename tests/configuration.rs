//! What a server is told, and what it makes of it; the tables of its database, and who makes them.

mod epoch;
mod migrations;
mod settings;
mod tls;

use std::process::{Output, Stdio};

use crate::support::server::binary;
use crate::support::wait::soon;

/// Runs the binary without an environment but for these variables, and waits for its end.
async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = tokio::process::Command::new(binary());
    command.args(arguments).env_clear().envs(variables.iter().copied());
    let command = command
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    soon("the command's end", command.output()).await.expect("the binary")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The settings that `drumline config -o json` shows, by name.
async fn shown(arguments: &[&str], variables: &[(&str, &str)]) -> std::collections::HashMap<String, serde_json::Value> {
    let arguments: Vec<&str> = ["config", "-o", "json"].iter().chain(arguments).copied().collect();
    let output = run(&arguments, variables).await;
    assert!(output.status.success(), "{}", words(&output));
    let lines = out(&output);
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    lines
        .map(|line| (line["name"].as_str().expect("a name").to_owned(), line))
        .collect()
}
