//! `drumline state`: shared documents.

use std::time::SystemTime;

use drumline::state::Watched;
use drumline::v1 as pb;
use futures::StreamExt;

use super::connection::Connection;
use super::screen::{Screen, Shown};
use super::{Failure, human, parse};

/// Read and write shared documents.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show a document
    Get {
        /// The document's id
        state_id: String,
        /// One of its kept versions
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        version: i64,
        /// Print the content alone
        #[arg(long)]
        raw: bool,
    },
    /// Write a document whole
    Put(Put),
    /// Delete a document
    Delete {
        /// The document's id
        state_id: String,
        /// Refuse it unless this is its version
        #[arg(long, value_name = "N")]
        expected_version: Option<i64>,
        /// Refuse it unless this lock is held; may be given again
        #[arg(long, value_name = "RESOURCE=TOKEN", value_parser = parse::guard)]
        guard: Vec<pb::Guard>,
    },
    /// List documents
    List {
        /// Only ids that begin with this
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
        /// At most this many; 0 is all
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// List the kept versions of a document, the newest first
    History {
        /// The document's id
        state_id: String,
        /// At most this many; 0 is all
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show a document as it is, then each change; goes on by itself where the connection breaks
    Watch {
        /// The document's id; it need not exist yet
        state_id: String,
        /// Watch every document whose id begins so
        #[arg(long)]
        prefix: bool,
        /// Only what has changed since this cursor
        #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
        after: String,
    },
}

#[derive(Debug, clap::Args)]
struct Put {
    /// The document's id
    state_id: String,
    /// The content: JSON, @FILE, or - for standard input
    #[arg(allow_hyphen_values = true)]
    payload: String,
    /// The content's media type; if it is not JSON, the content is taken as bytes
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Refuse it unless this is its version; 0: it must not exist
    #[arg(long, value_name = "N")]
    expected_version: Option<i64>,
    /// Refuse it unless this lock is held; may be given again
    #[arg(long, value_name = "RESOURCE=TOKEN", value_parser = parse::guard)]
    guard: Vec<pb::Guard>,
    /// The owner's version of the document's schema
    #[arg(long, default_value = "", hide_default_value = true)]
    schema_version: String,
    /// How many versions to keep; 0 leaves it as it is
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    version_retention: i32,
    /// Links the change's event to others
    #[arg(long, default_value = "", hide_default_value = true)]
    correlation_id: String,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client().await?;
    let screen = args.connection.screen();
    match args.command {
        Command::Get { state_id, version, raw } => get(&client, screen, &state_id, version, raw).await,
        Command::Put(put) => put.run(&client, screen).await,
        Command::Delete {
            state_id,
            expected_version,
            guard,
        } => {
            let mut delete = client.state().delete(&state_id);
            if let Some(version) = expected_version {
                delete = delete.expected_version(version);
            }
            let written = guard.into_iter().fold(delete, drumline::state::Delete::guard).await?;
            let drumline::state::Written {
                version,
                position,
                cursor,
            } = written;
            screen.one(
                &pb::DeleteStateResponse {
                    version,
                    position,
                    cursor,
                },
                "DeleteStateResponse",
            )
        }
        Command::List { prefix, limit } => screen.list(client.state().list(&prefix), limit).await,
        Command::History { state_id, limit } => screen.list(client.state().versions(&state_id), limit).await,
        Command::Watch {
            state_id,
            prefix,
            after,
        } => {
            let watched = if prefix {
                Watched::Prefix(state_id)
            } else {
                Watched::Document(state_id)
            };
            let mut changes = client.state().watch_from(watched, &after);
            let mut live = screen.live::<pb::WatchStateResponse>();
            while let Some(change) = changes.next().await {
                let change = change?;
                // Progress marks are for programs.
                if change.state.is_some() || !screen.is_table() {
                    live.show(&change)?;
                }
            }
            Ok(())
        }
    }
}

async fn get(
    client: &drumline::Client,
    screen: Screen,
    state_id: &str,
    version: i64,
    raw: bool,
) -> Result<(), Failure> {
    let state = client.state().get_state(state_id, version).await?;
    if raw {
        screen.raw(state.payload.as_ref())
    } else {
        screen.one(&state, "State")
    }
}

impl Put {
    async fn run(self, client: &drumline::Client, screen: Screen) -> Result<(), Failure> {
        let payload = parse::payload(&self.payload, self.content_type.as_deref())?;
        let mut put = client
            .state()
            .put_payload(&self.state_id, payload)
            .guards(&self.guard)
            .schema_version(self.schema_version)
            .version_retention(self.version_retention)
            .correlation_id(self.correlation_id);
        if let Some(version) = self.expected_version {
            put = put.expected_version(version);
        }
        let drumline::state::Written {
            version,
            position,
            cursor,
        } = put.await?;
        screen.one(
            &pb::PutStateResponse {
                version,
                position,
                cursor,
            },
            "PutStateResponse",
        )
    }
}

fn content(state: &pb::State) -> String {
    if state.deleted {
        "(deleted)".into()
    } else {
        human::payload(state.payload.as_ref())
    }
}

impl Shown for pb::State {
    const NAME: &'static str = "State";
    const HEADINGS: &'static [&'static str] = &["STATE", "VERSION", "UPDATED", "BY", "CONTENT"];

    fn cells(&self, now: SystemTime) -> Vec<String> {
        vec![
            self.state_id.clone(),
            self.version.to_string(),
            human::age(self.update_time.as_ref(), now),
            human::or_dash(&self.updated_by),
            content(self),
        ]
    }
}

impl Shown for pb::WatchStateResponse {
    const NAME: &'static str = "WatchStateResponse";
    const HEADINGS: &'static [&'static str] = &["POSITION", "TIME", "STATE", "VERSION", "BY", "CONTENT"];

    fn cells(&self, _now: SystemTime) -> Vec<String> {
        let state = self.state.clone().unwrap_or_default();
        vec![
            self.position.to_string(),
            human::time(state.update_time.as_ref()),
            state.state_id.clone(),
            state.version.to_string(),
            human::or_dash(&state.updated_by),
            content(&state),
        ]
    }
}
