//! `file`: appends to a file; a message is durable when it is fsynced.

mod append;
mod rotate;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use self::append::AppendFile;
use super::lines::{encode_lines, reuse};
use super::{CallError, Outcomes, Sink, SinkConfig, SinkContext, SinkSpec, SinkTraits};
use crate::codecs::{Encoder, Ends};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::{ByteSize, Interval};
use crate::message::MessageRef;

pub const SPEC: SinkSpec = SinkSpec {
    name: "file",
    schema: || schemars::schema_for!(FileSink),
    example: "[[sink]]\ntype = \"file\"\npath = \"out/orders.ndjson\"\nrotate = { size = \"1GiB\", interval = \"1d\" }\n",
    default_codec: "lines",
    parse: |value| Ok(Box::new(parse::<FileSink>(value)?)),
};

/// Appends each message to a file, with a line break behind it, or as a block of an Avro container file. A message counts as delivered when
/// it is fsynced, so large calls (`batch`, `linger`) are much faster than small ones. After a crash
/// an unfinished last line is cut off. The file is locked against other writers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileSink {
    /// The file, relative to the pipeline file. Folders that are missing are made.
    path: PathBuf,
    /// When to go on in a new file; by default never.
    rotate: Option<Rotate>,
}

/// When a file is full or old, it is renamed to its name with the time of that (UTC) before the
/// ending, as in `orders-20260131T235959Z.ndjson`, and a new one is begun. That happens before the
/// first write after it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rotate {
    /// Begin a new file when this one has that many bytes; the messages that are written together
    /// may take it over that.
    size: Option<ByteSize>,
    /// Begin a new file at every multiple of this time since 1970-01-01T00:00:00Z: `"1h"` at every
    /// full hour, `"1d"` at midnight UTC.
    interval: Option<Interval>,
    /// Delete the oldest renamed files when there are more than this; by default all are kept.
    keep: Option<usize>,
}

impl SinkConfig for FileSink {
    fn check(&self, context: &SinkContext, problems: &mut Vec<Problem>) {
        let path = context.base.join(&self.path);
        if self.path.file_name().is_none() || path.is_dir() {
            problems.push(
                Problem::new("/path", format!("{} is a folder, not a file", self.path.display()))
                    .help("name a file in it, as in `path = \"out/orders.ndjson\"`"),
            );
        } else if path.exists() && !path.is_file() {
            problems.push(
                Problem::new("/path", format!("{} is not a regular file", self.path.display()))
                    .help("a file that can be fsynced, or `type = \"stdout\"`"),
            );
        }
        if context.codec.ends() == Ends::Unmarked {
            problems.push(
                Problem::new(
                    "/codec",
                    "messages of this codec may hold line breaks and could not be told apart in a file",
                )
                .help("codec = \"lines\", \"json\" or \"record\"; for Avro `framing = \"container\"`"),
            );
        }
        let Some(rotate) = &self.rotate else { return };
        if rotate.size.is_none() && rotate.interval.is_none() {
            problems.push(
                Problem::new("/rotate", "it is not said when to rotate")
                    .help("rotate = { size = \"1GiB\" } or { interval = \"1h\" }, or both"),
            );
        }
        if rotate.size == Some(ByteSize(0)) {
            problems.push(Problem::new("/rotate/size", "a file cannot be rotated at 0 bytes"));
        }
        if rotate.interval.is_some_and(|interval| interval < Interval::secs(1)) {
            problems.push(
                Problem::new("/rotate/interval", "a file cannot be rotated more than once a second")
                    .help("at least \"1s\""),
            );
        }
    }

    fn destination(&self) -> Option<String> {
        Some(self.path.display().to_string())
    }

    fn traits(&self) -> SinkTraits {
        SinkTraits::with_batch(8192)
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        let path = context.base.join(&self.path);
        let mut file = AppendFile::new(path, context.codec.head(), context.codec.ends(), self.rotate);
        file.open()?;
        Ok(Box::new(Files { codec: context.codec, file: Arc::new(Mutex::new(file)), buffer: Vec::new() }))
    }
}

struct Files {
    codec: Arc<dyn Encoder>,
    /// Shared with the blocking write, which goes on when the call that began it is dropped; the
    /// next call then waits for it here.
    file: Arc<Mutex<AppendFile>>,
    buffer: Vec<u8>,
}

#[async_trait]
impl Sink for Files {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcomes = encode_lines(&*self.codec, messages, &mut buffer);
        let file = Arc::clone(&self.file);
        let written = tokio::task::spawn_blocking(move || {
            // A panic in a write leaves the length that is durable as it was, so it can go on.
            let written = file.lock().unwrap_or_else(PoisonError::into_inner).append(&buffer);
            (buffer, written)
        });
        let (buffer, written) = written
            .await
            .map_err(|error| CallError::Fatal(format!("the write to a file failed: {error}")))?;
        self.buffer = reuse(buffer);
        match written {
            Ok(()) => Ok(outcomes),
            Err(error) => Err(CallError::Unavailable {
                reason: format!("{error:#}"),
                retry_after: None,
                credentials: false,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
