//! Sources: where messages come from. One file a source, one row in [`SOURCES`].
//!
//! A source has two halves, so that reading never blocks committing. Neither ever sees a claim:
//! a source cannot acknowledge anything by itself, it is told by `pipeline/` what is settled.

mod file;
mod frames;
mod generate;
mod http;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "aws")]
mod kinesis;
mod rows;
#[cfg(feature = "aws")]
mod sqs;
mod stdin;
mod stream;
#[cfg(test)]
pub mod testing;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;

use crate::codecs::DecoderConfig;
use crate::config::problem::Problem;
use crate::message::{Batch, Position};
use crate::observe::metrics::Metrics;
use crate::observe::waits::Waits;
use crate::store::{Checkpoints, FailureCounts};
use crate::transactions::{TransactionError, Transactions};

/// Every source there is, in the order of the reference.
pub static SOURCES: &[SourceSpec] = &[
    file::SPEC,
    stdin::SPEC,
    http::SPEC,
    #[cfg(feature = "kafka")]
    kafka::SPEC,
    #[cfg(feature = "aws")]
    kinesis::SPEC,
    #[cfg(feature = "aws")]
    sqs::SPEC,
    generate::SPEC,
];

/// A row of [`SOURCES`].
pub struct SourceSpec {
    /// What a pipeline says as `type`.
    pub name: &'static str,
    /// JSON Schema of its configuration, whose descriptions are the reference.
    pub schema: fn() -> schemars::Schema,
    /// A `[source]` section that works, as TOML.
    pub example: &'static str,
    /// Codec taken where the pipeline names none.
    pub default_codec: &'static str,
    /// Reads the section, without the keys that all sources share ([`SourceCommon`]).
    pub parse: fn(serde_json::Value) -> crate::config::Parsed<Box<dyn SourceConfig>>,
}

/// The configuration of a source, read and typed.
pub trait SourceConfig: Send + Sync {
    /// Adds what is wrong with it and the types cannot say. Looks at files, connects to nothing.
    fn check(&self, context: &SourceContext, problems: &mut Vec<Problem>);

    /// What `check` may promise for it.
    fn traits(&self) -> SourceTraits;

    /// Where it is kept how far it is read, if not in the data folder, and how one sets it.
    fn kept_elsewhere(&self) -> Option<String> {
        None
    }

    /// The cluster in whose transactions its positions can be committed, if any.
    fn transactional(&self) -> Option<String> {
        None
    }

    /// Asks what it reads from for settings there that do not go together with it: `check --connect`.
    /// Reads nothing. `base` is the folder of the pipeline file.
    fn ask<'a>(&'a self, _base: &'a Path) -> Asked<'a> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Opens it at its checkpoint. Called once, before anything is read.
    fn open(self: Box<Self>, context: SourceContext) -> anyhow::Result<OpenSource>;
}

/// Warnings, or why nobody could be asked.
pub type Asked<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Vec<String>>> + Send + 'a>>;

/// What a source is given by the pipeline it is in.
#[derive(Clone)]
pub struct SourceContext {
    pub pipeline: String,
    /// Folder of the pipeline file: relative paths start here.
    pub base: PathBuf,
    pub codec: Arc<dyn DecoderConfig>,
    /// Over it a message becomes a dead letter with its first part and its size.
    pub max_message_bytes: usize,
    pub checkpoints: Arc<dyn Checkpoints>,
    /// For a queue that hands a message out again: how often it has failed.
    pub failures: Arc<dyn FailureCounts>,
    /// The budget of the pipeline (P6), in bytes.
    pub budget: usize,
    /// True while the budget of P6 is used up and nothing is read.
    pub budget_is_used_up: Arc<AtomicBool>,
    /// Where a source tells what it waits for.
    pub waits: Arc<Waits>,
    pub metrics: Arc<Metrics>,
}

/// What a source can promise (P10).
#[derive(Clone, Debug)]
pub struct SourceTraits {
    pub replay: Replay,
    /// `None` if messages of a partition come in order, otherwise why not.
    pub unordered: Option<&'static str>,
    /// Partitions that may be read at the same time; lanes beyond them idle under
    /// `ordering = "partition"`. `None` if not known beforehand.
    pub partitions: Option<usize>,
}

/// Whether what was read and not committed can be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    Yes,
    /// By those who sent it, under this condition.
    ByClient(&'static str),
    /// Why not.
    No(&'static str),
}

pub struct OpenSource {
    /// As it stands in metrics, in dead letters and in what a plugin sees: `file:NAME`, say.
    pub name: String,
    pub reader: Box<dyn Reader>,
    pub committer: Box<dyn Committer>,
    /// A position in words, for dead letters and logs: `orders.ndjson line 17 (byte 4711)`. Called
    /// from any thread, for any position that the reader has returned.
    pub describe: Describe,
}

/// See [`OpenSource::describe`].
pub type Describe = Arc<dyn Fn(Position) -> String + Send + Sync>;

/// How much to read at once; a single message may be more.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    pub rows: usize,
    pub bytes: usize,
}

