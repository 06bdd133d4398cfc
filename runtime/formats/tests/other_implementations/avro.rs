//! Avro: schemas, values, files and resolution, as Python's `fastavro` and Apache's own Java have them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millstream_formats::avro::{Compression, Container, Resolved, Schema, block, head, single};
use millstream_formats::model::{Branch, Value};
use millstream_formats::{ExtraFields, json};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{ask, bytes_of, java, python, some};
use crate::generated::avro;

/// What a value is, in words that both sides have; of a union with its branch or without.
fn described(value: &Value, with_branches: bool) -> Json {
    let inner = |value: &Value| described(value, with_branches);
    match value {
        Value::Union(Branch { name, value }) if with_branches => json!(["branch", name, inner(value)]),
        Value::Union(Branch { value, .. }) => inner(value),
        Value::Enum(symbol) => json!(["text", symbol.name]),
        Value::Decimal(number) => json!(["decimal", number.unscaled.to_string(), number.scale]),
        Value::Time(time) => json!(["time", time.nanos.to_string()]),
        Value::Timestamp(at) if at.is_local => json!(["local", at.seconds.to_string(), at.nanos]),
        Value::Interval(interval) => {
            let parts = [interval.months, interval.days, interval.millis];
            super::described(&Value::Bytes(parts.iter().flat_map(|part| part.to_le_bytes()).collect()))
        }
        Value::List(list) => json!(["list", list.iter().map(inner).collect::<Vec<_>>()]),
        Value::Record(fields) => {
            let entries = fields.iter().map(|(name, value)| json!([["text", name], inner(value)]));
            json!(["map", entries.collect::<Vec<_>>()])
        }
        Value::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| json!([inner(key), inner(value)]));
            json!(["map", entries.collect::<Vec<_>>()])
        }
        other => super::described(other),
    }
}

/// With the entries of maps, which have no order in Avro, in one.
fn sorted(description: &Json) -> Json {
    match description.as_array().map(Vec::as_slice) {
        Some([kind, Json::Array(entries)]) if kind == "map" || kind == "list" => {
            let mut entries: Vec<_> = entries
                .iter()
                .map(|entry| match kind == "map" {
                    true => json!([entry[0], sorted(&entry[1])]),
                    false => sorted(entry),
                })
                .collect();
            if kind == "map" {
                entries.sort_by_key(|entry| entry[0].to_string());
            }
            json!([kind, entries])
        }
        Some([kind, name, value]) if kind == "branch" => json!([kind, name, sorted(value)]),
        _ => description.clone(),
    }
}

fn encoded(schema: &Schema, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    schema
        .encode(value, ExtraFields::Reject, &mut out)
        .unwrap_or_else(|error| panic!("{error}: {value:?} of {}", schema.to_json()));
    out
}

/// A file of one block a value.
fn file(schema: &Schema, compression: Compression, values: &[Value]) -> Vec<u8> {
    let mut out = head(schema, compression);
    for value in values {
        block(schema, compression, value, ExtraFields::Reject, &mut out).unwrap();
    }
    out
}

/// The values of a file that another one wrote, whose marker is random.
fn values_of_file(file: &[u8]) -> Vec<Value> {
    let marker = &file[file.len() - 16..];
    let ends = (16..=file.len()).filter(|&end| &file[end - 16..end] == marker).collect::<Vec<_>>();
    let container = Container::open(&file[..ends[0]], None).unwrap();
    ends.windows(2).flat_map(|ends| container.block(&file[ends[0]..ends[1]]).unwrap()).collect()
}

