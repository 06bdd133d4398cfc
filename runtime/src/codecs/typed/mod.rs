//! Codecs of formats with types: `avro`, `protobuf`, `msgpack`, `cbor`, and `json` with a registry.
//!
//! A payload is brought from its format into what plugins see ([`Payload`]), and back, through the values of
//! the crate `millstream-formats`. Reading does so in the lanes ([`Conversion`]), so that a dead letter holds
//! the bytes as they were read (P5) and its replay is converted again.

mod avro;
mod container;
mod files;
pub mod json;
mod plain;
mod protobuf;
mod references;
mod registered;
mod registry;
mod subject;

use std::sync::Arc;

use millstream_formats::{self as formats, ExtraFields, Value};
use schemars::JsonSchema;
use serde::Deserialize;

pub use avro::SPEC as AVRO;
pub use plain::{CBOR, MSGPACK};
pub use protobuf::SPEC as PROTOBUF;

pub use registry::{Names, RegistryKeys};
pub use subject::{Subject, only_for};

use super::raw::AsItIs;
use super::{
    Around, Conversion, DecodeError, Decoder, DecoderConfig, EncodeError, Encoder, Ends, Framing, Needs,
    no_payload,
};
use crate::config::Parsed;
use crate::message::MessageRef;

/// What plugins see of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Payload {
    /// JSON. What it has no type for is a string, see `docs/formats.md`.
    #[default]
    Json,
    /// CBOR, which keeps the types.
    Cbor,
    /// MessagePack, which keeps most of them.
    Msgpack,
}

/// What becomes of fields that a schema does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Extra {
    /// The message becomes a dead letter whose reason names the field.
    #[default]
    Reject,
    /// They are left out.
    Drop,
}

impl From<Extra> for ExtraFields {
    fn from(extra: Extra) -> ExtraFields {
        match extra {
            Extra::Reject => ExtraFields::Reject,
            Extra::Drop => ExtraFields::Drop,
        }
    }
}

impl Payload {
    fn write(self, value: &Value, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match self {
            Payload::Json => formats::json::encode(value, out),
            Payload::Cbor => formats::cbor::encode(value, out),
            Payload::Msgpack => formats::msgpack::encode(value, out),
        }
        .map_err(|error| DecodeError(format!("what it holds cannot be written for the plugins: {error}")))
    }

    fn read(self, message: &MessageRef<'_>) -> Result<Value, EncodeError> {
        let payload = message.payload().ok_or_else(no_payload)?;
        match self {
            Payload::Json => formats::json::decode(payload),
            Payload::Cbor => formats::cbor::decode(payload),
            Payload::Msgpack => formats::msgpack::decode(payload),
        }
        .map_err(|error| EncodeError(format!("the payload cannot be read: {error}")))
    }
}

/// Reads a format that says all itself, or whose schema is known.
trait Reads: Send + Sync {
    fn decode(&self, bytes: &[u8]) -> Result<Value, millstream_formats::Error>;
}

/// Writes such a format.
trait Writes: Send + Sync {
    /// Appends the value; nothing on an error.
    fn encode(&self, value: &Value, out: &mut Vec<u8>) -> Result<(), millstream_formats::Error>;

    /// As [`Encoder::head`].
    fn head(&self) -> Option<Vec<u8>> {
        None
    }

    /// As [`Encoder::ends`].
    fn ends(&self) -> Ends {
        Ends::Unmarked
    }
}

/// A codec whose messages are converted in the lanes; in a test they are given as plugins see them.
pub fn converted(
    around: Around<'_>,
    conversion: impl FnOnce() -> Parsed<Arc<dyn Conversion>>,
) -> Parsed<Arc<dyn DecoderConfig>> {
    let conversion = if around.is_for_tests { None } else { Some(conversion()?) };
    Ok(Arc::new(Converted(conversion)))
}

struct Converted(Option<Arc<dyn Conversion>>);

impl DecoderConfig for Converted {
    fn framing(&self) -> Framing {
        Framing::Whole
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(AsItIs)
    }

    fn conversion(&self) -> Option<Arc<dyn Conversion>> {
        self.0.clone()
    }
}

/// In a test of a pipeline, in place of a format whose schema is in a registry.
struct Unchecked;

impl Writes for Unchecked {
    fn encode(&self, _value: &Value, _out: &mut Vec<u8>) -> Result<(), millstream_formats::Error> {
        Ok(())
    }
}

/// From a format into what plugins see.
struct Convert<F> {
    format: F,
    payload: Payload,
}

impl<F: Reads> Conversion for Convert<F> {
    fn needs(&self, _payload: &[u8]) -> Option<Needs<'_>> {
        None
    }

    fn convert(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<bool, DecodeError> {
        let Some(payload) = message.payload() else { return Ok(false) };
        let value = self.format.decode(payload).map_err(|error| DecodeError(error.to_string()))?;
        self.payload.write(&value, out).map(|()| true)
    }
}

/// From what plugins see into a format.
struct Encoding<F> {
    format: F,
    payload: Payload,
    media_type: &'static str,
}

impl<F: Writes> Encoder for Encoding<F> {
    fn head(&self) -> Option<Vec<u8>> {
        self.format.head()
    }

    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let value = self.payload.read(message)?;
        self.format.encode(&value, out).map_err(|error| EncodeError(error.to_string()))
    }

    fn ends(&self) -> Ends {
        self.format.ends()
    }

    fn media_type(&self) -> &'static str {
        self.media_type
    }
}

#[cfg(test)]
mod tests;
