//! Where the server is, and how answers are shown: what every client command takes.

use std::time::Duration;

use clap::ValueEnum;
use drumline::Client;

use super::screen::Screen;
use super::{Failure, parse};

/// How answers are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// Protobuf's JSON, one object a line
    Json,
}

/// Where the server is, and how answers are shown.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The server's address; of several replicas, separated by commas, any is used, and another when it fails
    #[arg(
        long,
        global = true,
        env = "DRUMLINE_SERVER",
        default_value = "http://127.0.0.1:7400",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub server: Vec<String>,
    /// The namespace
    #[arg(
        long,
        global = true,
        env = "DRUMLINE_NAMESPACE",
        default_value = "",
        hide_default_value = true
    )]
    pub namespace: String,
    /// The session to act under: what is changed is refused once it is over. `agent exec` gives it to its children
    #[arg(
        long,
        global = true,
        env = "DRUMLINE_SESSION_ID",
        hide_env_values = true,
        value_name = "ID"
    )]
    pub session: Option<String>,
    /// How long a call may take, its retries included; a wait that is asked for comes on top
    #[arg(long, global = true, default_value = "30s", value_parser = parse::duration, value_name = "DURATION")]
    pub call_timeout: Duration,
    /// How to show what comes back
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

impl Connection {
    /// Connects, or says at once that it cannot.
    pub async fn client(&self) -> Result<Client, Failure> {
        self.client_of_all(&self.server).await
    }

    /// Connects to one server, whatever the others are.
    pub async fn client_of(&self, server: &str) -> Result<Client, Failure> {
        self.client_of_all(&[server.to_owned()]).await
    }

    async fn client_of_all(&self, servers: &[String]) -> Result<Client, Failure> {
        let builder = Client::builder(servers.join(","))
            .namespace(&self.namespace)
            .timeout(self.call_timeout);
        let client = builder.connect().await?;
        Ok(match self.session.as_deref() {
            None | Some("") => client,
            Some(session) => client.with_session(session),
        })
    }

    /// Where answers are shown.
    pub fn screen(&self) -> Screen {
        Screen::new(self.output)
    }
}
