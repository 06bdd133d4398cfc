//! Write Millstream plugins in Rust.
//!
//! A plugin is a type with a typed configuration ([`Plugin`]) that does one of three things with
//! a message: keeps it or not ([`Filter`]), makes another payload of it ([`Map`]), or whatever it
//! likes ([`Process`]). [`export!`] makes a WebAssembly module of it:
//!
//! ```
//! use millstream_sdk::prelude::*;
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//!
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     /// Orders below this total are dropped.
//!     minimum: f64,
//! }
//!
//! #[derive(Deserialize)]
//! struct Order {
//!     total: f64,
//! }
//!
//! struct BigOrders(Config);
//!
//! impl Plugin for BigOrders {
//!     type Config = Config;
//!     const NAME: &'static str = "big-orders";
//!     const SUMMARY: &'static str = "Keeps orders above a minimum.";
//!
//!     fn new(config: Config) -> Result<Self, ConfigError> {
//!         Ok(BigOrders(config))
//!     }
//! }
//!
//! impl Filter for BigOrders {
//!     fn keep(&mut self, message: &Message<'_>) -> Result<bool, Failure> {
//!         let order: Order = message.json()?;
//!         Ok(order.total >= self.0.minimum)
//!     }
//! }
//!
//! millstream_sdk::export!(BigOrders);
//! # fn main() {}
//! ```
//!
//! In reading order:
//!
//! - [`plugin`]: the traits, and what becomes of a message
//! - [`message`]: the batch and its messages, as they came
//! - [`output`]: the messages that a plugin makes
//! - [`config`]: typed configuration and its errors
//! - [`envelope`]: the standard envelope of an event, as a type
//! - [`key`]: where in a message a key is found
//! - [`pointer`]: values at JSON pointers, without parsing the rest
//! - [`log`], [`lookup`], [`state`], [`http`], [`clock`], [`random`], [`metrics`]: what the host does
//!   for a plugin, most of it if the pipeline grants it
//! - [`testing`]: unit tests of a plugin, natively
//! - [`guest`]: what [`export!`] exports
//! - [`bindings`]: the contract itself, generated from `wit/plugin.wit`

mod append;
pub mod clock;
pub mod config;
pub mod envelope;
pub mod guest;
pub mod http;
pub mod key;
pub mod log;
pub mod lookup;
pub mod message;
pub mod metrics;
mod not_granted;
pub mod output;
pub mod plugin;
pub mod random;
mod spans;
pub mod state;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

#[allow(clippy::all, clippy::undocumented_unsafe_blocks, missing_docs, reason = "generated code")]
pub mod bindings {
    wit_bindgen::generate!({
        world: "plugin",
        path: "wit",
        async: false,
        pub_export_macro: true,
        default_bindings_module: "millstream_sdk::bindings",
        additional_derives: [Clone],
    });
}

pub use config::{ConfigError, NoConfig, Secret};
pub use message::{Batch, Message};
pub use millstream_json_pointer as pointer;
pub use not_granted::NotGranted;
pub use output::{Emission, Output};
pub use plugin::{Failure, Filter, Map, Plugin, Process, Reads, Verdict};

/// What nearly every plugin needs: `use millstream_sdk::prelude::*;`.
pub mod prelude {
    pub use crate::config::{ConfigError, NoConfig, Secret};
    pub use crate::message::{Batch, Message};
    pub use crate::output::Output;
    pub use crate::plugin::{Failure, Filter, Map, Plugin, Process, Reads, Verdict};
    pub use crate::{log, lookup, state};
}
