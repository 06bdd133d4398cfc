//! Both ways between the formats here and those that others have: Python's `protobuf`, `msgpack`, `cbor2` and
//! `fastavro`, and Java's Avro.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millstream_formats::model::{Timestamp, Unit, Value};
use millstream_formats::protobuf::Descriptors;
use millstream_formats::{cbor, json, msgpack};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;

#[path = "other_implementations/avro.rs"]
mod avro;
mod generated;
#[path = "../../../tests/services/installed.rs"]
mod installed;
#[path = "../../../tests/services/python.rs"]
mod python;

use generated::{schemas, values};

const JAVA: &str =
    "this test needs Java 17 with its compiler, and Maven: apt-get install openjdk-17-jdk-headless maven";

/// What answers in Python, in a virtual environment that has the packages.
fn python() -> Command {
    let mut command = Command::new(python::venv("formats-python", &here().join("requirements.txt")));
    command.arg(here().join("other.py"));
    command
}

/// What answers in Java.
fn java() -> Command {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    let install = || {
        let wanted =
            [include_str!("other_implementations/pom.xml"), include_str!("other_implementations/Other.java")];
        installed::once("formats-java", &wanted.concat(), |folder| {
            let libs = folder.join("libs");
            let mut maven = Command::new("mvn");
            maven.args(["--batch-mode", "--quiet", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
            maven.arg("--file").arg(here().join("pom.xml"));
            installed::run(maven.arg(format!("-DoutputDirectory={}", libs.display())), JAVA);
            let mut javac = Command::new("javac");
            javac.args(["--release", "17", "-cp", &format!("{}/*", libs.display()), "-d"]);
            javac.arg(folder.join("classes")).arg(here().join("Other.java"));
            installed::run(&mut javac, JAVA);
        })
    };
    let folder = INSTALLED.get_or_init(install);
    let mut command = Command::new("java");
    command.arg("-XX:+UseSerialGC").arg("-cp");
    command.arg(format!("{0}/libs/*:{0}/classes", folder.display())).arg("Other");
    command
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/other_implementations")
}

/// What another one answers to each case.
fn ask(mut command: Command, cases: &[serde_json::Value]) -> Vec<serde_json::Value> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it was installed");
    let mut input = child.stdin.take().expect("it is piped");
    let text: String = cases.iter().map(|case| format!("{case}\n")).collect();
    // It answers while it is still asked.
    let asking = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    asking.join().expect("no panic").expect("it reads all");
    let answers = String::from_utf8(output.stdout).expect("JSON");
    let answers: Vec<_> = answers.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), cases.len());
    answers
}

fn some<T: std::fmt::Debug>(count: usize, strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = TestRunner::default();
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a value").current()).collect()
}

fn bytes_of(answer: &serde_json::Value) -> Vec<u8> {
    STANDARD.decode(answer.as_str().expect("a text")).expect("base64")
}

fn encoded(
    encode: fn(&Value, &mut Vec<u8>) -> Result<(), millstream_formats::Error>,
    value: &Value,
) -> Vec<u8> {
    let mut out = Vec::new();
    encode(value, &mut out).unwrap_or_else(|error| panic!("{value:?}: {error}"));
    out
}

/// What a value is, in words that both sides have. Python has one type of floats and one of maps.
fn described(value: &Value) -> serde_json::Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let float = |number: f64| match number.is_nan() {
        true => json!(["float", "nan"]),
        false => json!(["float", hex(&number.to_be_bytes())]),
    };
    let map = |entries: Vec<serde_json::Value>| json!(["map", entries]);
    match value {
        Value::Null => json!(["null"]),
        Value::Bool(flag) => json!(["bool", flag]),
        Value::Int(number) => json!(["int", number.to_string()]),
        Value::UInt(number) => json!(["int", number.to_string()]),
        Value::Float(number) => float(f64::from(*number)),
        Value::Double(number) => float(*number),
        Value::Text(text) => json!(["text", text]),
        Value::Bytes(bytes) => json!(["bytes", hex(bytes)]),
        Value::Decimal(number) if number.scale == 0 && number.digits() > 19 => {
            json!(["int", number.unscaled.to_string()])
        }
        Value::Decimal(number) => json!(["decimal", number.unscaled.to_string(), number.scale]),
        Value::Date(days) => json!(["date", days]),
        Value::Timestamp(at) => json!(["timestamp", at.seconds.to_string(), at.nanos]),
        Value::Uuid(bytes) => json!(["uuid", hex(bytes)]),
        Value::List(list) => json!(["list", list.iter().map(described).collect::<Vec<_>>()]),
        Value::Record(fields) => {
            map(fields.iter().map(|(name, value)| json!([["text", name], described(value)])).collect())
        }
        Value::Map(entries) => {
            map(entries.iter().map(|(key, value)| json!([described(key), described(value)])).collect())
        }
        other => panic!("{} has no word", other.kind()),
    }
}

/// Leaves that Python has too: a timestamp there has so many digits.
fn leaf(unit: Unit) -> BoxedStrategy<Value> {
    let leaf = values::leaf().prop_filter("it is none of Python's", |value| {
        matches!(
            value,
            Value::Null
                | Value::Bool(_)
                | Value::Int(_)
                | Value::UInt(_)
                | Value::Float(_)
                | Value::Double(_)
                | Value::Text(_)
                | Value::Bytes(_)
        )
    });
    let timestamp = values::timestamp().prop_map(move |at| {
        let nanos = at.nanos - at.nanos % unit.nanos();
        Value::Timestamp(Timestamp { nanos, unit: if nanos == 0 { Unit::Seconds } else { unit }, ..at })
    });
    prop_oneof![8 => leaf, 1 => timestamp].boxed()
}

