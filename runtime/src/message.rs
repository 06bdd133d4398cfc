//! Messages, and the batches of columns in which they travel.
//!
//! A batch owns a few arenas (shared, immutable byte ranges: a chunk of the file that was read,
//! what a plugin wrote) and rows of spans into them. Moving a message moves a row; its bytes stay.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A byte range in one arena of a [`Batch`], or nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    arena: u16,
    start: u32,
    len: u32,
}

impl Span {
    /// No bytes at all: a null payload, no key. Not the same as empty bytes.
    pub const ABSENT: Span = Span { arena: u16::MAX, start: 0, len: 0 };

    /// Empty bytes, which are in the first arena, as every batch has one.
    pub const EMPTY: Span = Span { arena: COPIED, start: 0, len: 0 };

    pub fn new(arena: u16, start: u32, len: u32) -> Span {
        Span { arena, start, len }
    }

    pub fn is_absent(self) -> bool {
        self.arena == u16::MAX
    }

    /// Index of the arena; meaningless if absent.
    pub fn arena(self) -> u16 {
        self.arena
    }

    /// First byte within the arena.
    pub fn start(self) -> u32 {
        self.start
    }

    /// Length in bytes, 0 if absent.
    pub fn len(self) -> u32 {
        self.len
    }

    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// Where a message stands in its source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The source's partition: a file of a glob, a Kafka partition. Any number; the same one after a
    /// restart, and another for other data, since ids are made of it.
    pub partition: u32,
    /// Grows with every message of a partition. Where reading resumes after this message: for a
    /// file the byte after the record, for a log the offset after the record's.
    pub offset: u64,
    /// Number of the record in its partition, from 1; 0 if unknown. For people.
    pub record: u64,
}

/// Sinks by number, at most [`SinkSet::MAX`] of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SinkSet(u64);

impl SinkSet {
    pub const MAX: usize = 64;
    pub const ALL: SinkSet = SinkSet(u64::MAX);
    pub const NONE: SinkSet = SinkSet(0);

    pub fn only(sink: usize) -> SinkSet {
        SinkSet(1 << sink)
    }

    pub fn contains(self, sink: usize) -> bool {
        self.0 & (1 << sink) != 0
    }

    pub fn with(self, sink: usize) -> SinkSet {
        SinkSet(self.0 | 1 << sink)
    }

    pub fn and(self, other: SinkSet) -> SinkSet {
        SinkSet(self.0 & other.0)
    }

    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::MAX).filter(move |&sink| self.contains(sink))
    }
}

/// The routes that a plugin named for a message; compared by name with a sink's `route`.
pub type Routes = Arc<[String]>;

/// One message of a batch, as spans. `Copy`, so that rows are copied as one piece of memory.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub payload: Span,
    pub key: Span,
    /// First header in [`Batch`]'s headers.
    pub first_header: u32,
    pub header_count: u32,
    /// Event time, milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: i64,
    /// Position of the source message that this one descends from.
    pub position: Position,
    /// Row of that source message in its claim.
    pub claim_row: u32,
    /// Hash of what orders this message: its source key or its partition. Set by `ingest`.
    pub order: u64,
    /// Sinks that may have it: all, or fewer for a replayed dead letter.
    pub sinks: SinkSet,
    /// Index into the batch's routes plus 1; 0 for none.
    pub routes: u32,
}

/// Header of a message, as spans. Names are UTF-8 and compared without regard to ASCII case.
#[derive(Clone, Copy, Debug)]
pub struct HeaderSpan {
    pub name: Span,
    pub value: Span,
}

/// Messages in columns. Cheap to clone but for its rows.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    arenas: Vec<Bytes>,
    headers: Arc<Vec<HeaderSpan>>,
    routes: Vec<Routes>,
    rows: Vec<Row>,
}

impl Batch {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn rows_mut(&mut self) -> &mut [Row] {
        &mut self.rows
    }

    pub fn arenas(&self) -> &[Bytes] {
        &self.arenas
    }

    pub fn headers(&self) -> &[HeaderSpan] {
        &self.headers
    }

    /// The routes of a row, if a plugin named any.
    pub fn routes_of(&self, row: &Row) -> Option<&Routes> {
        row.routes.checked_sub(1).map(|index| &self.routes[index as usize])
    }

    /// The bytes of a span, `None` if absent.
    pub fn bytes(&self, span: Span) -> Option<&[u8]> {
        if span.is_absent() {
            return None;
        }
        let start = span.start as usize;
        Some(&self.arenas[span.arena as usize][start..start + span.len as usize])
    }

