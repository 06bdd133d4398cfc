//! A table, and documents: what is valid by the writer is valid by the reader.

use serde_json::json;

use super::*;

fn told(old: &Value, new: &Value) -> Vec<String> {
    let findings = check(&old.to_string(), &new.to_string(), Mode::Backward).unwrap();
    findings.iter().map(|found| format!("{:?} {} {}", found.weight, found.path, found.what)).collect()
}

/// Each pair with the beginnings of what is told of it.
fn holds(table: &[(Value, Value, &[&str])]) {
    for (old, new, wanted) in table {
        let told = told(old, new);
        assert_eq!(told.len(), wanted.len(), "{old} -> {new}: {told:?}");
        assert!(
            told.iter().zip(*wanted).all(|(told, wanted)| told.starts_with(wanted)),
            "{told:?} {wanted:?}"
        );
    }
}

#[test]
fn types_values_and_bounds() {
    holds(&[
        (json!({"type": "integer"}), json!({"type": "number"}), &[]),
        (json!({"type": "number"}), json!({"type": "integer"}), &["Breaks /type number is not allowed"]),
        (json!({"type": "string"}), json!({"type": ["string", "null"]}), &[]),
        (
            json!({"type": ["string", "null"]}),
            json!({"type": "string"}),
            &["Breaks /type null is not allowed"],
        ),
        (json!({}), json!({"type": "string"}), &["Breaks /type "]),
        (json!({"type": "string"}), json!({}), &[]),
        (json!({"type": "string"}), json!(true), &[]),
        (json!({"type": "string"}), json!(false), &["Breaks  the new schema allows nothing"]),
        (json!({"enum": ["a"]}), json!({"enum": ["a", "b"]}), &[]),
        (json!({"enum": ["a", "b"]}), json!({"enum": ["a"]}), &["Breaks  \"b\" is not allowed"]),
        (json!({"const": 3}), json!({"type": "integer", "maximum": 3}), &[]),
        (json!({"const": 4}), json!({"type": "integer", "maximum": 3}), &["Breaks  4 is not allowed"]),
        (json!({"const": "x"}), json!({"pattern": "y"}), &["Unknown  whether \"x\" is allowed"]),
        (
            json!({"type": "string"}),
            json!({"enum": ["a"]}),
            &["Breaks  the new schema takes some values only"],
        ),
        (json!({"type": "boolean"}), json!({"enum": [true, false, null]}), &[]),
        (json!({"type": "integer", "minimum": 1}), json!({"type": "integer", "minimum": 0}), &[]),
        (
            json!({"type": "integer", "minimum": 0}),
            json!({"type": "integer", "minimum": 1}),
            &["Breaks /minimum "],
        ),
        (
            json!({"type": "number", "minimum": 1}),
            json!({"type": "number", "exclusiveMinimum": 1}),
            &["Breaks /exclusiveMinimum"],
        ),
        (json!({"type": "number", "exclusiveMaximum": 1}), json!({"type": "number", "maximum": 1}), &[]),
        (json!({"type": "string", "minimum": 0}), json!({"type": "string", "minimum": 1}), &[]),
        (json!({"type": "integer", "multipleOf": 4}), json!({"type": "integer", "multipleOf": 2}), &[]),
        (
            json!({"type": "integer", "multipleOf": 2}),
            json!({"type": "integer", "multipleOf": 4}),
            &["Breaks /multipleOf"],
        ),
        (json!({"type": "string", "maxLength": 3}), json!({"type": "string", "maxLength": 4}), &[]),
        (json!({"type": "string"}), json!({"type": "string", "maxLength": 4}), &["Breaks /maxLength"]),
        (json!({"type": "string"}), json!({"type": "string", "minLength": 1}), &["Breaks /minLength"]),
        (json!({"type": "string", "pattern": "a"}), json!({"type": "string", "pattern": "a"}), &[]),
        (
            json!({"type": "string", "pattern": "a"}),
            json!({"type": "string", "pattern": "b"}),
            &["Unknown /pattern"],
        ),
        (json!({"type": "string"}), json!({"type": "string", "format": "uuid"}), &["Breaks /format"]),
        (json!({"type": "string", "format": "uuid"}), json!({"type": "string"}), &[]),
        (json!({"type": "string"}), json!({"type": "string", "not": {"const": "a"}}), &["Unknown /not"]),
        (json!({"title": "a"}), json!({"title": "b", "x-more": 1}), &[]),
    ]);
}

