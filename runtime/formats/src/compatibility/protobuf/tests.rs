//! A table of changes of one message, and data.

use prost::Message;
use prost_reflect::{DynamicMessage, MapKey, Value};

use super::*;
use crate::compatibility::Weight;

fn pool(text: &str) -> DescriptorPool {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.proto");
    std::fs::write(&file, text).unwrap();
    of_file(&file, &[folder.path()]).unwrap()
}

fn proto3(body: &str) -> DescriptorPool {
    pool(&format!("syntax = \"proto3\";\npackage shop;\n{body}"))
}

fn told(old: &DescriptorPool, new: &DescriptorPool, mode: Mode) -> Vec<String> {
    let findings = check(old, new, None, mode).unwrap();
    findings.iter().map(|found| format!("{:?} {} {}", found.weight, found.path, found.what)).collect()
}

/// Findings of a change of what is in one message.
fn changed(old: &str, new: &str, mode: Mode) -> Vec<String> {
    let of = |fields: &str| proto3(&format!("message Order {{ {fields} }}"));
    told(&of(old), &of(new), mode)
}

#[test]
fn fields_are_compared_by_number() {
    let table: [(&str, &str, Mode, &[&str]); 22] = [
        ("string id = 1;", "string id = 1; int32 n = 2;", Mode::Full, &[]),
        ("string id = 1; int32 n = 2;", "string id = 1; reserved 2;", Mode::Full, &[]),
        ("int32 n = 2;", "", Mode::Backward, &["Warning shop.Order.n (2) it is gone"]),
        (
            "int32 n = 2;",
            "int32 n = 3;",
            Mode::Backward,
            &["Breaks shop.Order.n (2) it has number 3 in the new"],
        ),
        (
            "int32 n = 2;",
            "int32 m = 2;",
            Mode::Backward,
            &["Warning shop.Order.n (2) number 2 is \"m\" in the new"],
        ),
        (
            "reserved 2;",
            "int32 n = 2;",
            Mode::Backward,
            &["Breaks shop.Order.n (2) the old schema has reserved"],
        ),
        (
            "reserved 2;",
            "int32 n = 2;",
            Mode::Forward,
            &["Breaks shop.Order.n (2) the old schema has reserved"],
        ),
        ("int32 n = 1;", "int64 n = 1;", Mode::Backward, &[]),
        (
            "int32 n = 1;",
            "int64 n = 1;",
            Mode::Forward,
            &["Breaks shop.Order.n (1) int64 is read as int32: large"],
        ),
        (
            "int32 n = 1;",
            "uint32 n = 1;",
            Mode::Backward,
            &["Breaks shop.Order.n (1) int32 is read as uint32: neg"],
        ),
        (
            "int32 n = 1;",
            "sint32 n = 1;",
            Mode::Backward,
            &["Breaks shop.Order.n (1) int32 is read as sint32"],
        ),
        (
            "int32 n = 1;",
            "string n = 1;",
            Mode::Backward,
            &["Breaks shop.Order.n (1) int32 is read as string"],
        ),
        (
            "float n = 1;",
            "double n = 1;",
            Mode::Backward,
            &["Breaks shop.Order.n (1) float is read as double"],
        ),
        ("string s = 1;", "bytes s = 1;", Mode::Backward, &[]),
        (
            "bytes s = 1;",
            "string s = 1;",
            Mode::Backward,
            &["Warning shop.Order.s (1) bytes is read as string"],
        ),
        (
            "repeated int32 n = 1;",
            "int32 n = 1;",
            Mode::Backward,
            &["Breaks shop.Order.n (1) it is repeated"],
        ),
        (
            "int32 n = 1;",
            "repeated int32 n = 1;",
            Mode::Backward,
            &["Warning shop.Order.n (1) one is read as"],
        ),
        (
            "int32 a = 1; int32 b = 2;",
            "oneof c { int32 a = 1; int32 b = 2; }",
            Mode::Backward,
            &["Breaks shop.Order.b (2) it can be written beside \"a\""],
        ),
        ("int32 a = 1; int32 b = 2;", "oneof c { int32 a = 1; int32 b = 2; }", Mode::Forward, &[]),
        ("int32 a = 1;", "oneof c { int32 a = 1; int32 b = 2; }", Mode::Full, &[]),
        ("int32 a = 1;", "optional int32 a = 1;", Mode::Full, &[]),
        (
            "map<string, int32> m = 1;",
            "map<string, string> m = 1;",
            Mode::Backward,
            &["Breaks shop.Order.MEntry.value (2) int32 is read as string"],
        ),
    ];
    for (old, new, mode, wanted) in table {
        let told = changed(old, new, mode);
        assert_eq!(told.len(), wanted.len(), "{old} -> {new}: {told:?}");
        assert!(
            told.iter().zip(wanted).all(|(told, wanted)| told.starts_with(wanted)),
            "{told:?} {wanted:?}"
        );
    }
}

