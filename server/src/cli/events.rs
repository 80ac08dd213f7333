//! `drumline events`: publishing, and reading the log.

use std::time::{Duration, SystemTime};

use drumline::events::{Filter as SdkFilter, Start, Update};
use drumline::v1 as pb;
use futures::StreamExt;
use prost_types::Timestamp;

use super::connection::Connection;
use super::screen::{Screen, Shown, note};
use super::{Failure, human, parse};

/// Publish events and read the log.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Publish one event
    Publish(Publish),
    /// Follow the log; goes on by itself where the connection breaks
    Tail(Tail),
    /// List events that are kept
    List(List),
    /// Show one event in full
    Get {
        /// The event's id
        event_id: String,
    },
}

#[derive(Debug, clap::Args)]
struct Publish {
    /// The type, such as review.finding
    event_type: String,
    /// The payload: JSON, @FILE, or - for standard input
    #[arg(allow_hyphen_values = true)]
    payload: Option<String>,
    /// The payload's media type; if it is not JSON, the payload is taken as bytes
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// What it is about
    #[arg(long, default_value = "", hide_default_value = true)]
    subject: String,
    /// The agent that it is meant for
    #[arg(long, value_name = "AGENT_ID", default_value = "", hide_default_value = true)]
    target: String,
    /// Its id, unique in the namespace; a second one with the same id changes nothing
    #[arg(long, default_value = "", hide_default_value = true)]
    event_id: String,
    /// Links events of one undertaking
    #[arg(long, default_value = "", hide_default_value = true)]
    correlation_id: String,
    /// The event or request that caused this one
    #[arg(long, default_value = "", hide_default_value = true)]
    causation_id: String,
    /// The owner's version of the payload's schema
    #[arg(long, default_value = "", hide_default_value = true)]
    schema_version: String,
    /// Higher is more urgent
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// After this long nobody is sent it
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    ttl: Option<Duration>,
    /// Refuse it unless this lock is held; may be given again
    #[arg(long, value_name = "RESOURCE=TOKEN", value_parser = parse::guard)]
    guard: Vec<pb::Guard>,
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only these types; * stands for one segment, ** for any number
    #[arg(value_name = "TYPE")]
    types: Vec<String>,
    /// Only events of this agent
    #[arg(long, value_name = "AGENT_ID", default_value = "", hide_default_value = true)]
    source: String,
    /// Only events that are meant for this agent alone
    #[arg(long, value_name = "AGENT_ID", default_value = "", hide_default_value = true)]
    target: String,
    /// Only events with this correlation id
    #[arg(long, default_value = "", hide_default_value = true)]
    correlation_id: String,
    /// Only events whose subject begins so
    #[arg(long, default_value = "", hide_default_value = true)]
    subject_prefix: String,
    /// Only events at least as urgent
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    minimum_priority: Option<i32>,
}

#[derive(Debug, clap::Args)]
struct Tail {
    #[command(flatten)]
    filter: Filter,
    /// Begin with the oldest event that is kept
    #[arg(long, conflicts_with_all = ["after", "since"])]
    from_beginning: bool,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR", conflicts_with = "since")]
    after: Option<String>,
    /// Begin with this time, or so long ago
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    since: Option<Timestamp>,
    /// Say each event's cursor, and how far the stream has come when nothing matches
    #[arg(long)]
    show_cursor: bool,
    /// End after so many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    filter: Filter,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    after: String,
    /// Only from this time on, or from so long ago
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    since: Option<Timestamp>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    until: Option<Timestamp>,
    /// The newest first
    #[arg(long)]
    newest: bool,
    /// At most this many; 0 is all
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

impl Filter {
    fn proto(self) -> pb::EventFilter {
        pb::EventFilter {
            event_types: self.types,
            source_agent: self.source,
            target_agent: self.target,
            correlation_id: self.correlation_id,
            subject_prefix: self.subject_prefix,
            minimum_priority: self.minimum_priority,
        }
    }
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client().await?;
    let screen = args.connection.screen();
    match args.command {
        Command::Publish(publish) => {
            let (event, guards) = publish.event()?;
            let publish = client.events().publish(event);
            let response = guards
                .into_iter()
                .fold(publish, drumline::events::Publish::guard)
                .await?;
            screen.one(&response, "PublishEventsResponse")
        }
        Command::Tail(tail) => tail.run(&client, screen).await,
        Command::List(list) => {
            let request = pb::ListEventsRequest {
                filter: Some(list.filter.proto()),
                after_cursor: list.after,
                start_time: list.since,
                end_time: list.until,
                newest_first: list.newest,
                ..Default::default()
            };
            screen.list(client.events().list_with(request), list.limit).await
        }
        Command::Get { event_id } => screen.one(&client.events().get(&event_id).await?, "Event"),
    }
}

impl Publish {
    fn event(self) -> Result<(drumline::events::NewEvent, Vec<pb::Guard>), Failure> {
        let mut event = drumline::events::NewEvent::new(self.event_type)
            .subject(self.subject)
            .target_agent(self.target)
            .id(self.event_id)
            .correlation_id(self.correlation_id)
            .causation_id(self.causation_id)
            .schema_version(self.schema_version)
            .priority(self.priority);
        if let Some(text) = &self.payload {
            event = event.payload(parse::payload(text, self.content_type.as_deref())?);
        }
        if let Some(ttl) = self.ttl {
            event = event.ttl(ttl);
        }
        Ok((event, self.guard))
    }
}

impl Tail {
    fn start(&self) -> Result<Start, Failure> {
        Ok(match (self.from_beginning, &self.after, self.since) {
            (true, _, _) => Start::Beginning,
            (_, Some(cursor), _) => Start::After(cursor.clone()),
            (_, _, Some(time)) => {
                Start::Time(SystemTime::try_from(time).map_err(|error| Failure::usage(error.to_string()))?)
            }
            _ => Start::Now,
        })
    }

    async fn run(self, client: &drumline::Client, screen: Screen) -> Result<(), Failure> {
        let start = self.start()?;
        let filter = SdkFilter::from(self.filter.proto());
        let mut updates = client.events().subscribe(filter).from(start).updates();
        let mut live = screen.live::<pb::Event>();
        let mut left = self.limit;
        while left != Some(0) {
            let Some(update) = updates.next().await else { break };
            match update? {
                Update::Event(event) => {
                    live.show(&event)?;
                    // In JSON it is part of the event.
                    if self.show_cursor && screen.is_table() {
                        screen.say(&format!("  cursor {}", human::one_line(&event.cursor)))?;
                    }
                    left = left.map(|left| left - 1);
                }
                Update::Progress(progress) if self.show_cursor => {
                    note(&format!("cursor {} (position {})", progress.cursor, progress.position));
                }
                Update::Progress(_) => {}
            }
        }
        Ok(())
    }
}

impl Shown for pb::Event {
    const NAME: &'static str = "Event";
    const HEADINGS: &'static [&'static str] = &["POSITION", "TIME", "TYPE", "SOURCE", "TARGET", "SUBJECT", "PAYLOAD"];

    fn cells(&self, _now: SystemTime) -> Vec<String> {
        vec![
            self.position.to_string(),
            human::time(self.timestamp.as_ref()),
            self.event_type.clone(),
            human::or_dash(&self.source_agent),
            human::or_dash(&self.target_agent),
            human::or_dash(&self.subject),
            human::payload(self.payload.as_ref()),
        ]
    }
}