/// Both ways of values, messages and files.
fn both_ways(ask: impl FnOnce(&[Json]) -> Vec<Json>, is_known: fn(&str) -> bool) {
    let generated =
        avro::schema().prop_filter("it is unknown there", move |schema| is_known(&schema.json.to_string()));
    let schemas = some(150, generated);
    let values: Vec<_> = schemas.iter().map(|schema| some(8, schema.value())).collect();
    let parsed: Vec<_> = schemas
        .iter()
        .map(|schema| {
            let text = schema.json.to_string();
            Schema::parse(&text, &[]).unwrap_or_else(|error| panic!("{error}: {text}"))
        })
        .collect();
    let cases: Vec<_> = (0..schemas.len())
        .map(|at| {
            let of_schema: Vec<_> = values[at]
                .iter()
                .map(|value| {
                    let bytes = encoded(&parsed[at], value);
                    let mut message = Vec::new();
                    parsed[at].encode_single(value, ExtraFields::Reject, &mut message).unwrap();
                    // What is decoded is encoded again, though not every branch has its name then.
                    let read = parsed[at].decode(&bytes).unwrap();
                    let again = parsed[at].decode(&encoded(&parsed[at], &read)).unwrap();
                    assert_eq!(described(&again, true), described(&read, true));
                    json!({
                        "bytes": STANDARD.encode(bytes),
                        "single": STANDARD.encode(message),
                        "description": described(value, true),
                    })
                })
                .collect();
            let compressions =
                [Compression::Null, Compression::Deflate, Compression::Snappy, Compression::Zstandard];
            let file = STANDARD.encode(file(&parsed[at], compressions[at % compressions.len()], &values[at]));
            json!({"format": "avro", "schema": schemas[at].json.to_string(), "values": of_schema, "file": file})
        })
        .collect();
    for (at, answer) in ask(&cases).iter().enumerate() {
        let schema = &schemas[at].json;
        let wanted: Vec<_> = values[at].iter().map(|value| sorted(&described(value, false))).collect();
        let same = |read: &[Value], way: &str| {
            let read: Vec<_> = read.iter().map(|value| sorted(&described(value, false))).collect();
            assert_eq!(read, wanted, "{way}, of {schema}");
        };
        let of_answers = |name: &str| {
            answer["values"].as_array().unwrap().iter().map(|one| one[name].clone()).collect::<Vec<_>>()
        };
        let theirs = |read: &[Json], way: &str| {
            let read: Vec<_> = read.iter().map(sorted).collect();
            assert_eq!(read, wanted, "{way}, of {schema}");
        };
        theirs(&of_answers("read"), "what they read");
        theirs(answer["file"].as_array().unwrap(), "what they read of a file");
        let bytes: Vec<_> = of_answers("bytes").iter().map(bytes_of).collect();
        let read = bytes.iter().map(|bytes| {
            parsed[at].decode(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:x?} of {schema}"))
        });
        same(&read.collect::<Vec<_>>(), "what they write");
        let fingerprint: String = parsed[at].fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(answer["fingerprint"], json!(fingerprint), "{schema}");
        if answer["values"][0].get("single").is_some() {
            theirs(&of_answers("read_single"), "what they read of a message");
            let messages: Vec<_> = of_answers("single").iter().map(bytes_of).collect();
            let read = messages.iter().map(|message| {
                let (fingerprint, rest) = single(message).unwrap();
                assert_eq!(fingerprint, parsed[at].fingerprint());
                parsed[at].decode(rest).unwrap()
            });
            same(&read.collect::<Vec<_>>(), "what they write as a message");
        }
        for codec in ["null", "deflate", "snappy", "zstandard", "bzip2", "xz"] {
            same(&values_of_file(&bytes_of(&answer["files"][codec])), &format!("their file by {codec}"));
        }
    }
}

#[test]
fn avro_goes_both_ways_with_fastavro() {
    // It has neither, and gives what they are made of.
    both_ways(
        |cases| ask(python(), cases),
        |schema| !schema.contains("nanos") && !schema.contains("big-decimal"),
    );
}

#[test]
fn avro_goes_both_ways_with_java() {
    both_ways(|cases| ask(java(), cases), |_| true);
}

