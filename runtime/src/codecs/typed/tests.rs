use std::path::Path;
use std::sync::Arc;

use millstream_formats::avro::Container;
use millstream_formats::json;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::codecs::tests::payload;
use crate::codecs::{Around, CODECS, DecoderConfig, Encoder};
use crate::config::problem::Problem;
use crate::message::{BatchBuilder, Position};

const AVSC: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"long"},{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;

const NEWER: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"long"},{"name":"when","aliases":["at"],"type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"note","type":"string","default":"-"}]}"#;

const ADDRESS: &str = r#"{"type":"record","name":"Address","namespace":"shop","fields":[]}"#;

const PROTO: &str = "syntax = \"proto3\"; package shop; import \"google/protobuf/timestamp.proto\";\n\
    message Order { int64 id = 1; google.protobuf.Timestamp at = 2; }\n";

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let files =
        [("order.avsc", AVSC), ("newer.avsc", NEWER), ("address.avsc", ADDRESS), ("order.proto", PROTO)];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn problems<T: ?Sized>(result: Result<Arc<T>, Vec<Problem>>) -> String {
    let problems = result.err().expect("it is refused");
    problems.iter().map(|problem| format!("{}: {}\n", problem.at, problem.message)).collect()
}

fn decoder(codec: &Json, base: &Path) -> Result<Arc<dyn DecoderConfig>, Vec<Problem>> {
    let (name, keys) = parts(codec);
    (CODECS.iter().find(|spec| spec.name == name).unwrap().decoder)(keys, around(base))
}

fn encoder(codec: &Json, base: &Path) -> Result<Arc<dyn Encoder>, Vec<Problem>> {
    let (name, keys) = parts(codec);
    (CODECS.iter().find(|spec| spec.name == name).unwrap().encoder)(keys, around(base))
}

fn around(base: &Path) -> Around<'_> {
    Around { base, is_for_tests: false }
}

fn parts(codec: &Json) -> (String, Json) {
    let mut keys = codec.as_object().unwrap().clone();
    let name = keys.remove("type").unwrap().as_str().unwrap().to_owned();
    (name, Json::Object(keys))
}

/// What plugins see of a message.
fn read(codec: &Json, base: &Path, message: &[u8]) -> Result<Vec<u8>, String> {
    let conversion = decoder(codec, base).map_err(|problems| format!("{problems:?}"))?.conversion().unwrap();
    assert!(conversion.needs(message).is_none());
    let mut out = Vec::new();
    let mut builder = BatchBuilder::new();
    builder.push_message(&payload(message), Position::default());
    let converted = conversion.convert(&builder.finish().message(0), &mut out);
    assert!(converted.map_err(|error| error.to_string())?);
    Ok(out)
}

fn write(codec: &Json, base: &Path, text: &[u8]) -> Result<Vec<u8>, String> {
    let encoder = encoder(codec, base).map_err(|problems| format!("{problems:?}"))?;
    let mut builder = BatchBuilder::new();
    builder.push_message(&payload(text), Position::default());
    let mut out = b"before".to_vec();
    let result = encoder.encode(&builder.finish().message(0), &mut out).map_err(|error| error.to_string());
    let written = out.split_off(6);
    assert!(result.is_ok() || written.is_empty(), "an error, and {written:?}");
    result.map(|()| written)
}

const SEEN: &[u8] = br#"{"id":9007199254740993,"at":"2026-01-31T12:00:00.500Z"}"#;

