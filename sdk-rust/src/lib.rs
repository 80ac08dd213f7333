//! The Rust SDK of Drumline, the coordination plane for autonomous agents.
#![warn(missing_docs)]

pub mod backoff;
mod client;
mod error;
pub mod events;
pub mod lease;
mod lock_guard;
pub mod locks;
pub mod payload;
pub mod registry;
mod session;
pub mod state;
mod stream;
mod stubs;
pub mod tasks;
mod time;
pub mod workflow;
pub mod workflows;

pub use client::{Client, ClientBuilder};
pub use drumline_proto::v1;
pub use error::{Error, Kind, Reason, Result, Violation};
pub use lock_guard::LockGuard;
pub use stubs::Stubs;
