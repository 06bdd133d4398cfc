//! What a schema says at the first look, and two schemas as one.

use serde_json::{Map, Value};

/// All types, of which `integer` is a part of `number`.
const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// Keywords that say something of a document and demand nothing.
pub fn is_annotation(key: &str) -> bool {
    matches!(
        key,
        "$id"
            | "id"
            | "$schema"
            | "$comment"
            | "$anchor"
            | "$defs"
            | "$vocabulary"
            | "definitions"
            | "title"
            | "description"
            | "default"
            | "deprecated"
            | "examples"
            | "readOnly"
            | "writeOnly"
            | "contentEncoding"
            | "contentMediaType"
            | "contentSchema"
    ) || key.starts_with("x-")
}

/// The types that a schema allows, sorted.
pub fn types(schema: &Map<String, Value>) -> Vec<&'static str> {
    let named = |name: &str| TYPES.iter().copied().filter(|known| *known == name).collect::<Vec<_>>();
    let mut types: Vec<&'static str> = match schema.get("type") {
        Some(Value::String(name)) => named(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).flat_map(named).collect(),
        _ => TYPES.to_vec(),
    };
    if types.contains(&"number") && !types.contains(&"integer") {
        types.push("integer");
    }
    types.sort_unstable();
    types
}

/// What keeps to both of two schemas, as one; none if both demand something of the same kind that is not one
/// thing.
pub fn merged(one: &Map<String, Value>, other: &Value) -> Option<Value> {
    let other = match other {
        Value::Bool(true) => return Some(Value::Object(one.clone())),
        Value::Object(keywords) => keywords,
        _ => return None,
    };
    let mut whole = one.clone();
    // These go by what stands beside them in their own schema.
    let scoped = ["additionalProperties", "unevaluatedProperties", "items", "additionalItems"];
    let has = |schema: &Map<String, Value>, keys: &[&str]| keys.iter().any(|key| schema.contains_key(*key));
    if has(one, &scoped[..2]) && has(other, &["properties", "patternProperties"])
        || has(other, &scoped[..2]) && has(one, &["properties", "patternProperties"])
        || has(one, &scoped[2..]) && has(other, &["prefixItems", "items"])
        || has(other, &scoped[2..]) && has(one, &["prefixItems", "items"])
    {
        return None;
    }
    for (key, value) in other {
        match (whole.get_mut(key), value) {
            (None, _) => {
                whole.insert(key.clone(), value.clone());
            }
            (Some(known), _) if known == value || is_annotation(key) => {}
            (Some(Value::Array(known)), Value::Array(more)) if key == "required" => {
                known.extend(more.iter().cloned());
            }
            (Some(Value::Array(known)), Value::Array(more)) if key == "allOf" => {
                known.extend(more.iter().cloned());
            }
            (Some(Value::Object(known)), Value::Object(more)) if key == "properties" => {
                for (name, schema) in more {
                    match known.get(name) {
                        None => {
                            known.insert(name.clone(), schema.clone());
                        }
                        Some(known) if known == schema => {}
                        Some(_) => return None,
                    }
                }
            }
            _ => return None,
        }
    }
    Some(Value::Object(whole))
}

/// As [`merged`], of all parts, each with what it refers to in place.
pub fn conjunction(
    rest: &Map<String, Value>,
    parts: &[Value],
    whole: &dyn Fn(&Value) -> Option<Value>,
) -> Option<Value> {
    let mut all = Value::Object(rest.clone());
    for part in parts {
        all = merged(all.as_object()?, &whole(part)?)?;
    }
    Some(all)
}
