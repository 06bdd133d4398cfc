//! What the tests of sinks share.

use std::path::Path;
use std::sync::Arc;

use super::SinkContext;
use crate::codecs::{EncodeError, Encoder, Ends};
use crate::message::{Batch, BatchBuilder, Message, MessageRef, Position};

/// Writes the payload as it is; refuses the payload `unencodable`.
pub struct Plain {
    pub head: Option<&'static str>,
    pub media_type: &'static str,
}

impl Encoder for Plain {
    fn head(&self) -> Option<Vec<u8>> {
        self.head.map(|head| head.as_bytes().to_vec())
    }

    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match message.payload() {
            Some(b"unencodable") => Err(EncodeError("it says so itself".to_owned())),
            payload => {
                out.extend_from_slice(payload.unwrap_or_default());
                Ok(())
            }
        }
    }

    fn ends(&self) -> Ends {
        match self.media_type {
            "application/octet-stream" => Ends::Unmarked,
            "text/csv" => Ends::QuotedLineBreaks,
            _ => Ends::LineBreaks,
        }
    }

    fn media_type(&self) -> &'static str {
        self.media_type
    }
}

pub fn context(base: impl AsRef<Path>) -> SinkContext {
    SinkContext {
        pipeline: "test".to_owned(),
        name: "out".to_owned(),
        base: base.as_ref().to_owned(),
        codec: Arc::new(Plain { head: None, media_type: "application/json" }),
        transactions: None,
    }
}

/// Messages of these payloads, each of an order of its own.
pub fn batch(payloads: &[&str]) -> Batch {
    let messages: Vec<_> = payloads.iter().enumerate().map(|(n, payload)| (n as u64, *payload)).collect();
    batch_of_orders(&messages)
}

/// Messages of these orders and payloads.
pub fn batch_of_orders(messages: &[(u64, &str)]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (index, (order, payload)) in messages.iter().enumerate() {
        let message = Message { payload: Some(payload.as_bytes().to_vec()), ..Message::default() };
        let number = index as u64 + 1;
        builder.push_message(&message, Position { partition: 0, offset: number, record: number });
        builder.last_row_mut().expect("just pushed").order = *order;
    }
    builder.finish()
}
