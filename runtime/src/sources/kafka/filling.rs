//! Records of Kafka made into a batch.

use std::collections::HashMap;

use rdkafka::message::{BorrowedMessage, Headers, Message};

use super::super::rows::Rows;
use super::super::{ReadBatch, ReadLimit};
use crate::codecs::{Decoder, FrameMeta};
use crate::message::{HeaderSpan, Position, Span};

/// The batch that comes next.
#[derive(Default)]
pub struct Filling {
    rows: Rows,
    /// The offset behind the last record of each partition in it.
    behind: HashMap<u32, i64>,
}

impl Filling {
    pub fn is_empty(&self) -> bool {
        self.behind.is_empty()
    }

    pub fn is_full(&self, limit: ReadLimit) -> bool {
        self.rows.builder.len() >= limit.rows || self.rows.builder.bytes() >= limit.bytes
    }

    /// The batch, and the offset behind the last record of each partition in it.
    pub fn take(&mut self) -> (ReadBatch, HashMap<u32, i64>) {
        let Filling { rows, behind } = std::mem::take(self);
        (rows.finish(), behind)
    }

    /// Adds a record of the partition with this number.
    pub fn add(
        &mut self,
        record: &BorrowedMessage<'_>,
        number: u32,
        decoder: &mut dyn Decoder,
        max_message_bytes: usize,
    ) {
        let offset = record.offset();
        let position = Position { partition: number, offset: offset as u64 + 1, record: offset as u64 + 1 };
        self.behind.insert(number, offset + 1);
        let builder = &mut self.rows.builder;
        let key = record.key().map_or(Span::ABSENT, |key| builder.copy(key));
        let headers: Vec<HeaderSpan> = match record.headers() {
            None => Vec::new(),
            Some(headers) => headers
                .iter()
                .map(|header| HeaderSpan {
                    name: builder.copy(header.key.as_bytes()),
                    value: header.value.map_or(Span::ABSENT, |value| builder.copy(value)),
                })
                .collect(),
        };
        let timestamp_ms =
            record.timestamp().to_millis().unwrap_or_else(|| jiff::Timestamp::now().as_millisecond());
        let meta = FrameMeta { key, headers: &headers, timestamp_ms, position };
        let Some(payload) = record.payload() else {
            // A tombstone is no text of any codec.
            builder.push(Span::ABSENT, key, &headers, timestamp_ms, position);
            return;
        };
        self.rows.add(decoder, payload, &meta, max_message_bytes);
    }
}