#[test]
fn messages_enums_and_what_is_required() {
    let old = "message Order { State state = 1; Line line = 2; } enum State { NEW = 0; OLD = 1; } message Line { int32 n = 1; }";
    let gone = proto3("message Order { State state = 1; } enum State { NEW = 0; OLD = 1; }");
    let lines = told(&proto3(old), &gone, Mode::Backward);
    assert_eq!(lines[0], "Breaks shop.Line the message is gone");
    let fewer = proto3(&old.replace(" OLD = 1;", ""));
    let wanted = ["Warning shop.OLD (1) the new schema does not know the value"];
    assert_eq!(told(&proto3(old), &fewer, Mode::Backward), wanted);
    let renamed = proto3(&old.replace("OLD = 1", "AGED = 1"));
    assert_eq!(
        told(&proto3(old), &renamed, Mode::Backward),
        ["Warning shop.OLD (1) it is \"AGED\" in the new schema"]
    );
    let deep = proto3(&old.replace("int32 n = 1", "string n = 1"));
    let found = check(&proto3(old), &deep, Some("shop.Order"), Mode::Full).unwrap();
    assert_eq!(found.iter().filter(|found| found.weight == Weight::Breaks).count(), 2, "{found:?}");
    let error = check(&proto3(old), &gone, Some("shop.Line"), Mode::Full).unwrap_err();
    assert_eq!(error.to_string(), "the new schema has no message \"shop.Line\"");

    let proto2 = |label: &str| pool(&format!("syntax = \"proto2\"; message Order {{ {label} }}"));
    let (required, optional) = (proto2("required int32 n = 1;"), proto2("optional int32 n = 1;"));
    assert_eq!(told(&required, &optional, Mode::Backward), [""; 0]);
    assert!(
        told(&optional, &required, Mode::Backward)[0]
            .starts_with("Breaks Order.n (1) the new schema requires it")
    );
    assert!(
        told(&required, &optional, Mode::Forward)[0]
            .starts_with("Breaks Order.n (1) the old schema requires it")
    );
    assert!(
        told(&proto2(""), &required, Mode::Backward)[0]
            .starts_with("Breaks Order.n (1) the new schema requires")
    );
}

/// All scalar types, each with values at the ends of what it holds, read as each other type.
#[test]
fn what_is_compatible_is_read_as_the_same() {
    let kinds = [
        "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64",
        "sfixed32", "sfixed64", "bool", "string", "bytes",
    ];
    let mut compatible = 0;
    for old in kinds {
        for new in kinds {
            let of = |kind: &str| {
                proto3(&format!("message Order {{ map<string, {kind}> all = 1; {kind} f = 2; }}"))
            };
            let (writer, reader) = (of(old), of(new));
            let findings = check(&writer, &reader, None, Mode::Backward).unwrap();
            let message = |pool: &DescriptorPool| pool.get_message_by_name("shop.Order").unwrap();
            let same = samples(old).into_iter().all(|value| {
                let mut written = DynamicMessage::new(message(&writer));
                let entry = [(MapKey::String("k".into()), value.clone())].into();
                written.set_field_by_name("all", Value::Map(entry));
                written.set_field_by_name("f", value.clone());
                let read = DynamicMessage::decode(message(&reader), written.encode_to_vec().as_slice());
                read.is_ok_and(|read| plain(&read.get_field_by_name("f").unwrap()) == plain(&value))
            });
            match findings.first().map(|found| found.weight) {
                None => assert!(same, "{old} as {new}"),
                Some(Weight::Breaks) => assert!(!same, "{old} as {new}: {findings:?}"),
                Some(_) => {}
            }
            compatible += usize::from(findings.is_empty());
        }
    }
    assert_eq!(compatible, 15 + 9, "each as itself, and the wider ones");
}

fn samples(kind: &str) -> Vec<Value> {
    match kind {
        "double" => vec![Value::F64(1e300)],
        "float" => vec![Value::F32(1.5)],
        "int32" | "sint32" | "sfixed32" => vec![Value::I32(-1), Value::I32(i32::MAX)],
        "int64" | "sint64" | "sfixed64" => vec![Value::I64(-1), Value::I64(i64::MAX)],
        "uint32" | "fixed32" => vec![Value::U32(u32::MAX)],
        "uint64" | "fixed64" => vec![Value::U64(u64::MAX)],
        "bool" => vec![Value::Bool(true)],
        "string" => vec![Value::String("s".to_owned())],
        _ => vec![Value::Bytes(b"\xff".as_slice().into())],
    }
}

/// A value whatever its width, so that what is read can be held against what was written.
fn plain(value: &Value) -> String {
    match value {
        Value::Bool(value) => i32::from(*value).to_string(),
        Value::I32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::String(text) => format!("{:?}", text.as_bytes()),
        Value::Bytes(bytes) => format!("{:?}", &bytes[..]),
        other => format!("{other:?}"),
    }
}