#[test]
fn what_is_written_is_read_in_every_format() {
    let folder = folder();
    let base = folder.path();
    for codec in [
        json!({ "type": "avro", "schema": "order.avsc" }),
        json!({ "type": "avro", "schema": "order.avsc", "framing": "single-object" }),
        json!({ "type": "protobuf", "files": ["order.proto"], "message": "shop.Order" }),
        json!({ "type": "msgpack" }),
        json!({ "type": "cbor" }),
    ] {
        let written = write(&codec, base, SEEN).unwrap();
        let expected = match codec["type"] == "protobuf" {
            // Its timestamps are in nanoseconds.
            true => String::from_utf8_lossy(SEEN).replace(".500Z", ".500000000Z").into_bytes(),
            false => SEEN.to_vec(),
        };
        assert_eq!(read(&codec, base, &written).unwrap(), expected, "{codec}");
        assert!(read(&codec, base, &written[..written.len() - 1]).is_err(), "{codec}");
        let longer = [&written[..], b"\0"].concat();
        assert!(read(&codec, base, &longer).is_err(), "{codec}");
        assert!(write(&codec, base, b"{]").unwrap_err().contains("the payload cannot be read: not JSON"));
    }
}

#[test]
fn blocks_of_files_are_compressed_as_it_is_configured() {
    let folder = folder();
    let base = folder.path();
    let mut codec = json!({ "type": "avro", "schema": "order.avsc", "framing": "container" });
    for compression in ["null", "deflate", "snappy", "zstandard"] {
        codec["compression"] = json!(compression);
        let head = encoder(&codec, base).unwrap().head().unwrap();
        assert!(String::from_utf8_lossy(&head).contains(compression), "{head:?}");
        let block = write(&codec, base, SEEN).unwrap();
        let values = Container::open(&head, None).unwrap().block(&block).unwrap();
        let mut seen = Vec::new();
        json::encode(&values[0], &mut seen).unwrap();
        assert_eq!((values.len(), seen.as_slice()), (1, SEEN));
    }
    codec["framing"] = json!("none");
    assert!(problems(encoder(&codec, base)).contains("/compression: only blocks of files are compressed"));
    assert!(problems(decoder(&codec, base)).contains("/compression: "));
}

#[test]
fn plugins_may_see_a_format_that_keeps_the_types() {
    let folder = folder();
    let base = folder.path();
    let avro = json!({ "type": "avro", "schema": "order.avsc" });
    let written = write(&avro, base, SEEN).unwrap();
    for payload in ["cbor", "msgpack"] {
        let mut codec = avro.clone();
        codec["payload"] = json!(payload);
        let seen = read(&codec, base, &written).unwrap();
        assert_ne!(seen, SEEN);
        assert_eq!(write(&codec, base, &seen).unwrap(), written);
    }
}

#[test]
fn messages_of_old_schemas_are_read_as_a_new_one() {
    let folder = folder();
    let base = folder.path();
    let seen_as_newer = r#"{"id":9007199254740993,"when":"2026-01-31T12:00:00.500Z","note":"-"}"#;
    let old =
        write(&json!({ "type": "avro", "schema": "order.avsc", "framing": "single-object" }), base, SEEN)
            .unwrap();
    let codec = json!({
        "type": "avro", "framing": "single-object", "schema": "newer.avsc",
        "other_schemas": ["order.avsc"], "reader_schema": "newer.avsc",
    });
    assert_eq!(String::from_utf8(read(&codec, base, &old).unwrap()).unwrap(), seen_as_newer);
    let unknown = json!({ "type": "avro", "framing": "single-object", "schema": "newer.avsc" });
    assert!(
        read(&unknown, base, &old).unwrap_err().contains("which none of `schema` and `other_schemas` has")
    );
}

