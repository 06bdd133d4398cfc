//! A batch as the columns that go into a guest, and where each address of it came from.

use crate::message::{Batch, Row, Span};

use super::bindings::{self, NONE, Reads};

/// The columns of one call. Its buffers are used again for the next.
#[derive(Default)]
pub(super) struct Columns {
    rows: usize,
    source: Source,
    payloads: Vec<u32>,
    keys: Vec<u32>,
    header_ends: Vec<u32>,
    headers: Vec<u32>,
    timestamps: Vec<i64>,
    partitions: Vec<u32>,
    offsets: Vec<u64>,
    /// What was gathered, and from where, in the order of `at`.
    gathered: Vec<u8>,
    pieces: Vec<Piece>,
}

/// Where the bytes of a call are.
#[derive(Clone, Copy, Default)]
enum Source {
    #[default]
    Nothing,
    /// In a part of one arena of the batch, which goes in as it is.
    Slice { arena: u16, start: u32, len: u32 },
    /// In `gathered`.
    Gathered,
}

struct Piece {
    at: u32,
    span: Span,
}

/// An arena goes in as it is when at least 3 of 4 of its bytes are wanted: one copy of a third more
/// is cheaper than two of each message.
const WANTED: (u64, u64) = (3, 4);

impl Columns {
    /// Takes as many of `rows` as fit `max_bytes`, at least one, and of them what the plugin reads.
    /// Returns how many, and their bytes. With more bytes than `max_bytes` (one row has them all)
    /// there are no columns.
    pub fn fill(&mut self, batch: &Batch, rows: &[Row], reads: Reads, max_bytes: u64) -> (usize, u64) {
        let mut survey = Survey::default();
        let mut taken = 0;
        for row in rows {
            let before = survey;
            each_span(batch, row, reads, |span| survey.see(span));
            if survey.bytes > max_bytes && taken > 0 {
                survey = before;
                break;
            }
            taken += 1;
        }
        self.clear();
        if survey.bytes <= max_bytes {
            self.rows = taken;
            self.source = survey.source();
            self.push(batch, &rows[..taken], reads);
        }
        (taken, survey.bytes)
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns for a call, of the batch they were filled from.
    pub fn as_sent<'c>(&'c self, batch: &'c Batch, now_ms: u64, source: &'c str) -> bindings::Columns<'c> {
        bindings::Columns {
            rows: self.rows as u32,
            now: now_ms,
            arena: self.arena(batch),
            payloads: &self.payloads,
            keys: &self.keys,
            header_ends: &self.header_ends,
            headers: &self.headers,
            timestamps: &self.timestamps,
            source,
            partitions: &self.partitions,
            offsets: &self.offsets,
        }
    }

    /// The arena as the guest sees it.
    pub fn arena<'c>(&'c self, batch: &'c Batch) -> &'c [u8] {
        match self.source {
            Source::Nothing => &[],
            Source::Slice { arena, start, len } => {
                &batch.arenas()[arena as usize][start as usize..start as usize + len as usize]
            }
            Source::Gathered => &self.gathered,
        }
    }

    /// The span in the batch that a part of the arena is; `None` if it is a part of several.
    /// The part must lie within the arena.
    pub fn span(&self, address: u32, len: u32) -> Option<Span> {
        match self.source {
            Source::Nothing => None,
            Source::Slice { arena, start, .. } => Some(Span::new(arena, start + address, len)),
            Source::Gathered => {
                let after = self.pieces.partition_point(|piece| piece.at <= address);
                let piece = self.pieces.get(after.checked_sub(1)?)?;
                let within = address - piece.at;
                let fits = u64::from(within) + u64::from(len) <= u64::from(piece.span.len());
                fits.then(|| Span::new(piece.span.arena(), piece.span.start() + within, len))
            }
        }
    }

    fn clear(&mut self) {
        let Columns {
            rows,
            source,
            payloads,
            keys,
            header_ends,
            headers,
            timestamps,
            partitions,
            offsets,
            gathered,
            pieces,
        } = self;
        *rows = 0;
        *source = Source::Nothing;
        payloads.clear();
        keys.clear();
        header_ends.clear();
        headers.clear();
        timestamps.clear();
        partitions.clear();
        offsets.clear();
        gathered.clear();
        pieces.clear();
    }

    fn push(&mut self, batch: &Batch, rows: &[Row], reads: Reads) {
        if reads.contains(Reads::PAYLOAD) {
            for row in rows {
                let placed = self.place(batch, row.payload);
                self.payloads.extend_from_slice(&placed);
            }
        }
        if reads.contains(Reads::KEY) {
            for row in rows {
                let placed = self.place(batch, row.key);
                self.keys.extend_from_slice(&placed);
            }
        }
        if reads.contains(Reads::HEADERS) {
            for row in rows {
                for header in headers_of(batch, row) {
                    let name = self.place(batch, header.name);
                    let value = self.place(batch, header.value);
                    self.headers.extend_from_slice(&name);
                    self.headers.extend_from_slice(&value);
                }
                self.header_ends.push((self.headers.len() / 4) as u32);
            }
        }
        if reads.contains(Reads::METADATA) {
            self.timestamps.extend(rows.iter().map(|row| row.timestamp_ms));
            self.partitions.extend(rows.iter().map(|row| row.position.partition));
            self.offsets.extend(rows.iter().map(|row| row.position.offset));
        }
    }

    /// The span for the guest.
    #[inline]
    fn place(&mut self, batch: &Batch, span: Span) -> [u32; 2] {
        if span.is_absent() {
            return [NONE, 0];
        }
        match self.source {
            Source::Slice { start, .. } => [span.start() - start, span.len()],
            Source::Nothing | Source::Gathered => {
                let at = self.gathered.len() as u32;
                self.gathered.extend_from_slice(batch.bytes(span).unwrap_or_default());
                self.pieces.push(Piece { at, span });
                [at, span.len()]
            }
        }
    }
}

