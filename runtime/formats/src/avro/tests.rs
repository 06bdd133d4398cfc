use super::*;
use crate::{json, wanted};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

pub(super) fn schema(json: &Json) -> Schema {
    Schema::parse(&json.to_string(), &[]).unwrap()
}

fn refused(json: &Json) -> String {
    Schema::parse(&json.to_string(), &[]).err().expect("it is refused").to_string()
}

/// JSON in, through Avro, JSON out.
fn through(schema: &Schema, json: &Json) -> Result<Json, Error> {
    let value = json::decode(json.to_string().as_bytes())?;
    let mut bytes = Vec::new();
    schema.encode(&value, ExtraFields::Reject, &mut bytes)?;
    Ok(as_json(&schema.decode(&bytes)?))
}

pub(super) fn as_json(value: &Value) -> Json {
    let mut text = Vec::new();
    json::encode(value, &mut text).unwrap();
    serde_json::from_slice(&text).unwrap()
}

pub(super) fn record(fields: Json) -> Json {
    json!({ "type": "record", "name": "r", "namespace": "n", "fields": fields })
}

pub(super) fn everything() -> Json {
    let logical = |kind: &str, logical: &str| json!({ "type": kind, "logicalType": logical });
    record(json!([
        { "name": "null", "type": "null" },
        { "name": "boolean", "type": "boolean" },
        { "name": "int", "type": "int" },
        { "name": "long", "type": "long" },
        { "name": "float", "type": "float" },
        { "name": "double", "type": "double" },
        { "name": "bytes", "type": "bytes" },
        { "name": "string", "type": "string" },
        { "name": "fixed", "type": { "type": "fixed", "name": "f", "size": 2 } },
        { "name": "enum", "type": { "type": "enum", "name": "e", "symbols": ["A", "B"] } },
        { "name": "array", "type": { "type": "array", "items": "int" } },
        { "name": "map", "type": { "type": "map", "values": "double" } },
        { "name": "plain_union", "type": ["null", "string", "long"] },
        { "name": "tagged_union", "type": ["null", "string", "bytes", "n.e"] },
        { "name": "decimal", "type": { "type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2 } },
        { "name": "fixed_decimal", "type": { "type": "fixed", "name": "d", "size": 9, "logicalType": "decimal", "precision": 20, "scale": 3 } },
        { "name": "uuid", "type": logical("string", "uuid") },
        { "name": "date", "type": logical("int", "date") },
        { "name": "time_millis", "type": logical("int", "time-millis") },
        { "name": "time_micros", "type": logical("long", "time-micros") },
        { "name": "timestamp_millis", "type": logical("long", "timestamp-millis") },
        { "name": "timestamp_micros", "type": logical("long", "timestamp-micros") },
        { "name": "timestamp_nanos", "type": logical("long", "timestamp-nanos") },
        { "name": "local", "type": logical("long", "local-timestamp-micros") },
        { "name": "duration", "type": { "type": "fixed", "name": "i", "size": 12, "logicalType": "duration" } },
        { "name": "inner", "type": ["null", "n.r"] },
    ]))
}

pub(super) fn a_value_of_everything() -> Json {
    json!({
        "null": null, "boolean": true, "int": -1, "long": 9_007_199_254_740_993_i64, "float": 0.1, "double": 1e300,
        "bytes": "//8=", "string": "é", "fixed": "AAE=", "enum": "B", "array": [1, 2], "map": { "a": 1.5 },
        "plain_union": 5, "tagged_union": { "bytes": "AA==" }, "decimal": "-12.30", "fixed_decimal": "12345678901234567.890",
        "uuid": "0af76519-16cd-43dd-8448-eb211c80319c", "date": "2026-01-31", "time_millis": "01:02:03.004",
        "time_micros": "01:02:03.000004", "timestamp_millis": "2026-01-31T00:00:00.001Z",
        "timestamp_micros": "1960-01-31T00:00:00.000001Z", "timestamp_nanos": "2026-01-31T00:00:00.000000001Z",
        "local": "2026-01-31T00:00:00.000001", "duration": "P1M2DT3.004S", "inner": null,
    })
}

#[test]
fn every_type_goes_through_and_back() {
    let schema = schema(&everything());
    let value = a_value_of_everything();
    assert_eq!(through(&schema, &value).unwrap(), value);
    let mut outer = value.clone();
    outer["inner"] = value;
    assert_eq!(through(&schema, &outer).unwrap(), outer);
}

#[test]
fn what_does_not_fit_is_an_error_that_names_the_field() {
    let schema = schema(&everything());
    let with = |name: &str, value: Json| {
        let mut json = a_value_of_everything();
        json[name] = value;
        through(&schema, &json).unwrap_err().to_string()
    };
    for (name, value, error) in [
        ("int", json!(3_000_000_000_u64), "/int: 3000000000 where an int is wanted"),
        ("int", json!("x"), "/int: \"x\" where an int is wanted"),
        ("long", json!(u64::MAX), "/long: 18446744073709551615 where a long is wanted"),
        (
            "double",
            json!(9_007_199_254_740_993_i64),
            "/double: 9007199254740993 has more digits than a double holds",
        ),
        ("float", json!(0.123456789), "/float: 0.123456789 has more digits than a float"),
        ("bytes", json!("*"), "/bytes: a text where bytes are wanted must be base64"),
        ("fixed", json!("AA=="), "/fixed: 1 bytes where 2 are wanted"),
        ("enum", json!("C"), "/enum: \"C\" is no symbol of n.e; those are [\"A\", \"B\"]"),
        ("array", json!([1, "x"]), "/array/1: \"x\" where an int is wanted"),
        ("map", json!({ "k": true }), "/map/k: a boolean where a double is wanted"),
        (
            "plain_union",
            json!(true),
            "/plain_union: a boolean fits no branch of the union: null, string, long",
        ),
        ("tagged_union", json!({ "x": 1 }), "/tagged_union: a record fits no branch"),
        (
            "decimal",
            json!("1.234"),
            "/decimal: 1.234 has more digits behind the point than the schema's scale of 2",
        ),
        (
            "timestamp_millis",
            json!("2026-01-31T00:00:00.0001Z"),
            "/timestamp_millis: 2026-01-31T00:00:00.000100000Z is more precise",
        ),
        ("local", json!("2026-01-31T00:00:00Z"), "/local: \"2026-01-31T00:00:00Z\" has a zone"),
        ("extra", json!(1), "/extra: n.r has no such field; `extra_fields = \"drop\"`"),
    ] {
        let found = with(name, value);
        assert!(found.starts_with(error), "{found}");
    }
    let mut missing = a_value_of_everything();
    missing.as_object_mut().unwrap().remove("int");
    let error = through(&schema, &missing).unwrap_err().to_string();
    assert_eq!(error, "/int: missing: a field of n.r without a default");
}

#[test]
fn a_union_says_its_branch_where_json_would_not() {
    let union = schema(&json!(["null", "string", "bytes", "int", "double"]));
    for (json, back) in [
        (json!({ "string": "x" }), json!({ "string": "x" })),
        (json!({ "double": 1.5 }), json!({ "double": 1.5 })),
        (json!({ "int": 1 }), json!({ "int": 1 })),
        (json!(null), json!(null)),
        // Of their own types.
        (json!("plain"), json!({ "string": "plain" })),
        (json!(1), json!({ "int": 1 })),
    ] {
        assert_eq!(through(&union, &json).unwrap(), back);
    }
    let records = json!(["null",
        { "type": "record", "name": "a", "fields": [{ "name": "x", "type": "int" }] },
        { "type": "record", "name": "b", "fields": [{ "name": "x", "type": "int" }] }]);
    let error = through(&schema(&records), &json!({ "x": 1 })).unwrap_err().to_string();
    assert_eq!(error, "fits several branches of the union (a, b); say which: {\"a\": ...}");
    assert_eq!(through(&schema(&records), &json!({ "b": { "x": 1 } })).unwrap(), json!({ "b": { "x": 1 } }));
}

#[test]
fn floats_that_are_no_numbers_are_kept() {
    let double = schema(&json!("double"));
    for text in ["NaN", "Infinity", "-Infinity"] {
        assert_eq!(through(&double, &json!(text)).unwrap(), json!(text));
    }
    let union = schema(&json!(["string", "double"]));
    assert_eq!(through(&union, &json!({ "double": "NaN" })).unwrap(), json!({ "double": "NaN" }));
}

#[test]
fn missing_fields_have_their_defaults() {
    let with_defaults = schema(&record(json!([
        { "name": "n", "type": "long", "default": 7 },
        { "name": "b", "type": "bytes", "default": "\u{ff}" },
        { "name": "u", "type": ["null", "string"], "default": null },
        { "name": "v", "type": ["null", "boolean", "string"], "default": "later" },
        { "name": "l", "type": { "type": "array", "items": "int" }, "default": [1] },
        { "name": "inner", "type": { "type": "record", "name": "i", "fields": [
            { "name": "x", "type": "int", "default": 5 }] }, "default": {} },
    ])));
    let expected = json!({ "n": 7, "b": "/w==", "u": null, "v": "later", "l": [1], "inner": { "x": 5 } });
    assert_eq!(through(&with_defaults, &json!({})).unwrap(), expected);
    let wrong = refused(&record(json!([{ "name": "n", "type": "int", "default": 3_000_000_000_u64 }])));
    assert!(wrong.contains("default"), "{wrong}");
}

#[test]
fn two_keys_that_are_written_alike_are_an_error() {
    let map = schema(&json!({ "type": "map", "values": "int" }));
    let entries = vec![(Value::Int(1), Value::Int(1)), ("1".into(), Value::Int(2))];
    let error = map.encode(&Value::Map(entries), ExtraFields::Reject, &mut Vec::new()).unwrap_err();
    assert_eq!(error.what(), "the key \"1\" is there twice");
}

#[test]
fn a_schema_may_refer_to_others() {
    let address =
        json!({ "type": "record", "name": "shop.Address", "fields": [{ "name": "city", "type": "string" }] });
    let order = json!({ "type": "record", "name": "shop.Order", "fields": [{ "name": "to", "type": "shop.Address" }] });
    let schema = Schema::parse(&order.to_string(), &[&address.to_string()]).unwrap();
    assert_eq!(
        through(&schema, &json!({ "to": { "city": "Ulm" } })).unwrap(),
        json!({ "to": { "city": "Ulm" } })
    );
    assert_eq!(schema.name().as_deref(), Some("shop.Order"));
    assert!(refused(&order).contains("Address"), "{}", refused(&order));
}

#[test]
fn a_schema_is_told_with_the_types_that_it_refers_to() {
    let address = json!({ "type": "record", "name": "shop.Address", "fields": [
        { "name": "city", "type": { "type": "enum", "name": "City", "symbols": ["ULM"] } }] });
    let order = json!({ "type": "record", "name": "shop.Order", "fields": [
        { "name": "to", "type": "Address" }, { "name": "from", "type": "City" }, { "name": "by", "type": "Address" }] });
    let apart = Schema::parse(&order.to_string(), &[&address.to_string()]).unwrap();
    let value = json::decode(br#"{"to":{"city":"ULM"},"from":"ULM","by":{"city":"ULM"}}"#).unwrap();
    let mut bytes = Vec::new();
    block(&apart, Compression::Null, &value, ExtraFields::Reject, &mut bytes).unwrap();
    let read = Container::open(&head(&apart, Compression::Null), None).unwrap().block(&bytes).unwrap();
    assert_eq!(read.iter().map(as_json).collect::<Vec<_>>(), [as_json(&value)]);
    let mut whole = order;
    whole["fields"][0]["type"] = address;
    assert_eq!(apart.fingerprint(), schema(&whole).fingerprint());
}

#[test]
fn a_schema_without_values_is_refused() {
    let endless = record(json!([{ "name": "r", "type": "n.r" }]));
    assert_eq!(refused(&endless), "the record n.r contains itself without end");
    assert!(refused(&json!({ "type": "rekord" })).starts_with("no Avro schema"));
}

#[test]
fn the_single_object_encoding_names_its_schema() {
    let schema = schema(&json!({ "type": "record", "name": "test", "fields": [
        { "name": "a", "type": "long", "default": 42 }, { "name": "b", "type": "string" }] }));
    let mut bytes = Vec::new();
    let value = json::decode(br#"{"a":1,"b":"x"}"#).unwrap();
    schema.encode_single(&value, ExtraFields::Reject, &mut bytes).unwrap();
    // The fingerprint that Avro's specification gives by its algorithm for this schema.
    assert_eq!(bytes[..10], [0xc3, 0x01, 232, 198, 194, 12, 97, 95, 44, 71]);
    let (fingerprint, rest) = single(&bytes).unwrap();
    assert_eq!((fingerprint, schema.decode(rest).unwrap()), (schema.fingerprint(), value));
    assert!(single(b"{}").unwrap_err().what().ends_with("found 7b 7d"));
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes: Vec<u8>) {
        let schema = schema(&everything());
        if let Ok(value) = schema.decode(&bytes) {
            let mut again = Vec::new();
            schema.encode(&value, ExtraFields::Reject, &mut again).unwrap();
        }
        let _ = Container::open(&bytes, None);
        let _ = wanted::text(&Value::Bytes(bytes));
    }
}
