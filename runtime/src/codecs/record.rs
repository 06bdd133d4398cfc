//! `record`: a whole message, with its key, headers and time, as one JSON object.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::json::{describe, write_string};
use super::{CodecSpec, DecodeError, Decoder, DecoderConfig, EncodeError, Encoder, Ends, FrameMeta, Framing};
use crate::config::parse;
use crate::message::{BatchBuilder, HeaderSpan, MessageRef, Span};

pub const SPEC: CodecSpec = CodecSpec {
    name: "record",
    schema: || schemars::schema_for!(Record),
    example: "codec = \"record\"",
    decoder: |value, _| Ok(Arc::new(parse::<Record>(value)?)),
    encoder: |value, _| Ok(Arc::new(parse::<Record>(value)?)),
};

/// A whole message a line, as a JSON object: `payload`, a string (JSON in it is quoted) or null;
/// `key`, a string; `headers`, an object of strings, or an array of `[name, value]` where names
/// repeat; `timestamp`, ISO 8601 or milliseconds since 1970. All but `payload` may be missing. For
/// bytes that are not UTF-8 stand `payload_base64`, `key_base64`, and `{"base64": "..."}` as the
/// value of a header. Any message can be written so, and reads as it was.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Record {}

/// The decoder of this codec, which has no settings.
pub fn record_decoder() -> Box<dyn Decoder> {
    Record {}.decoder()
}

/// The encoder of this codec, which has no settings.
pub fn record_encoder() -> impl Encoder {
    Record {}
}

/// A message as this codec writes it.
///
/// # Errors
/// It cannot be written; any message can.
pub fn record_of(message: &MessageRef<'_>) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
    let mut text = Vec::new();
    record_encoder().encode(message, &mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Puts the object or the list that a payload's text holds in place of the text, so that people can
/// read it; false if it holds neither.
pub fn take_apart(payload: &mut serde_json::Value) -> bool {
    use serde_json::Value::{Array, Object};
    let inner = payload.as_str().and_then(|text| serde_json::from_str(text).ok());
    match inner {
        Some(inner @ (Object(_) | Array(_))) => {
            *payload = inner;
            true
        }
        _ => false,
    }
}

impl DecoderConfig for Record {
    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn frame_is_payload(&self) -> bool {
        false
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(RecordDecoder { headers: Vec::new() })
    }
}

struct RecordDecoder {
    headers: Vec<HeaderSpan>,
}

impl Decoder for RecordDecoder {
    fn decode(
        &mut self,
        bytes: &[u8],
        frame: Span,
        meta: &FrameMeta<'_>,
        out: &mut BatchBuilder,
    ) -> Result<(), DecodeError> {
        let refuse = |error: String| {
            DecodeError(format!("not a record: {error}; codec \"json\" takes any JSON, \"lines\" any text"))
        };
        // serde would also take an array of the fields in their order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(refuse("expected an object".into()));
        }
        let fields: Fields<'_> = serde_json::from_slice(bytes).map_err(|error| refuse(describe(&error)))?;
        let payload = match (fields.payload, fields.payload_base64) {
            (Some(_), Some(_)) => return Err(both("payload")),
            (Some(payload), None) => payload.map(Value::from),
            (None, Some(payload)) => Some(Value::Owned(payload.0)),
            (None, None) => {
                return Err(DecodeError(
                    "not a record: there is no `payload`; write `\"payload\":null` for a message without one"
                        .into(),
                ));
            }
        };
        let key = match (fields.key, fields.key_base64) {
            (Some(_), Some(_)) => return Err(both("key")),
            (Some(key), None) => Some(Value::from(key)),
            (None, key) => key.map(|key| Value::Owned(key.0)),
        };

        let mut place = |value: Value<'_>| match value {
            // Without escapes it is found as it is in the frame.
            Value::Borrowed(text) => {
                let start = text.as_ptr() as usize - bytes.as_ptr() as usize;
                Span::new(frame.arena(), frame.start() + start as u32, text.len() as u32)
            }
            Value::Owned(value) => out.copy(&value),
        };
        let payload = payload.map_or(Span::ABSENT, &mut place);
        let key = key.map_or(meta.key, &mut place);
        let headers = match fields.headers {
            Some(Headers(headers)) => {
                self.headers.clear();
                self.headers.extend(
                    headers
                        .into_iter()
                        .map(|(name, value)| HeaderSpan { name: place(name.into()), value: place(value.0) }),
                );
                &self.headers
            }
            None => meta.headers,
        };
        let timestamp_ms = fields.timestamp.map_or(meta.timestamp_ms, |timestamp| timestamp.0);
        out.push(payload, key, headers, timestamp_ms, meta.position);
        Ok(())
    }
}

