//! The source `kinesis`, against kinesis-local and dynalite.

mod between;
mod leases;
mod members;
mod pipelines;
mod reads;
mod resharding;
mod troubles;
pub mod world;
