//! Two versions of a JSON schema that are said to go together, and documents: each that is valid by the old one
//! is valid by the new one.

use std::cell::Cell;

use jsonschema::Validator;
use millstream_formats::compatibility::{Mode, json::check};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use rand::RngExt;
use rand::seq::{IndexedRandom, IteratorRandom};
use serde_json::{Map, Value, json};

/// Few, so that schemas and documents meet.
const NAMES: [&str; 4] = ["a", "ab", "b", "c"];
const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// How deep schemas and documents are.
const DEPTH: usize = 2;

const DOCUMENTS: usize = 60;

fn pick<T: Clone>(of: &[T], rng: &mut TestRng) -> T {
    of.choose(rng).expect("there are some").clone()
}

fn number(rng: &mut TestRng) -> Value {
    match rng.random_range(0..6) {
        0 => json!(rng.random_range(-3..4) as f64 / 2.0),
        1 => json!(f64::from(rng.random_range(-2..3))),
        _ => json!(rng.random_range(-2..5)),
    }
}

fn document(depth: usize, rng: &mut TestRng) -> Value {
    match rng.random_range(0..if depth == 0 { 5 } else { 9 }) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 | 3 => number(rng),
        4 => json!(pick(&["", "a", "b", "ab", "abc"], rng)),
        5 | 6 => (0..rng.random_range(0..4)).map(|_| document(depth - 1, rng)).collect(),
        _ => {
            let names = NAMES.iter().filter(|_| rng.random()).collect::<Vec<_>>();
            names.into_iter().map(|name| ((*name).to_owned(), document(depth - 1, rng))).collect()
        }
    }
}

fn schema(depth: usize, rng: &mut TestRng) -> Value {
    if rng.random_ratio(1, 12) {
        return json!(rng.random_ratio(3, 4));
    }
    let mut keywords = Map::new();
    if rng.random_ratio(2, 3) {
        keywords.insert("type".into(), json!(pick(&TYPES, rng)));
    }
    for _ in 0..rng.random_range(0..4) {
        keyword(depth, &mut keywords, rng);
    }
    Value::Object(keywords)
}

fn schemas(depth: usize, rng: &mut TestRng) -> Value {
    (0..rng.random_range(1..4)).map(|_| schema(depth, rng)).collect()
}

fn named_schemas(names: &[&str], depth: usize, rng: &mut TestRng) -> Value {
    let names = names.iter().filter(|_| rng.random()).collect::<Vec<_>>();
    names.into_iter().map(|name| ((*name).to_owned(), schema(depth, rng))).collect()
}

fn some_names(rng: &mut TestRng) -> Value {
    NAMES.iter().filter(|_| rng.random_ratio(1, 3)).map(|name| json!(name)).collect()
}

