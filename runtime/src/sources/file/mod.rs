//! `file`: what stands in files, or is being written to them.

mod checkpoint;
mod follow;
mod input;
mod paths;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use self::checkpoint::{Marks, Table};
use self::follow::Follower;
use self::input::{Input, Opened};
use self::paths::{Found, Paths};
use super::frames::{Start, unit};
use super::stream::{Buffers, Halt, Piece, Pieces, StreamReader};
use super::{
    CommitKind, Committer, OpenSource, Replay, SourceConfig, SourceContext, SourceSpec, SourceTraits,
};
use crate::codecs::Framing;
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::Interval;
use crate::message::Position;
use crate::store::Checkpoints;

pub const SPEC: SourceSpec = SourceSpec {
    name: "file",
    schema: || schemars::schema_for!(FileSource),
    example: "[source]\ntype = \"file\"\npath = \"data/orders-*.ndjson.gz\"\ncodec = \"json\"",
    default_codec: "lines",
    parse: |value| Ok(Box::new(parse::<FileSource>(value)?)),
};

/// Reads files. Each is a partition of its own. A file goes on at its checkpoint, which knows it by
/// its inode and its first 1024 bytes: a file that was replaced is read from its start.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileSource {
    /// A file, or a pattern for files: `*` and `?` stand for characters within a name, `[ab]` for one of
    /// some, `**` for any folders. Relative to the pipeline file. Files that end in `.gz` or `.zst`
    /// are decompressed.
    path: String,
    /// Whether to end with the files or to wait for more.
    #[serde(default)]
    mode: Mode,
    /// With `follow`: how often to look for new bytes and files.
    #[serde(default = "default_poll_interval")]
    poll_interval: Interval,
    /// With `follow`: how long a file that was renamed or removed must have been without new bytes
    /// until it is given up. What it holds by then is read to its end.
    #[serde(default = "default_rotate_wait")]
    rotate_wait: Interval,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Reads the files that are there to their ends, one after the other in the order of their names.
    #[default]
    Once,
    /// Reads on as files grow, and files that come up. A file that is renamed (rotated) is read to
    /// its end, one that is truncated from its new start; a last line waits for its line break.
    Follow,
}

fn default_poll_interval() -> Interval {
    Interval::millis(250)
}

fn default_rotate_wait() -> Interval {
    Interval::secs(5)
}

impl SourceConfig for FileSource {
    fn check(&self, context: &SourceContext, problems: &mut Vec<Problem>) {
        let paths = match Paths::new(&context.base, &self.path) {
            Ok(paths) => paths,
            Err(problem) => return problems.push(Problem::new("/path", problem)),
        };
        if let Err(problem) = self.check_paths(&paths) {
            problems.push(problem);
        }
        if self.mode == Mode::Follow {
            if context.codec.framing() == Framing::Whole {
                problems.push(
                    Problem::new("/mode", "this codec takes a whole file for one message, and a file that is followed has no end")
                        .help("take `codec = \"lines\"`, or remove `mode`"),
                );
            }
            if self.poll_interval.0.is_zero() {
                problems.push(Problem::new("/poll_interval", "it would never rest").help("at least \"1ms\""));
            }
        }
    }

    fn traits(&self) -> SourceTraits {
        let partitions = (!Paths::is_pattern(&self.path)).then_some(1);
        SourceTraits { replay: Replay::Yes, unordered: None, partitions }
    }

    fn open(self: Box<Self>, context: SourceContext) -> anyhow::Result<OpenSource> {
        let paths = Paths::new(&context.base, &self.path).map_err(anyhow::Error::msg)?;
        let marks = Marks::load(&*context.checkpoints, &paths)?;
        let table = Arc::new(Table::default());
        let codec = Arc::clone(&context.codec);
        let ended = Arc::clone(&table);
        let on_end = move |partition, last_row| ended.end(partition, last_row);
        let files = Files {
            table: Arc::clone(&table),
            marks,
            buffers: Buffers::default(),
            framing: codec.framing(),
            has_head: codec.decoder().has_head(),
            max_head_bytes: context.max_message_bytes,
            read_bytes: 0,
        };
        let (spawn_codec, max) = (Arc::clone(&codec), context.max_message_bytes);
        let reader = match self.mode {
            Mode::Once => {
                let found = paths.find()?;
                anyhow::ensure!(!found.is_empty(), "there is no file {:?}", self.path);
                let total_bytes = found.iter().map(|file| file.bytes).sum();
                StreamReader::spawn(spawn_codec, max, Some(total_bytes), on_end, move |pieces| {
                    read_once(files, &found, pieces)
                })?
            }
            Mode::Follow => {
                let (poll_interval, rotate_wait) = (self.poll_interval.0, self.rotate_wait.0);
                StreamReader::spawn(spawn_codec, max, None, on_end, move |pieces| {
                    Follower::new(files, paths, poll_interval, rotate_wait).run(pieces)
                })?
            }
        };
        let unit = unit(codec.framing());
        let described = Arc::clone(&table);
        Ok(OpenSource {
            name: format!("file:{}", self.path),
            reader: Box::new(reader),
            committer: Box::new(FileCommitter { table, checkpoints: context.checkpoints }),
            describe: Arc::new(move |position: Position| {
                let name = described.name(position.partition).unwrap_or_else(|| "unknown file".into());
                format!("{name} {unit} {} (ends at byte {})", position.record, position.offset)
            }),
        })
    }
}

