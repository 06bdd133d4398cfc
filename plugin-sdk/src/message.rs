//! A batch and its messages, as they came. Everything borrows from the batch: nothing is copied.

use serde::Deserialize;

use crate::bindings::millstream::plugin::types;
use crate::log;
use crate::plugin::Failure;

/// Start of a span that says "none"; see `wit/plugin.wit`.
pub(crate) const NONE: u32 = 0xFFFF_FFFE;

/// The messages of one call.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    columns: &'a types::Batch,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(columns: &'a types::Batch) -> Batch<'a> {
        Batch { columns }
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.columns.rows as usize
    }

    pub fn is_empty(&self) -> bool {
        self.columns.rows == 0
    }

    /// The messages in order. What is logged between two of them is logged with the row of the
    /// first.
    pub fn messages(&self) -> impl Iterator<Item = Message<'a>> + use<'a> {
        let columns = self.columns;
        let mut row = 0;
        std::iter::from_fn(move || {
            if row == columns.rows {
                log::set_row(None);
                return None;
            }
            log::set_row(Some(row));
            row += 1;
            Some(Message { columns, row: row - 1 })
        })
    }

    /// Wall-clock time of the call, milliseconds since 1970-01-01T00:00:00Z.
    pub fn now_ms(&self) -> u64 {
        self.columns.now
    }

    /// Name of the source they come from.
    pub fn source(&self) -> &'a str {
        &self.columns.source
    }
}

/// One message.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    columns: &'a types::Batch,
    row: u32,
}

impl<'a> Message<'a> {
    /// Its row in the batch.
    pub fn row(&self) -> usize {
        self.row as usize
    }

    /// The payload; `None` if it is null (a tombstone). Needs [`Reads::PAYLOAD`](crate::Reads).
    #[inline]
    pub fn payload(&self) -> Option<&'a [u8]> {
        self.span(&self.columns.payloads, self.row as usize, "PAYLOAD")
    }

    /// The key, if it has one. Needs [`Reads::KEY`](crate::Reads).
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.span(&self.columns.keys, self.row as usize, "KEY")
    }

    /// Names and values in order; a name may repeat. Needs [`Reads::HEADERS`](crate::Reads).
    pub fn headers(
        &self,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a [u8])> + ExactSizeIterator + use<'a> {
        let ends = &self.columns.header_ends;
        let Some(&end) = ends.get(self.row as usize) else { not_read("HEADERS") };
        let first = if self.row == 0 { 0 } else { ends[self.row as usize - 1] };
        let message = *self;
        (first as usize..end as usize).map(move |header| {
            let part = |index| message.span(&message.columns.headers, index, "HEADERS").unwrap_or_default();
            (part(header * 2), part(header * 2 + 1))
        })
    }

    /// The first value of a header, its name compared without regard to ASCII case. Needs
    /// [`Reads::HEADERS`](crate::Reads).
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The payload as JSON.
    ///
    /// # Errors
    /// Rejects with `payload-null` if the payload is null, and with `payload-not-json` if it is not
    /// JSON or not of this shape. To do something else with such a message, parse
    /// [`Message::payload`].
    #[inline]
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, Failure> {
        let Some(payload) = self.payload() else { return Err(payload_null()) };
        // Once for the whole payload is a tenth faster than once for each string.
        match std::str::from_utf8(payload) {
            Ok(text) => serde_json::from_str(text).map_err(not_json),
            Err(error) => Err(not_utf8(error)),
        }
    }

    /// The payload as UTF-8 text.
    ///
    /// # Errors
    /// Rejects with `payload-null` if the payload is null, and with `payload-not-utf8`.
    pub fn text(&self) -> Result<&'a str, Failure> {
        let Some(payload) = self.payload() else { return Err(payload_null()) };
        std::str::from_utf8(payload)
            .map_err(|error| Failure::reject("payload-not-utf8", format!("the payload is not text: {error}")))
    }

    /// Event time, milliseconds since 1970-01-01T00:00:00Z. Needs [`Reads::METADATA`](crate::Reads).
    pub fn timestamp_ms(&self) -> i64 {
        self.metadata(&self.columns.timestamps)
    }

    /// The source's partition it came from. Needs [`Reads::METADATA`](crate::Reads).
    pub fn partition(&self) -> u32 {
        self.metadata(&self.columns.partitions)
    }

    /// Its place in that partition. Needs [`Reads::METADATA`](crate::Reads).
    pub fn offset(&self) -> u64 {
        self.metadata(&self.columns.offsets)
    }

    /// Name of the source it comes from.
    pub fn source(&self) -> &'a str {
        &self.columns.source
    }

    /// Wall-clock time of the call, milliseconds since 1970-01-01T00:00:00Z.
    pub fn now_ms(&self) -> u64 {
        self.columns.now
    }

    fn metadata<T: Copy>(&self, column: &[T]) -> T {
        match column.get(self.row as usize) {
            Some(&value) => value,
            None => not_read("METADATA"),
        }
    }

    #[inline]
    fn span(&self, column: &'a [u32], index: usize, reads: &str) -> Option<&'a [u8]> {
        let Some(&[start, len]) = column.get(index * 2..index * 2 + 2) else { not_read(reads) };
        if start == NONE {
            return None;
        }
        Some(&self.columns.arena[start as usize..start as usize + len as usize])
    }
}

#[cold]
fn not_read(reads: &str) -> ! {
    panic!("this plugin does not say that it reads this: add Reads::{reads} to READS");
}

#[cold]
fn payload_null() -> Failure {
    Failure::reject("payload-null", "the payload is null")
}

#[cold]
fn not_json(error: serde_json::Error) -> Failure {
    let what = if error.is_data() { "the payload is not as expected" } else { "the payload is not json" };
    Failure::reject("payload-not-json", format!("{what}: {error}"))
}

#[cold]
fn not_utf8(error: std::str::Utf8Error) -> Failure {
    Failure::reject("payload-not-json", format!("the payload is not json: {error}"))
}