/// Where the spans of a call lie.
#[derive(Clone, Copy, Default)]
struct Survey {
    arena: Option<u16>,
    several: bool,
    start: u32,
    end: u32,
    bytes: u64,
}

impl Survey {
    #[inline]
    fn see(&mut self, span: Span) {
        if span.is_absent() {
            return;
        }
        let end = span.start() + span.len();
        match self.arena {
            Some(arena) if arena == span.arena() => {
                self.start = self.start.min(span.start());
                self.end = self.end.max(end);
            }
            Some(_) => self.several = true,
            None => (self.arena, self.start, self.end) = (Some(span.arena()), span.start(), end),
        }
        self.bytes += u64::from(span.len());
    }

    fn source(&self) -> Source {
        let Some(arena) = self.arena else { return Source::Nothing };
        let len = self.end - self.start;
        if !self.several && u64::from(len) * WANTED.0 <= self.bytes * WANTED.1 {
            return Source::Slice { arena, start: self.start, len };
        }
        Source::Gathered
    }
}

fn each_span(batch: &Batch, row: &Row, reads: Reads, mut see: impl FnMut(Span)) {
    if reads.contains(Reads::PAYLOAD) {
        see(row.payload);
    }
    if reads.contains(Reads::KEY) {
        see(row.key);
    }
    if reads.contains(Reads::HEADERS) {
        for header in headers_of(batch, row) {
            see(header.name);
            see(header.value);
        }
    }
}

pub(super) fn headers_of<'b>(batch: &'b Batch, row: &Row) -> &'b [crate::message::HeaderSpan] {
    let first = row.first_header as usize;
    &batch.headers()[first..first + row.header_count as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{BatchBuilder, Message, Position};

    fn batch(messages: usize) -> Batch {
        let mut builder = BatchBuilder::new();
        for n in 0..messages {
            let message = Message {
                payload: Some(format!("payload {n}").into_bytes()),
                key: Some(format!("k{n}").into_bytes()),
                headers: vec![(b"name".to_vec(), format!("value {n}").into_bytes())],
                timestamp_ms: n as i64,
            };
            builder.push_message(&message, Position { partition: 1, offset: n as u64, record: 0 });
        }
        builder.finish()
    }

    fn text(columns: &Columns, batch: &Batch, spans: &[u32], at: usize) -> String {
        let (start, len) = (spans[2 * at] as usize, spans[2 * at + 1] as usize);
        String::from_utf8(columns.arena(batch)[start..start + len].to_vec()).unwrap()
    }

    #[test]
    fn an_arena_that_is_mostly_wanted_goes_in_as_it_is() {
        let batch = batch(3);
        let mut columns = Columns::default();
        let everything = Reads::PAYLOAD | Reads::KEY | Reads::HEADERS | Reads::METADATA;
        let (taken, bytes) = columns.fill(&batch, &batch.rows()[1..], everything, 1 << 20);
        assert_eq!((taken, bytes as usize), (2, columns.arena(&batch).len()));
        assert!(columns.gathered.is_empty());
        assert_eq!(text(&columns, &batch, &columns.payloads, 0), "payload 1");
        assert_eq!(text(&columns, &batch, &columns.keys, 1), "k2");
        assert_eq!(text(&columns, &batch, &columns.headers, 3), "value 2");
        assert_eq!((&*columns.header_ends, &*columns.timestamps), (&[1, 2][..], &[1, 2][..]));
        assert_eq!((&*columns.partitions, &*columns.offsets), (&[1, 1][..], &[1, 2][..]));
    }

    #[test]
    fn of_an_arena_that_is_hardly_wanted_only_that_goes_in() {
        let batch = batch(3);
        let mut columns = Columns::default();
        columns.fill(&batch, batch.rows(), Reads::KEY, 1 << 20);
        assert_eq!(columns.arena(&batch), b"k0k1k2");
        assert_eq!(columns.keys, [0, 2, 2, 2, 4, 2]);
        assert!(columns.payloads.is_empty() && columns.header_ends.is_empty() && columns.offsets.is_empty());
        // Addresses lead back to the batch, unless they are of two messages.
        let span = columns.span(3, 1).unwrap();
        assert_eq!(batch.bytes(span), Some(&b"1"[..]));
        assert!(columns.span(1, 2).is_none());
    }

    #[test]
    fn a_call_takes_as_many_rows_as_fit() {
        let batch = batch(9);
        let mut columns = Columns::default();
        let mut fill = |max| columns.fill(&batch, batch.rows(), Reads::PAYLOAD, max);
        assert_eq!(fill(1000).0, 9);
        assert_eq!(fill(27).0, 3);
        assert_eq!(fill(26).0, 2);
        assert_eq!(fill(8), (1, 9));
        assert_eq!(columns.rows, 0);
    }

    #[test]
    fn messages_without_bytes_have_columns_too() {
        let mut builder = BatchBuilder::new();
        builder.push_message(&Message::default(), Position::default());
        let batch = builder.finish();
        let mut columns = Columns::default();
        assert_eq!(columns.fill(&batch, batch.rows(), Reads::PAYLOAD | Reads::KEY, 10), (1, 0));
        assert_eq!((&*columns.payloads, &*columns.keys), (&[NONE, 0][..], &[NONE, 0][..]));
    }
}
