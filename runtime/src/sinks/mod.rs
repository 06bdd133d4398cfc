//! Sinks: where messages go. One file a sink, one row in [`SINKS`].

#[cfg(feature = "aws")]
mod aws;
mod drop;
mod file;
mod http;
#[cfg(feature = "kafka")]
mod kafka;
mod lines;
mod prepared;
mod stdout;
#[cfg(test)]
mod testing;

pub use http::answered;
pub use lines::ENCODE_ERROR;
pub use prepared::prepared;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::codecs::Encoder;
use crate::config::problem::Problem;
use crate::dead_letters::Elsewhere;
use crate::message::MessageRef;
use crate::transactions::Transactions;

/// Every sink there is, in the order of the reference.
pub static SINKS: &[SinkSpec] = &[
    file::SPEC,
    stdout::SPEC,
    http::SPEC,
    #[cfg(feature = "kafka")]
    kafka::SPEC,
    #[cfg(feature = "aws")]
    aws::sqs::SPEC,
    #[cfg(feature = "aws")]
    aws::sns::SPEC,
    #[cfg(feature = "aws")]
    aws::kinesis::SPEC,
    drop::SPEC,
];

/// A row of [`SINKS`].
pub struct SinkSpec {
    /// What a pipeline says as `type`.
    pub name: &'static str,
    /// JSON Schema of its configuration, whose descriptions are the reference.
    pub schema: fn() -> schemars::Schema,
    /// A `[[sink]]` section that works, as TOML.
    pub example: &'static str,
    /// Codec taken where the pipeline names none.
    pub default_codec: &'static str,
    /// Reads the section, without the keys that all sinks share.
    pub parse: fn(serde_json::Value) -> crate::config::Parsed<Box<dyn SinkConfig>>,
}

/// The configuration of a sink, read and typed.
pub trait SinkConfig: Send + Sync {
    /// Adds what is wrong with it and the types cannot say. Looks at files, connects to nothing.
    fn check(&self, context: &SinkContext, problems: &mut Vec<Problem>);

    fn traits(&self) -> SinkTraits;

    /// The file that it alone may write, relative to the pipeline file.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// Whether it sends each message with the headers that its codec gives it
    /// ([`crate::codecs::Encoder::encode_with_headers`]).
    fn sends_headers(&self) -> bool {
        false
    }

    /// What it writes to, in the words of its users: a topic, a queue, a path. For spans.
    fn destination(&self) -> Option<String> {
        None
    }

    /// Where dead letters that went to it can be read again, if they can. `context` is that of the sink.
    fn dead_letters(&self, _context: &SinkContext) -> Option<Arc<dyn Elsewhere>> {
        None
    }

    /// The subscriptions to a topic that it declares.
    #[cfg(feature = "aws")]
    fn fanout(&self, _base: &Path) -> Option<crate::aws::fanout::Fanout> {
        None
    }

    /// Whether a message as it was read may be one that it never takes, for its size say. Of dead
    /// letters that go to it, such ones go to the embedded store.
    fn has_limits(&self) -> bool {
        false
    }

    /// In whose transactions it can write, if it can.
    fn transactional(&self) -> Option<InTransactions> {
        None
    }

    /// What opens and aborts transactions of that cluster, for all sinks and the source of a pipeline.
    fn transactions(
        &self,
        _base: &Path,
        _settings: &TransactionSettings,
    ) -> anyhow::Result<Arc<dyn Transactions>> {
        anyhow::bail!("this sink has no part in transactions")
    }

    /// Opens it. Called once, before the first write. A server that is not there is no error yet.
    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>>;
}

/// What a sink is given by the pipeline it is in.
#[derive(Clone)]
pub struct SinkContext {
    pub pipeline: String,
    /// Name of the sink within the pipeline: its `name`, or its type and number.
    pub name: String,
    /// Folder of the pipeline file: relative paths start here.
    pub base: PathBuf,
    pub codec: Arc<dyn Encoder>,
    /// What it writes belongs to the transaction that is open here.
    pub transactions: Option<Arc<dyn Transactions>>,
}

/// In whose transactions a sink can write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InTransactions {
    pub cluster: String,
    /// What its producer is set to, which all sinks of a pipeline share.
    pub settings: String,
}

/// How transactions of a pipeline are.
pub struct TransactionSettings {
    pub pipeline: String,
    /// Of this member, always the same: who has it ends what an earlier one has left open.
    pub id: String,
    /// After so long the brokers abort a transaction that nobody ends.
    pub timeout: Duration,
}

/// What a sink can promise (P10).
#[derive(Clone, Debug)]
pub struct SinkTraits {
    /// Why a message it took may still be lost (`stdout` cannot know), if so.
    pub not_durable: Option<&'static str>,
    /// A call can fail for some of its messages and succeed for others. Then a call holds at most
    /// one message of each order, so that a retry cannot reorder (P3).
    /// A sink that itself stops at the first failure of an order, and says [`Outcome::Later`] for
    /// those of that order behind it, leaves this false.
    pub partial_failures: bool,
    /// Why messages have no order in it, whatever the order in which they are written, if so.
    pub unordered: Option<&'static str>,
    /// Messages in a call where the pipeline does not say `batch`.
    pub default_batch: usize,
}

impl SinkTraits {
    /// Those of a sink that is durable, keeps the order, and takes so many messages in a call.
    pub const fn with_batch(default_batch: usize) -> SinkTraits {
        SinkTraits { not_durable: None, partial_failures: false, unordered: None, default_batch }
    }
}

#[async_trait]
pub trait Sink: Send {
    /// Writes messages of a call, in order, and returns when all their outcomes are known.
    ///
    /// Called again only after it returned. May be dropped at the deadline of a stop: what it was
    /// writing is then given back to the source. It does not retry: it says what happened, and the
    /// pipeline decides.
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError>;

    /// Nothing more will come.
    async fn close(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What became of the messages of a call.
#[derive(Debug)]
pub enum Outcomes {
    AllDurable,
    /// One a message, in order; any other number is an error of the sink.
    Each(Vec<Outcome>),
    /// In the middle of the call the sink could not go on, for this reason: one a message, `None`
    /// for those that were not written. The pipeline waits before it makes another call.
    Until(Vec<Option<Outcome>>, CallError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// fsynced, or acknowledged by the one that has it now.
    Durable,
    /// It may work later: counts as a failed attempt of this message.
    Retry { reason: String, after: Option<Duration> },
    /// Not its fault (throttled, or not tried because one before it of the same order failed): it
    /// is tried again and no attempt is counted. Not before `after`, where zero is as soon as what
    /// it stands behind is through; `None` waits as for [`CallError::Unavailable`].
    Later { reason: String, after: Option<Duration> },
    /// It can never work for this message.
    Reject { code: &'static str, reason: String },
}

/// No message of the call was written, as far as the sink knows, and none is to blame.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The other side is down, throttles (`retry_after`), or refuses our credentials: the
    /// pipeline waits and tries again without end.
    #[error("{reason}")]
    Unavailable { reason: String, retry_after: Option<Duration>, credentials: bool },
    /// In a transaction: the message with this number can never be written, and with it the
    /// transaction has failed.
    #[error("{reason}")]
    Refused { message: usize, code: &'static str, reason: String },
    /// No waiting will help: the pipeline stops with this error, nothing is settled.
    #[error("{0}")]
    Fatal(String),
}