    pub fn message(&self, index: usize) -> MessageRef<'_> {
        MessageRef { batch: self, row: &self.rows[index] }
    }

    pub fn messages(&self) -> impl ExactSizeIterator<Item = MessageRef<'_>> {
        self.rows.iter().map(|row| MessageRef { batch: self, row })
    }

    /// The same arenas, headers and routes with other rows, whose spans must be of this batch.
    pub fn with_rows(&self, rows: Vec<Row>) -> Batch {
        Batch {
            arenas: self.arenas.clone(),
            headers: Arc::clone(&self.headers),
            routes: self.routes.clone(),
            rows,
        }
    }

    /// Takes the rows out, leaving the batch empty.
    pub fn take_rows(&mut self) -> Vec<Row> {
        std::mem::take(&mut self.rows)
    }

    /// Puts rows in place of those there, whose spans must be of this batch.
    pub fn set_rows(&mut self, rows: Vec<Row>) {
        self.rows = rows;
    }

    /// Adds an arena and returns its index. `None` if the batch has as many as it can.
    pub fn add_arena(&mut self, bytes: Bytes) -> Option<u16> {
        let index = u16::try_from(self.arenas.len()).ok().filter(|&index| index != u16::MAX)?;
        self.arenas.push(bytes);
        Some(index)
    }

    /// Adds headers and returns the index of the first.
    pub fn add_headers(&mut self, headers: &[HeaderSpan]) -> u32 {
        let all = Arc::make_mut(&mut self.headers);
        let first = all.len() as u32;
        all.extend_from_slice(headers);
        first
    }

    /// Takes headers away from all rows, by their names.
    pub fn drop_headers(&mut self, is_dropped: fn(&[u8]) -> bool) {
        let mut kept = Vec::new();
        let mut changed = Vec::new();
        for (index, message) in self.messages().enumerate() {
            let names = message.headers().map(|(name, _)| is_dropped(name));
            if !names.clone().any(|is_dropped| is_dropped) {
                continue;
            }
            let start = kept.len();
            let spans = &self.headers[message.row.first_header as usize..];
            kept.extend(spans.iter().zip(names).filter(|(_, is_dropped)| !is_dropped).map(|(span, _)| *span));
            changed.push((index, start, kept.len() - start));
        }
        if changed.is_empty() {
            return;
        }
        let first = self.add_headers(&kept);
        for (index, start, count) in changed {
            let row = &mut self.rows[index];
            row.first_header = first + start as u32;
            row.header_count = count as u32;
        }
    }

    /// Adds a set of routes and returns what stands for it in [`Row::routes`].
    pub fn add_routes(&mut self, routes: Routes) -> u32 {
        if let Some(index) = self.routes.iter().position(|known| *known == routes) {
            return index as u32 + 1;
        }
        self.routes.push(routes);
        self.routes.len() as u32
    }

    /// Bytes that this batch's arenas and columns hold in memory.
    pub fn footprint(&self) -> usize {
        self.arenas.iter().map(Bytes::len).sum::<usize>()
            + self.rows.capacity() * size_of::<Row>()
            + self.headers.capacity() * size_of::<HeaderSpan>()
    }
}

/// One message of a batch, to be read.
#[derive(Clone, Copy, Debug)]
pub struct MessageRef<'a> {
    batch: &'a Batch,
    row: &'a Row,
}

impl<'a> MessageRef<'a> {
    /// The payload; `None` if it is null (a tombstone).
    pub fn payload(&self) -> Option<&'a [u8]> {
        self.batch.bytes(self.row.payload)
    }

    pub fn key(&self) -> Option<&'a [u8]> {
        self.batch.bytes(self.row.key)
    }

    /// Names and values in order; a name may repeat.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone + use<'a> {
        let batch = self.batch;
        let first = self.row.first_header as usize;
        batch.headers[first..first + self.row.header_count as usize].iter().map(move |header| {
            (batch.bytes(header.name).unwrap_or_default(), batch.bytes(header.value).unwrap_or_default())
        })
    }

    /// The first value of a header, its name compared without regard to ASCII case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    pub fn timestamp_ms(&self) -> i64 {
        self.row.timestamp_ms
    }

    pub fn position(&self) -> Position {
        self.row.position
    }

    pub fn row(&self) -> &'a Row {
        self.row
    }

    pub fn batch(&self) -> &'a Batch {
        self.batch
    }

    /// A copy that owns its bytes.
    pub fn to_owned(&self) -> Message {
        Message {
            payload: self.payload().map(<[u8]>::to_vec),
            key: self.key().map(<[u8]>::to_vec),
            headers: self.headers().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            timestamp_ms: self.timestamp_ms(),
        }
    }
}

/// A message that owns its bytes: a dead letter, a test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub payload: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Event time, milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: i64,
}

/// Largest arena: spans count in u32, and the contract with plugins needs a few values for itself.
pub const MAX_ARENA_BYTES: usize = 1 << 30;

