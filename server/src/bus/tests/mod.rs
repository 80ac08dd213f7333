//! The bus by itself, and on servers of Redis that the tests start, stop and kill.

mod codec;
mod commits;
mod ears;
mod faults;
mod kinds;
mod messages;
mod proxy;
mod server;
mod talk;
mod urls;
