//! Millstream, a stream processor whose logic is WebAssembly plugins.
//!
//! In reading order:
//! - [`message`]: what flows
//! - [`config`]: pipeline files, read and checked
//! - [`sources`], [`codecs`], [`sinks`]: the world outside
//! - `aws`, `kafka`: what sources, sinks and dead letters of those kinds share
//! - [`plugin`]: the sandbox
//! - [`pipeline`]: the journey of a message, the only code that can settle one
//! - [`dead_letters`]: what was given up, and how it comes back
//! - [`store`]: the data folder, its checkpoints
//! - [`state`]: what plugins keep, staged until their message is settled
//! - [`observe`]: metrics, logs, the admin server
//! - [`stamp`]: whether a file has changed
//! - [`tls`]: certificates and keys
//! - `http_client`: where clients of HTTP may send to, and what is the same for all
//! - [`traces`]: where a message comes from in a distributed trace, and the spans that it leaves
//! - [`transactions`]: what sinks and source end together
//! - [`cli`]: one file a verb

#[cfg(feature = "aws")]
pub mod aws;
pub mod cli;
pub mod codecs;
pub mod config;
pub mod dead_letters;
mod http_client;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod message;
pub mod observe;
pub mod pipeline;
pub mod plugin;
pub mod sinks;
pub mod sources;
mod stamp;
pub mod state;
pub mod store;
pub mod tls;
pub mod traces;
pub mod transactions;
