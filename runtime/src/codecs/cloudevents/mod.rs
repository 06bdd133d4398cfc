//! `cloudevents`: CloudEvents 1.0 (<https://github.com/cloudevents/spec>) on the outside, the standard envelope
//! within.
//!
//! An [`Event`] stands between the three forms: [`structured`] and [`binary`] are those of CloudEvents,
//! [`envelope`] is what plugins see. The data of an event goes through as the bytes that it is, so that no
//! number loses a digit; that is why the crate `cloudevents-sdk`, which makes a tree of it, is not used.

mod binary;
mod envelope;
mod event;
mod members;
mod structured;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use self::event::Event;
use super::raw::AsItIs;
use super::typed::{Extra, only_for};
use super::{
    Around, Body, CodecSpec, Conversion, DecodeError, Decoder, DecoderConfig, EncodeError, Encoder, Ends,
    Framing, GivenHeader, Needs, Protocol, no_payload,
};
use crate::config::problem::Problem;
use crate::config::{Parsed, parse};
use crate::message::MessageRef;

pub const SPEC: CodecSpec = CodecSpec {
    name: "cloudevents",
    schema: || schemars::schema_for!(CloudEvents),
    example: "codec = \"cloudevents\"",
    decoder,
    encoder: |value, _| Ok(Arc::new(parse::<CloudEvents>(value)?)),
};

/// CloudEvents 1.0, over HTTP and Kafka in structured and in binary mode, elsewhere one event in JSON a message
/// (in files, a line). Plugins see the standard envelope; `docs/formats.md` says what becomes of which
/// attribute, both ways.
///
/// Read, a message tells its mode by its headers. What is no CloudEvent becomes a dead letter that says why.
/// Headers that are part of an event are not headers of the message any more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CloudEvents {
    /// For writing: where the attributes of an event stand.
    #[serde(default)]
    mode: Mode,
    /// For writing: what becomes of fields of an envelope that no CloudEvent can have: `metadata` whose name
    /// is not of lower-case letters and digits, or whose value is not a text, a boolean or an integer of 32
    /// bits; and fields that the standard does not know.
    #[serde(default)]
    extra_fields: Extra,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// In the payload, with the data: JSON (`application/cloudevents+json`).
    #[default]
    Structured,
    /// In headers; the payload is the data. Only for sinks whose messages have headers: `http`, a message a
    /// request, and `kafka`.
    Binary,
}

/// The media type of an event in JSON.
const STRUCTURED: &str = "application/cloudevents+json";

/// As it is sent.
const STRUCTURED_UTF8: &str = "application/cloudevents+json; charset=UTF-8";

const CONTENT_TYPE: &str = "content-type";

/// Whether a header belongs to an event, in whichever mode, and not to the message around it.
fn is_of_event(name: &[u8]) -> bool {
    let is_attribute =
        name.get(..3).is_some_and(|prefix| PREFIXES.iter().any(|of| prefix.eq_ignore_ascii_case(of)));
    is_attribute || name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
}

/// What the names of headers with attributes begin with: in HTTP, and in Kafka.
const PREFIXES: [&[u8]; 2] = [b"ce-", b"ce_"];

impl Protocol {
    fn prefix(self) -> &'static [u8] {
        match self {
            Protocol::Http => PREFIXES[0],
            Protocol::Kafka => PREFIXES[1],
        }
    }
}

fn decoder(value: serde_json::Value, around: Around<'_>) -> Parsed<Arc<dyn DecoderConfig>> {
    let config = parse::<CloudEvents>(value)?;
    let given =
        [("mode", config.mode != Mode::default()), ("extra_fields", config.extra_fields != Extra::default())];
    let mut problems: Vec<Problem> = Vec::new();
    only_for("writing", &given, &mut problems);
    if problems.is_empty() {
        Ok(Arc::new(Reading { is_for_tests: around.is_for_tests }))
    } else {
        Err(problems)
    }
}

struct Reading {
    is_for_tests: bool,
}

impl DecoderConfig for Reading {
    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn takes_whole_bodies(&self) -> bool {
        true
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(AsItIs)
    }

    fn conversion(&self) -> Option<Arc<dyn Conversion>> {
        (!self.is_for_tests).then(|| Arc::new(ToEnvelope) as Arc<dyn Conversion>)
    }
}

/// From events to envelopes.
struct ToEnvelope;

impl Conversion for ToEnvelope {
    fn needs(&self, _payload: &[u8]) -> Option<Needs<'_>> {
        None
    }

    fn convert(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<bool, DecodeError> {
        let event = match of_message(message) {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(false),
            Err(why) => return Err(DecodeError(format!("no CloudEvent: {why}"))),
        };
        envelope::write(&event, message.timestamp_ms(), out).map_err(DecodeError)?;
        Ok(true)
    }

    fn own_headers(&self) -> Option<fn(&[u8]) -> bool> {
        Some(is_of_event)
    }
}

/// The event of a message; none if it is a tombstone.
fn of_message<'a>(message: &MessageRef<'a>) -> Result<Option<Event<'a>>, String> {
    if let Some(protocol) = binary::protocol(message)? {
        return binary::read(message, protocol).map(Some);
    }
    let Some(payload) = message.payload() else { return Ok(None) };
    structured::read(payload).map(Some)
}

impl Encoder for CloudEvents {
    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // Headers that nobody takes; both protocols can have the same ones, but for the names.
        self.encode_with_headers(message, Protocol::Kafka, out, &mut Vec::new()).map(|_| ())
    }

    fn encode_with_headers(
        &self,
        message: &MessageRef<'_>,
        protocol: Protocol,
        out: &mut Vec<u8>,
        headers: &mut Vec<GivenHeader>,
    ) -> Result<Body, EncodeError> {
        let payload = message.payload().ok_or_else(no_payload)?;
        let wrong =
            |why: String| EncodeError(format!("the payload cannot be written as a CloudEvent: {why}"));
        let event = envelope::read(payload, self.extra_fields).map_err(wrong)?;
        match self.mode {
            Mode::Structured => {
                structured::write(&event, out);
                // In HTTP the sink has it from `media_type`.
                if protocol == Protocol::Kafka {
                    headers.push(GivenHeader::new(CONTENT_TYPE, STRUCTURED_UTF8));
                }
                Ok(Body::Written)
            }
            Mode::Binary => binary::write(&event, protocol, out, headers).map_err(wrong),
        }
    }

    fn needs_headers(&self) -> bool {
        self.mode == Mode::Binary
    }

    fn own_headers(&self) -> Option<fn(&[u8]) -> bool> {
        Some(is_of_event)
    }

    fn ends(&self) -> Ends {
        match self.mode {
            Mode::Structured => Ends::LineBreaks,
            Mode::Binary => Ends::Unmarked,
        }
    }

    fn media_type(&self) -> &'static str {
        STRUCTURED_UTF8
    }
}

#[cfg(test)]
mod tests;