fn both(name: &str) -> DecodeError {
    DecodeError(format!("not a record: there are both `{name}` and `{name}_base64`; remove one"))
}

impl Encoder for Record {
    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(b'{');
        if let Some(key) = message.key() {
            write_member("key", key, out);
            out.push(b',');
        }
        if message.headers().len() > 0 {
            out.extend_from_slice(b"\"headers\":");
            write_headers(message, out);
            out.push(b',');
        }
        match message.payload() {
            Some(payload) => write_member("payload", payload, out),
            None => out.extend_from_slice(b"\"payload\":null"),
        }
        out.extend_from_slice(b",\"timestamp\":");
        let timestamp = message.timestamp_ms();
        match jiff::Timestamp::from_millisecond(timestamp) {
            Ok(timestamp) => out.extend_from_slice(format!("\"{timestamp:.3}\"").as_bytes()),
            // Beyond the year 9999.
            Err(_) => out.extend_from_slice(timestamp.to_string().as_bytes()),
        }
        out.push(b'}');
        Ok(())
    }

    fn ends(&self) -> Ends {
        Ends::LineBreaks
    }

    fn media_type(&self) -> &'static str {
        "application/json"
    }
}

/// Appends `"name":"text"`, or `"name_base64":"..."` if the bytes are not UTF-8.
fn write_member(name: &str, bytes: &[u8], out: &mut Vec<u8>) {
    match str::from_utf8(bytes) {
        Ok(text) => {
            out.extend_from_slice(format!("\"{name}\":").as_bytes());
            write_string(text, out);
        }
        Err(_) => {
            out.extend_from_slice(format!("\"{name}_base64\":\"{}\"", STANDARD.encode(bytes)).as_bytes());
        }
    }
}

fn write_headers(message: &MessageRef<'_>, out: &mut Vec<u8>) {
    let mut names: Vec<&[u8]> = message.headers().map(|(name, _)| name).collect();
    names.sort_unstable();
    let repeat = names.windows(2).any(|pair| pair[0] == pair[1]);
    let (open, between, close) = if repeat { ("[[", "],[", "]]") } else { ("{", ",", "}") };
    out.extend_from_slice(open.as_bytes());
    for (index, (name, value)) in message.headers().enumerate() {
        if index > 0 {
            out.extend_from_slice(between.as_bytes());
        }
        // A name is UTF-8, see `HeaderSpan`.
        write_string(&String::from_utf8_lossy(name), out);
        out.push(if repeat { b',' } else { b':' });
        match str::from_utf8(value) {
            Ok(text) => write_string(text, out),
            Err(_) => {
                out.extend_from_slice(format!("{{\"base64\":\"{}\"}}", STANDARD.encode(value)).as_bytes());
            }
        }
    }
    out.extend_from_slice(close.as_bytes());
}

/// A record as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "null_or_text")]
    payload: Option<Option<Text<'a>>>,
    payload_base64: Option<Base64>,
    #[serde(borrow)]
    key: Option<Text<'a>>,
    key_base64: Option<Base64>,
    #[serde(borrow)]
    headers: Option<Headers<'a>>,
    timestamp: Option<Timestamp>,
}