#[test]
fn what_does_not_fit_names_the_field() {
    let folder = folder();
    let base = folder.path();
    let avro = json!({ "type": "avro", "schema": "order.avsc" });
    assert!(write(&avro, base, br#"{"id":"x","at":0}"#).unwrap_err().starts_with("/id: "));
    assert!(write(&avro, base, br#"{"id":1,"at":0,"b":1}"#).unwrap_err().starts_with("/b: "));
    let mut dropping = avro.clone();
    dropping["extra_fields"] = json!("drop");
    assert_eq!(
        write(&dropping, base, br#"{"id":1,"at":0,"b":1}"#),
        write(&avro, base, br#"{"id":1,"at":0}"#)
    );
}

#[test]
fn mistakes_of_a_codec_name_the_key_and_the_remedy() {
    let folder = folder();
    let base = folder.path();
    let registry = json!({ "url": "http://127.0.0.1:1" });
    for (codec, problem) in [
        (json!({ "type": "avro" }), ": there is no schema"),
        (json!({ "type": "avro", "schema": "none.avsc" }), "/schema: cannot read "),
        (json!({ "type": "avro", "schema": "order.proto" }), "/schema: order.proto: no Avro schema"),
        (
            json!({ "type": "avro", "framing": "confluent" }),
            "/framing: messages name their schema by its id in a registry, and there is none",
        ),
        (
            json!({ "type": "avro", "registry": registry, "schema": "order.avsc" }),
            "/schema: messages come with the schema",
        ),
        (
            json!({ "type": "avro", "schema": "order.avsc", "topic": "x" }),
            "/topic: `topic` is only for writing; remove it",
        ),
        (
            json!({ "type": "avro", "registry": { "url": "http://example.org" } }),
            "/registry/url: schemas and credentials would go unencrypted",
        ),
        (
            json!({ "type": "avro", "registry": { "url": "ftp://example.org" } }),
            "/registry/url: \"ftp\" is not spoken here",
        ),
        (
            json!({ "type": "avro", "registry": { "url": "http://127.0.0.1", "user": "u" } }),
            "/registry: the credentials are neither",
        ),
        (
            json!({ "type": "avro", "schema": "newer.avsc", "reader_schema": "order.proto" }),
            "/reader_schema: ",
        ),
        (json!({ "type": "protobuf", "files": ["order.proto"] }), ": it is not said which message it is"),
        (
            json!({ "type": "protobuf", "files": ["order.proto"], "message": "shop.X" }),
            "/message: there is no message \"shop.X\"",
        ),
        (json!({ "type": "protobuf", "files": ["none.proto"], "message": "shop.X" }), "/files: "),
        (
            json!({ "type": "protobuf", "registry": registry, "message": "X" }),
            "/message: messages with a `registry`",
        ),
        (json!({ "type": "json", "topic": "x" }), "/topic: `topic` is only for writing"),
    ] {
        let told = problems(decoder(&codec, base));
        assert!(told.contains(problem), "{codec}: {told}");
    }
    for (codec, problem) in [
        (json!({ "type": "avro", "registry": registry }), ": the subject of the schema is not known"),
        (
            json!({ "type": "avro", "registry": registry, "topic": "t", "register": true }),
            "/register: there is no schema to register",
        ),
        (
            json!({ "type": "avro", "registry": registry, "topic": "t", "subject_names": "record" }),
            "/subject_names: the name of the record is not known",
        ),
        (
            json!({ "type": "avro", "schema": "order.avsc", "reader_schema": "order.avsc" }),
            "/reader_schema: `reader_schema` is only for reading",
        ),
        (json!({ "type": "json", "topic": "x" }), "/topic: without a `registry` there is no use for `topic`"),
        (json!({ "type": "protobuf", "registry": registry }), ": the subject of the schema is not known"),
        (
            json!({
                "type": "avro", "registry": registry, "topic": "t", "schema": "order.avsc", "references": ["address.avsc"],
            }),
            "/references/0: the registry is to be told which version",
        ),
        (
            json!({ "type": "protobuf", "files": ["order.proto"], "message": "shop.Order", "register": true }),
            "/register: there is no schema in a file to write by with a `registry`",
        ),
        (
            json!({
                "type": "protobuf", "registry": registry, "topic": "t", "files": ["order.proto", "other.proto"],
            }),
            "/files/1: a schema of a registry is one file",
        ),
        (
            json!({
                "type": "protobuf", "registry": registry, "topic": "t", "files": ["order.proto"],
                "message": "google.protobuf.Timestamp",
            }),
            "/message: the message \"google.protobuf.Timestamp\" is of google/protobuf/timestamp.proto",
        ),
    ] {
        let told = problems(encoder(&codec, base));
        assert!(told.contains(problem), "{codec}: {told}");
    }
}
