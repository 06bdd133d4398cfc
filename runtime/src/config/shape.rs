//! What a section may hold, read from its JSON Schema: for checking it and for its reference.
//!
//! This knows what schemars makes of our structs (and those of plugins). What it does not know is
//! [`Shape::Any`]: then only the type itself decides, when it reads the value.

use serde_json::Value;

/// References within references are followed this far; a type that contains itself ends there.
const MAX_DEPTH: usize = 12;

#[derive(Clone, PartialEq, Debug)]
pub enum Shape {
    Any,
    Text,
    Boolean,
    Integer {
        min: Option<f64>,
        max: Option<f64>,
    },
    Number {
        min: Option<f64>,
        max: Option<f64>,
    },
    /// See [`super::units::ByteSize`].
    Size,
    /// See [`super::units::Interval`].
    Time,
    /// One of these words.
    OneOf(Vec<Word>),
    List(Box<Shape>),
    Table(Vec<Field>),
    /// A table whose keys the user chooses.
    Map(Box<Shape>),
    /// A table whose other keys depend on one of them.
    Tagged {
        tag: String,
        variants: Vec<(Word, Vec<Field>)>,
    },
    /// Any one of these.
    Either(Vec<Shape>),
}

#[derive(Clone, PartialEq, Debug)]
pub struct Word {
    pub word: String,
    pub description: String,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Field {
    pub name: String,
    pub shape: Shape,
    pub required: bool,
    pub default: Option<Value>,
    pub description: String,
}

impl Shape {
    /// The shape that a schema describes.
    pub fn of(schema: &Value) -> Shape {
        shape(schema, schema, 0)
    }

    /// The keys of a table; of anything else none.
    pub fn fields(self) -> Vec<Field> {
        match self {
            Shape::Table(fields) => fields,
            _ => Vec::new(),
        }
    }
}

/// Keys of the struct `T`.
pub fn fields_of<T: schemars::JsonSchema>() -> Vec<Field> {
    Shape::of(schemars::schema_for!(T).as_value()).fields()
}

fn shape(root: &Value, schema: &Value, depth: usize) -> Shape {
    if depth > MAX_DEPTH {
        return Shape::Any;
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return target.map_or(Shape::Any, |target| shape(root, target, depth + 1));
    }
    if let Some(alternatives) = schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array) {
        return either(root, alternatives, depth);
    }
    if let Some([only]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
        return shape(root, only, depth + 1);
    }
    if let Some(words) = words(schema) {
        return Shape::OneOf(words);
    }
    let mut kinds: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return Shape::Any,
    };
    kinds.retain(|kind| *kind != "null");
    match schema.get("format").and_then(Value::as_str) {
        Some("size") => return Shape::Size,
        Some("time") if kinds == ["string"] => return Shape::Time,
        _ => {}
    }
    let mut shapes: Vec<Shape> = kinds.iter().map(|kind| of_kind(root, schema, kind, depth)).collect();
    match shapes.len() {
        1 => shapes.remove(0),
        _ => Shape::Either(shapes),
    }
}

fn of_kind(root: &Value, schema: &Value, kind: &str, depth: usize) -> Shape {
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    // Only the smaller ones come with limits.
    let (lowest, highest) = match schema.get("format").and_then(Value::as_str) {
        Some("int32") => (Some(f64::from(i32::MIN)), Some(f64::from(i32::MAX))),
        Some("uint32") => (Some(0.0), Some(f64::from(u32::MAX))),
        _ => (None, None),
    };
    match kind {
        "string" => Shape::Text,
        "boolean" => Shape::Boolean,
        "integer" => Shape::Integer { min: number("minimum").or(lowest), max: number("maximum").or(highest) },
        "number" => Shape::Number { min: number("minimum"), max: number("maximum") },
        "array" => Shape::List(Box::new(
            schema.get("items").map_or(Shape::Any, |items| shape(root, items, depth + 1)),
        )),
        "object" => match (schema.get("properties"), schema.get("additionalProperties")) {
            (Some(_), None) | (_, Some(Value::Bool(false))) => Shape::Table(fields(root, schema, depth)),
            (None, Some(values)) => Shape::Map(Box::new(shape(root, values, depth + 1))),
            _ => Shape::Map(Box::new(Shape::Any)),
        },
        _ => Shape::Any,
    }
}

fn fields(root: &Value, schema: &Value, depth: usize) -> Vec<Field> {
    let required: Vec<&str> = match schema.get("required").and_then(Value::as_array) {
        Some(names) => names.iter().filter_map(Value::as_str).collect(),
        None => Vec::new(),
    };
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let mut fields: Vec<Field> = properties
        .iter()
        .map(|(name, property)| Field {
            name: name.clone(),
            shape: shape(root, property, depth + 1),
            required: required.contains(&name.as_str()),
            default: property.get("default").filter(|default| !default.is_null()).cloned(),
            description: description(property),
        })
        .collect();
    // Properties come sorted by name; what one must write comes first.
    fields.sort_by_key(|field| !field.required);
    fields
}