/// Both ways of a format without a schema.
fn both_ways(
    format: &str,
    values: &[Value],
    encode: fn(&Value, &mut Vec<u8>) -> Result<(), millstream_formats::Error>,
    decode: fn(&[u8]) -> Result<Value, millstream_formats::Error>,
) {
    let cases: Vec<_> = values
        .iter()
        .map(|value| {
            let bytes = STANDARD.encode(encoded(encode, value));
            json!({"format": format, "bytes": bytes, "description": described(value)})
        })
        .collect();
    for ((value, case), answer) in values.iter().zip(&cases).zip(ask(python(), &cases)) {
        assert_eq!(answer["description"], case["description"], "what Python reads of {value:?}");
        let bytes = bytes_of(&answer["bytes"]);
        let read = decode(&bytes).unwrap_or_else(|error| panic!("{error}: {bytes:x?}"));
        assert_eq!(described(&read), case["description"], "what is read of Python's");
    }
}

/// Those without a branch of a union, which is a map.
fn without_unions(value: &Value) -> bool {
    match value {
        Value::Union(_) => false,
        Value::List(list) => list.iter().all(without_unions),
        Value::Record(fields) => fields.iter().all(|(_, value)| without_unions(value)),
        Value::Map(entries) => entries.iter().all(|(_, value)| without_unions(value)),
        _ => true,
    }
}

#[test]
fn msgpack_goes_both_ways() {
    let values = values::nested(leaf(Unit::Nanos)).prop_filter("a union", without_unions);
    both_ways("msgpack", &some(1500, values), msgpack::encode, msgpack::decode);
}

#[test]
fn cbor_goes_both_ways() {
    let tagged = prop_oneof![
        values::decimal(1 << 90),
        values::date(),
        any::<[u8; 16]>().prop_map(Value::Uuid),
        any::<i128>().prop_map(|number| Value::from_big(number.into())),
    ];
    let leaf = prop_oneof![3 => leaf(Unit::Micros), 1 => tagged].boxed();
    let values = values::nested(leaf).prop_filter("a union", without_unions);
    both_ways("cbor", &some(1500, values), cbor::encode, cbor::decode);
}

#[test]
fn protobuf_goes_both_ways() {
    let schemas = some(60, schemas::schema());
    let values: Vec<_> = schemas.iter().map(|schema| some(8, schema.value())).collect();
    let messages: Vec<_> = schemas
        .iter()
        .map(|schema| {
            Descriptors::from_sources(&schema.text(), &[]).unwrap().message("generated.M0").unwrap()
        })
        .collect();
    let encoded = |at: usize, value: &Value| {
        let mut out = Vec::new();
        messages[at].encode(value, &mut out).unwrap_or_else(|error| panic!("{value:?}: {error}"));
        out
    };
    let cases: Vec<_> = schemas
        .iter()
        .enumerate()
        .map(|(at, schema)| {
            let of_schema: Vec<_> = values[at]
                .iter()
                .map(|value| {
                    let mut text = Vec::new();
                    json::encode(value, &mut text).unwrap();
                    json!({"bytes": STANDARD.encode(encoded(at, value)), "json": String::from_utf8(text).unwrap()})
                })
                .collect();
            let set = STANDARD.encode(schemas::descriptor_set(&schema.text()));
            json!({"format": "protobuf", "set": set, "values": of_schema})
        })
        .collect();
    for (at, answers) in ask(python(), &cases).iter().enumerate() {
        for (value, answer) in values[at].iter().zip(answers.as_array().expect("one for each")) {
            let schema = schemas[at].text();
            let same = |read: &Value, way: &str| {
                assert_eq!(sorted(read), sorted(value), "{way}, of {schema}");
            };
            let again = messages[at].decode(&bytes_of(&answer["again"])).unwrap();
            same(&again, "what is written, read by Python and written again");
            let built = messages[at].decode(&bytes_of(&answer["bytes"])).unwrap();
            same(&built, "what Python makes of the same as JSON");
            let text = answer["json"].as_str().expect("a text");
            let back = encoded(at, &json::decode(text.as_bytes()).unwrap());
            same(&messages[at].decode(&back).unwrap(), "what Python reads, as its JSON");
        }
    }
}

/// As text, with maps in the order of their keys: there they have none. A record may be a `Struct`, which is
/// a map.
fn sorted(value: &Value) -> String {
    let parts = |mut parts: Vec<String>| {
        parts.sort_unstable();
        format!("{{{}}}", parts.join(", "))
    };
    match value {
        Value::List(list) => format!("{:?}", list.iter().map(sorted).collect::<Vec<_>>()),
        Value::Record(fields) => {
            parts(fields.iter().map(|(name, value)| format!("{name:?}: {}", sorted(value))).collect())
        }
        Value::Map(entries) => {
            parts(entries.iter().map(|(key, value)| format!("{key:?}: {}", sorted(value))).collect())
        }
        other => format!("{other:?}"),
    }
}
