//! `raw`: a payload is the bytes as they are.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    CodecSpec, DecodeError, Decoder, DecoderConfig, EncodeError, Encoder, Ends, FrameMeta, Framing,
    no_payload,
};
use crate::config::parse;
use crate::message::{BatchBuilder, MessageRef, Span};

pub const SPEC: CodecSpec = CodecSpec {
    name: "raw",
    schema: || schemars::schema_for!(Raw),
    example: "codec = \"raw\"",
    decoder: |value, _| Ok(Arc::new(parse::<Raw>(value)?)),
    encoder: |value, _| Ok(Arc::new(parse::<Raw>(value)?)),
};

/// Bytes as they are: a whole file or request body is one payload. Written, payloads follow each
/// other with nothing between them; keys and headers are not written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Raw {}

impl DecoderConfig for Raw {
    fn framing(&self) -> Framing {
        Framing::Whole
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(AsItIs)
    }
}

/// A frame is a payload.
pub(super) struct AsItIs;

impl Decoder for AsItIs {
    fn decode(
        &mut self,
        _bytes: &[u8],
        frame: Span,
        meta: &FrameMeta<'_>,
        out: &mut BatchBuilder,
    ) -> Result<(), DecodeError> {
        out.push(frame, meta.key, meta.headers, meta.timestamp_ms, meta.position);
        Ok(())
    }
}

impl Encoder for Raw {
    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(message.payload().ok_or_else(no_payload)?);
        Ok(())
    }

    fn ends(&self) -> Ends {
        Ends::Unmarked
    }

    fn media_type(&self) -> &'static str {
        "application/octet-stream"
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decode, encode, payload};

    #[test]
    fn bytes_stay_as_they_are() {
        for bytes in [&b""[..], b"a\r\nb\n", b"\xff\x00"] {
            assert_eq!(decode("raw", "{}", bytes).unwrap()[0].payload.as_deref(), Some(bytes));
            assert_eq!(encode("raw", "{}", &payload(bytes)).unwrap(), bytes);
        }
    }
}
