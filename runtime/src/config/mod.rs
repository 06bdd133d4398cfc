//! Pipeline files: read with their places, variables put in, everything checked (P9), and what the
//! rest of the program gets of them.

mod assemble;
mod document;
mod exactly_once;
pub mod guarantee;
mod load;
mod names;
mod parse;
mod plugin_section;
pub mod problem;
mod reading;
pub mod reference;
pub mod report;
pub mod secrets;
mod sections;
mod shape;
pub mod source_checks;
mod syntax;
pub mod test_section;
pub mod tracing_section;
pub mod units;
mod validate;
mod variables;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pipeline::native::Natives;
use crate::plugin::{Plugin, PluginSpec};
use crate::sinks::SinkConfig;
use crate::sources::SourceConfig;
pub use load::{FileTests, load, load_plugins, load_tests};
pub use parse::{escape, parse};
use problem::Problem;
pub use reading::Reading;
use source_checks::Validate;
use test_section::TestCase;
use tracing_section::Tracing;
use units::{ByteSize, Interval};
pub use validate::allowed;
pub use variables::Environment;

/// Folder beside the pipeline files for what they must remember.
pub const DATA_FOLDER: &str = ".millstream";

/// Something read from a section, or everything that is wrong with it.
pub type Parsed<T> = Result<T, Vec<Problem>>;

/// A pipeline whose file has been read and checked.
pub struct Pipeline {
    pub name: String,
    /// The file, as it was named.
    pub file: PathBuf,
    /// Its folder: relative paths start here.
    pub base: PathBuf,
    /// Folder for what it must remember.
    pub data_dir: PathBuf,
    pub ordering: Ordering,
    pub delivery: Delivery,
    pub require: Option<Guarantee>,
    pub source: SourceSection,
    pub plugins: Vec<PluginSpec>,
    /// The same, if they were loaded for the check ([`Environment::engine`]); otherwise none.
    pub loaded_plugins: Vec<Plugin>,
    /// The file as it was read.
    pub read: Reading,
    pub sinks: Vec<SinkSection>,
    pub retry: Retry,
    pub dead_letters: DeadLetters,
    /// `None` where no messages are traced.
    pub tracing: Option<Tracing>,
    pub settings: Settings,
    /// What `millstream test` runs it through.
    pub tests: Vec<TestCase>,
}

/// Which messages keep their order (P3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    /// Those of one partition of the source.
    #[default]
    Partition,
    /// Those of one key; those without a key as with `partition`.
    Key,
    /// None.
    None,
}

/// How a pipeline delivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// The source is told when a message is delivered: after a crash some are delivered again.
    #[default]
    AtLeastOnce,
    /// From Kafka to Kafka, in transactions that hold messages and positions together.
    ExactlyOnce,
}

/// What a pipeline can promise, from the weakest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Guarantee {
    /// A message may be lost.
    AtMostOnce,
    /// No message is lost; one may arrive twice.
    AtLeastOnce,
    /// No message is lost, none arrives twice.
    ExactlyOnce,
}

pub struct SourceSection {
    /// Its `type`.
    pub kind: &'static str,
    pub config: Box<dyn SourceConfig>,
    pub codec: std::sync::Arc<dyn crate::codecs::DecoderConfig>,
    pub common: SourceCommon,
    /// What is done to each message in front of the plugins.
    pub natives: Natives,
}

/// Keys of every source.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SourceCommon {
    /// A message of more bytes becomes a dead letter with its first part and its size.
    pub max_message_bytes: ByteSize,
    /// Messages that are read at once, at most.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// What every message must be, or it becomes a dead letter: its signature, its schema.
    pub validate: Option<Validate>,
}

impl Default for SourceCommon {
    fn default() -> SourceCommon {
        SourceCommon { max_message_bytes: ByteSize::mib(1), batch: 256, validate: None }
    }
}

pub struct SinkSection {
    /// Its `type`.
    pub kind: &'static str,
    /// Its `name`, or its type, with `-2`, `-3` where it would stand twice.
    pub name: String,
    pub config: Box<dyn SinkConfig>,
    pub codec: std::sync::Arc<dyn crate::codecs::Encoder>,
    pub common: SinkCommon,
}

