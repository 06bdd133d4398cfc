//! Single values: those that a schema lists, and whether another one allows them.

use serde_json::{Map, Value};

use super::shapes::{is_annotation, types};
use super::{pointed, reference};

/// The values that a schema allows, if it lists them and they have a type that it allows.
pub fn of(schema: &Map<String, Value>) -> Option<Vec<Value>> {
    let listed = match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => vec![value.clone()],
        (None, Some(Value::Array(values))) => values.clone(),
        _ => match types(schema).as_slice() {
            ["null"] => vec![Value::Null],
            ["boolean"] => vec![Value::Bool(false), Value::Bool(true)],
            _ => return None,
        },
    };
    let types = types(schema);
    Some(listed.into_iter().filter(|value| types.iter().any(|name| is_of(value, name))).collect())
}

pub fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        _ => value.as_f64().is_some_and(|number| number.fract() == 0.0),
    }
}

/// Whether two values are the same one: 1.0 is 1.
pub fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let has =
                |(name, value): (&String, &Value)| other.get(name).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(has)
        }
        (one, other) => one == other,
    }
}

/// Whether a schema of a document allows a value; none if it demands something that is not judged here.
pub fn accepts(document: &Value, schema: &Map<String, Value>, value: &Value, depth: usize) -> Option<bool> {
    if depth > crate::MAX_DEPTH {
        return None;
    }
    let accepts_by = |schema: &Value| match schema {
        Value::Bool(all) => Some(*all),
        Value::Object(keywords) => accepts(document, keywords, value, depth + 1),
        _ => None,
    };
    let mut unknown = false;
    for (key, wanted) in schema {
        let accepted = match (key.as_str(), wanted) {
            (key, _) if is_annotation(key) => Some(true),
            ("type", _) => Some(types(schema).iter().any(|name| is_of(value, name))),
            ("const", wanted) => Some(same(value, wanted)),
            ("enum", Value::Array(values)) => Some(values.iter().any(|wanted| same(value, wanted))),
            ("$ref", _) => {
                let (_, target) =
                    reference(&Value::Object(schema.clone())).map(|(_, target)| ((), target.to_owned()))?;
                pointed(document, &target).and_then(accepts_by)
            }
            ("allOf", Value::Array(parts)) => {
                parts.iter().map(accepts_by).try_fold(true, |all, one| Some(all & one?))
            }
            ("anyOf", Value::Array(parts)) => {
                let all: Vec<_> = parts.iter().map(accepts_by).collect();
                match all.contains(&Some(true)) {
                    true => Some(true),
                    false => all.contains(&None).then_some(false).map_or(Some(false), |_| None),
                }
            }
            ("oneOf", Value::Array(parts)) => parts
                .iter()
                .map(accepts_by)
                .try_fold(0, |count, one| Some(count + usize::from(one?)))
                .map(|count| count == 1),
            (key, wanted) => measured(key, wanted, value),
        };
        match accepted {
            Some(true) => {}
            Some(false) => return Some(false),
            None => unknown = true,
        }
    }
    (!unknown).then_some(true)
}

/// What counts something of a value; good for all values that are of another type.
fn measured(key: &str, wanted: &Value, value: &Value) -> Option<bool> {
    let (measure, kind): (fn(&Value) -> f64, _) = match key {
        "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum" => {
            (|value| value.as_f64().unwrap_or_default(), "number")
        }
        "minLength" | "maxLength" => {
            (|value| value.as_str().unwrap_or_default().chars().count() as f64, "string")
        }
        "minItems" | "maxItems" => (|value| value.as_array().map_or(0, Vec::len) as f64, "array"),
        "minProperties" | "maxProperties" => (|value| value.as_object().map_or(0, Map::len) as f64, "object"),
        "required"
        | "properties"
        | "additionalProperties"
        | "patternProperties"
        | "propertyNames"
        | "dependentRequired"
        | "dependentSchemas"
        | "unevaluatedProperties" => {
            return (!value.is_object()).then_some(true);
        }
        "items" | "prefixItems" | "additionalItems" | "uniqueItems" | "contains" | "minContains"
        | "maxContains" | "unevaluatedItems" => return (!value.is_array()).then_some(true),
        "pattern" | "format" => return (!value.is_string()).then_some(true),
        "multipleOf" => return (!value.is_number()).then_some(true),
        _ => return None,
    };
    if !is_of(value, kind) {
        return Some(true);
    }
    let (bound, measure) = (wanted.as_f64()?, measure(value));
    Some(match key {
        "exclusiveMinimum" => measure > bound,
        "exclusiveMaximum" => measure < bound,
        key if key.starts_with("min") => measure >= bound,
        _ => measure <= bound,
    })
}