#[test]
fn objects_open_and_closed() {
    let closed = |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
    let open = |properties: Value| json!({"type": "object", "properties": properties});
    let string = json!({"type": "string"});
    holds(&[
        (closed(json!({"a": string})), closed(json!({"a": string, "b": string})), &[]),
        (
            closed(json!({"a": string, "b": string})),
            closed(json!({"a": string})),
            &["Breaks /properties/b the new schema does not know it"],
        ),
        (open(json!({"a": string, "b": string})), open(json!({"a": string})), &[]),
        (
            open(json!({"a": string})),
            open(json!({"a": string, "b": string})),
            &["Warning /properties/b the old schema lets anything"],
        ),
        (open(json!({"a": string})), closed(json!({"a": string})), &["Breaks /additionalProperties"]),
        (closed(json!({"a": string})), open(json!({"a": string})), &[]),
        (
            closed(json!({"a": string})),
            closed(json!({"a": {"type": "integer"}})),
            &["Breaks /properties/a/type string"],
        ),
        (
            json!({"type": "object", "required": ["a", "b"]}),
            json!({"type": "object", "required": ["a"]}),
            &[],
        ),
        (
            json!({"type": "object", "required": ["a"]}),
            json!({"type": "object", "required": ["a", "b"]}),
            &["Breaks /required \"b\" is required"],
        ),
        (json!({"type": "object", "required": ["a"]}), json!({"type": "object", "minProperties": 1}), &[]),
        (
            json!({"type": "object"}),
            json!({"type": "object", "patternProperties": {"^x": string}}),
            &["Unknown /patternProperties"],
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            json!({"type": "object", "additionalProperties": {"type": "number"}}),
            &[],
        ),
        (
            json!({"type": "object", "properties": {"a/b": string}}),
            json!({"type": "object", "properties": {"a/b": {"type": "null"}}}),
            &["Breaks /properties/a~1b/type"],
        ),
    ]);
}

#[test]
fn arrays_choices_and_references() {
    let string = json!({"type": "string"});
    let integer = json!({"type": "integer"});
    let tree = |kind: &str| {
        json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {
        "value": {"type": kind}, "next": {"$ref": "#/$defs/tree"}}, "required": ["value"], "additionalProperties": false}}})
    };
    let tagged = |names: &[&str]| {
        let branches: Vec<Value> = names
            .iter()
            .map(|name| {
                json!({"type": "object", "required": ["kind"],
            "properties": {"kind": {"const": name}}})
            })
            .collect();
        json!({ "oneOf": branches })
    };
    holds(&[
        (
            json!({"type": "array", "items": integer}),
            json!({"type": "array", "items": {"type": "number"}}),
            &[],
        ),
        (
            json!({"type": "array", "items": string}),
            json!({"type": "array", "items": integer}),
            &["Breaks /items/type string"],
        ),
        (json!({"type": "array", "items": [string]}), json!({"type": "array", "prefixItems": [string]}), &[]),
        (
            json!({"type": "array", "prefixItems": [string]}),
            json!({"type": "array", "prefixItems": [integer]}),
            &["Breaks /prefixItems/0/type string"],
        ),
        (json!({"type": "array"}), json!({"type": "array", "uniqueItems": true}), &["Breaks /uniqueItems"]),
        (json!({"type": "array", "maxItems": 1}), json!({"type": "array", "uniqueItems": true}), &[]),
        (string.clone(), json!({"anyOf": [string, integer]}), &[]),
        (json!({"anyOf": [string, integer]}), string.clone(), &["Breaks /type integer"]),
        (json!({"anyOf": [string, integer]}), json!({"type": ["string", "integer"]}), &[]),
        (json!({"type": ["string", "integer"]}), json!({"anyOf": [string, integer]}), &["Unknown /anyOf"]),
        (json!({"type": "null"}), json!({"anyOf": [string, integer]}), &["Breaks  null is not allowed"]),
        (
            json!({"type": "array"}),
            json!({"anyOf": [string, integer]}),
            &["Breaks /anyOf the new schema has no choice"],
        ),
        (string.clone(), json!({"oneOf": [string, integer]}), &[]),
        (string.clone(), json!({"oneOf": [string, {"type": "string", "maxLength": 3}]}), &["Unknown /oneOf"]),
        (tagged(&["a", "b"]), tagged(&["a", "b", "c"]), &[]),
        (tagged(&["a", "b"]), tagged(&["a"]), &["Breaks /oneOf the new schema has no choice"]),
        (json!({"allOf": [string, {"maxLength": 3}]}), json!({"type": "string", "maxLength": 4}), &[]),
        (
            json!({"type": "string", "maxLength": 3}),
            json!({"allOf": [string, {"maxLength": 2}]}),
            &["Breaks /allOf/1/maxLength"],
        ),
        (
            json!({"allOf": [{"maxLength": 3}, {"maxLength": 2, "type": "string"}]}),
            json!({"type": "string", "minLength": 2}),
            &["Unknown  the writer's"],
        ),
        (tree("integer"), tree("number"), &[]),
        (tree("number"), tree("integer"), &["Breaks /properties/value/type number"]),
        (string.clone(), json!({"$ref": "other.json"}), &["Unknown  $ref \"other.json\""]),
        (json!({"$ref": "#/nowhere"}), string.clone(), &["Unknown  $ref \"#/nowhere\""]),
        (json!({"$ref": "#"}), string.clone(), &["Unknown  its references do not end"]),
    ]);
}