fn either(root: &Value, alternatives: &[Value], depth: usize) -> Shape {
    let alternatives: Vec<&Value> =
        alternatives.iter().filter(|schema| schema.get("type") != Some(&"null".into())).collect();
    if let Some(words) = alternatives.iter().map(|schema| words(schema)).collect::<Option<Vec<_>>>() {
        return Shape::OneOf(words.concat());
    }
    if let Some((tag, variants)) = tagged(root, &alternatives, depth) {
        return Shape::Tagged { tag, variants };
    }
    let mut shapes: Vec<Shape> = Vec::new();
    for alternative in alternatives {
        let shape = shape(root, alternative, depth + 1);
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    if shapes.len() == 1 { shapes.remove(0) } else { Shape::Either(shapes) }
}

/// The words that a schema allows, if that is all it does.
fn words(schema: &Value) -> Option<Vec<Word>> {
    let word =
        |word: &Value| Some(Word { word: word.as_str()?.to_owned(), description: description(schema) });
    if let Some(only) = schema.get("const") {
        return Some(vec![word(only)?]);
    }
    schema.get("enum")?.as_array()?.iter().map(word).collect()
}

/// Alternatives that are told apart by one key with one word each.
fn tagged(root: &Value, alternatives: &[&Value], depth: usize) -> Option<(String, Vec<(Word, Vec<Field>)>)> {
    let properties = |schema: &Value| schema.get("properties").and_then(Value::as_object).cloned();
    let first = properties(alternatives.first()?)?;
    let (tag, _) = first.iter().find(|(_, property)| property.get("const").is_some())?;
    let mut variants = Vec::new();
    for alternative in alternatives {
        let mut word = words(properties(alternative)?.get(tag)?)?;
        let word = Word { word: word.pop()?.word, description: description(alternative) };
        let mut fields = fields(root, alternative, depth);
        fields.retain(|field| &field.name != tag);
        variants.push((word, fields));
    }
    Some((tag.clone(), variants))
}

/// Its doc comment, as one paragraph.
fn description(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::units::{ByteSize, Interval};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use std::collections::BTreeMap;

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    #[derive(Default)]
    struct Outer {
        /// A port.
        port: Option<u16>,
        size: Option<ByteSize>,
        time: Option<Interval>,
        how: How,
        maybe_how: Option<How>,
        inner: BTreeMap<String, Inner>,
        auth: Option<Auth>,
        paths: Paths,
    }

    #[derive(Serialize, Deserialize, JsonSchema, Default)]
    #[serde(rename_all = "kebab-case")]
    enum How {
        /// At once.
        #[default]
        Now,
        /// Or not.
        NeverEver,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(default)]
        at_least: Vec<f64>,
        name: String,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(tag = "type", rename_all = "lowercase")]
    #[allow(dead_code)]
    enum Auth {
        /// A token.
        Bearer {
            token: String,
        },
        Basic {
            user: String,
            password: Option<String>,
        },
    }

    #[derive(Serialize, Deserialize, JsonSchema, Default)]
    #[serde(untagged)]
    enum Paths {
        #[default]
        None,
        One(String),
        Many(Vec<String>),
    }

    #[test]
    fn structs_have_the_shapes_that_people_write() {
        let fields = fields_of::<Outer>();
        let shape = |name: &str| {
            fields
                .iter()
                .find(|field| field.name == name)
                .unwrap_or_else(|| panic!("no {name}"))
                .shape
                .clone()
        };
        let word =
            |word: &str, description: &str| Word { word: word.into(), description: description.into() };
        let how = Shape::OneOf(vec![word("now", "At once."), word("never-ever", "Or not.")]);
        assert_eq!(shape("port"), Shape::Integer { min: Some(0.0), max: Some(65535.0) });
        assert_eq!(shape("size"), Shape::Size);
        assert_eq!(shape("time"), Shape::Time);
        assert_eq!(shape("how"), how);
        assert_eq!(shape("maybe_how"), how);
        assert_eq!(shape("paths"), Shape::Either(vec![Shape::Text, Shape::List(Box::new(Shape::Text))]));
        let field = |name: &str, shape, required| Field {
            name: name.into(),
            shape,
            required,
            default: None,
            description: String::new(),
        };
        let numbers = Shape::List(Box::new(Shape::Number { min: None, max: None }));
        let mut at_least = field("at_least", numbers, false);
        at_least.default = Some(serde_json::json!([]));
        let inner = Shape::Table(vec![field("name", Shape::Text, true), at_least]);
        assert_eq!(shape("inner"), Shape::Map(Box::new(inner)));
        let Shape::Tagged { tag, variants } = shape("auth") else { panic!("{:?}", shape("auth")) };
        assert_eq!(tag, "type");
        assert_eq!(variants[0], (word("bearer", "A token."), vec![field("token", Shape::Text, true)]));
        assert_eq!(variants[1].1.len(), 2);
    }
}
