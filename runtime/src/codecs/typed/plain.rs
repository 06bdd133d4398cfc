//! `msgpack` and `cbor`: formats that need no schema.

use std::sync::Arc;

use millstream_formats::{Error, Value, cbor, msgpack};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Convert, Payload, Reads, Writes, encode};
use crate::codecs::raw::AsItIs;
use crate::codecs::{CodecSpec, Conversion, Decoder, DecoderConfig, EncodeError, Encoder, Ends, Framing};
use crate::config::{Parsed, parse};
use crate::message::MessageRef;

pub const MSGPACK: CodecSpec = CodecSpec {
    name: "msgpack",
    schema: || schemars::schema_for!(Msgpack),
    example: "codec = \"msgpack\"",
    decoder: |value| Ok(msgpack(value)?),
    encoder: |value| Ok(msgpack(value)?),
};

pub const CBOR: CodecSpec = CodecSpec {
    name: "cbor",
    schema: || schemars::schema_for!(Cbor),
    example: "codec = \"cbor\"",
    decoder: |value| Ok(cbor(value)?),
    encoder: |value| Ok(cbor(value)?),
};

/// MessagePack, one value a message. Plugins see JSON, or what `payload` says. See `docs/formats.md` for
/// what becomes of which type.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Msgpack {
    /// What plugins see of a message.
    #[serde(default)]
    payload: Payload,
}

/// CBOR (RFC 8949), one data item a message. Plugins see JSON, or what `payload` says. See
/// `docs/formats.md` for what becomes of which type.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cbor {
    /// What plugins see of a message.
    #[serde(default)]
    payload: Payload,
}

fn msgpack(value: serde_json::Value) -> Parsed<Arc<Plain>> {
    let format = Functions { decode: msgpack::decode, encode: msgpack::encode };
    Ok(Arc::new(Plain {
        format,
        media_type: "application/msgpack",
        payload: parse::<Msgpack>(value)?.payload,
    }))
}

fn cbor(value: serde_json::Value) -> Parsed<Arc<Plain>> {
    let format = Functions { decode: cbor::decode, encode: cbor::encode };
    Ok(Arc::new(Plain { format, media_type: "application/cbor", payload: parse::<Cbor>(value)?.payload }))
}

struct Plain {
    format: Functions,
    media_type: &'static str,
    payload: Payload,
}

#[derive(Clone, Copy)]
struct Functions {
    decode: fn(&[u8]) -> Result<Value, Error>,
    encode: fn(&Value, &mut Vec<u8>) -> Result<(), Error>,
}

impl Reads for Functions {
    fn decode(&self, bytes: &[u8]) -> Result<Value, Error> {
        (self.decode)(bytes)
    }
}

impl Writes for Functions {
    fn encode(&self, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        let before = out.len();
        (self.encode)(value, out).inspect_err(|_| out.truncate(before))
    }
}

impl DecoderConfig for Plain {
    fn framing(&self) -> Framing {
        Framing::Whole
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(AsItIs)
    }

    fn conversion(&self) -> Option<Arc<dyn Conversion>> {
        Some(Arc::new(Convert { format: self.format, payload: self.payload }))
    }
}

impl Encoder for Plain {
    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode(&self.format, self.payload, message, out)
    }

    fn ends(&self) -> Ends {
        Ends::Unmarked
    }

    fn media_type(&self) -> &'static str {
        self.media_type
    }
}
