//! `lines`: a payload is a line.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::raw::AsItIs;
use super::{CodecSpec, Decoder, DecoderConfig, EncodeError, Encoder, Ends, Framing, no_payload};
use crate::config::parse;
use crate::message::MessageRef;

pub const SPEC: CodecSpec = CodecSpec {
    name: "lines",
    schema: || schemars::schema_for!(Lines),
    example: "codec = \"lines\"",
    decoder: |value, _| Ok(Arc::new(parse::<Lines>(value)?)),
    encoder: |value, _| Ok(Arc::new(parse::<Lines>(value)?)),
};

/// One payload a line, whatever it holds; empty lines are skipped. A payload that is empty or holds
/// a line break cannot be written so and becomes a dead letter; keys and headers are not written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lines {}

impl DecoderConfig for Lines {
    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(AsItIs)
    }
}

impl Encoder for Lines {
    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let payload = message.payload().ok_or_else(no_payload)?;
        if payload.is_empty() {
            return Err(EncodeError(
                "the payload is empty, and an empty line is no message; codec \"record\" can write it".into(),
            ));
        }
        // A `\r` at the end would be taken for a part of the line break.
        let line_break =
            memchr::memchr(b'\n', payload).or_else(|| payload.ends_with(b"\r").then(|| payload.len() - 1));
        if let Some(at) = line_break {
            return Err(EncodeError(format!(
                "the payload has a line break at byte {at}, so it cannot stand on one line; \
                 use codec \"json\" if it is JSON, or \"record\""
            )));
        }
        out.extend_from_slice(payload);
        Ok(())
    }

    fn ends(&self) -> Ends {
        Ends::LineBreaks
    }

    fn media_type(&self) -> &'static str {
        "text/plain"
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decode, encode, payload};

    #[test]
    fn a_line_is_a_payload() {
        assert_eq!(
            decode("lines", "{}", b"a\rb \xff").unwrap()[0].payload.as_deref(),
            Some(&b"a\rb \xff"[..])
        );
        assert_eq!(encode("lines", "{}", &payload(b"a\rb \xff")).unwrap(), b"a\rb \xff");
    }

    #[test]
    fn what_cannot_stand_on_a_line_is_refused() {
        for (bytes, place) in [(&b"a\nb"[..], "at byte 1,"), (b"ab\r", "at byte 2,"), (b"", "is empty")] {
            let error = encode("lines", "{}", &payload(bytes)).unwrap_err();
            assert!(error.contains(place) && error.contains("\"record\""), "{error}");
        }
    }
}