/// Writer, reader, a value as JSON, and who does otherwise, for a reason that is said there.
fn pairs() -> Vec<(Json, Json, Json, &'static [&'static str])> {
    let record = |fields: Json| json!({"type": "record", "name": "r", "namespace": "n", "fields": fields});
    let one = |kind: Json| record(json!([{"name": "f", "type": kind}]));
    let mut pairs = Vec::new();
    let mut add = |writer: &Json, reader: &Json, value: Json, others: &'static [&'static str]| {
        pairs.push((writer.clone(), reader.clone(), value, others));
    };
    let numbers = ["int", "long", "float", "double"];
    for from in numbers {
        for to in numbers {
            add(&one(json!(from)), &one(json!(to)), json!({"f": 7}), &[]);
        }
    }
    for (from, to) in
        [("string", "bytes"), ("bytes", "string"), ("string", "int"), ("boolean", "int"), ("null", "int")]
    {
        let value = match from {
            "string" => json!("x"),
            "bytes" => json!("eHl6"),
            "boolean" => json!(true),
            _ => Json::Null,
        };
        add(&one(json!(from)), &one(json!(to)), json!({"f": value}), &[]);
    }
    let symbols = |symbols: &[&str], default: Option<&str>| {
        let mut json = json!({"type": "enum", "name": "e", "symbols": symbols});
        if let Some(default) = default {
            json["default"] = json!(default);
        }
        one(json)
    };
    let written = symbols(&["A", "B", "C"], None);
    add(&written, &symbols(&["C", "A"], None), json!({"f": "A"}), &[]);
    add(&written, &symbols(&["C", "A"], None), json!({"f": "B"}), &[]);
    add(&written, &symbols(&["C", "A"], Some("C")), json!({"f": "B"}), &[]);
    // Fields that are gone, new, renamed and in another order.
    let old = record(json!([{"name": "a", "type": "int"}, {"name": "b", "type": "string"}]));
    let value = json!({"a": 1, "b": "x"});
    let default = |kind: Json, default: Json| {
        record(json!([{"name": "b", "type": "string"}, {"name": "new", "type": kind, "default": default}]))
    };
    let inner = json!({"type": "record", "name": "i", "fields": [
        {"name": "x", "type": "int", "default": 5}, {"name": "y", "type": ["null", "int"], "default": null}]});
    for (kind, of) in [
        (json!("int"), json!(3)),
        (json!("double"), json!(1.5)),
        (json!("float"), json!(0.1)),
        (json!("string"), json!("d")),
        (json!("bytes"), json!("\u{ff}\u{0}")),
        (json!("boolean"), json!(true)),
        (json!(["null", "int"]), Json::Null),
        (json!(["int", "null"]), json!(9)),
        (json!({"type": "array", "items": "int"}), json!([1, 2])),
        (json!({"type": "map", "values": "long"}), json!({"k": 1})),
        (json!({"type": "enum", "name": "e", "symbols": ["A", "B"]}), json!("B")),
        (json!({"type": "fixed", "name": "x", "size": 2}), json!("\u{1}\u{fe}")),
        (json!({"type": "int", "logicalType": "date"}), json!(100)),
        (json!({"type": "long", "logicalType": "timestamp-millis"}), json!(1500)),
        (inner, json!({"x": 1, "y": null})),
    ] {
        // fastavro takes a default as it is in JSON: no float, no bytes and no timestamp.
        let text = kind.to_string();
        let is_raw = ["\"float", "\"bytes", "fixed", "logicalType"].iter().any(|name| text.contains(name));
        add(&old, &default(kind, of), value.clone(), if is_raw { &["fastavro"] } else { &[] });
    }
    let renamed =
        record(json!([{"name": "z", "type": "long", "aliases": ["a"]}, {"name": "b", "type": "bytes"}]));
    add(&old, &renamed, value.clone(), &[]);
    add(
        &old,
        &record(json!([{"name": "b", "type": "string"}, {"name": "a", "type": "int"}])),
        value.clone(),
        &[],
    );
    add(&old, &record(json!([])), value.clone(), &[]);
    add(&old, &record(json!([{"name": "c", "type": "int"}])), value.clone(), &[]);
    let mut other = old.clone();
    other["name"] = json!("s");
    other["aliases"] = json!(["r"]);
    add(&old, &other, value.clone(), &[]);
    other["namespace"] = json!("m");
    other["aliases"] = json!(["n.r"]);
    add(&old, &other, value, &[]);
    // Unions of either side.
    for (from, to, value) in [
        (json!(["null", "int"]), json!("int"), json!(1)),
        (json!(["null", "int"]), json!("int"), Json::Null),
        (json!("int"), json!(["null", "int"]), json!(1)),
        (json!("int"), json!(["null", "long"]), json!(1)),
        (json!("int"), json!(["null", "double", "long"]), json!(1)),
        (json!("int"), json!(["string", "null"]), json!(1)),
        (json!("string"), json!(["null", "bytes"]), json!("x")),
        (json!(["null", "int", "string"]), json!(["string", "long", "null"]), json!("x")),
        (json!(["null", "int", "string"]), json!(["string", "long", "null"]), json!(5)),
        (json!(["null", "int", "string"]), json!(["string", "null"]), json!(5)),
        (
            json!({"type": "array", "items": "int"}),
            json!({"type": "array", "items": "double"}),
            json!([1, 2]),
        ),
        (
            json!({"type": "array", "items": "int"}),
            json!({"type": "array", "items": ["null", "long"]}),
            json!([1]),
        ),
        (
            json!({"type": "map", "values": "float"}),
            json!({"type": "map", "values": "double"}),
            json!({"k": 1.5}),
        ),
        (json!({"type": "map", "values": "int"}), json!({"type": "array", "items": "int"}), json!({"k": 1})),
        (
            json!({"type": "fixed", "name": "x", "size": 2}),
            json!({"type": "fixed", "name": "x", "size": 3}),
            json!("AAA="),
        ),
        (
            json!({"type": "fixed", "name": "x", "size": 2}),
            json!({"type": "fixed", "name": "x", "size": 2}),
            json!("AAA="),
        ),
    ] {
        add(&one(from), &one(to), json!({"f": value}), &[]);
    }
    let logical = |of: &str, name: &str| one(json!({"type": of, "logicalType": name}));
    let millis = logical("long", "timestamp-millis");
    // fastavro goes by the logical type of the writer.
    add(&one(json!("long")), &millis, json!({"f": 5}), &["fastavro"]);
    add(&millis, &one(json!("long")), json!({"f": 5}), &["fastavro"]);
    // What is only counted anew, and a number that loses digits, are errors here (formats.md).
    add(&millis, &logical("long", "timestamp-micros"), json!({"f": 5}), &["fastavro", "java"]);
    let digits = json!({"f": 9_007_199_254_740_993_i64});
    add(&one(json!("long")), &one(json!("double")), digits, &["fastavro", "java"]);
    pairs
}

