use serde_json::{Value as Json, json};

use super::*;
use crate::avro::tests::{as_json, record, schema};
use crate::{ExtraFields, json};

fn resolved(writer: Json, reader: Json, value: Json) -> Result<Json, String> {
    let (writer, reader) = (schema(&writer), schema(&reader));
    let mut bytes = Vec::new();
    let value = json::decode(value.to_string().as_bytes()).unwrap();
    writer.encode(&value, ExtraFields::Reject, &mut bytes).unwrap();
    let resolved = Resolved::new(writer, reader).map_err(|error| error.to_string())?;
    resolved.decode(&bytes).map(|value| as_json(&value)).map_err(|error| error.to_string())
}

#[test]
fn a_reader_has_its_own_fields_defaults_aliases_and_promotions() {
    let old = record(json!([
        { "name": "id", "type": "int" },
        { "name": "gone", "type": "string" },
        { "name": "nombre", "type": "string" },
        { "name": "state", "type": { "type": "enum", "name": "s", "symbols": ["NEW", "ODD"] } },
        { "name": "amount", "type": "float" },
    ]));
    let new = record(json!([
        { "name": "id", "type": "long" },
        { "name": "name", "type": "string", "aliases": ["nombre"] },
        { "name": "state", "type": { "type": "enum", "name": "s", "symbols": ["UNKNOWN", "NEW"], "default": "UNKNOWN" } },
        { "name": "amount", "type": ["null", "double"] },
        { "name": "added", "type": ["null", "string"], "default": null },
    ]));
    let value = json!({ "id": 7, "gone": "x", "nombre": "n", "state": "ODD", "amount": 1.5 });
    let expected = json!({ "id": 7, "name": "n", "state": "UNKNOWN", "amount": 1.5, "added": null });
    assert_eq!(resolved(old, new, value).unwrap(), expected);
}

#[test]
fn of_two_fields_that_were_one_the_first_has_it() {
    let old = record(json!([{ "name": "was", "type": "int" }]));
    let renamed = |name: &str| json!({ "name": name, "aliases": ["was"], "type": "int", "default": 7 });
    let new = record(json!([renamed("a"), renamed("b")]));
    assert_eq!(resolved(old, new, json!({ "was": 1 })).unwrap(), json!({ "a": 1, "b": 7 }));
}

#[test]
fn of_two_branches_of_the_same_type_the_one_of_the_same_name_is_read() {
    let of = |name: &str| json!({ "type": "fixed", "name": name, "size": 12, "logicalType": "duration" });
    let union = json!([of("a"), of("b")]);
    let value = json!({ "b": "P1M2DT3.004S" });
    assert_eq!(resolved(union.clone(), union, value.clone()).unwrap(), value);
}

#[test]
fn what_cannot_be_resolved_is_told() {
    let one = |kind: Json| record(json!([{ "name": "f", "type": kind }]));
    let error =
        |from: Json, to: Json, value: Json| resolved(one(from), one(to), json!({ "f": value })).unwrap_err();
    assert_eq!(error(json!("long"), json!("int"), json!(1)), "/f: Long cannot be read as Int");
    assert_eq!(
        error(json!("long"), json!("double"), json!(9_007_199_254_740_993_i64)),
        "/f: 9007199254740993 has more digits than a double holds"
    );
    let millis = json!({ "type": "long", "logicalType": "timestamp-millis" });
    let micros = json!({ "type": "long", "logicalType": "timestamp-micros" });
    assert!(error(millis.clone(), micros, json!(1)).contains("cannot be read as"));
    assert_eq!(resolved(one(millis), one(json!("long")), json!({ "f": 5 })).unwrap(), json!({ "f": 5 }));
    assert_eq!(error(json!(["int", "string"]), json!("int"), json!("x")), "/f: String cannot be read as Int");
    let added = record(json!([{ "name": "f", "type": "int" }, { "name": "new", "type": "int" }]));
    assert_eq!(
        resolved(one(json!("int")), added, json!({ "f": 1 })).unwrap_err(),
        "/new: the writer's n.r has no such field, and it has no default"
    );
}
