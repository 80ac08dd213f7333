//! The SDK against a server that does what each test tells it to: what a real one would do only on a bad day.

mod agent;
mod calls;
mod fake;
mod gate;
mod handlers;
mod locks;
mod replicas;
mod sessions;
