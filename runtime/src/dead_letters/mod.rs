//! Dead letters: what could not be delivered, with everything one needs to know about it (P5).

pub mod filter;
pub mod json;
pub mod masks;
pub mod replay;
pub mod sink_writer;
pub mod store;
pub mod story;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use self::store::DeadLetterStore;
use crate::config::{self, Pipeline};
use crate::message::{Message, Position};
use crate::plugin::PluginIdentity;
use crate::sinks::SinkContext;
use crate::sources::OpenSource;

/// Header that a replayed message carries: how often it has been replayed, so that a loop ends.
pub const REPLAYS_HEADER: &str = "millstream-replays";

/// The header in which the source `sqs` tells how often the queue has handed a message out.
pub const RECEIVE_COUNT_HEADER: &str = "sqs-receive-count";

/// A message that was given up, as it was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// That which it came with (W3C `traceparent`, or `_trace` of an envelope), or that which began here.
    pub trace_id: Option<String>,
    /// How often it had been replayed before.
    pub replays: u32,
    /// Sinks that are still to have it; empty for all.
    pub sinks: Vec<String>,
    /// Payload, key and headers as they were read. At stage `source` the payload is the frame that
    /// could not be decoded (or the first part of one too large).
    pub message: Message,
}

/// Where `millstream dlq` finds dead letters: by the pipeline's file and what the command line says of
/// data folders.
#[derive(Clone, Debug)]
pub struct Letters {
    file: PathBuf,
    data_dir: Option<PathBuf>,
}

impl Letters {
    pub fn new(file: &Path, data_dir: Option<&Path>) -> Letters {
        Letters { file: file.to_owned(), data_dir: data_dir.map(Path::to_owned) }
    }

    /// Commands that give a dead letter to its plugin again, offline.
    pub fn offline(&self, id: &str, step: &str) -> [String; 2] {
        let file = self.file.display();
        let folder = self.data_dir.as_ref().map(|folder| format!(" --data-dir {}", folder.display()));
        let folder = folder.unwrap_or_default();
        [
            format!("millstream dlq export {file} {id}{folder} --to {id}.ndjson"),
            format!("millstream plugin run {file} --record {id}.ndjson --step {step} --through"),
        ]
    }
}

/// Where a message failed: `source`, `source:STEP`, `plugin:STEP`, `route` or `sink:NAME`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// What was read is no message.
    Source,
    /// A native step of the source refused a message.
    SourceStep(String),
    Plugin(String),
    /// It matched no sink.
    Route,
    Sink(String),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Source => f.write_str("source"),
            Stage::SourceStep(step) => write!(f, "source:{step}"),
            Stage::Plugin(step) => write!(f, "plugin:{step}"),
            Stage::Route => f.write_str("route"),
            Stage::Sink(name) => write!(f, "sink:{name}"),
        }
    }
}

impl FromStr for Stage {
    type Err = UnknownStage;

