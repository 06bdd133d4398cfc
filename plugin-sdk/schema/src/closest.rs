//! Which of many alternatives a document was probably meant to be.
//!
//! A document that fits none of 66 alternatives breaks thousands of rules, and collecting them
//! takes a thousand times as long as the verdict. So this looks only at what tells alternatives
//! apart, which are the types, constants and names of the first level, and goes down to the one
//! that fits best.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// `$ref`s and unions within unions that are followed; ends cycles.
const MAX_DEPTH: usize = 16;

/// An alternative whose own type is another one is no candidate.
const OTHER_TYPE: usize = 1_000;
/// A constant tells alternatives apart better than a missing property does.
const OTHER_CONSTANT: usize = 2;
/// Whatever a `$ref` that is not followed leads to.
const UNKNOWN: usize = 1;

/// Keywords that assert nothing: beside them a union is all that a schema says.
const SILENT: [&str; 12] = [
    "$schema",
    "$id",
    "id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "definitions",
    "$defs",
    "discriminator",
];

/// Where the search ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Closest {
    /// JSON pointer to the alternative, in the schema
    pub pointer: String,
    /// the unions on the way to it: JSON pointer and number of alternatives
    pub unions: Vec<(String, usize)>,
}

/// The closest alternative of the union that `schema` is; `None` if it is not one.
pub fn closest(schema: &Value, document: &Value) -> Option<Closest> {
    let mut pointer = String::new();
    let mut unions = Vec::new();
    for _ in 0..MAX_DEPTH {
        let node = schema.pointer(&pointer)?.as_object()?;
        if let Some(target) = reference(node) {
            pointer = target;
        } else if let Some((keyword, alternatives)) = union(node) {
            let best = alternatives
                .iter()
                .enumerate()
                .min_by_key(|(_, alternative)| distance(schema, alternative, document, MAX_DEPTH))?
                .0;
            // A union of one is no choice.
            if alternatives.len() > 1 {
                unions.push((format!("{pointer}/{keyword}"), alternatives.len()));
            }
            pointer = format!("{pointer}/{keyword}/{best}");
        } else {
            break;
        }
    }
    (!unions.is_empty()).then_some(Closest { pointer, unions })
}

/// The JSON pointer of a `$ref` within the schema. Anchors and other names are rare: the search ends
/// there.
fn reference(node: &Map<String, Value>) -> Option<String> {
    let pointer = node.get("$ref")?.as_str()?.strip_prefix('#')?;
    let alone = node.keys().all(|keyword| keyword == "$ref" || SILENT.contains(&keyword.as_str()));
    let pointer = percent_decode_str(pointer).decode_utf8().ok()?;
    (alone && (pointer.is_empty() || pointer.starts_with('/'))).then(|| pointer.into_owned())
}

fn union(node: &Map<String, Value>) -> Option<(&'static str, &Vec<Value>)> {
    let keyword = ["oneOf", "anyOf"].into_iter().find(|keyword| node.contains_key(*keyword))?;
    let alone = node.keys().all(|known| known == keyword || SILENT.contains(&known.as_str()));
    let alternatives = node[keyword].as_array()?;
    alone.then_some((keyword, alternatives))
}

/// How many rules of the first level are broken; then, the smaller the better, how many properties
/// of the document the schema does not know.
fn distance(schema: &Value, node: &Value, document: &Value, depth: usize) -> (usize, usize) {
    let unknown_to_it = |properties: Option<&Map<String, Value>>| match document {
        Value::Object(document) => {
            document.keys().filter(|name| properties.is_none_or(|known| !known.contains_key(*name))).count()
        }
        _ => 0,
    };
    let node = match node {
        Value::Object(node) if depth > 0 => node,
        Value::Bool(false) => return (OTHER_TYPE, 0),
        _ => return (0, unknown_to_it(None)),
    };
    let next = |node: &Value| distance(schema, node, document, depth - 1);
    if let Some(target) = reference(node).and_then(|pointer| schema.pointer(&pointer)) {
        return next(target);
    }
    if node.contains_key("$ref") {
        return (UNKNOWN, unknown_to_it(None));
    }

    let properties = node.get("properties").and_then(Value::as_object);
    let mut unknown = unknown_to_it(properties);
    let mut broken = own_rules(node, document) + if closed(node) { unknown } else { 0 };
    for part in node.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        let (part_broken, part_unknown) = next(part);
        broken += part_broken;
        unknown = unknown.min(part_unknown);
    }
    for keyword in ["oneOf", "anyOf"] {
        let alternatives = node.get(keyword).and_then(Value::as_array).into_iter().flatten();
        if let Some((best, best_unknown)) = alternatives.map(next).min() {
            broken += best;
            unknown = unknown.min(best_unknown);
        }
    }
    (broken, unknown)
}

