//! Sessions: an agent's life is one session, and what it holds ends with it.
//!
//! Who is authoritative: the session's row, decided in the lane. Heartbeats are kept beside it ([`beats`]) and looked at again
//! inside the job that declares a death. A death is one commit that marks the row and takes the agent off the offers; nobody acts
//! under it from then on, and what it held is released in that job and, where it is much, in bounded jobs that follow.
//!
//! ```text
//!            register                 a stream breaks, its grace over; no beat for a TTL
//!   (none) ───────────▶ LIVE ───────▶ EXPIRED
//!                        │ ├────────▶ SUPERSEDED      another registration of the same agent
//!                        │ └────────▶ DEREGISTERED    goodbye
//!                        └ resume: the same session, the next stream generation
//! ```

pub mod beats;
mod broken;
pub mod gap;
pub mod pulse;
pub mod rpc;
pub mod rules;
pub mod store;
pub mod watch;

use std::time::Duration;

use crate::named_enum;
use crate::time::Time;

/// The shortest session TTL.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// The longest session TTL.
pub const MAX_TTL: Duration = Duration::from_secs(600);
/// How long the row of a session that has ended is kept, so that whoever still acts under it hears why it ended.
pub const ENDED_KEPT: Duration = Duration::from_secs(24 * 3_600);
/// How many locks and how many tasks of a dead session one job releases.
pub const RELEASED_AT_ONCE: usize = 64;
/// The TTL of a session with a stream, unless it asks for another.
pub const DEFAULT_STREAM_TTL: Duration = Duration::from_secs(3);
/// The TTL of a session without a stream, unless it asks for another.
pub const DEFAULT_UNARY_TTL: Duration = Duration::from_secs(30);

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Life {
    /// Alive.
    Live,
    /// Its heartbeats stopped, or its stream broke and did not come back.
    Expired,
    /// Another registration of the same agent took its place.
    Superseded,
    /// It said goodbye.
    Deregistered,
}

named_enum!(Life { Live = "LIVE", Expired = "EXPIRED", Superseded = "SUPERSEDED", Deregistered = "DEREGISTERED" });

/// A session.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Session {
    /// The secret that its agent acts under.
    pub session_id: String,
    /// The agent.
    pub agent_id: String,
    /// Which registration of the agent it is.
    pub incarnation: i64,
    /// Where it is in its life.
    pub life: Life,
    /// After this long without a heartbeat it is dead.
    pub ttl: Duration,
    /// Raised with every stream; what an older stream says or suffers does not count.
    pub generation: i64,
    /// Whether a stream of the current generation is open.
    pub connected: bool,
    /// How many more tasks an open `PollTasks` takes.
    pub polling: i32,
    /// The `PollTasks` call that was opened last: the end of an older one does not count.
    pub poll_id: Option<String>,
    /// How many tasks it takes at once.
    pub capacity: i32,
    /// How many it has.
    pub in_flight: i32,
    /// When it was last given one.
    pub last_assigned_at: Time,
    /// When it began.
    pub started_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// When its row is to be looked at again: at once while what it held is not all released, later to be deleted.
    pub due_at: Option<Time>,
}

/// When a live session was last heard of. Written beside the lane where servers share a store.
#[derive(Clone, Debug, PartialEq)]
pub struct BeatRecord {
    /// The session.
    pub session_id: String,
    /// The server that heard it.
    pub home: String,
    /// When, by the store's clock.
    pub at: Time,
}

impl Session {
    /// Whether it may act.
    pub fn is_live(&self) -> bool {
        self.life == Life::Live
    }
}