/// Tells null from missing.
fn null_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Text<'de>>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Bytes that stand in the frame as they are, or had to be made.
enum Value<'a> {
    Borrowed(&'a str),
    Owned(Vec<u8>),
}

impl<'a> From<Text<'a>> for Value<'a> {
    fn from(text: Text<'a>) -> Value<'a> {
        match text.0 {
            Cow::Borrowed(text) => Value::Borrowed(text),
            Cow::Owned(text) => Value::Owned(text.into_bytes()),
        }
    }
}

/// A string, borrowed if it has no escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct Strings;

        impl<'de> Visitor<'de> for Strings {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string (JSON stands in it as text, quoted)")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Strings)
    }
}

struct Base64(Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64, D::Error> {
        let text = Text::deserialize(deserializer)?;
        STANDARD
            .decode(text.0.as_bytes())
            .map(Base64)
            .map_err(|error| de::Error::custom(format!("not base64 (standard alphabet, padded): {error}")))
    }
}

struct Timestamp(i64);

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        struct Times;

        impl Visitor<'_> for Times {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a time such as \"2026-01-31T12:00:00Z\", or whole milliseconds since 1970-01-01T00:00:00Z",
                )
            }

            fn visit_i64<E>(self, ms: i64) -> Result<Timestamp, E> {
                Ok(Timestamp(ms))
            }

            fn visit_u64<E: de::Error>(self, ms: u64) -> Result<Timestamp, E> {
                i64::try_from(ms)
                    .map(Timestamp)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(ms), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse::<jiff::Timestamp>()
                    .map(|timestamp| Timestamp(timestamp.as_millisecond()))
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Times)
    }
}

struct Headers<'a>(Vec<(Text<'a>, HeaderValue<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Headers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Headers<'a>, D::Error> {
        struct ObjectOrPairs;

        impl<'de> Visitor<'de> for ObjectOrPairs {
            type Value = Headers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers as an object of strings or an array of [name, value]")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers<'de>, A::Error> {
                let mut headers = Vec::new();
                while let Some(header) = map.next_entry()? {
                    headers.push(header);
                }
                Ok(Headers(headers))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pairs: A) -> Result<Headers<'de>, A::Error> {
                let mut headers = Vec::new();
                while let Some(header) = pairs.next_element()? {
                    headers.push(header);
                }
                Ok(Headers(headers))
            }
        }

        deserializer.deserialize_any(ObjectOrPairs)
    }
}

