use millstream_sdk::testing::{Harness, Outcome, Record, check_fixtures};
use serde_json::{Value, json};

use super::*;

const FOLDER: &str = env!("CARGO_MANIFEST_DIR");

fn validator(config: Value) -> Harness {
    Harness::new::<ValidateSchema, _>(config).unwrap()
}

fn error(config: Value) -> ConfigError {
    match Harness::new::<ValidateSchema, _>(config) {
        Ok(_) => panic!("the configuration was taken"),
        Err(error) => error,
    }
}

/// The text of the rejection of this document.
fn violations(config: Value, document: Value) -> String {
    match validator(config).run_one(Record::json(document)) {
        Outcome::Reject { code, text } if code == "schema-violation" => text,
        other => panic!("{other:?}"),
    }
}

fn order() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": { "type": "integer" },
            "items": { "type": "array", "items": { "properties": { "sku": { "minLength": 3 } } } },
        },
        "required": ["id", "total"],
    })
}

#[test]
fn a_valid_message_passes_unchanged() {
    let mut plugin = validator(json!({ "schema": order() }));
    let message = Record::text("{ \"id\": 1, \"total\": 2.50 }").key("k");
    assert_eq!(plugin.run_one(message), Outcome::Pass);
}

#[test]
fn every_violation_is_told_with_both_its_places() {
    let document = json!({ "id": "seven", "items": [{ "sku": "abc" }, { "sku": "a" }] });
    assert_eq!(
        violations(json!({ "schema": order() }), document.clone()),
        "the payload: \"total\" is a required property (schema: /required)\n\
         /id: value is not of type \"integer\" (schema: /properties/id/type)\n\
         /items/1/sku: value is shorter than 3 characters (schema: \
         /properties/items/items/properties/sku/minLength)"
    );
    let shown = violations(json!({ "schema": order(), "show_values": true }), document);
    assert!(shown.contains("\n/id: \"seven\" is not of type \"integer\""), "{shown}");
}

#[test]
fn a_report_is_bounded() {
    let required: Vec<String> = (0..100).map(|n| format!("field-{n}")).collect();
    let text = violations(json!({ "schema": { "required": required }, "max_violations": 3 }), json!({}));
    assert_eq!(text.lines().count(), 4);
    assert!(text.ends_with("\nand 97 more"), "{text}");

    let document: Value =
        (0..1_000).map(|n| (format!("field-{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
    let text = violations(json!({ "schema": { "additionalProperties": false } }), document);
    assert!(text.len() < 400, "{}", text.len());
}

#[test]
fn of_many_alternatives_the_closest_is_told() {
    let config = json!({ "schema": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "oneOf": [{ "$ref": "#/definitions/a%20b" }, { "$ref": "#/definitions/refund" }],
        "definitions": {
            "a b": { "required": ["id"], "properties": { "kind": { "const": "order" }, "id": { "type": "integer" } } },
            "refund": { "properties": { "kind": { "const": "refund" } } },
        },
    } });
    assert_eq!(
        violations(config.clone(), json!({ "kind": "order", "id": "x" })),
        "fits no alternative (2 of /oneOf); closest is /definitions/a b, but\n\
         /id: value is not of type \"integer\" (schema: /definitions/a b/properties/id/type)"
    );
    // Both fit: what is wrong is the union itself.
    assert_eq!(
        violations(config, json!({ "id": 1 })),
        "the payload: fits the alternatives 0 and 1, but only one may fit (schema: /oneOf)"
    );
}

#[test]
fn a_union_within_a_document_tells_its_closest_alternative_too() {
    let config = json!({ "schema": { "properties": { "user": { "oneOf": [
        { "type": "null" },
        { "type": "object", "required": ["login"] },
    ] } } } });
    assert_eq!(
        violations(config, json!({ "user": { "name": "x" } })),
        "/user: fits none of 2 alternatives; closest is 1, but (schema: /properties/user/oneOf)\n\
         /user: \"login\" is a required property (schema: /properties/user/oneOf/1/required)"
    );
}

#[test]
fn a_schema_with_an_id_is_reported_as_well() {
    let config = json!({ "schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/event",
        "anyOf": [{ "$ref": "#/$defs/a" }, { "$ref": "other" }, { "type": "string" }],
        "$defs": {
            "a": { "type": "object", "required": ["x"] },
            "other": { "$id": "other", "type": "null" },
        },
    } });
    assert_eq!(
        violations(config, json!({})),
        "fits no alternative (3 of /anyOf); closest is /$defs/a, but\n\
         the payload: \"x\" is a required property (schema: /$defs/a/required)"
    );
}

#[test]
fn formats_are_checked_unless_told_otherwise() {
    let schema = json!({ "$schema": "http://json-schema.org/draft-07/schema#", "format": "date-time" });
    let document = Record::json("yesterday");
    let mut lax = validator(json!({ "schema": schema, "formats": false }));
    assert_eq!(lax.run_one(document.clone()), Outcome::Pass);
    let mut strict = validator(json!({ "schema": schema }));
    assert_eq!(strict.run_one(document).code(), Some("schema-violation"));
    assert_eq!(strict.run_one(Record::json("2024-02-29T00:00:00Z")), Outcome::Pass);
}

#[test]
fn the_draft_can_be_set() {
    // A list of schemas in `items` is one for each position, but no longer in 2020-12.
    let schema = json!({ "items": [{ "type": "string" }] });
    let mut plugin = validator(json!({ "schema": schema, "draft": "7" }));
    assert_eq!(plugin.run_one(Record::json([1])).code(), Some("schema-violation"));
    assert_eq!(error(json!({ "schema": schema })).field, "/schema");
}

#[test]
fn a_schema_comes_as_text_too() {
    let mut plugin = validator(json!({ "schema": "{\"type\": \"string\"}" }));
    assert_eq!(plugin.run_one(Record::json("x")), Outcome::Pass);
    let error = error(json!({ "schema": "{\"type\": }" }));
    assert_eq!(
        error,
        ConfigError::at("/schema", "the schema is not json: expected value at line 1 column 10")
    );
}

#[test]
fn a_bad_schema_is_an_error_of_its_field() {
    let error = error(json!({ "schema": { "properties": { "a": { "type": "strin" } } } }));
    assert_eq!(error.field, "/schema");
    assert!(error.message.contains("/properties/a/type"), "{error}");
}

#[test]
fn nothing_is_fetched() {
    for remote in ["https://example.com/order.json", "file:///etc/order.json", "order.json"] {
        let error = error(json!({ "schema": { "properties": { "a": { "$ref": remote } } } }));
        assert_eq!(error.field, "/schema");
        assert!(error.message.contains(remote), "{error}");
    }
}

#[test]
fn the_fixtures_hold() {
    check_fixtures(FOLDER, || Harness::of_example::<ValidateSchema, _>(FOLDER, &[]));
}