#[async_trait]
pub trait Reader: Send {
    /// Waits for messages and returns at least one, or says that there are no more.
    ///
    /// Called again only after it returned or was dropped; cancel-safe: what it had read when its
    /// future was dropped is returned by the next call. An error stops the pipeline; what may get
    /// better by waiting is waited for inside, with a warning in the log.
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read>;

    /// Bytes that it may hold besides what it has returned: messages that it fetches beforehand. They
    /// count in the budget (P6).
    fn reserved(&self) -> usize {
        0
    }

    /// How far it is, if it has an end.
    fn progress(&self) -> Option<Progress> {
        None
    }
}

#[derive(Debug)]
pub enum Read {
    Batch(ReadBatch),
    /// These partitions belong to somebody else now, and not everything that was read of them is
    /// settled: nothing of what was read of them until now is committed any more. They may come
    /// back, and are then read again from where the other one was.
    Lost(Vec<u32>),
    /// What comes from now on was read after [`Committer::rewind`] was called.
    Rewound,
    End,
}

/// What was read, some of which may not be a message.
#[derive(Debug, Default)]
pub struct ReadBatch {
    /// In the order of each partition; `claim_row` of row n is n.
    pub batch: Batch,
    /// Rows that are to be dead-lettered as they are, in order.
    pub rejected: Vec<RejectedRow>,
    /// One a row where these are dead letters that are read again; otherwise none.
    pub replays: Vec<Replayed>,
}

/// What is known of a dead letter that is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// How often it has been replayed, this time included.
    pub times: u32,
    /// When it was read from its source, milliseconds since 1970-01-01T00:00:00Z.
    pub read_at_ms: i64,
}

/// Code of what is no message of the codec.
pub const DECODE_ERROR: &str = "decode-error";

/// Something that was read and is no message, or one that is not tried any more. Its row holds the bytes as they were (or their
/// first part, if there were too many).
#[derive(Debug)]
pub struct RejectedRow {
    pub row: u32,
    /// `decode-error`, `too-large` or `max-failures`.
    pub code: &'static str,
    pub reason: String,
}

#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub read_bytes: u64,
    pub total_bytes: u64,
}

/// How a source is told what is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitKind {
    /// [`Committer::up_to`]: a log, with a position that moves.
    UpTo,
    /// [`Committer::each`]: a queue or a request, message by message.
    Each,
}

#[async_trait]
pub trait Committer: Send {
    fn kind(&self) -> CommitKind;

    /// Everything of these partitions up to and including these positions is settled: one position
    /// a partition, each beyond the one before. Durable when it returns.
    async fn up_to(&mut self, positions: &[Position]) -> anyhow::Result<()> {
        anyhow::bail!("this source commits message by message, not up to {positions:?}")
    }

    /// These messages are settled, or given back; each is told once.
    async fn each(&mut self, settled: Vec<SettledRow>) -> anyhow::Result<()> {
        anyhow::bail!("this source commits up to a position, not {} messages", settled.len())
    }

    /// Ends the open transaction with these positions in it, as for [`Committer::up_to`]. Only of a
    /// source that can ([`SourceConfig::transactional`]).
    async fn commit_in(
        &mut self,
        _transactions: &dyn Transactions,
        _positions: &[Position],
    ) -> Result<(), TransactionError> {
        Err(TransactionError::Fatal("this source has no part in transactions".to_owned()))
    }

    /// Goes back to what is committed. Of what was read before and not yet returned, nothing comes any
    /// more after the reader has returned [`Read::Rewound`].
    async fn rewind(&mut self) -> anyhow::Result<()> {
        anyhow::bail!("this source cannot go back")
    }

    /// Nothing more will come; called after the last commit.
    async fn close(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub struct SettledRow {
    pub position: Position,
    pub outcome: SettledAs,
    /// Attempts at it, or at what was made of it, that failed while it was in flight. A sink that is not
    /// there fails nothing.
    pub failures: u32,
}

/// What became of a source message, the worst of its descendants counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettledAs {
    Delivered,
    /// Every descendant was dropped by a plugin.
    Filtered,
    /// With the reason of the last one.
    DeadLettered(String),
    /// Given back unsettled: at the stop deadline, for instance. It may be read again.
    Returned,
}
