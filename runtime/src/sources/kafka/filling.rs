//! Records of Kafka made into a batch.

use std::collections::HashMap;

use rdkafka::message::{BorrowedMessage, Headers, Message};

use super::super::{ReadBatch, ReadLimit, RejectedRow};
use crate::codecs::{DecodeError, Decoder, FrameMeta};
use crate::config::units::ByteSize;
use crate::message::{BatchBuilder, HeaderSpan, Position, Span};

/// The batch that comes next.
#[derive(Default)]
pub struct Filling {
    builder: BatchBuilder,
    rejected: Vec<RejectedRow>,
    /// The offset behind the last record of each partition in it.
    behind: HashMap<u32, i64>,
}

impl Filling {
    pub fn is_empty(&self) -> bool {
        self.behind.is_empty()
    }

    pub fn is_full(&self, limit: ReadLimit) -> bool {
        self.builder.len() >= limit.rows || self.builder.bytes() >= limit.bytes
    }

    /// The batch, and the offset behind the last record of each partition in it.
    pub fn take(&mut self) -> (ReadBatch, HashMap<u32, i64>) {
        let Filling { builder, rejected, behind } = std::mem::take(self);
        (ReadBatch { batch: builder.finish(), rejected, replays: Vec::new() }, behind)
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
        let builder = &mut self.builder;
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
        if payload.len() > max_message_bytes {
            let (limit, size) = (ByteSize(max_message_bytes as u64), payload.len());
            let first = builder.copy(&payload[..max_message_bytes]);
            let reason = format!("{size} bytes are more than `max_message_bytes` ({limit})");
            self.reject(first, &meta, "too-large", reason);
            return;
        }
        let frame = builder.copy(payload);
        if let Err(DecodeError(reason)) = decoder.decode(payload, frame, &meta, builder) {
            self.reject(frame, &meta, "decode-error", reason);
        }
    }

    fn reject(&mut self, span: Span, meta: &FrameMeta<'_>, code: &'static str, reason: String) {
        let row = self.builder.push(span, meta.key, meta.headers, meta.timestamp_ms, meta.position);
        self.rejected.push(RejectedRow { row, code, reason });
    }
}
