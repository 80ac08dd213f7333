//! Histories of tasks: random ones, which keep every promise, and small ones for what each rule says.

mod batch;
mod crowds;
mod fleet;
mod histories;
mod stories;
