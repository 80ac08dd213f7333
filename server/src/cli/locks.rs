//! `drumline locks`: leases by hand. A lock that is taken here is not renewed; `drumline lock run` does that.

use std::future::ready;
use std::time::{Duration, SystemTime};

use drumline::v1 as pb;
use futures::TryStreamExt;

use super::connection::Connection;
use super::screen::Shown;
use super::{Failure, human, parse};

/// Take, release and list locks.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the locks that are held
    List {
        /// Only resources that begin with this
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
        /// Only locks of this agent
        #[arg(long, value_name = "AGENT_ID")]
        agent: Option<String>,
        /// At most this many; 0 is all
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show the lock on a resource in full
    Get {
        /// The resource
        resource_id: String,
    },
    /// Take a lock, which lasts its TTL, and print its token
    Acquire {
        /// What to lock
        resource_id: String,
        /// Who holds it [default: user@host:process]
        #[arg(long, value_name = "ID")]
        holder: Option<String>,
        /// How long it lasts [default: 300s]
        #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
        ttl: Option<Duration>,
        /// How long to wait for it
        #[arg(long, value_parser = parse::duration, value_name = "DURATION", default_value = "0s")]
        wait: Duration,
        /// The token of a lease that is held, to extend it
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        token: i64,
    },
    /// Give a lock back
    Release {
        /// The resource
        resource_id: String,
        /// The token that came with it
        #[arg(long, env = "DRUMLINE_FENCING_TOKEN")]
        token: i64,
    },
}

/// Runs the command.
pub async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client().await?;
    let screen = args.connection.screen();
    match args.command {
        Command::List { prefix, agent, limit } => {
            let mine = move |lock: &pb::Lock| agent.as_ref().is_none_or(|agent| *agent == lock.agent_id);
            let locks = client.locks().list(&prefix).try_filter(move |lock| ready(mine(lock)));
            screen.list(locks, limit).await
        }
        Command::Get { resource_id } => screen.one(&client.locks().get(&resource_id).await?, "Lock"),
        Command::Acquire {
            resource_id,
            holder,
            ttl,
            wait,
            token,
        } => {
            let request = pb::AcquireLockRequest {
                resource_id,
                holder_id: holder.unwrap_or_else(default_holder),
                ttl: ttl.map(parse::proto_duration),
                wait_timeout: Some(parse::proto_duration(wait)),
                fencing_token: token,
                ..Default::default()
            };
            // No guard, which would give the lock back as this process ends.
            screen.one(&client.locks().acquire_unguarded(request).await?, "Lock")
        }
        Command::Release { resource_id, token } => {
            let released = client.locks().release(&resource_id, token).await?;
            screen.one(&released, "ReleaseLockResponse")
        }
    }
}

/// Who holds a lock that is taken by hand: for people, since only the token counts.
pub fn default_holder() -> String {
    let user = std::env::var("USER")
        .or_else(|_unset| std::env::var("LOGNAME"))
        .unwrap_or_else(|_unset| "cli".into());
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let holder = format!("{user}@{host}:{}", std::process::id());
    // An id has no control characters and at most 255 bytes, whatever the environment says.
    human::one_line(&holder).chars().take(60).collect()
}

impl Shown for pb::Lock {
    const NAME: &'static str = "Lock";
    const HEADINGS: &'static [&'static str] = &["RESOURCE", "HOLDER", "AGENT", "TOKEN", "HELD", "EXPIRES", "QUEUE"];

    fn cells(&self, now: SystemTime) -> Vec<String> {
        vec![
            self.resource_id.clone(),
            self.holder_id.clone(),
            human::or_dash(&self.agent_id),
            self.fencing_token.to_string(),
            human::age(self.acquire_time.as_ref(), now),
            human::age(self.expire_time.as_ref(), now),
            self.queue_length.to_string(),
        ]
    }
}