/// Each was once taken for good; documents of generated schemas found it (`tests/json_schemas.rs`).
#[test]
fn what_stands_beside_a_keyword_counts() {
    let closed = |key: &str, names: &[&str]| {
        let properties: Value = names.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
        json!({"type": "object", "properties": properties, key: false})
    };
    let twice = json!({"type": "object", "allOf": [{"required": ["a"]}, {"required": ["a"]}]});
    let (string, integer) = (json!({"type": "string"}), json!({"type": "integer"}));
    let referring = |second: Value, target: &Value| {
        json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/x", "type": "string"}, "b": second},
            "additionalProperties": false, "$defs": {"x": target}})
    };
    let any = json!({"$ref": "#/$defs/x"});
    holds(&[
        (
            json!({"type": "array", "contains": string, "minContains": 0}),
            json!({"type": "array", "contains": string}),
            &["Unknown /contains"],
        ),
        (
            closed("unevaluatedProperties", &["a", "b"]),
            closed("unevaluatedProperties", &["a"]),
            &["Unknown /unevaluatedProperties"],
        ),
        (
            json!({"type": "object", "patternProperties": {"^a": {}}, "additionalProperties": false}),
            closed("additionalProperties", &[]),
            &["Unknown /patternProperties"],
        ),
        (
            json!({"type": "object", "patternProperties": {"^a": {}}, "additionalProperties": false}),
            json!({"type": "object", "patternProperties": {"^a": {}}, "properties": {"a": string}}),
            &["Unknown /patternProperties"],
        ),
        (
            json!({"type": "object"}),
            json!({"anyOf": [{"properties": {"a": string}}]}),
            &["Warning /anyOf/0/properties/a"],
        ),
        (twice, json!({"type": "object", "minProperties": 2}), &["Breaks /minProperties"]),
        (
            referring(any.clone(), &json!({})),
            referring(any, &integer),
            &["Breaks /properties/a/type string", "Breaks /properties/b/type"],
        ),
        (json!({"const": 1}), json!({"enum": [1.0]}), &[]),
    ]);
}

#[test]
fn what_is_no_schema_is_told_with_which_it_is() {
    let error = |old: &str, new: &str| check(old, new, Mode::Full).unwrap_err().to_string();
    assert!(error("{", "{}").starts_with("the old schema is none: "));
    assert_eq!(error("{}", "7"), "the new schema is none: neither an object nor a boolean");
}

#[test]
fn each_way_names_who_reads() {
    let (open, closed) =
        (json!({"type": "object"}), json!({"type": "object", "additionalProperties": false}));
    let found = check(&closed.to_string(), &open.to_string(), Mode::Full).unwrap();
    let wanted = "breaks: /additionalProperties: the old schema allows nothing here (old reads new); keep what was allowed";
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [wanted]);
}
