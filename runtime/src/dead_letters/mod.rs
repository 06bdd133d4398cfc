//! Dead letters: what could not be delivered, with everything one needs to know about it (P5).

use std::fmt;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::message::{Message, Position};
use crate::plugin::PluginIdentity;
use crate::sources::OpenSource;

/// Header that a replayed message carries: how often it has been replayed, so that a loop ends.
pub const REPLAYS_HEADER: &str = "millstream-replays";

/// A message that was given up, as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The same for the same failure of the same source message, so that reading it again after a
    /// crash does not make a second dead letter.
    pub id: String,
    pub pipeline: String,
    /// Name of the source it was read from.
    pub source: String,
    pub position: Position,
    /// The position in words.
    pub position_text: String,
    /// Where it failed.
    pub stage: Stage,
    /// Which plugin, if it failed in one.
    pub plugin: Option<PluginIdentity>,
    /// Short and of few different values: `decode-error`, `timeout`, a plugin's own code.
    pub code: String,
    /// The chain of errors, in words.
    pub reason: String,
    /// Kind of the trap, if it was one.
    pub trap: Option<String>,
    /// Failed attempts.
    pub attempts: u32,
    /// When it was read and when it was given up, milliseconds since 1970-01-01T00:00:00Z.
    pub read_at_ms: i64,
    pub failed_at_ms: i64,
    /// From a W3C `traceparent` header, if there was one.
    pub trace_id: Option<String>,
    /// How often it had been replayed before.
    pub replays: u32,
    /// Sinks that are still to have it; empty for all.
    pub sinks: Vec<String>,
    /// Payload, key and headers as they were read. At stage `source` the payload is the frame that
    /// could not be decoded (or the first part of one too large).
    pub message: Message,
}

/// Where a message failed: `source`, `plugin:STEP`, `route` or `sink:NAME`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    Source,
    Plugin(String),
    /// It matched no sink.
    Route,
    Sink(String),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Source => f.write_str("source"),
            Stage::Plugin(step) => write!(f, "plugin:{step}"),
            Stage::Route => f.write_str("route"),
            Stage::Sink(name) => write!(f, "sink:{name}"),
        }
    }
}

/// Bytes of the hash that make an id: a collision among a million dead letters is less likely than
/// one in ten million.
const ID_BYTES: usize = 8;

/// The id of a dead letter: the same for the same failure of the same source message.
pub fn id(pipeline: &str, source: &str, position_text: &str, position: Position, stage: &Stage) -> String {
    let mut hash = Sha256::new();
    for part in [pipeline, source, position_text, &stage.to_string()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(position.partition.to_be_bytes());
    hash.update(position.offset.to_be_bytes());
    hex::encode(&hash.finalize()[..ID_BYTES])
}

/// Where dead letters are written.
#[async_trait]
pub trait DeadLetterWriter: Send {
    /// Writes all of them; durable when it returns. On an error the pipeline waits and calls again
    /// with the same ones.
    async fn write(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()>;
}

/// A source that a running pipeline is to read to its end beside its own: a replay.
pub struct Attach {
    pub source: OpenSource,
    /// Told when everything of it is settled and committed.
    pub done: oneshot::Sender<anyhow::Result<()>>,
}
