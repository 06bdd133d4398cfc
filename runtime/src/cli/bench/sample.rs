//! The messages that a pipeline is measured with, in memory: reading them again and again takes no
//! time of the source.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Map, Value};

use crate::cli::plugin::fixtures;
use crate::config::{Pipeline, SourceSection};
use crate::message::{Batch, BatchBuilder};
use crate::sources::{Read, ReadLimit, Replay, SOURCES, SourceContext};
use crate::store::DataFolder;

/// Messages that are kept, at most.
const MESSAGES: usize = 20_000;
/// Bytes of them, about, at most.
const BYTES: usize = 64 << 20;
/// Bytes of one read, as a pipeline asks for.
const READ_BYTES: usize = 4 << 20;
/// A source that has nothing for so long has no more.
const IDLE: Duration = Duration::from_secs(3);

pub struct Sample {
    /// Each message with bytes of its own: those that rows share go into a sandbox once.
    pub messages: Batch,
    /// Different messages in it.
    pub kinds: usize,
    /// Time that the source took for each, if they came from one.
    pub read: Option<Duration>,
    /// What was read and is no message.
    pub rejected: usize,
}

impl Sample {
    /// The messages of a file of records.
    pub fn of_file(file: &Path, at_least: usize) -> anyhow::Result<Sample> {
        let messages = fixtures::messages(file)?;
        ensure!(!messages.is_empty(), "{} has no messages", file.display());
        Sample::of([&messages], None, 0, at_least)
    }

    /// Those of the pipeline's source, or of the source `generate`. Nothing is committed.
    pub async fn of_source(
        pipeline: Pipeline,
        generate: bool,
        folder: &DataFolder,
    ) -> anyhow::Result<Sample> {
        let source = if generate { generator()? } else { pipeline.source };
        let kind = source.kind;
        if let Replay::ByClient(_) = source.config.traits().replay {
            anyhow::bail!(
                "the source {kind} waits for clients; give `--input FILE` with messages, or `--generate`"
            );
        }
        let rows = source.common.batch;
        let context = SourceContext {
            pipeline: pipeline.name,
            base: pipeline.base,
            codec: source.codec,
            max_message_bytes: source.common.max_message_bytes.as_usize(),
            checkpoints: Arc::new(folder.clone()),
            failures: Arc::new(folder.clone()),
            budget: pipeline.settings.budget.as_usize(),
            budget_is_used_up: Arc::default(),
            waits: Arc::default(),
            metrics: Arc::default(),
        };
        let mut opened = source.config.open(context).with_context(|| format!("source {kind}"))?;
        let (mut batches, mut count, mut bytes, mut rejected) = (Vec::new(), 0, 0, 0);
        let mut time = Duration::ZERO;
        while count < MESSAGES && bytes < BYTES {
            let started = Instant::now();
            let read = opened.reader.read(ReadLimit { rows, bytes: READ_BYTES });
            let read = match tokio::time::timeout(IDLE, read).await {
                Ok(Ok(Read::Batch(read))) => read,
                Ok(Ok(Read::Lost(_) | Read::Rewound)) => continue,
                Ok(Ok(Read::End)) | Err(_) => break,
                Ok(Err(error)) => return Err(error.context(format!("source {kind}"))),
            };
            time += started.elapsed();
            let mut batch = read.batch;
            let is_message = |row: usize| !read.rejected.iter().any(|one| one.row as usize == row);
            let all = batch.take_rows().into_iter().enumerate();
            batch.set_rows(all.filter(|(row, _)| is_message(*row)).map(|(_, row)| row).collect());
            rejected += read.rejected.len();
            count += batch.len();
            bytes +=
                batch.messages().map(|message| message.payload().unwrap_or_default().len()).sum::<usize>();
            batches.push(batch);
        }
        ensure!(
            count > 0,
            "the source {kind} has no message within {IDLE:?}; give `--input FILE` with messages, or `--generate`"
        );
        Sample::of(&batches, Some(time / u32::try_from(count).unwrap_or(u32::MAX)), rejected, rows)
    }

    fn of<'a>(
        batches: impl IntoIterator<Item = &'a Batch> + Clone,
        read: Option<Duration>,
        rejected: usize,
        at_least: usize,
    ) -> anyhow::Result<Sample> {
        let mut out = BatchBuilder::new();
        let kinds = batches.clone().into_iter().map(Batch::len).sum();
        while out.len() < at_least.max(kinds) && out.bytes() < 4 * BYTES {
            for message in batches.clone().into_iter().flat_map(Batch::messages) {
                out.push_message(&message.to_owned(), message.position());
            }
        }
        Ok(Sample { messages: out.finish(), kinds, read, rejected })
    }

    /// Payload bytes of a message, on average.
    pub fn mean_bytes(&self) -> f64 {
        let bytes = self.messages.messages().map(|message| message.payload().unwrap_or_default().len());
        bytes.sum::<usize>() as f64 / self.messages.len() as f64
    }
}

/// The source `generate` as it is without settings.
fn generator() -> anyhow::Result<SourceSection> {
    let spec = SOURCES.iter().find(|spec| spec.name == "generate").context("there is a source `generate`")?;
    let codec = crate::codecs::CODECS.iter().find(|codec| codec.name == spec.default_codec);
    let codec = codec.context("its codec is there")?;
    let nothing = || Value::Object(Map::new());
    let unset = |problems| anyhow::anyhow!("the source `generate` works without settings: {problems:?}");
    Ok(SourceSection {
        kind: spec.name,
        config: (spec.parse)(nothing()).map_err(unset)?,
        codec: (codec.decoder)(nothing(), crate::codecs::Around::nothing()).map_err(unset)?,
        common: Default::default(),
        natives: Vec::new(),
    })
}