    fn from_str(text: &str) -> Result<Stage, UnknownStage> {
        match (text, text.split_once(':')) {
            ("source", _) => Ok(Stage::Source),
            ("route", _) => Ok(Stage::Route),
            (_, Some(("source", step))) => Ok(Stage::SourceStep(step.to_owned())),
            (_, Some(("plugin", step))) => Ok(Stage::Plugin(step.to_owned())),
            (_, Some(("sink", name))) => Ok(Stage::Sink(name.to_owned())),
            _ => Err(UnknownStage(text.to_owned())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a stage; it is `source`, `source:STEP`, `plugin:STEP`, `route` or `sink:NAME`")]
pub struct UnknownStage(String);

/// Bytes of the hash that make an id: a collision among a million dead letters is less likely than
/// one in a million millions.
const ID_BYTES: usize = 10;

impl DeadLetter {
    /// The id that goes with the other fields. It is made of where the message came from, where it
    /// failed, where it was still to go, and of the message itself, since a source without a memory
    /// (a server, a pipe) may use a position again for another one. What differs from one reading or
    /// replay of a message to the next (times, attempts, the mark of a replay, how often a queue has handed
    /// it out) has no part in it.
    pub fn derive_id(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        for part in [&self.pipeline, &self.source, &self.position_text, &self.stage.to_string()] {
            add(part.as_bytes());
        }
        add(self.sinks.join("\0").as_bytes());
        for part in [&self.message.payload, &self.message.key] {
            add(&[u8::from(part.is_some())]);
            add(part.as_deref().unwrap_or_default());
        }
        for (name, value) in &self.message.headers {
            let changes = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
            if ![REPLAYS_HEADER, RECEIVE_COUNT_HEADER].iter().any(changes) {
                add(name);
                add(value);
            }
        }
        hex::encode(&hash.finalize()[..ID_BYTES])
    }
}

/// Where dead letters are written.
#[async_trait]
pub trait DeadLetterWriter: Send {
    /// Writes all of them; durable when it returns. On an error the pipeline waits and calls again
    /// with the same ones.
    async fn write(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()>;
}

/// A place where dead letters are written that is read by making a copy of it: a topic, a queue.
pub trait Elsewhere: Send + Sync {
    /// A copy of those of the pipeline that are there now. What is deleted in the copy, by a purge or
    /// because its replay is settled, is marked there first. Blocks; to be called within a runtime.
    fn copy(&self) -> anyhow::Result<DeadLetterStore>;

    /// What looking does to them, to be told to who looks.
    fn note(&self) -> Option<String> {
        None
    }

    /// Where SQS itself can move them, if they are in a queue of it.
    #[cfg(feature = "aws")]
    fn queue(&self) -> Option<crate::aws::DeadLetterQueue> {
        None
    }
}

/// Where the dead letters of a pipeline are beside the embedded store, if they can be read there.
pub fn elsewhere(pipeline: &Pipeline) -> Option<Arc<dyn Elsewhere>> {
    let config::DeadLetterStore::Sink(section) = &pipeline.dead_letters.to else { return None };
    section.config.dead_letters(&SinkContext {
        pipeline: pipeline.name.clone(),
        name: section.name.clone(),
        base: pipeline.base.clone(),
        codec: Arc::clone(&section.codec),
        transactions: None,
    })
}

/// A source that a running pipeline is to read to its end beside its own: a replay.
pub struct Attach {
    pub source: OpenSource,
    /// Told when everything of it is settled and committed.
    pub done: oneshot::Sender<anyhow::Result<()>>,
}

/// A time as people and programs read it: RFC 3339 with milliseconds, UTC.
pub fn time_text(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        // Beyond the year 9999: a clock that is wrong, and still to be seen.
        Err(_) => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::testing::letter;
    use super::*;

    #[test]
    fn p2_an_id_is_that_of_a_message_and_its_failure() {
        let id = letter(1).derive_id();
        assert_eq!(id.len(), 20);
        let mut again = DeadLetter { attempts: 9, replays: 1, reason: "other".to_owned(), ..letter(1) };
        (again.read_at_ms, again.failed_at_ms, again.position.partition) = (5, 6, 7);
        again.message.headers.push((b"Millstream-Replays".to_vec(), b"1".to_vec()));
        again.message.headers.push((b"SQS-Receive-Count".to_vec(), b"2".to_vec()));
        assert_eq!(again.derive_id(), id);

        let mut others = vec![
            DeadLetter { pipeline: "x".to_owned(), ..letter(1) },
            DeadLetter { source: "x".to_owned(), ..letter(1) },
            DeadLetter { position_text: "x".to_owned(), ..letter(1) },
            DeadLetter { stage: Stage::Plugin("x".to_owned()), ..letter(1) },
            DeadLetter { sinks: Vec::new(), ..letter(1) },
        ];
        let changes: [fn(&mut Message); 4] = [
            |message| message.payload = None,
            |message| message.payload = Some(Vec::new()),
            |message| message.key = None,
            |message| message.headers[0].1 = b"2".to_vec(),
        ];
        for change in changes {
            let mut other = letter(1);
            change(&mut other.message);
            others.push(other);
        }
        let mut ids: Vec<String> = others.iter().map(DeadLetter::derive_id).chain([id]).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), others.len() + 1);
    }

    #[test]
    fn a_stage_reads_as_it_was_written() {
        let named = [Stage::SourceStep, Stage::Plugin, Stage::Sink].map(|stage| stage("a:b".to_owned()));
        for stage in [Stage::Source, Stage::Route, Stage::Sink(String::new())].into_iter().chain(named) {
            assert_eq!(stage.to_string().parse::<Stage>().unwrap(), stage);
        }
        assert!("plugin".parse::<Stage>().unwrap_err().to_string().contains("`plugin:STEP`"));
    }
}
