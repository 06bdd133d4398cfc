//! `json`: a payload is one JSON text.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::typed::{self, Names, RegistryKeys, Subject, converted, only_for};
use super::{
    CodecSpec, DecodeError, Decoder, DecoderConfig, EncodeError, Encoder, Ends, FrameMeta, Framing,
    no_payload,
};
use crate::config::problem::Problem;
use crate::config::{Parsed, parse};
use crate::message::{BatchBuilder, MessageRef, Span};

pub const SPEC: CodecSpec = CodecSpec {
    name: "json",
    schema: || schemars::schema_for!(Json),
    example: "codec = \"json\"",
    decoder: |value, around| {
        let json = parse::<Json>(value)?.for_reading()?;
        match json.registry.as_ref().filter(|_| !around.is_for_tests) {
            Some(registry) => converted(around, || typed::json::reading(registry, around.base)),
            None => Ok(Arc::new(json)),
        }
    },
    encoder: |value, around| {
        let json = parse::<Json>(value)?.for_writing()?;
        match json.registry.as_ref().filter(|_| !around.is_for_tests) {
            Some(registry) => typed::json::writing(registry, &json.written(), around.base),
            None => Ok(Arc::new(json)),
        }
    },
};

/// One JSON text a line (NDJSON); what is not JSON becomes a dead letter. Written, a text over
/// several lines is brought onto one; numbers keep their digits. Keys and headers are not written.
///
/// With a `registry` a message is not a line: it names a JSON Schema by its id (Confluent's wire format), and
/// one that does not fit its schema becomes a dead letter with what is wrong where.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Json {
    /// Where schemas are registered.
    registry: Option<RegistryKeys>,
    /// For writing with a `registry`: how its subject is named; the name of a record is the `title` of its
    /// schema.
    #[serde(default)]
    subject_names: Names,
    /// For writing with a `registry`: the topic in the name of the subject.
    topic: Option<String>,
    /// For writing with a `registry`: the subject itself, whatever `subject_names` says.
    subject: Option<String>,
    /// For writing with a `registry`: file of the schema to write by, relative to the pipeline file; by
    /// default the newest version of the subject.
    schema: Option<PathBuf>,
    /// For writing with a `registry`: register `schema` in the subject if it is not there.
    #[serde(default)]
    register: bool,
}

impl Json {
    /// Which keys for writing are given.
    fn given(&self) -> [(&'static str, bool); 5] {
        [
            ("topic", self.topic.is_some()),
            ("subject", self.subject.is_some()),
            ("subject_names", self.subject_names != Names::default()),
            ("schema", self.schema.is_some()),
            ("register", self.register),
        ]
    }

    fn for_reading(self) -> Parsed<Json> {
        let mut problems = Vec::new();
        only_for("writing", &self.given(), &mut problems);
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    fn for_writing(self) -> Parsed<Json> {
        let without = self.given().into_iter().filter(|(_, given)| *given && self.registry.is_none());
        let problems: Vec<Problem> = without
            .map(|(name, _)| {
                Problem::new(format!("/{name}"), format!("without a `registry` there is no use for `{name}`"))
                    .help("registry = { url = \"https://registry.example\" }")
            })
            .collect();
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    fn written(&self) -> typed::json::Written<'_> {
        let (subject, topic) = (self.subject.as_deref(), self.topic.as_deref());
        typed::json::Written {
            subject: Subject { subject, topic, names: self.subject_names },
            schema: self.schema.as_deref(),
            register: self.register,
        }
    }
}

impl DecoderConfig for Json {
    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Validated)
    }
}

struct Validated;

impl Decoder for Validated {
    fn decode(
        &mut self,
        bytes: &[u8],
        frame: Span,
        meta: &FrameMeta<'_>,
        out: &mut BatchBuilder,
    ) -> Result<(), DecodeError> {
        validate(bytes).map_err(|error| {
            DecodeError(format!("not JSON: {error}; codec \"lines\" takes any text, \"raw\" any bytes"))
        })?;
        out.push(frame, meta.key, meta.headers, meta.timestamp_ms, meta.position);
        Ok(())
    }
}

impl Encoder for Json {
    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let payload = message.payload().ok_or_else(no_payload)?;
        let text = validate(payload).map_err(|error| {
            EncodeError(format!("the payload is not JSON: {error}; codec \"record\" can write it"))
        })?;
        if memchr::memchr2(b'\n', b'\r', payload).is_some() {
            compact(text, out);
        } else {
            out.extend_from_slice(payload);
        }
        Ok(())
    }

    fn ends(&self) -> Ends {
        Ends::LineBreaks
    }

    fn media_type(&self) -> &'static str {
        "application/json"
    }
}

/// The bytes as text, if they are one JSON text; otherwise what is wrong and where.
fn validate(bytes: &[u8]) -> Result<&str, String> {
    // Skipping a value, as here, serde_json does not look into strings.
    let text =
        str::from_utf8(bytes).map_err(|error| format!("the byte at {} is not UTF-8", error.valid_up_to()))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| describe(&error))?;
    Ok(text)
}

/// What is wrong and where, the line only where there are several.
pub(super) fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.strip_suffix(&format!(" at line 1 column {}", error.column())) {
        Some(what) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

/// Appends a string, quoted.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("neither a string nor a Vec can fail");
}

/// Appends a valid JSON text without the white space between its tokens.
pub(super) fn compact(text: &str, out: &mut Vec<u8>) {
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decode, encode, payload};
    use super::*;

    #[test]
    fn a_payload_is_the_text_as_it_was() {
        let text = br#" {"n": 1.10000000000000000001, "n": 123456789012345678901234567890} "#;
        assert_eq!(decode("json", "{}", text).unwrap()[0].payload.as_deref(), Some(&text[..]));
        assert_eq!(encode("json", "{}", &payload(text)).unwrap(), text);
    }

    #[test]
    fn what_is_not_json_is_refused_with_the_place() {
        for (bytes, what) in [
            (&br#"{"a":1,}"#[..], "not JSON: key must be a string at column 8"),
            (b"{\"a\":\n}", "at line 2 column 1"),
            (b"\"\xff\"", "the byte at 1 is not UTF-8"),
            (b"{} {}", "trailing characters at column 4"),
            (b"01", "invalid number at column 2"),
            (b" ", "EOF while parsing a value"),
        ] {
            let error = decode("json", "{}", bytes).unwrap_err();
            assert!(error.contains(what) && error.contains("\"lines\""), "{error}");
            let error = encode("json", "{}", &payload(bytes)).unwrap_err();
            assert!(error.contains("the payload is not JSON") && error.contains("\"record\""), "{error}");
        }
        assert!(decode("json", "{}", "[".repeat(200_000).as_bytes()).is_err());
    }

    #[test]
    fn a_text_over_several_lines_is_brought_onto_one() {
        let text = b"{\r\n  \"a b\": [1.0, 2e5 ,\t-0],\n  \"q\\\"\\\\\": \" \\\\\" }\n";
        assert_eq!(encode("json", "{}", &payload(text)).unwrap(), br#"{"a b":[1.0,2e5,-0],"q\"\\":" \\"}"#);
    }

    proptest::proptest! {
        #[test]
        fn compact_is_what_serde_says(strings in proptest::collection::vec(".{0,8}", 0..5)) {
            let value = serde_json::json!({ "strings": strings, "n": [1, {"x": null}] });
            let mut out = Vec::new();
            compact(&serde_json::to_string_pretty(&value).unwrap(), &mut out);
            proptest::prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }
}
