//! Millstream, a stream processor whose logic is WebAssembly plugins.
//!
//! In reading order:
//! - [`message`]: what flows
//! - [`config`]: pipeline files, read and checked
//! - [`sources`], [`codecs`], [`sinks`]: the world outside
//! - [`plugin`]: the sandbox
//! - [`store`]: the data folder, its checkpoints

pub mod codecs;
pub mod config;
pub mod message;
pub mod plugin;
pub mod sinks;
pub mod sources;
pub mod store;