impl FileSource {
    fn check_paths(&self, paths: &Paths) -> Result<(), Problem> {
        let problem = |message: String| Problem::new("/path", message);
        if self.mode == Mode::Follow {
            let folder = paths.folder();
            if !folder.is_dir() {
                return Err(problem(format!("there is no folder {folder:?} in which files could come up"))
                    .help("create it, or correct the path"));
            }
        }
        let found = paths.find().map_err(|error| problem(format!("{error:#}")))?;
        if found.is_empty() && self.mode == Mode::Once {
            return Err(problem(format!("there is no file {:?}", paths.shown()))
                .help("correct the path, or wait for it with `mode = \"follow\"`"));
        }
        for file in &found {
            File::open(&file.path).map_err(|error| problem(format!("cannot read {}: {error}", file.name)))?;
        }
        Ok(())
    }
}

/// What reading files in either mode needs.
struct Files {
    table: Arc<Table>,
    marks: Marks,
    buffers: Buffers,
    framing: Framing,
    has_head: bool,
    max_head_bytes: usize,
    /// Of all files, compressed as they may be.
    read_bytes: u64,
}

impl Files {
    /// Goes on where the file's checkpoint says, or starts it. Returns its partition,
    /// its bytes, and how many of them come before.
    fn start(&mut self, name: &str, opened: &Opened, pieces: &Pieces) -> Result<(u32, Input, u64), Halt> {
        let failed = |error: std::io::Error| Halt::Failed(anyhow::anyhow!("cannot read {name}: {error}"));
        let head = opened.head().map_err(failed)?;
        let mut mark = self.marks.take(name, opened, &head).map(|(saved_as, mark)| {
            if saved_as != name {
                self.table.stale([saved_as, name.to_owned()]);
            }
            mark
        });
        let mut input = opened.input().map_err(failed)?;
        if let Some(known) = &mark {
            let reached = input.skip_to(known.offset).map_err(failed)?;
            let grown = || Ok(self.framing == Framing::Whole && input_has_more(opened, known.offset)?);
            if !reached || grown().map_err(failed)? {
                tracing::warn!(
                    file = name,
                    checkpoint = known.offset,
                    "the file has changed: reading it from its start"
                );
                mark = None;
                input = opened.input().map_err(failed)?;
            }
        }
        let partition = self.table.add(name, opened, head, mark.as_ref());
        let mut start = Start { partition, ..Start::default() };
        if let Some(mark) = mark {
            (start.offset, start.settled, start.record) = (mark.offset, mark.offset, mark.record);
            if self.framing == Framing::AvroContainer {
                // The mark may be that of a message in the middle of a block, which is then read again.
                (start.offset, start.record) = opened.block_of(mark.offset).map_err(failed)?;
                input = opened.input().map_err(failed)?;
                input.skip_to(start.offset).map_err(failed)?;
            }
            if self.has_head {
                start.head = Some(opened.first_frame(self.framing, self.max_head_bytes).map_err(failed)?);
            }
            tracing::info!(
                file = name,
                byte = start.offset,
                record = start.record,
                "goes on at its checkpoint"
            );
        }
        let offset = start.offset;
        pieces.send(Piece::Start { start, name: name.to_owned() })?;
        Ok((partition, input, offset))
    }
}

/// Whether a stream is longer than it was.
fn input_has_more(opened: &Opened, offset: u64) -> std::io::Result<bool> {
    let mut input = opened.input()?;
    Ok(input.skip_to(offset)? && std::io::Read::read(&mut input, &mut [0])? > 0)
}

fn read_once(mut files: Files, found: &[Found], pieces: &Pieces) -> Result<(), Halt> {
    for file in found {
        let failed =
            |error: std::io::Error| Halt::Failed(anyhow::anyhow!("cannot read {}: {error}", file.name));
        let opened = Opened::open(&file.path).map_err(failed)?;
        let (partition, mut input, _) = files.start(&file.name, &opened, pieces)?;
        loop {
            let (bytes, result) = files.buffers.fill(&mut input);
            if let Some(bytes) = bytes {
                let read_bytes = files.read_bytes + input.raw_position();
                pieces.send(Piece::Data { partition, bytes, read_bytes })?;
            }
            if result.map_err(failed)? {
                break;
            }
        }
        files.read_bytes += input.raw_position();
        pieces.send(Piece::End { partition })?;
    }
    Ok(())
}

struct FileCommitter {
    table: Arc<Table>,
    checkpoints: Arc<dyn Checkpoints>,
}

#[async_trait]
impl Committer for FileCommitter {
    fn kind(&self) -> CommitKind {
        CommitKind::UpTo
    }

    async fn up_to(&mut self, positions: &[Position]) -> anyhow::Result<()> {
        let saves = self.table.commit(positions)?;
        let names: Vec<String> = saves.iter().map(|(name, _)| name.clone()).collect();
        let checkpoints = Arc::clone(&self.checkpoints);
        let saved = tokio::task::spawn_blocking(move || checkpoints.save(&saves)).await;
        let saved = saved.context("the checkpoint was not saved").flatten();
        if saved.is_err() {
            self.table.stale(names);
        }
        saved
    }
}
