//! The black-box suite: every test speaks gRPC to the real binary, on every composition of store and bus that there is.
//!
//! `scripts/test` runs it with a private Postgres and Redis. Without `DRUMLINE_TEST_POSTGRES` it runs on the embedded store alone.

mod agent_exec;
mod bench;
mod cli;
mod common;
mod configuration;
mod demo;
mod events;
mod faults;
mod house;
mod locks;
mod registry;
mod restarts;
mod scale;
mod sessions;
mod state;
mod streams;
mod support;
mod tasks;
mod workflows;
