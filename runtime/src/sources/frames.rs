//! From the chunks of a stream to the messages of a batch: frames are found, limited and decoded.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::ReadLimit;
use super::rows::Rows;
use crate::codecs::{Decoder, DecoderConfig, FrameMeta, Framer, Framing};
use crate::config::units::ByteSize;
use crate::message::{MAX_ARENA_BYTES, Position, Span};

/// What is kept of a message that is too large: enough to recognise it by.
const FIRST_PART_BYTES: usize = 64 * 1024;

/// So that a few messages always fit into an arena, whatever a pipeline says.
const MAX_MESSAGE_BYTES: usize = MAX_ARENA_BYTES / 8;

/// A `\r\n`, which is no part of a message.
const LINE_BREAK_BYTES: usize = 2;

/// One stream, from its start or from a checkpoint on.
pub(super) struct Frames {
    framing: Framing,
    framer: Framer,
    decoder: Box<dyn Decoder>,
    max_message_bytes: usize,
    partition: u32,
    /// Bytes of the stream that were taken.
    offset: u64,
    /// Offset behind the last message that was given out.
    last_row: u64,
    /// Messages up to here are not given out again.
    settled: u64,
    /// Lines or records that were taken.
    record: u64,
    wants_head: bool,
    /// How much of a byte order mark was seen, while there may be one.
    mark_seen: Option<usize>,
    /// The beginning of a frame that goes on in the next chunk, and how long it is so far: all of it,
    /// or its first part once it is too large.
    partial: Vec<u8>,
    partial_bytes: u64,
}

/// Where a stream begins or goes on.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    pub partition: u32,
    /// Bytes of the stream before it.
    pub offset: u64,
    /// Messages up to this offset, at or behind `offset`, were settled. Where a frame holds many messages it
    /// may be in the middle of one.
    pub settled: u64,
    /// Lines or records before it.
    pub record: u64,
    /// The stream's head, if the codec has one and it goes on behind it.
    pub head: Option<Vec<u8>>,
}

/// A batch that is being filled.
#[derive(Default)]
pub(super) struct Filling {
    pub rows: Rows,
    arena_bytes: usize,
}

impl Filling {
    pub fn is_full(&self, limit: ReadLimit) -> bool {
        self.rows.builder.len() >= limit.rows.max(1)
            || self.arena_bytes + self.rows.builder.bytes() >= limit.bytes.clamp(1, MAX_MESSAGE_BYTES)
    }
}

impl Frames {
    /// # Errors
    /// The head is none.
    pub fn new(codec: &dyn DecoderConfig, max_message_bytes: usize, start: &Start) -> anyhow::Result<Frames> {
        let mut decoder = codec.decoder();
        if let Some(head) = &start.head {
            decoder.head(head).map_err(head_error)?;
        }
        Ok(Frames {
            framing: codec.framing(),
            framer: match start.head {
                Some(_) => Framer::behind_head(codec.framing()),
                None => Framer::new(codec.framing()),
            },
            wants_head: decoder.has_head() && start.head.is_none(),
            decoder,
            max_message_bytes: max_message_bytes.min(MAX_MESSAGE_BYTES),
            partition: start.partition,
            offset: start.offset,
            last_row: start.settled.max(start.offset),
            settled: start.settled,
            record: start.record,
            mark_seen: (start.offset == 0).then_some(0),
            partial: Vec::new(),
            partial_bytes: 0,
        })
    }

    /// Offset behind the last message that was given out.
    pub fn last_row(&self) -> u64 {
        self.last_row
    }

