//! The Drumline server, as a library: the map of the house.
//!
//! A call comes in through [`edge`] and the `rpc.rs` of a room, which turns it into a typed command. A command that
//! changes something becomes a job of its namespace's [`lane`], where the room's `rules.rs` decide it on a working set,
//! and is answered after the [`store`] has committed it. What happened goes to the [`tail`], which wakes whoever waits for it.
//! `ARCHITECTURE.md` draws the whole of it; `tests/house.rs` holds the arrows in place.

// Its readers are those who change it: what is private is worth a link too.
#![allow(rustdoc::private_intra_doc_links)]

pub mod app;
pub mod bus;
pub mod cli;
pub mod config;
pub mod edge;
pub mod error;
pub mod events;
pub mod lane;
pub mod locks;
pub mod machine;
pub mod payload;
pub mod registry;
pub mod sessions;
#[cfg(test)]
mod sim;
pub mod state;
pub mod store;
pub mod sweep;
pub mod tail;
pub mod tasks;
pub mod time;
pub mod workflows;

/// How long an id may be, in bytes.
pub const MAX_ID: usize = 255;