/// Broken rules of this schema alone, without those that it refers to.
fn own_rules(node: &Map<String, Value>, document: &Value) -> usize {
    let mut broken = 0;
    if !type_fits(node, document) {
        broken += OTHER_TYPE;
    }
    if !constant_fits(node, document) {
        broken += OTHER_CONSTANT;
    }
    let Value::Object(document) = document else { return broken };
    for name in node.get("required").and_then(Value::as_array).into_iter().flatten() {
        broken += usize::from(name.as_str().is_some_and(|name| !document.contains_key(name)));
    }
    for (name, property) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let (Some(value), Some(property)) = (document.get(name), property.as_object()) else { continue };
        if !constant_fits(property, value) {
            broken += OTHER_CONSTANT;
        } else if !type_fits(property, value) {
            broken += 1;
        }
    }
    broken
}

fn closed(node: &Map<String, Value>) -> bool {
    node.get("additionalProperties") == Some(&Value::Bool(false)) && !node.contains_key("patternProperties")
}

fn constant_fits(node: &Map<String, Value>, value: &Value) -> bool {
    match (node.get("const"), node.get("enum").and_then(Value::as_array)) {
        (Some(constant), _) => constant == value,
        (None, Some(constants)) => constants.contains(value),
        (None, None) => true,
    }
}

fn type_fits(node: &Map<String, Value>, value: &Value) -> bool {
    let fits = |name: &Value| match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer" | "number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    match node.get("type") {
        None => true,
        Some(Value::Array(names)) => names.iter().any(fits),
        Some(name) => fits(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn events() -> Value {
        json!({
            "definitions": {
                "stars": { "oneOf": [{ "$ref": "#/definitions/star" }] },
                "star": { "oneOf": [
                    { "$ref": "#/definitions/star_created" },
                    { "$ref": "#/definitions/star_deleted" },
                ] },
                "star_created": {
                    "type": "object",
                    "required": ["action", "starred_at", "repo"],
                    "properties": {
                        "action": { "enum": ["created"] }, "starred_at": { "type": "string" }, "repo": {},
                    },
                    "additionalProperties": false,
                },
                "star_deleted": {
                    "type": "object",
                    "required": ["action", "starred_at", "repo"],
                    "properties": {
                        "action": { "enum": ["deleted"] }, "starred_at": { "type": "null" }, "repo": {},
                    },
                    "additionalProperties": false,
                },
                "public": {
                    "type": "object",
                    "required": ["repo"],
                    "properties": { "repo": {} },
                    "additionalProperties": false,
                },
                "text": { "type": "string" },
            },
            "oneOf": [
                { "$ref": "#/definitions/text" },
                { "$ref": "#/definitions/public" },
                { "$ref": "#/definitions/stars" },
            ],
        })
    }

    fn pointer(document: Value) -> String {
        closest(&events(), &document).unwrap().pointer
    }

    #[test]
    fn names_and_constants_tell_alternatives_apart() {
        let cases = [
            (json!({ "action": "created", "starred_at": "2024", "repo": 1 }), "/definitions/star_created"),
            (json!({ "action": "created", "repo": 1 }), "/definitions/star_created"),
            (json!({ "action": "deleted", "starred_at": "2024", "repo": 1 }), "/definitions/star_deleted"),
            (json!({ "action": "else", "starred_at": null, "repo": 1 }), "/definitions/star_deleted"),
            (json!({ "repo": {} }), "/definitions/public"),
            (json!("text"), "/definitions/text"),
        ];
        for (document, expected) in cases {
            assert_eq!(pointer(document.clone()), expected, "{document}");
        }
    }

    #[test]
    fn the_way_names_the_unions() {
        let found = closest(&events(), &json!({ "action": "created", "starred_at": 1, "repo": 1 })).unwrap();
        assert_eq!(found.unions, [("/oneOf".to_owned(), 3), ("/definitions/star/oneOf".to_owned(), 2)]);
    }

    #[test]
    fn only_a_pure_union_is_searched() {
        assert!(closest(&json!({ "oneOf": [] }), &json!(1)).is_none());
        assert!(closest(&json!({ "oneOf": [{ "type": "string" }] }), &json!(1)).is_none());
        let alternatives = json!([{ "type": "string" }, { "type": "null" }]);
        assert!(closest(&json!({ "anyOf": alternatives, "minLength": 1 }), &json!(1)).is_none());
        assert!(closest(&json!({ "type": "string" }), &json!(1)).is_none());
        assert!(closest(&json!(false), &json!(1)).is_none());
        assert_eq!(closest(&json!({ "anyOf": alternatives }), &json!(null)).unwrap().pointer, "/anyOf/1");
    }

    #[test]
    fn a_cycle_ends() {
        let schema = json!({ "oneOf": [{ "$ref": "#" }, { "$ref": "#/oneOf/0" }, { "$ref": "#/oneOf/2" }] });
        assert!(closest(&schema, &json!(1)).is_some());
    }
}
