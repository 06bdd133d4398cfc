//! The contract in Rust, made from its only copy.
#![allow(unused_variables)] // in what the macro makes

wasmtime::component::bindgen!({
    path: "../plugin-sdk/wit",
    world: "plugin",
    imports: { default: trappable },
    // A batch goes in as slices: its only copy is the one into the guest.
    ownership: Borrowing { duplicate_if_necessary: true },
});

pub use exports::millstream::plugin::processor::Guest as Processor;
pub use millstream::plugin::log::Level;
pub use millstream::plugin::types::{Batch as Columns, Description, Outcome, Reads, Reason};
pub use millstream::plugin::{clock, http, log, lookup, metrics, random, state, types};

/// The interface that makes a component a plugin, without its version.
pub const PROCESSOR: &str = "millstream:plugin/processor";
/// Start of the names of everything in the contract.
pub const CONTRACT: &str = "millstream:plugin/";
/// Version of the contract, that of the package in `plugin-sdk/wit`.
pub const CONTRACT_VERSION: &str = "0.1.0";

/// "There is none", in place of an address.
pub const NONE: u32 = 0xFFFF_FFFE;
/// "As in the parent row", in place of an address or a route.
pub const AS_PARENT: u32 = 0xFFFF_FFFF;
/// "As in the parent row", in place of a time.
pub const TIMESTAMP_AS_PARENT: i64 = i64::MIN;
