//! Avro object container files, read: a frame is a block, which holds many messages.

use millstream_formats::avro::{Container, Schema};

use super::Payload;
use crate::codecs::{DecodeError, Decoder, FrameMeta};
use crate::message::{BatchBuilder, Position, Span};

/// Of one file.
pub struct ContainerDecoder {
    reader: Option<Schema>,
    payload: Payload,
    container: Option<Container>,
    start: u64,
    settled: u64,
    last_record: Option<u64>,
}

impl ContainerDecoder {
    pub fn new(reader: Option<Schema>, payload: Payload) -> ContainerDecoder {
        ContainerDecoder { reader, payload, container: None, start: 0, settled: 0, last_record: None }
    }

    /// Where the message with this number in its block stands. Offsets grow with each message, so that each
    /// has one of its own; the last one has the end of the block, from where reading goes on. (Values that take
    /// less than a byte each, of which the last ones of a block share one, are rare.)
    fn position(&self, block: Position, number: u64, count: u64) -> Position {
        let offset = match number + 1 == count {
            true => block.offset,
            false => (self.start + number + 1).min(block.offset - 1),
        };
        Position { offset, record: block.record + number, ..block }
    }
}

impl Decoder for ContainerDecoder {
    fn has_head(&self) -> bool {
        true
    }

    fn head(&mut self, head: &[u8]) -> Result<(), DecodeError> {
        let container = Container::open(head, self.reader.as_ref());
        self.container = Some(container.map_err(|error| DecodeError(error.to_string()))?);
        Ok(())
    }

    fn at(&mut self, start: u64, settled: u64) {
        (self.start, self.settled) = (start, settled);
    }

    fn last_record(&self) -> Option<u64> {
        self.last_record
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        _frame: Span,
        meta: &FrameMeta<'_>,
        out: &mut BatchBuilder,
    ) -> Result<(), DecodeError> {
        self.last_record = Some(meta.position.record);
        let container = self.container.as_ref().ok_or_else(|| DecodeError("the file has no head".into()))?;
        let values = container.block(bytes).map_err(|error| DecodeError(error.to_string()))?;
        let count = values.len() as u64;
        let mut payloads = Vec::with_capacity(values.len());
        let mut text = Vec::new();
        for (number, value) in (0u64..).zip(&values) {
            let from = text.len();
            self.payload
                .write(value, &mut text)
                .map_err(|error| DecodeError(format!("value {number} of the block: {error}")))?;
            payloads.push(from..text.len());
        }
        for (number, payload) in (0u64..).zip(payloads) {
            let position = self.position(meta.position, number, count);
            if position.offset > self.settled {
                let payload = out.copy(&text[payload]);
                out.push(payload, meta.key, meta.headers, meta.timestamp_ms, position);
            }
        }
        // The frame itself was counted as one.
        self.last_record = Some((meta.position.record + count).saturating_sub(1));
        Ok(())
    }
}