    /// Decodes the frames that end in `chunk`, from `at` on, until the batch is full. Returns where
    /// it stopped; what comes before is not needed again.
    ///
    /// # Errors
    /// The head of the stream is none. What was decoded before stands in `out`.
    pub fn cut(
        &mut self,
        chunk: &Bytes,
        mut at: usize,
        limit: ReadLimit,
        out: &mut Filling,
    ) -> anyhow::Result<usize> {
        let now_ms = now_ms();
        at += self.skip_byte_order_mark(&chunk[at..]);
        if self.partial_bytes > 0 && at < chunk.len() && !out.is_full(limit) {
            at += match self.framer.find_end(&chunk[at..]) {
                Some(end) => {
                    self.keep(&chunk[at..at + end]);
                    self.offset += end as u64;
                    self.finish_partial(now_ms, out)?;
                    end
                }
                None => self.keep_rest(&chunk[at..]),
            };
        }
        if at == chunk.len() || out.is_full(limit) {
            return Ok(at);
        }
        // Frames that lie in the chunk as a whole are not copied: the chunk becomes an arena.
        let start = at;
        let arena = out.rows.builder.arena(Bytes::new());
        let mut result = Ok(());
        let mut end_of_frames = at;
        while at < chunk.len() && !out.is_full(limit) && result.is_ok() {
            let Some(end) = self.framer.find_end(&chunk[at..]) else {
                at += self.keep_rest(&chunk[at..]);
                break;
            };
            let frame = &chunk[at..at + end];
            self.offset += end as u64;
            let content = self.framing.trim(frame);
            let from = at - start + (content.as_ptr() as usize - frame.as_ptr() as usize);
            let before = out.rows.builder.len();
            result = self.take(content, frame.len() as u64, now_ms, out, Some((arena, from as u32)));
            at += end;
            if out.rows.builder.len() > before {
                out.arena_bytes += end;
                end_of_frames = at;
            }
        }
        out.rows.builder.set_arena(arena, chunk.slice(start..end_of_frames));
        result.map(|()| at)
    }

    /// Decodes what there is of a last frame without an end; the stream has no more bytes.
    ///
    /// # Errors
    /// As for [`Frames::cut`].
    pub fn finish(&mut self, out: &mut Filling) -> anyhow::Result<()> {
        if let Some(seen) = self.mark_seen.take() {
            self.keep(&self.framing.byte_order_mark()[..seen]);
        }
        self.finish_partial(now_ms(), out)
    }

    /// Returns how many of the next bytes belong to a byte order mark.
    fn skip_byte_order_mark(&mut self, next: &[u8]) -> usize {
        let Some(seen) = self.mark_seen else { return 0 };
        let mark = self.framing.byte_order_mark();
        let same = mark[seen..].iter().zip(next).take_while(|(mark, byte)| mark == byte).count();
        if seen + same == mark.len() {
            self.mark_seen = None;
        } else if same == next.len() {
            self.mark_seen = Some(seen + same);
        } else {
            // Something else that begins alike.
            self.mark_seen = None;
            self.framer.find_end(&mark[..seen]);
            self.keep(&mark[..seen]);
            return 0;
        }
        self.offset += same as u64;
        same
    }

    fn keep_rest(&mut self, rest: &[u8]) -> usize {
        self.keep(rest);
        self.offset += rest.len() as u64;
        rest.len()
    }

    /// Adds to the partial frame, whose first part is enough once it is too large.
    fn keep(&mut self, bytes: &[u8]) {
        self.partial_bytes += bytes.len() as u64;
        if self.partial_bytes <= (self.max_message_bytes + LINE_BREAK_BYTES) as u64 {
            self.partial.extend_from_slice(bytes);
        } else {
            let missing = FIRST_PART_BYTES.saturating_sub(self.partial.len()).min(bytes.len());
            self.partial.extend_from_slice(&bytes[..missing]);
            self.partial.truncate(FIRST_PART_BYTES);
            self.partial.shrink_to(FIRST_PART_BYTES);
        }
    }