/// Keys of every sink.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SinkCommon {
    /// What this sink is called in metrics and dead letters.
    pub name: Option<String>,
    /// Takes only messages for which a plugin named this route.
    pub route: Option<String>,
    /// Messages that are written at once, at most; by default what suits the sink.
    #[schemars(range(min = 1))]
    pub batch: Option<usize>,
    /// How long a message may wait for others to be written with.
    pub linger: Interval,
    /// What to do while the sink cannot take anything.
    pub on_unavailable: OnUnavailable,
}

impl Default for SinkCommon {
    fn default() -> SinkCommon {
        SinkCommon {
            name: None,
            route: None,
            batch: None,
            linger: Interval::millis(0),
            on_unavailable: OnUnavailable::Wait,
        }
    }
}

/// What to do while a sink is down, throttles or refuses our credentials: no message's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnavailable {
    /// Wait and try again without end.
    #[default]
    Wait,
    /// Count it as a failed attempt of its messages.
    DeadLetter,
    /// Stop the pipeline with an error.
    Stop,
}

/// `[retry]`: when a message is tried again that a sink or a plugin could not take.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// How the delay grows.
    pub strategy: Strategy,
    /// The delay that the strategy starts from.
    pub base_delay: Interval,
    /// No delay is longer.
    pub max_delay: Interval,
    /// After that many failed attempts a message becomes a dead letter.
    #[schemars(range(min = 1))]
    pub max_attempts: u32,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            strategy: Strategy::Jittered,
            base_delay: Interval::secs(1),
            max_delay: Interval::secs(30),
            max_attempts: 5,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// `base_delay * 2^attempt`, at most `max_delay`.
    Exponential,
    /// Always `base_delay`.
    Fixed,
    /// A random time between 0 and what `exponential` gives.
    #[default]
    Jittered,
}

/// Where dead letters go.
pub struct DeadLetters {
    pub to: DeadLetterStore,
    pub common: DeadLettersCommon,
}

pub enum DeadLetterStore {
    /// The embedded store in the data folder.
    Embedded,
    Sink(SinkSection),
}

/// Keys of `[dead_letters]` besides those of its sink.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersCommon {
    /// How long the embedded store keeps a dead letter.
    pub retention: Interval,
    /// Stop the pipeline when dead letters get too many.
    pub stop_above: Option<StopAbove>,
}

impl Default for DeadLettersCommon {
    fn default() -> DeadLettersCommon {
        DeadLettersCommon { retention: Interval(Duration::from_secs(14 * 24 * 3600)), stop_above: None }
    }
}

/// A share of dead letters over a window of time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopAbove {
    /// Share of the messages read that became dead letters, between 0 and 1.
    #[schemars(range(min = 0, max = 1))]
    pub share: f64,
    /// Over how long.
    pub window: Interval,
    /// Messages that must have been read in the window for the share to count.
    #[serde(default = "min_messages_default")]
    pub min_messages: u64,
}

fn min_messages_default() -> u64 {
    100
}

/// Top-level keys with a default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Bytes in flight and guest memory together; when they are used up the source stops reading.
    pub budget: ByteSize,
    /// Threads that run plugins; by default one a core.
    #[schemars(range(min = 1, max = 256))]
    pub lanes: Option<usize>,
    /// How long a stop may take until what is still in flight is given back to the source.
    pub shutdown_timeout: Interval,
    /// Header whose value is the label `type` of the `messaging_*` metrics; its first 50 values, all
    /// further ones count as `other`. Without it the label is `message`.
    pub type_header: Option<String>,
    /// With `delivery = "exactly-once"`: the name of this member for the brokers. No two members may
    /// have the same one, and each must keep its own. By default one that is made once and kept in
    /// the data folder.
    pub transactional_id: Option<String>,
    /// With `delivery = "exactly-once"`: how long a transaction is open while messages come. What it
    /// holds is seen by others when it ends.
    pub transaction_interval: Interval,
    /// With `delivery = "exactly-once"`: after so long the brokers abort a transaction that nobody
    /// ends. Until then nobody goes on with the partitions of a member that died.
    pub transaction_timeout: Interval,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            budget: ByteSize::mib(256),
            lanes: None,
            shutdown_timeout: Interval::secs(30),
            type_header: None,
            transactional_id: None,
            transaction_interval: Interval::millis(100),
            transaction_timeout: Interval::secs(30),
        }
    }
}
