//! `grants`: what a pipeline lets a plugin reach.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::units::{ByteSize, Interval};

/// What a pipeline grants a plugin; nothing by default (P7).
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Tables it may look up, by the name it uses for them.
    pub lookup: BTreeMap<String, LookupTable>,
    /// The time of day. What it is told of a batch without this is when the batch came.
    pub clock: bool,
    /// Random bytes.
    pub random: bool,
    /// Spaces of keys and values that it keeps, by their name; plugins of a pipeline that name the
    /// same space share it.
    pub state: BTreeMap<String, StateSpace>,
    /// Servers that it may send requests to, by the name it uses for them.
    pub http: BTreeMap<String, HttpServer>,
    /// Counters and histograms of its own; `{}` for up to 20 of them.
    pub metrics: Option<OwnMetrics>,
}

impl Grants {
    /// Names of the spaces of state.
    pub fn spaces(&self) -> impl Iterator<Item = &str> {
        self.state.keys().map(String::as_str)
    }
}

/// A table that the host loads and reloads when its file changes.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LookupTable {
    /// `.csv` with a head, `.json` with an array of objects, or `.ndjson`; relative to the pipeline file.
    pub file: PathBuf,
    /// Column or field that is looked up.
    pub key: String,
    /// How often the file is looked at for a change.
    #[serde(default = "reload_default")]
    pub reload: Interval,
}

fn reload_default() -> Interval {
    Interval::secs(10)
}

/// A space of keys and values, in the data folder.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StateSpace {
    /// Longest time that an entry is kept; without it as long as the plugin wants.
    pub ttl: Option<Interval>,
    /// Bytes of keys and values that the space may hold.
    pub size: ByteSize,
}

impl Default for StateSpace {
    fn default() -> StateSpace {
        StateSpace { ttl: None, size: ByteSize::mib(1024) }
    }
}

/// A server that a plugin may send requests to. Redirects are not followed.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpServer {
    /// `http://` or `https://`, with a path if only what is below it may be asked for.
    pub url: String,
    /// Methods that are allowed.
    pub methods: Vec<String>,
    /// Headers that the host adds, a token for instance: the plugin does not see them.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Time for one request and its answer.
    #[serde(default = "timeout_default")]
    pub timeout: Interval,
    /// Largest body of an answer.
    #[serde(default = "max_response_default")]
    pub max_response: ByteSize,
    /// Requests of one call that are sent at the same time.
    #[serde(default = "concurrency_default")]
    pub concurrency: usize,
}

fn timeout_default() -> Interval {
    Interval::secs(5)
}

fn max_response_default() -> ByteSize {
    ByteSize::mib(1)
}

fn concurrency_default() -> usize {
    16
}

/// Counters and histograms of a plugin's own.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OwnMetrics {
    /// How many names it may use.
    pub names: usize,
}

impl Default for OwnMetrics {
    fn default() -> OwnMetrics {
        OwnMetrics { names: 20 }
    }
}