    fn finish_partial(&mut self, now_ms: i64, out: &mut Filling) -> anyhow::Result<()> {
        if self.partial_bytes == 0 {
            return Ok(());
        }
        let frame = std::mem::take(&mut self.partial);
        let frame_bytes = std::mem::take(&mut self.partial_bytes);
        let content = if frame_bytes > frame.len() as u64 { &frame } else { self.framing.trim(&frame) };
        let result = self.take(content, frame_bytes, now_ms, out, None);
        // Its capacity serves the next one.
        self.partial = frame;
        self.partial.clear();
        result
    }

    /// Takes a frame that ends at `self.offset`: `content` is all of it without its line break, or
    /// its first part if `frame_bytes`, which count the line break too, are far more. It lies in an
    /// arena at a place, or is copied.
    fn take(
        &mut self,
        content: &[u8],
        frame_bytes: u64,
        now_ms: i64,
        out: &mut Filling,
        place: Option<(u16, u32)>,
    ) -> anyhow::Result<()> {
        let lines = self.framing == Framing::Lines;
        self.record += u64::from(lines);
        if content.is_empty() {
            return Ok(());
        }
        let too_large = content.len() > self.max_message_bytes
            || frame_bytes > (self.max_message_bytes + LINE_BREAK_BYTES) as u64;
        if self.wants_head {
            anyhow::ensure!(!too_large, "the head takes {frame_bytes} bytes, more than max_message_bytes");
            self.decoder.head(content).map_err(head_error)?;
            self.wants_head = false;
            return Ok(());
        }
        self.record += u64::from(!lines);
        let position = Position { partition: self.partition, offset: self.offset, record: self.record };
        let meta = FrameMeta { key: Span::ABSENT, headers: &[], timestamp_ms: now_ms, position };
        let content = if too_large { &content[..content.len().min(FIRST_PART_BYTES)] } else { content };
        let frame = match place {
            Some((arena, start)) => Span::new(arena, start, content.len() as u32),
            None => out.rows.builder.copy(content),
        };
        let rows = out.rows.builder.len();
        if too_large {
            let reason = format!(
                "the {} takes {frame_bytes} bytes, more than max_message_bytes = \"{}\"; these are the first {}",
                unit(self.framing),
                ByteSize(self.max_message_bytes as u64),
                content.len()
            );
            out.rows.reject(frame, &meta, "too-large", reason);
        } else {
            self.decoder.at(self.offset - frame_bytes, self.settled);
            out.rows.decode(&mut *self.decoder, content, frame, &meta);
            // A frame may hold many messages, of which it was counted as one, or none.
            self.record = self.decoder.last_record().unwrap_or(self.record);
        }
        if out.rows.builder.len() > rows {
            self.last_row = self.offset;
        }
        Ok(())
    }
}

fn head_error(error: crate::codecs::DecodeError) -> anyhow::Error {
    anyhow::anyhow!("its head cannot be used: {error}")
}

/// What [`Position::record`] counts.
pub(super) fn unit(framing: Framing) -> &'static str {
    match framing {
        Framing::Lines => "line",
        Framing::Whole | Framing::Csv { .. } | Framing::AvroContainer => "record",
    }
}

pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Row;
    use super::*;
    use crate::codecs::tests::{container, decoder};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// What a stream holds, read in pieces of these sizes and then the rest in one.
    fn read(
        codec: &str,
        stream: &[u8],
        max: usize,
        start: &Start,
        pieces: &[usize],
        rows: usize,
    ) -> Vec<Row> {
        let (name, config) = codec.split_once(' ').unwrap_or((codec, "{}"));
        let codec: Arc<dyn DecoderConfig> = decoder(name, config).unwrap();
        let mut frames = Frames::new(&*codec, max, start).unwrap();
        let limit = ReadLimit { rows, bytes: 1 << 20 };
        let (mut all, mut rest) = (Vec::new(), &stream[start.offset as usize..]);
        for piece in pieces.iter().copied().chain([usize::MAX]) {
            let (piece, behind) = rest.split_at(piece.min(rest.len()));
            rest = behind;
            let (chunk, mut at) = (Bytes::copy_from_slice(piece), 0);
            while at < chunk.len() {
                let mut out = Filling::default();
                at = frames.cut(&chunk, at, limit, &mut out).unwrap();
                assert!(codec.framing() == Framing::AvroContainer || out.rows.builder.len() <= rows.max(1));
                all.extend(Row::of(out.rows.finish()));
            }
        }
        let mut out = Filling::default();
        frames.finish(&mut out).unwrap();
        all.extend(Row::of(out.rows.finish()));
        assert_eq!(
            frames.last_row(),
            all.last().map_or(start.offset.max(start.settled), |row| row.position.offset)
        );
        all
    }

    fn whole(codec: &str, stream: &[u8], max: usize) -> Vec<Row> {
        read(codec, stream, max, &Start::default(), &[], usize::MAX)
    }

    const CODECS: [&str; 5] =
        ["lines", "json", "csv", "raw", r#"csv {"head": false, "columns": ["a", "b"]}"#];

    #[test]
    fn positions_stand_behind_their_messages() {
        let rows = whole("lines", b"a\r\n\nbc\nd", 100);
        let seen: Vec<_> =
            rows.iter().map(|row| (row.text(), row.position.offset, row.position.record)).collect();
        assert_eq!(seen, [("a", 3, 1), ("bc", 7, 3), ("d", 8, 4)]);
        let rows = whole("csv", b"x\n1\n\n\"2\n3\"\r\n4", 100);
        let seen: Vec<_> =
            rows.iter().map(|row| (row.text(), row.position.offset, row.position.record)).collect();
        assert_eq!(seen, [(r#"{"x":"1"}"#, 4, 1), (r#"{"x":"2\n3"}"#, 12, 2), (r#"{"x":"4"}"#, 13, 3)]);
    }

    #[test]
    fn what_is_no_message_is_rejected_with_its_bytes() {
        let rows = whole("json", b"{}\n{]\n[]", 100);
        let seen: Vec<_> = rows.iter().map(|row| (row.text(), row.code())).collect();
        assert_eq!(seen, [("{}", ""), ("{]", "decode-error"), ("[]", "")]);
        assert_eq!(rows[1].position.record, 2);
    }

    #[test]
    fn a_frame_within_a_chunk_is_not_copied() {
        let codec = decoder("lines", "{}").unwrap();
        let chunk = Bytes::from_static(b"one\ntwo\nthree");
        let mut frames = Frames::new(&*codec, 100, &Start::default()).unwrap();
        let mut out = Filling::default();
        frames.cut(&chunk, 0, ReadLimit { rows: 10, bytes: 1000 }, &mut out).unwrap();
        let batch = out.rows.finish().batch;
        let bytes = chunk.as_ptr_range();
        assert_eq!(batch.len(), 2);
        assert!(batch.messages().all(|message| bytes.contains(&message.payload().unwrap().as_ptr())));
        // Nothing is kept of the chunk but the messages.
        assert_eq!(batch.arenas().iter().map(Bytes::len).sum::<usize>(), 8);
    }

    #[test]
    fn of_a_message_too_large_the_first_part_is_kept() {
        let max = 100 * 1024;
        let line = |len: usize| "x".repeat(len) + "\n";
        let stream = [line(max), line(max + 1), line(50 * max), "y\n".into()].concat();
        for piece in [max / 3, max + 1, stream.len()] {
            let pieces = vec![piece; stream.len() / piece];
            let rows = read("lines", stream.as_bytes(), max, &Start::default(), &pieces, 100);
            let seen: Vec<_> = rows.iter().map(|row| (row.payload.len(), row.code())).collect();
            let part = FIRST_PART_BYTES;
            assert_eq!(seen, [(max, ""), (part, "too-large"), (part, "too-large"), (1, "")]);
            assert_eq!(
                rows[2].rejected.as_ref().unwrap().1,
                "the line takes 5120001 bytes, more than max_message_bytes = \"100KiB\"; these are the first 65536"
            );
        }
    }

    #[test]
    fn memory_is_bounded_while_a_message_too_large_goes_by() {
        let codec = decoder("raw", "{}").unwrap();
        let mut frames = Frames::new(&*codec, 1000, &Start::default()).unwrap();
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        for _ in 0..100 {
            let mut out = Filling::default();
            frames.cut(&chunk, 0, ReadLimit { rows: 10, bytes: 1000 }, &mut out).unwrap();
            assert!(out.rows.builder.is_empty());
            assert!(frames.partial.capacity() <= FIRST_PART_BYTES, "{}", frames.partial.capacity());
        }
    }

    #[test]
    fn a_byte_order_mark_belongs_to_no_message() {
        for pieces in [&[][..], &[1], &[2], &[1, 1, 1], &[3]] {
            let read = |codec, stream| read(codec, stream, 100, &Start::default(), pieces, 100);
            let rows = read("json", "\u{feff}{}\n".as_bytes());
            assert_eq!((rows[0].text(), rows[0].position.offset), ("{}", 6));
            let rows = read("csv", "\u{feff}\"a\"\n1\n".as_bytes());
            assert_eq!(rows[0].text(), r#"{"a":"1"}"#);
            let rows = read("lines", b"\xef\xbbx\n\xef");
            assert_eq!((&rows[0].payload[..], &rows[1].payload[..]), (&b"\xef\xbbx"[..], &b"\xef"[..]));
            let rows = read("raw", "\u{feff}".as_bytes());
            assert_eq!(rows[0].text(), "\u{feff}");
            assert_eq!(read("lines", b"\xef\xbb").len(), 1);
            assert_eq!(read("lines", "\u{feff}".as_bytes()).len(), 0);
        }
    }

    #[test]
    fn a_head_that_is_none_ends_the_stream() {
        let codec = decoder("csv", "{}").unwrap();
        let cut = |bytes: &'static [u8], max| {
            let mut frames = Frames::new(&*codec, max, &Start::default()).unwrap();
            let mut out = Filling::default();
            let limit = ReadLimit { rows: 10, bytes: 1000 };
            frames.cut(&Bytes::from_static(bytes), 0, limit, &mut out).unwrap_err().to_string()
        };
        assert_eq!(
            cut(b"a,a\n1,2\n", 100),
            "its head cannot be used: column 2 has the name \"a\" of one before it"
        );
        assert_eq!(cut(b"abcdefgh\n", 4), "the head takes 9 bytes, more than max_message_bytes");
    }

    const CONTAINER: &str = r#"avro {"framing": "container"}"#;

    #[test]
    fn a_block_of_a_container_holds_many_messages_each_with_a_position_of_its_own() {
        let file = container(&[2, 0, 1]);
        let rows = whole(CONTAINER, &file, 1000);
        let head = (file.len() - 20 - 18 - 19) as u64;
        let seen: Vec<_> =
            rows.iter().map(|row| (row.text(), row.position.offset, row.position.record)).collect();
        let last = file.len() as u64;
        assert_eq!(seen, [("true", head + 1, 1), ("true", head + 20, 2), ("true", last, 3)]);

        let mut broken = file.clone();
        *broken.last_mut().unwrap() ^= 1;
        let rows = whole(CONTAINER, &broken, 1000);
        let seen: Vec<_> = rows.iter().map(|row| (row.code(), row.position.record)).collect();
        assert_eq!(seen, [("", 1), ("", 2), ("decode-error", 3)]);
    }

    proptest! {
        #[test]
        fn every_position_within_a_block_is_one_to_go_on_at(
            blocks in proptest::collection::vec(0u8..6, 1..6),
            pieces in proptest::collection::vec(1usize..40, 0..40),
        ) {
            let file = container(&blocks);
            let bodies: usize = blocks.iter().map(|&values| 18 + usize::from(values)).sum();
            let head = file[..file.len() - bodies].to_vec();
            let rows = whole(CONTAINER, &file, 1000);
            prop_assert!(rows.windows(2).all(|rows| rows[0].position < rows[1].position));
            prop_assert_eq!(&read(CONTAINER, &file, 1000, &Start::default(), &pieces, 3), &rows);
            for (index, row) in rows.iter().enumerate() {
                // As the source finds it: the block that the position is in, and how many come before.
                let (mut offset, mut record) = (head.len() as u64, 0);
                for &values in &blocks {
                    let end = offset + 18 + u64::from(values);
                    if end > row.position.offset {
                        break;
                    }
                    (offset, record) = (end, record + u64::from(values));
                }
                let (partition, settled) = (row.position.partition, row.position.offset);
                let start = Start { partition, offset, settled, record, head: Some(head.clone()) };
                let rest = read(CONTAINER, &file, 1000, &start, &[], usize::MAX);
                prop_assert_eq!(&rest[..], &rows[index + 1..]);
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_messages(
            stream in "[ab1,\"\r\n\u{feff}]{0,80}",
            pieces in proptest::collection::vec(1usize..12, 0..60),
            rows in 1usize..5,
            max in 1usize..12,
        ) {
            for codec in CODECS {
                // A head that is none is an error of the stream.
                let stream = if codec == "csv" { format!("a\n{stream}") } else { stream.clone() };
                let expected = whole(codec, stream.as_bytes(), max);
                prop_assert_eq!(read(codec, stream.as_bytes(), max, &Start::default(), &pieces, rows), expected);
            }
        }

        #[test]
        fn lines_are_what_stands_between_line_breaks(
            stream in "[ab\r\n]{0,80}",
            pieces in proptest::collection::vec(1usize..12, 0..60),
            max in 1usize..6,
        ) {
            let mut offset = 0;
            let mut expected = Vec::new();
            for line in stream.split_inclusive('\n') {
                offset += line.len() as u64;
                let content = line.strip_suffix('\n').unwrap_or(line);
                let content = content.strip_suffix('\r').unwrap_or(content);
                if !content.is_empty() {
                    expected.push((offset, content.len() > max, line.len()));
                }
            }
            let rows = read("lines", stream.as_bytes(), max, &Start::default(), &pieces, 3);
            let seen: Vec<_> = rows.iter().map(|row| (row.position.offset, row.code() == "too-large")).collect();
            let wanted: Vec<_> = expected.iter().map(|line| (line.0, line.1)).collect();
            prop_assert_eq!(seen, wanted);
            for (row, line) in rows.iter().zip(&expected) {
                let start = line.0 as usize - line.2;
                prop_assert!(stream.as_bytes()[start..].starts_with(&row.payload));
                if let Some((_, reason)) = &row.rejected {
                    let size = format!(" {} bytes,", line.2);
                    prop_assert!(reason.contains(&size), "{reason}");
                }
            }
        }

        #[test]
        fn every_position_is_one_to_go_on_at(
            stream in "[ab1,\"\r\n\u{feff}]{0,60}",
            max in 3usize..12,
        ) {
            for codec in CODECS {
                let head = (codec == "csv").then(|| b"a".to_vec());
                let stream = if head.is_some() { format!("a\n{stream}") } else { stream.clone() };
                let rows = whole(codec, stream.as_bytes(), max);
                for (index, row) in rows.iter().enumerate() {
                    let Position { partition, offset, record } = row.position;
                    let start = Start { partition, offset, settled: offset, record, head: head.clone() };
                    let rest = read(codec, stream.as_bytes(), max, &start, &[], usize::MAX);
                    prop_assert_eq!(&rest[..], &rows[index + 1..]);
                }
            }
        }
    }
}
