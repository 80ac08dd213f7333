//! The Rust SDK of Drumline, the coordination plane for autonomous agents.
//!
//! A [`Client`] reaches the server's services: [`events`], [`state`], [`locks`], [`tasks`], [`workflows`] and the
//! [`registry`]. An [`Agent`] serves tasks over one stream. What is not wrapped is in [`Client::stubs`], and all messages are in
//! [`v1`].
//!
//! ```no_run
//! use std::time::Duration;
//! use drumline::Client;
//!
//! # async fn example() -> drumline::Result<()> {
//! let client = Client::connect("http://127.0.0.1:7400").await?;
//! let lock = client.locks().acquire("report").holder_id("me").wait(Duration::from_secs(5)).await?;
//! client.state().put("report", &"all is well").guard(lock.guard()).await?;
//! lock.release().await?;
//!
//! let task = client.tasks().delegate("count_words", "how many are there").await?;
//! let words: usize = task.wait().await?;
//! # Ok(())
//! # }
//! ```
//!
//! What holds for every call:
//! - It has a time limit ([`ClientBuilder::timeout`]), which the server is told. Within it, what may succeed when it is sent
//!   again is sent again, with jittered waits and, where it changes something, always the same `request_id`.
//! - An [`Error`] has the server's [`Reason`]. [`Error::is_indeterminate`] says where it cannot be known whether a change
//!   was made.
//! - Several addresses (`http://a:7400,http://b:7400`) are replicas: one that cannot be reached, is silent or says UNAVAILABLE is
//!   left at once for another, by calls, lock guards, streams and agents, and tried again after a while.
//! - Streams go on after a break, events and documents from their cursor.
//! - Time is this process's monotonic clock; leases are counted from before they were asked for.
#![warn(missing_docs)]

mod addresses;
pub mod agent;
pub mod backoff;
mod client;
mod connect;
mod error;
pub mod events;
pub mod lease;
mod lock_guard;
pub mod locks;
pub mod payload;
pub mod registry;
mod retry;
mod session;
pub mod state;
mod state_write;
mod stream;
mod stubs;
mod subscribe;
pub mod tasks;
mod time;
pub mod workflow;
pub mod workflows;

pub use agent::{Agent, AgentBuilder, AgentHandle, Capability, TaskContext, TaskFailure};
pub use client::Client;
pub use connect::ClientBuilder;
pub use drumline_proto::v1;
pub use error::{Error, Kind, Reason, Result, Violation};
pub use lock_guard::LockGuard;
pub use stubs::Stubs;
pub use workflow::{OnFailure, Step, Workflow};
