//! Workflows on a world that is all there is, with tasks that end as the tests say.

mod bench;
mod graphs;
mod lanes;
pub mod replay;
mod stories;
