//! An agent in twenty lines: counts the words of a text. Try it against `drumline serve`:
//!
//! ```text
//! cargo run -p drumline --example count_words
//! drumline tasks delegate count_words '"how many words are here"'
//! ```

use drumline::{Agent, Client, TaskContext, TaskFailure};

async fn count_words(task: TaskContext, text: String) -> Result<usize, TaskFailure> {
    task.progress(0.5, "counting");
    Ok(text.split_whitespace().count())
}

#[tokio::main]
async fn main() -> drumline::Result<()> {
    let url = std::env::var("DRUMLINE_SERVER").unwrap_or_else(|_| "http://127.0.0.1:7400".into());
    let client = Client::connect(url).await?;
    let agent = Agent::builder(&client, "counter")
        .capability("count_words", count_words)
        .build();
    agent.run(async { drop(tokio::signal::ctrl_c().await) }).await
}
