//! What `millstream schema check` says of a pair of schemas, beside what a real registry says of it.

use millstream_formats::compatibility::{Finding, Mode, Weight, avro, json, protobuf};
use millstream_registry::schema::{Kind, Schema, Version};

use crate::against_apicurio::{demand, shared};
use crate::front::registry;

/// Verdicts on backward and on forward compatibility.
type Verdicts = [bool; 2];

struct Pair {
    what: &'static str,
    kind: Kind,
    old: String,
    new: String,
    ours: Verdicts,
    /// Those of the registry, and why they are others.
    theirs: Option<(Verdicts, &'static str)>,
}

const NUMBERS: &str = "any change of a type breaks for it";
const STRICT: &str = "a field that the reader does not have, or has by another name, breaks for it";
const OPEN: &str = "it does not count on nobody having written what the open model allowed";
const LOGICAL: &str = "it does not look at logical types";

#[rustfmt::skip]
fn pairs() -> Vec<Pair> {
    let same = |kind, what, old: String, new: String, ours| Pair { what, kind, old, new, ours, theirs: None };
    let record = |fields: &str| format!(r#"{{"type":"record","name":"Order","fields":[{fields}]}}"#);
    let field = |kind: &str| record(&format!(r#"{{"name":"f","type":{kind}}}"#));
    let avro = |what, old: &str, new: &str, ours| same(Kind::Avro, what, field(old), field(new), ours);
    let more = |field: &str| record(&format!(r#"{{"name":"f","type":"int"}},{field}"#));
    let proto = |what, old: &str, new: &str, ours| {
        let of = |fields: &str| format!("syntax = \"proto3\"; message Order {{ {fields} }}");
        same(Kind::Protobuf, what, of(old), of(new), ours)
    };
    let object = |rest: &str| format!(r#"{{"type":"object",{rest}}}"#);
    let model = |what, old: &str, new: &str, ours| same(Kind::Json, what, object(old), object(new), ours);
    let property = |what, old: &str, new: &str, ours| {
        let of = |schema: &str| object(&format!(r#""properties":{{"a":{schema}}},"additionalProperties":false"#));
        same(Kind::Json, what, of(old), of(new), ours)
    };
    let but = |pair: Pair, theirs: Verdicts, why| Pair { theirs: Some((theirs, why)), ..pair };
    let (both, neither, back, forth) = ([true, true], [false, false], [true, false], [false, true]);
    let (a, ab) = (r#""properties":{"a":{"type":"string"}}"#, r#""properties":{"a":{"type":"string"},"b":{"type":"string"}}"#);
    let closed = |properties: &str| format!(r#"{properties},"additionalProperties":false"#);
    vec![
        same(Kind::Avro, "a field with a default added", field(r#""int""#), more(r#"{"name":"g","type":"int","default":0}"#), both),
        same(Kind::Avro, "a field without a default added", field(r#""int""#), more(r#"{"name":"g","type":"int"}"#), forth),
        same(Kind::Avro, "a field removed", more(r#"{"name":"g","type":"int"}"#), field(r#""int""#), back),
        same(Kind::Avro, "a field renamed, with an alias", field(r#""int""#), record(r#"{"name":"g","type":"int","aliases":["f"]}"#), back),
        same(Kind::Avro, "the record renamed", field(r#""int""#), field(r#""int""#).replace("Order", "Bill"), neither),
        avro("int to long", r#""int""#, r#""long""#, back),
        avro("int to string", r#""int""#, r#""string""#, neither),
        avro("string to bytes", r#""string""#, r#""bytes""#, both),
        avro("a symbol removed", r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, r#"{"type":"enum","name":"E","symbols":["A"]}"#, forth),
        avro("a symbol removed, with a default", r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, r#"{"type":"enum","name":"E","symbols":["A"],"default":"A"}"#, both),
        avro("made nullable", r#""int""#, r#"["null","int"]"#, back),
        avro("a branch added", r#"["null","int"]"#, r#"["null","int","string"]"#, back),
        avro("a fixed of another size", r#"{"type":"fixed","name":"X","size":2}"#, r#"{"type":"fixed","name":"X","size":3}"#, neither),
        avro("items of another type", r#"{"type":"array","items":"int"}"#, r#"{"type":"array","items":"string"}"#, neither),
        but(avro("milliseconds to microseconds", r#"{"type":"long","logicalType":"timestamp-millis"}"#, r#"{"type":"long","logicalType":"timestamp-micros"}"#, neither), both, LOGICAL),
        but(proto("a field added", "int32 a = 1;", "int32 a = 1; int32 b = 2;", both), back, STRICT),
        but(proto("a field removed", "int32 a = 1; int32 b = 2;", "int32 a = 1;", both), forth, STRICT),
        but(proto("a field removed and reserved", "int32 a = 1; int32 b = 2;", "reserved 2; reserved \"b\"; int32 a = 1;", both), neither, STRICT),
        proto("int32 to string", "int32 a = 1;", "string a = 1;", neither),
        but(proto("int32 to int64", "int32 a = 1;", "int64 a = 1;", back), neither, NUMBERS),
        proto("another number", "int32 a = 1;", "int32 a = 2;", neither),
        but(proto("another name", "int32 a = 1;", "int32 b = 1;", both), neither, STRICT),
        proto("a reserved number used", "reserved 2; int32 a = 1;", "int32 a = 1; int32 b = 2;", neither),
        but(proto("repeated to one", "repeated string a = 1;", "string a = 1;", forth), neither, NUMBERS),
        property("a type fewer", r#"{"type":["string","null"]}"#, r#"{"type":"string"}"#, forth),
        property("integer to number", r#"{"type":"integer"}"#, r#"{"type":"number"}"#, back),
        property("a value of an enum fewer", r#"{"type":"string","enum":["a","b"]}"#, r#"{"type":"string","enum":["a"]}"#, forth),
        property("a bound narrower", r#"{"type":"integer","minimum":0}"#, r#"{"type":"integer","minimum":1}"#, forth),
        property("a pattern changed", r#"{"type":"string","pattern":"a"}"#, r#"{"type":"string","pattern":"b"}"#, neither),
        model("required more", a, &format!(r#"{a},"required":["a"]"#), forth),
        model("required less", &format!(r#"{a},"required":["a"]"#), a, back),
        model("a property added to a closed model", &closed(a), &closed(ab), back),
        model("a property removed from a closed model", &closed(ab), &closed(a), forth),
        but(model("a property added to an open model", a, ab, both), forth, OPEN),
        model("the model closed", a, &closed(a), forth),
    ]
}

fn judged(pair: &Pair, mode: Mode) -> bool {
    let descriptors = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("schema.proto");
        std::fs::write(&file, text).unwrap();
        protobuf::of_file(&file, &[folder.path()]).unwrap()
    };
    let findings: Vec<Finding> = match pair.kind {
        Kind::Avro => avro::check(&pair.old, &pair.new, mode).unwrap(),
        Kind::Json => json::check(&pair.old, &pair.new, mode).unwrap(),
        Kind::Protobuf => {
            protobuf::check(&descriptors(&pair.old), &descriptors(&pair.new), None, mode).unwrap()
        }
    };
    findings.iter().all(|found| found.weight == Weight::Warning)
}

#[tokio::test]
async fn schemas_are_judged_as_the_registry_does_or_for_a_reason() {
    let url = shared().await;
    let registry = registry(&url);
    let mut others = Vec::new();
    for (number, pair) in pairs().iter().enumerate() {
        let subject = format!("verdict-{number}");
        let (old, new) = (Schema::new(pair.kind, &pair.old), Schema::new(pair.kind, &pair.new));
        registry.register(&subject, &old).await.unwrap();
        let mut theirs = [false; 2];
        for (level, verdict) in ["BACKWARD", "FORWARD"].into_iter().zip(&mut theirs) {
            demand(&url, &subject, level).await;
            *verdict = registry.compatibility(&subject, Version::Latest, &new).await.unwrap().compatible;
        }
        let ours = [Mode::Backward, Mode::Forward].map(|mode| judged(pair, mode));
        assert_eq!(ours[0] && ours[1], judged(pair, Mode::Full), "{}", pair.what);
        let wanted = pair.theirs.map_or(pair.ours, |(theirs, _)| theirs);
        if (ours, theirs) != (pair.ours, wanted) {
            others.push(format!("{} {}: ours {ours:?}, theirs {theirs:?}", pair.kind, pair.what));
        }
        if let Some((theirs, why)) = pair.theirs {
            assert!(theirs != pair.ours && !why.is_empty(), "{}", pair.what);
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}