#[test]
fn pairs_of_schemas_give_the_same_as_with_others() {
    let pairs = pairs();
    let ours: Vec<_> = pairs
        .iter()
        .map(|(writer, reader, value, _)| {
            let schema = |json: &Json| {
                Schema::parse(&json.to_string(), &[]).unwrap_or_else(|error| panic!("{error}: {json}"))
            };
            let bytes = encoded(&schema(writer), &json::decode(value.to_string().as_bytes()).unwrap());
            let read = Resolved::new(schema(writer), schema(reader)).and_then(|both| both.decode(&bytes));
            (bytes, read)
        })
        .collect();
    let cases: Vec<_> = pairs
        .iter()
        .zip(&ours)
        .map(|((writer, reader, ..), (bytes, _))| {
            json!({"format": "resolved", "writer": writer.to_string(), "reader": reader.to_string(),
                "bytes": STANDARD.encode(bytes)})
        })
        .collect();
    let mut others = Vec::new();
    for (name, answers) in [("fastavro", ask(python(), &cases)), ("java", ask(java(), &cases))] {
        for (((writer, reader, value, differs), (_, ours)), theirs) in pairs.iter().zip(&ours).zip(answers) {
            let ours = match ours {
                Ok(read) => sorted(&described(read, false)),
                Err(error) => json!({"error": error.to_string()}),
            };
            let theirs = if theirs.is_array() { sorted(&theirs) } else { theirs };
            let is_same = ours == theirs || ours.is_object() && theirs.is_object();
            if is_same == differs.contains(&name) {
                others.push(format!("{name}: {value}\n  of {writer}\n  by {reader}\n  {ours}\n  {theirs}"));
            }
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}
