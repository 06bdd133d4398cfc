//! `stdin`: what is piped in.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::frames::{Start, unit};
use super::stream::{Buffers, Halt, Piece, Pieces, StreamReader};
use super::{
    CommitKind, Committer, OpenSource, Replay, SourceConfig, SourceContext, SourceSpec, SourceTraits,
};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::message::Position;

pub const SPEC: SourceSpec = SourceSpec {
    name: "stdin",
    schema: || schemars::schema_for!(Stdin),
    example: "[source]\ntype = \"stdin\"\ncodec = \"json\"",
    default_codec: "lines",
    parse: |value| Ok(Box::new(parse::<Stdin>(value)?)),
};

/// Reads standard input to its end. What was read and not yet written when the process dies is
/// lost, for a pipe cannot be read twice.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Stdin {}

impl SourceConfig for Stdin {
    fn check(&self, _context: &SourceContext, _problems: &mut Vec<Problem>) {}

    fn traits(&self) -> SourceTraits {
        SourceTraits {
            replay: Replay::No("standard input cannot be read twice"),
            unordered: None,
            partitions: Some(1),
        }
    }

    fn open(self: Box<Self>, context: SourceContext) -> anyhow::Result<OpenSource> {
        open(&context, std::io::stdin)
    }
}

/// Opens what `input` gives, in the thread that reads it.
fn open<R: std::io::Read>(
    context: &SourceContext,
    input: impl FnOnce() -> R + Send + 'static,
) -> anyhow::Result<OpenSource> {
    // Another number for each run, so that the same place in other data is not the same position.
    let partition = rand::random();
    let read = move |pieces: &Pieces| {
        let (buffers, mut input, mut read_bytes) = (Buffers::default(), input(), 0);
        let start = Start { partition, ..Start::default() };
        pieces.send(Piece::Start { start, name: "standard input".into() })?;
        while let Some(bytes) = buffers
            .read(&mut input)
            .map_err(|error| Halt::Failed(anyhow::anyhow!("cannot read standard input: {error}")))?
        {
            read_bytes += bytes.len() as u64;
            pieces.send(Piece::Data { partition, bytes, read_bytes })?;
        }
        pieces.send(Piece::End { partition })
    };
    let codec = Arc::clone(&context.codec);
    let unit = unit(codec.framing());
    let reader = StreamReader::spawn(codec, context.max_message_bytes, None, |_, _| {}, read)?;
    Ok(OpenSource {
        name: "stdin".into(),
        reader: Box::new(reader),
        committer: Box::new(NothingToCommit),
        describe: Arc::new(move |position: Position| {
            format!("standard input {unit} {} (ends at byte {})", position.record, position.offset)
        }),
    })
}

struct NothingToCommit;

#[async_trait]
impl Committer for NothingToCommit {
    fn kind(&self) -> CommitKind {
        CommitKind::UpTo
    }

    async fn up_to(&mut self, _positions: &[Position]) -> anyhow::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{context, rows};
    use super::*;
    use std::io::{self, Read};

    /// Gives a byte at a time.
    struct Dripping(&'static [u8]);

    impl Read for Dripping {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            self.0 = rest;
            buffer[0] = *first;
            Ok(1)
        }
    }

    #[tokio::test]
    async fn reads_to_the_end() {
        let context = context("lines", "{}", &Arc::default());
        let mut source = open(&context, || Dripping(b"a\n\nbc\r\nd")).unwrap();
        let rows = rows(&mut *source.reader).await;
        let payloads: Vec<&str> = rows.iter().map(|row| row.text()).collect();
        assert_eq!(payloads, ["a", "bc", "d"]);
        assert_eq!((source.describe)(rows[1].position), "standard input line 3 (ends at byte 7)");
        source.committer.up_to(&[rows[2].position]).await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_in_is_there_before_the_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let context = context("lines", "{}", &Arc::default());
        let mut source = open(&context, move || reader).unwrap();
        io::Write::write_all(&mut writer, b"a\nb").unwrap();
        let limit = super::super::testing::limit(10, 1000);
        let read = source.reader.read(limit).await.unwrap();
        assert!(matches!(read, super::super::Read::Batch(read) if read.batch.len() == 1));
        drop(writer);
        assert_eq!(rows(&mut *source.reader).await[0].text(), "b");
    }

    #[test]
    fn what_was_read_cannot_be_read_again() {
        assert!(matches!((Stdin {}).traits().replay, Replay::No(_)));
    }
}