/// Builds a batch, either copying bytes into an arena of its own or pointing into arenas given.
///
/// A caller keeps what it pushes below [`MAX_ARENA_BYTES`] in all; [`BatchBuilder::bytes`] tells.
#[derive(Debug)]
pub struct BatchBuilder {
    batch: Batch,
    headers: Vec<HeaderSpan>,
    copied: Vec<u8>,
}

/// Arena into which a builder copies: always the first one.
const COPIED: u16 = 0;

impl Default for BatchBuilder {
    fn default() -> BatchBuilder {
        BatchBuilder::new()
    }
}

impl BatchBuilder {
    pub fn new() -> BatchBuilder {
        let mut batch = Batch::default();
        batch.arenas.push(Bytes::new());
        BatchBuilder { batch, headers: Vec::new(), copied: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.batch.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.batch.rows.is_empty()
    }

    /// Bytes copied so far.
    pub fn bytes(&self) -> usize {
        self.copied.len()
    }

    /// Adds an arena without copying it; spans into it can then be pushed.
    pub fn arena(&mut self, bytes: Bytes) -> u16 {
        self.batch.add_arena(bytes).expect("a builder is given a handful of arenas")
    }

    /// Gives an arena that was added empty its bytes, once it is known which are needed.
    pub fn set_arena(&mut self, arena: u16, bytes: Bytes) {
        self.batch.arenas[arena as usize] = bytes;
    }

    /// Copies bytes and returns their span.
    pub fn copy(&mut self, bytes: &[u8]) -> Span {
        let start = self.copied.len() as u32;
        self.copied.extend_from_slice(bytes);
        Span::new(COPIED, start, bytes.len() as u32)
    }

    /// Copies what `write` appends to the buffer and returns its span.
    pub fn copy_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.copied.len();
        write(&mut self.copied);
        Span::new(COPIED, start as u32, (self.copied.len() - start) as u32)
    }

    /// Adds a message of spans; returns its row.
    pub fn push(
        &mut self,
        payload: Span,
        key: Span,
        headers: &[HeaderSpan],
        timestamp_ms: i64,
        position: Position,
    ) -> u32 {
        let row = self.batch.rows.len() as u32;
        let first_header = self.headers.len() as u32;
        self.headers.extend_from_slice(headers);
        self.batch.rows.push(Row {
            payload,
            key,
            first_header,
            header_count: headers.len() as u32,
            timestamp_ms,
            position,
            claim_row: row,
            order: 0,
            sinks: SinkSet::ALL,
            routes: 0,
        });
        row
    }

    /// Adds a copy of a message; returns its row.
    pub fn push_message(&mut self, message: &Message, position: Position) -> u32 {
        let payload = message.payload.as_deref().map_or(Span::ABSENT, |bytes| self.copy(bytes));
        let key = message.key.as_deref().map_or(Span::ABSENT, |bytes| self.copy(bytes));
        let headers: Vec<HeaderSpan> = message
            .headers
            .iter()
            .map(|(name, value)| HeaderSpan { name: self.copy(name), value: self.copy(value) })
            .collect();
        self.push(payload, key, &headers, message.timestamp_ms, position)
    }

    /// The last row pushed, to be completed.
    pub fn last_row_mut(&mut self) -> Option<&mut Row> {
        self.batch.rows.last_mut()
    }

    pub fn finish(self) -> Batch {
        let BatchBuilder { mut batch, headers, copied } = self;
        batch.arenas[COPIED as usize] = Bytes::from(copied);
        batch.headers = Arc::new(headers);
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was_pushed() {
        let message = Message {
            payload: Some(b"{}".to_vec()),
            key: None,
            headers: vec![(b"A".to_vec(), b"1".to_vec()), (b"a".to_vec(), b"2".to_vec())],
            timestamp_ms: 7,
        };
        let mut builder = BatchBuilder::new();
        builder
            .push_message(&Message { payload: Some(Vec::new()), ..Message::default() }, Position::default());
        builder.push_message(&message, Position { partition: 1, offset: 2, record: 3 });
        let batch = builder.finish();
        assert_eq!(batch.message(1).to_owned(), message);
        assert_eq!(batch.message(1).header("a"), Some(&b"1"[..]));
        assert_eq!(batch.message(1).key(), None);
        assert_eq!(batch.message(0).payload(), Some(&b""[..]));
    }

    #[test]
    fn the_same_set_of_routes_is_kept_once() {
        let mut batch = Batch::default();
        let first = batch.add_routes(vec!["a".to_owned()].into());
        let other = batch.add_routes(vec!["b".to_owned()].into());
        assert_eq!(batch.add_routes(vec!["a".to_owned()].into()), first);
        assert_ne!(first, other);
    }
}