struct HeaderValue<'a>(Value<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for HeaderValue<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HeaderValue<'a>, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Bytes {
            base64: Base64,
        }

        struct TextOrBytes;

        impl<'de> Visitor<'de> for TextOrBytes {
            type Value = HeaderValue<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the value of a header as a string or as {\"base64\": \"...\"}")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<HeaderValue<'de>, E> {
                Ok(HeaderValue(Value::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<HeaderValue<'de>, E> {
                Ok(HeaderValue(Value::Owned(text.as_bytes().to_vec())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HeaderValue<'de>, A::Error> {
                let bytes = Bytes::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(HeaderValue(Value::Owned(bytes.base64.0)))
            }
        }

        deserializer.deserialize_any(TextOrBytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decode, encode};
    use crate::message::Message;
    use proptest::prelude::*;

    fn read(text: &str) -> Message {
        decode("record", "{}", text.as_bytes()).unwrap().remove(0)
    }

    fn header(name: &str, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (name.as_bytes().to_vec(), value.to_vec())
    }

    #[test]
    fn a_record_is_a_whole_message() {
        let text = r#"{"key":"k","headers":{"a":"1","b\n":"\u00e4","c":{"base64":"/w=="}},"payload":"{\"x\":1}","timestamp":"2026-01-31T13:00:00.123+01:00"}"#;
        let message = Message {
            payload: Some(br#"{"x":1}"#.to_vec()),
            key: Some(b"k".to_vec()),
            headers: vec![header("a", b"1"), header("b\n", "ä".as_bytes()), header("c", b"\xff")],
            timestamp_ms: 1_769_860_800_123,
        };
        assert_eq!(read(text), message);
        assert_eq!(
            String::from_utf8(encode("record", "{}", &message).unwrap()).unwrap(),
            r#"{"key":"k","headers":{"a":"1","b\n":"ä","c":{"base64":"/w=="}},"payload":"{\"x\":1}","timestamp":"2026-01-31T12:00:00.123Z"}"#
        );
    }

    #[test]
    fn names_that_repeat_make_an_array_of_pairs() {
        let message = Message {
            payload: Some(b"\xff".to_vec()),
            key: Some(b"\xfe".to_vec()),
            headers: vec![header("a", b"1"), header("A", b"2"), header("a", b"3")],
            timestamp_ms: 0,
        };
        let text = r#"{"key_base64":"/g==","headers":[["a","1"],["A","2"],["a","3"]],"payload_base64":"/w==","timestamp":"1970-01-01T00:00:00.000Z"}"#;
        assert_eq!(String::from_utf8(encode("record", "{}", &message).unwrap()).unwrap(), text);
        assert_eq!(read(text), message);
    }

    #[test]
    fn what_is_missing_comes_from_the_source() {
        let message = read(r#"{"payload":null}"#);
        assert_eq!(message, Message { timestamp_ms: 17, ..Message::default() });
        assert_eq!(read(r#"{"payload":"","timestamp":-5,"key":null,"headers":[]}"#).timestamp_ms, -5);
    }

    #[test]
    fn what_is_no_record_is_refused_with_name_and_place() {
        for (text, what) in [
            (r#"{"payload":"x","colour":1}"#, "unknown field `colour`, expected one of `payload`,"),
            (r#"{"payload":"x","payload":"y"}"#, "duplicate field `payload` at column 24"),
            (
                r#"{"payload":{"x":1}}"#,
                "invalid type: map, expected a string (JSON stands in it as text, quoted) at",
            ),
            (r#"{"key":"k"}"#, "no `payload`; write `\"payload\":null`"),
            (r#"{"payload":"x","payload_base64":"eA=="}"#, "both `payload` and `payload_base64`"),
            (r#"{"payload":"x","key":"a","key_base64":"eA=="}"#, "both `key` and `key_base64`"),
            (r#"{"payload_base64":"x"}"#, "not base64 (standard alphabet, padded)"),
            (r#"{"payload":"","timestamp":"yesterday"}"#, "\"yesterday\", expected a time such as"),
            (r#"{"payload":"","timestamp":1.5}"#, "floating point `1.5`, expected a time such as"),
            (r#"{"payload":"","headers":{"a":1}}"#, "expected the value of a header as a string"),
            (r#"{"payload":"","headers":[["a"]]}"#, "at column"),
            (r#"{"payload":"","headers":{"a":{"base64":"/w==","x":1}}}"#, "unknown field `x`"),
            (r#"["x",null,null,null,null,1]"#, "expected an object"),
            ("plain", "expected an object"),
            ("{", "EOF while parsing an object at column 1"),
        ] {
            let error = decode("record", "{}", text.as_bytes()).unwrap_err();
            assert!(error.starts_with("not a record: ") && error.contains(what), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_message_reads_as_it_was_written(
            payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..8)),
            key in proptest::option::of(".{0,8}"),
            headers in proptest::collection::vec(("[a-cä\"]{0,2}", proptest::collection::vec(any::<u8>(), 0..4)), 0..5),
            timestamp_ms in any::<i64>(),
        ) {
            let message = Message {
                payload,
                key: key.map(String::into_bytes),
                headers: headers.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
                timestamp_ms,
            };
            let written = encode("record", "{}", &message).unwrap();
            prop_assert!(!written.contains(&b'\n'));
            prop_assert_eq!(decode("record", "{}", &written).unwrap(), vec![message]);
        }
    }
}
