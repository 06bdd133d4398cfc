//! What sources read, made into a batch: messages, and rows that are none.

use super::{DECODE_ERROR, ReadBatch, RejectedRow};
use crate::codecs::{Decoder, FrameMeta};
use crate::config::units::ByteSize;
use crate::message::{BatchBuilder, Span};

/// A batch that is being filled.
#[derive(Default)]
pub(super) struct Rows {
    pub builder: BatchBuilder,
    rejected: Vec<RejectedRow>,
}

impl Rows {
    pub fn finish(self) -> ReadBatch {
        ReadBatch { batch: self.builder.finish(), rejected: self.rejected, replays: Vec::new() }
    }

    /// Adds a row that is no message.
    pub fn reject(&mut self, payload: Span, meta: &FrameMeta<'_>, code: &'static str, reason: String) {
        let row = self.builder.push(payload, meta.key, meta.headers, meta.timestamp_ms, meta.position);
        self.rejected.push(RejectedRow { row, code, reason });
    }

    /// Decodes a frame whose bytes are those of the span, or rejects it.
    pub fn decode(&mut self, decoder: &mut dyn Decoder, bytes: &[u8], frame: Span, meta: &FrameMeta<'_>) {
        if let Err(error) = decoder.decode(bytes, frame, meta, &mut self.builder) {
            self.reject(frame, meta, DECODE_ERROR, error.to_string());
        }
    }

    /// Rejects bytes that are more than a message may have, of which the row has the first; false if they
    /// are not.
    pub fn reject_too_large(&mut self, bytes: &[u8], meta: &FrameMeta<'_>, max_message_bytes: usize) -> bool {
        let Some((first, _)) = bytes.split_at_checked(max_message_bytes).filter(|(_, rest)| !rest.is_empty())
        else {
            return false;
        };
        let (limit, size) = (ByteSize(max_message_bytes as u64), bytes.len());
        let first = self.builder.copy(first);
        self.reject(
            first,
            meta,
            "too-large",
            format!("{size} bytes are more than `max_message_bytes` ({limit})"),
        );
        true
    }

    /// Adds a copy of what is a whole message.
    #[cfg(any(feature = "aws", feature = "kafka"))]
    pub fn add(
        &mut self,
        decoder: &mut dyn Decoder,
        bytes: &[u8],
        meta: &FrameMeta<'_>,
        max_message_bytes: usize,
    ) {
        if !self.reject_too_large(bytes, meta, max_message_bytes) {
            let frame = self.builder.copy(bytes);
            self.decode(decoder, bytes, frame, meta);
        }
    }
}
