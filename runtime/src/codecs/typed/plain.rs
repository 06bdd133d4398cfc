//! `msgpack` and `cbor`: formats that need no schema.

use std::sync::Arc;

use millstream_formats::{Error, Value, cbor, msgpack};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Convert, Encoding, Payload, Reads, Writes, converted};
use crate::codecs::{Around, CodecSpec, DecoderConfig};
use crate::config::{Parsed, parse};

pub const MSGPACK: CodecSpec = CodecSpec {
    name: "msgpack",
    schema: || schemars::schema_for!(Msgpack),
    example: "codec = \"msgpack\"",
    decoder: |value, around| decoder(MSGPACK_FORMAT, parse::<Msgpack>(value)?.payload, around),
    encoder: |value, _| {
        let payload = parse::<Msgpack>(value)?.payload;
        Ok(Arc::new(Encoding { format: MSGPACK_FORMAT, payload, media_type: "application/msgpack" }))
    },
};

pub const CBOR: CodecSpec = CodecSpec {
    name: "cbor",
    schema: || schemars::schema_for!(Cbor),
    example: "codec = \"cbor\"",
    decoder: |value, around| decoder(CBOR_FORMAT, parse::<Cbor>(value)?.payload, around),
    encoder: |value, _| {
        let payload = parse::<Cbor>(value)?.payload;
        Ok(Arc::new(Encoding { format: CBOR_FORMAT, payload, media_type: "application/cbor" }))
    },
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

const MSGPACK_FORMAT: Functions = Functions { decode: msgpack::decode, encode: msgpack::encode };

const CBOR_FORMAT: Functions = Functions { decode: cbor::decode, encode: cbor::encode };

fn decoder(format: Functions, payload: Payload, around: Around<'_>) -> Parsed<Arc<dyn DecoderConfig>> {
    converted(around, || Ok(Arc::new(Convert { format, payload })))
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