fn keyword(depth: usize, into: &mut Map<String, Value>, rng: &mut TestRng) {
    let key = match rng.random_range(0..if depth == 0 { 4 } else { 9 }) {
        0 => pick(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"], rng),
        1 => pick(&["minLength", "maxLength", "pattern"], rng),
        2 => {
            pick(&["minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "required"], rng)
        }
        3 => pick(&["type", "enum", "const", "dependentRequired"], rng),
        4 => pick(&["properties", "additionalProperties"], rng),
        5 => pick(&["items", "prefixItems", "contains", "minContains", "maxContains"], rng),
        6 => pick(&["anyOf", "oneOf", "allOf"], rng),
        7 => "$ref",
        _ => pick(
            &[
                "not",
                "if",
                "then",
                "else",
                "patternProperties",
                "propertyNames",
                "dependentSchemas",
                "unevaluatedProperties",
                "unevaluatedItems",
            ],
            rng,
        ),
    };
    let inner = depth.saturating_sub(1);
    let value = match key {
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => number(rng),
        "multipleOf" => pick(&[json!(1), json!(2), json!(4), json!(0.5), json!(1.5)], rng),
        "pattern" => json!(pick(&["^a", "b", "c$"], rng)),
        "uniqueItems" => json!(rng.random::<bool>()),
        "required" => some_names(rng),
        "type" => TYPES.iter().sample(rng, 2).into_iter().map(|name| json!(name)).collect(),
        "enum" => (0..rng.random_range(1..4)).map(|_| document(1, rng)).collect(),
        "const" => document(1, rng),
        "dependentRequired" => json!({ pick(&NAMES, rng): some_names(rng) }),
        "dependentSchemas" => json!({ pick(&NAMES, rng): schema(inner, rng) }),
        "properties" => named_schemas(&NAMES, inner, rng),
        "patternProperties" => named_schemas(&["^a", "b"], inner, rng),
        "prefixItems" | "anyOf" | "oneOf" | "allOf" => schemas(inner, rng),
        "$ref" => json!(format!("#/$defs/{}", pick(&["x", "y"], rng))),
        key if key.starts_with("min") || key.starts_with("max") => json!(rng.random_range(0..3)),
        _ => schema(inner, rng),
    };
    into.insert(key.to_owned(), value);
}

/// A schema whose parts may be named. Those refer to nothing, so that there is an end to it.
fn whole(rng: &mut TestRng) -> Value {
    let mut whole = schema(DEPTH, rng).as_object().cloned().unwrap_or_default();
    whole.insert("$defs".into(), json!({ "x": schema(0, rng), "y": schema(0, rng) }));
    Value::Object(whole)
}

/// Pointers to the schemas in a schema; not within the values of `enum` and `const`.
fn places(schema: &Value, at: &str, found: &mut Vec<String>) {
    let Value::Object(keywords) = schema else { return };
    found.push(at.to_owned());
    for (key, value) in keywords {
        match (key.as_str(), value) {
            ("enum" | "const", _) => {}
            ("properties" | "patternProperties" | "dependentSchemas" | "$defs", Value::Object(named)) => {
                for (name, schema) in named {
                    places(schema, &format!("{at}/{key}/{name}"), found);
                }
            }
            (_, Value::Array(list)) => {
                for (index, schema) in list.iter().enumerate() {
                    places(schema, &format!("{at}/{key}/{index}"), found);
                }
            }
            (_, schema) => places(schema, &format!("{at}/{key}"), found),
        }
    }
}

/// Another version of a schema.
fn changed(old: &Value, rng: &mut TestRng) -> Value {
    let mut new = old.clone();
    for _ in 0..rng.random_range(1..4) {
        let mut all = Vec::new();
        places(&new, "", &mut all);
        let place = pick(&all, rng);
        let depth = usize::from(!place.starts_with("/$defs") && place.len() < 20);
        let Some(Value::Object(keywords)) = new.pointer_mut(&place) else { continue };
        let keys: Vec<String> = keywords.keys().filter(|key| *key != "$defs").cloned().collect();
        match (rng.random_range(0..6), keys.choose(rng)) {
            (0 | 1, Some(key)) => drop(keywords.remove(key)),
            (2, Some(key)) => {
                if let Some(number) = keywords[key].as_i64() {
                    let step = if rng.random() { 1 } else { -1 };
                    keywords[key] = json!((number + step).max(i64::from(!key.contains("imum"))));
                }
            }
            (3, _) if !place.is_empty() => {
                let (before, other) = (Value::Object(keywords.clone()), schema(depth, rng));
                *keywords = Map::new();
                keywords.insert(pick(&["anyOf", "oneOf", "allOf"], rng).into(), json!([before, other]));
            }
            _ => keyword(depth, keywords, rng),
        }
    }
    new
}

/// A document that is made for a schema, though it may not be valid.
fn made_for(root: &Value, schema: &Value, depth: usize, rng: &mut TestRng) -> Value {
    let Some(keywords) = schema.as_object().filter(|_| depth > 0 && rng.random_ratio(9, 10)) else {
        return document(depth, rng);
    };
    let of = |schema: &Value, rng: &mut TestRng| made_for(root, schema, depth - 1, rng);
    if let Some(value) = keywords.get("const") {
        return value.clone();
    }
    if let Some(values) = keywords.get("enum").and_then(Value::as_array) {
        return pick(values, rng);
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(branches)) = keywords.get(key)
            && rng.random_ratio(2, 3)
        {
            return of(&pick(branches, rng), rng);
        }
    }
    if let Some(Value::String(target)) = keywords.get("$ref")
        && rng.random_ratio(2, 3)
    {
        return of(root.pointer(&target[1..]).unwrap_or(&Value::Null), rng);
    }
    let guess = || match () {
        () if ["properties", "required", "additionalProperties"]
            .iter()
            .any(|key| keywords.contains_key(*key)) =>
        {
            "object"
        }
        () if ["items", "prefixItems", "contains"].iter().any(|key| keywords.contains_key(*key)) => "array",
        () => "any",
    };
    match keywords.get("type").and_then(Value::as_str).unwrap_or_else(guess) {
        "object" => {
            let listed = |key: &str| keywords.get(key).and_then(Value::as_array).into_iter().flatten();
            let mut object = Map::new();
            for name in NAMES {
                let part = keywords.get("properties").and_then(|all| all.get(name));
                let part =
                    part.or_else(|| keywords.get("additionalProperties")).unwrap_or(&Value::Bool(true));
                let is_required = listed("required").any(|other| *other == name);
                if is_required || *part != Value::Bool(false) && rng.random_ratio(1, 3) {
                    object.insert(name.to_owned(), of(part, rng));
                }
            }
            Value::Object(object)
        }
        "array" => {
            let of_index = |index: usize| {
                let first = keywords.get("prefixItems").and_then(|first| first.get(index));
                first.or_else(|| keywords.get("items")).unwrap_or(&Value::Bool(true))
            };
            (0..rng.random_range(0..4)).map(|index| of(of_index(index), rng)).collect()
        }
        "string" => json!(pick(&["", "a", "b", "ab", "abc"], rng)),
        "number" | "integer" => number(rng),
        "null" => Value::Null,
        "boolean" => json!(rng.random::<bool>()),
        _ => document(depth, rng),
    }
}

#[test]
fn what_is_said_to_go_together_does() {
    let config = Config { cases: 20_000, max_shrink_iters: 0, ..Config::default() };
    // So that it is known that they were compared with something.
    let (told, compared) = (Cell::new(0), Cell::new(0));
    let pairs = Just(()).prop_perturb(|(), mut rng| {
        let old = whole(&mut rng);
        let new = changed(&old, &mut rng);
        (old, new, rng.random::<[u8; 32]>())
    });
    let run = TestRunner::new(config).run(&pairs, |(old, new, seed)| {
        let (Ok(by_old), Ok(by_new)) = (Validator::new(&old), Validator::new(&new)) else { return Ok(()) };
        if !check(&old.to_string(), &new.to_string(), Mode::Backward).unwrap().is_empty() {
            return Ok(());
        }
        told.set(told.get() + 1);
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let documents = (0..DOCUMENTS).map(|_| made_for(&old, &old, DEPTH + 2, &mut rng));
        for document in documents.filter(|document| by_old.is_valid(document)) {
            compared.set(compared.get() + 1);
            prop_assert!(by_new.is_valid(&document), "{document}\n  is valid by {old}\n  and not by {new}");
        }
        Ok(())
    });
    if let Err(TestError::Fail(reason, _)) = run {
        panic!("{reason}");
    }
    println!("{} pairs go together, {} documents", told.get(), compared.get());
    assert!(told.get() > 2000 && compared.get() > 20_000, "{} {}", told.get(), compared.get());
}
