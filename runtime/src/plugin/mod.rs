//! Plugins: the engine they run in, loading them, calling them under their limits, and the
//! columns that cross the boundary (`plugin-sdk/wit/plugin.wit`).

mod bindings;
mod builtin;
mod candidate;
mod capabilities;
pub mod compile;
mod component;
mod convert;
mod division;
mod engine;
mod fault;
#[cfg(fuzzing)]
pub mod fuzz;
mod grants;
mod guest;
mod inspect;
mod instance;
mod log;
mod outcome;
mod tables;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub use tests::engine as test_engine;

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::problem::Problem;
use crate::config::units::{ByteSize, Interval};
use crate::message::{Batch, Row};
use crate::state::Pending;

pub use bindings::PROCESSOR;
pub use bindings::metrics::{Measure, Point};
pub use builtin::{BUILT_INS, BuiltIn};
pub use candidate::ShadowSpec;
pub use capabilities::clock::Determined;
pub use capabilities::state::{Epochs, Staged};
pub use engine::{EngineSettings, PluginEngine};
pub use grants::{Grants, HttpServer, LookupTable, OwnMetrics, StateSpace};
pub use inspect::{Inspection, inspect};
pub use instance::{Instance, Passage, Plugin, PluginScope};

/// A plugin as a pipeline names it: what `config/` hands to the engine.
#[derive(Clone, PartialEq, Debug)]
pub struct PluginSpec {
    /// Name of this step within the pipeline: its `name`, or that of the plugin, with `-2`, `-3`
    /// where it would stand twice.
    pub step: String,
    pub code: PluginCode,
    /// As JSON, with variables and files in place.
    pub config: serde_json::Value,
    pub limits: Limits,
    pub grants: Grants,
    /// The SHA-256 that the file must have, in hex.
    pub sha256: Option<String>,
    pub reload: Reload,
    pub shadow: Option<ShadowSpec>,
}

/// When a pipeline that runs takes a new version of a plugin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reload {
    /// When its file has changed, and at SIGHUP.
    #[default]
    ChangedFile,
    /// At SIGHUP alone.
    Signal,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PluginCode {
    /// One that is embedded in this binary.
    BuiltIn(String),
    File(PathBuf),
}

/// Limits of a plugin. They are always on (P7).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Linear memory an instance may have.
    pub memory: ByteSize,
    /// Time that one message may take inside the guest.
    pub timeout: Interval,
    /// Bytes that may come out of one message, all its new messages together.
    pub output: ByteSize,
    /// Log text a message may write; more of it is a fault.
    pub log: ByteSize,
    /// Size of the plugin's file. One with JavaScript in it has 12 MiB, one with Python 20 to 40.
    pub file: ByteSize,
    /// Time that compiling it may take, waiting for a processor included. It is compiled once and kept.
    pub compile: Interval,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory: ByteSize::mib(64),
            timeout: Interval::millis(500),
            output: ByteSize::mib(16),
            log: ByteSize::kib(16),
            file: ByteSize::mib(64),
            // A plugin with Python in it takes a minute of processor time, and other work may take most
            // of the processors.
            compile: Interval::secs(300),
        }
    }
}

/// Who a plugin is, for dead letters and metrics.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct PluginIdentity {
    /// See [`PluginSpec::step`].
    pub step: String,
    /// What it calls itself.
    pub name: String,
    pub version: String,
    /// Of the file as it was given, in hex.
    pub sha256: String,
}

/// Why a plugin cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadError {
    /// See [`PluginSpec::step`].
    pub step: String,
    /// At least one, each with its place within the `[[plugin]]` section: `/use` or `/wasm` for the
    /// code, `/sha256`, `/config/...`, `/limits/...`, `/grants/...`.
    pub problems: Vec<Problem>,
}

impl std::error::Error for LoadError {}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "plugin {}", self.step)?;
        for Problem { at, message, help } in &self.problems {
            write!(f, ": {at}: {message}")?;
            if let Some(help) = help {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

/// What became of a batch in a plugin.
#[derive(Debug, Default)]
pub struct Processed {
    /// The messages that go on, in the order of their parents.
    pub batch: Batch,
    /// Row of the batch given that each of them comes from; never falls.
    pub parents: Vec<u32>,
    /// Rows of the batch given that do not go on, in order. Every row given is here or in `parents`.
    pub fates: Vec<Fate>,
    /// What it wrote to its state.
    pub staged: Staged,
}

#[derive(Debug)]
pub struct Fate {
    /// Its row in the batch given.
    pub parent: u32,
    /// That row, its spans valid in [`Processed::batch`].
    pub row: Row,
    pub verdict: FateVerdict,
}

#[derive(Debug)]
pub enum FateVerdict {
    Dropped,
    /// Dropped because of a message in flight, whose fate it shares.
    Duplicate(Pending),
    Rejected {
        code: String,
        reason: String,
    },
    Retry {
        code: String,
        reason: String,
    },
    /// The plugin failed on this message alone (P4).
    Faulted(Arc<Fault>),
}

impl FateVerdict {
    /// Whether it is an attempt at the message that failed.
    pub fn is_failure(&self) -> bool {
        match self {
            FateVerdict::Dropped | FateVerdict::Duplicate(_) => false,
            FateVerdict::Rejected { .. } | FateVerdict::Retry { .. } | FateVerdict::Faulted(_) => true,
        }
    }
}

/// How a plugin failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub kind: FaultKind,
    /// In words, with the demangled frames where there are any.
    pub message: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FaultKind {
    Trap,
    Timeout,
    OutOfMemory,
    StackOverflow,
    /// The result breaks the contract: an index out of range, too few verdicts.
    Malformed,
    OutputLimit,
    LogLimit,
}

impl FaultKind {
    pub fn as_str(self) -> &'static str {
        match self {
            FaultKind::Trap => "trap",
            FaultKind::Timeout => "timeout",
            FaultKind::OutOfMemory => "out-of-memory",
            FaultKind::StackOverflow => "stack-overflow",
            FaultKind::Malformed => "malformed-result",
            FaultKind::OutputLimit => "output-limit",
            FaultKind::LogLimit => "log-limit",
        }
    }
}
