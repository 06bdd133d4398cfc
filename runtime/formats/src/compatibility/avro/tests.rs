//! A table, and data: what is said to be compatible is read, and of what is not something is not read.

use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::avro::Resolved;
use crate::compatibility::Weight;

fn record(fields: &Json) -> Json {
    json!({ "type": "record", "name": "Order", "namespace": "shop", "fields": fields })
}

/// Findings of a change of one field, without the way.
fn changed(old: Json, new: Json, mode: Mode) -> Vec<String> {
    let of = |kind: Json| record(&json!([{ "name": "f", "type": kind }])).to_string();
    told(&of(old), &of(new), mode)
}

fn told(old: &str, new: &str, mode: Mode) -> Vec<String> {
    let findings = check(old, new, mode).unwrap();
    findings.iter().map(|found| format!("{:?} {} {}", found.weight, found.path, found.what)).collect()
}

#[test]
fn types_are_promoted_and_nothing_else() {
    let numbers = ["int", "long", "float", "double"];
    for (from, old) in numbers.iter().enumerate() {
        for (to, new) in numbers.iter().enumerate() {
            let told = changed(json!(old), json!(new), Mode::Backward);
            let breaks = told.iter().any(|line| line.starts_with("Breaks /f "));
            assert_eq!(breaks, from > to, "{old} as {new}: {told:?}");
            let reverse = changed(json!(new), json!(old), Mode::Forward);
            assert_eq!(reverse, told, "what one reads of the other is the same either way");
        }
    }
    for (old, new, wanted) in [
        ("string", "bytes", ""),
        ("bytes", "string", "Warning /f bytes are read as a string"),
        ("int", "string", "Breaks /f int cannot be read as string"),
        ("null", "int", "Breaks /f null cannot be read as int"),
        ("long", "float", "Warning /f long is read as float"),
    ] {
        let told = changed(json!(old), json!(new), Mode::Backward).concat();
        assert_eq!(told, wanted, "{old} as {new}");
    }
}

#[test]
fn logical_types_are_told_when_they_change_what_a_number_means() {
    let logical = |kind: &str, logical: &str| json!({ "type": kind, "logicalType": logical });
    let decimal = |precision: u32, scale: u32| json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale });
    for (old, new, wanted) in [
        (
            logical("long", "timestamp-millis"),
            logical("long", "timestamp-micros"),
            "Breaks /f timestamp in millis cannot be read as timestamp in micros",
        ),
        (
            json!("long"),
            logical("long", "timestamp-millis"),
            "Warning /f long is read as timestamp in millis",
        ),
        (logical("long", "timestamp-millis"), json!("long"), ""),
        (
            decimal(8, 2),
            decimal(8, 3),
            "Breaks /f decimal(8, 2) of bytes cannot be read as decimal(8, 3) of bytes",
        ),
        (decimal(8, 2), decimal(9, 2), ""),
        (decimal(9, 2), decimal(8, 2), "Warning /f decimals of 9 digits are read as ones of 8"),
    ] {
        assert_eq!(changed(old.clone(), new.clone(), Mode::Backward).concat(), wanted, "{old} as {new}");
    }
}

#[test]
fn fields_come_and_go_with_defaults_and_aliases() {
    let id = json!({ "name": "id", "type": "string" });
    let plain = json!({ "name": "amount", "type": "int" });
    let with_default = json!({ "name": "amount", "type": "int", "default": 0 });
    let renamed = json!({ "name": "sum", "type": "int" });
    let aliased = json!({ "name": "sum", "type": "int", "aliases": ["amount"] });
    let missing = "it, and it has no default";
    let table = [
        (json!([id]), json!([id, with_default]), Mode::Full, vec![]),
        (json!([id]), json!([id, plain]), Mode::Forward, vec![]),
        (json!([id]), json!([id, plain]), Mode::Backward, vec!["/amount the old schema does not write"]),
        (json!([id, plain]), json!([id]), Mode::Backward, vec![]),
        (json!([id, plain]), json!([id]), Mode::Forward, vec!["/amount the new schema does not write"]),
        (json!([id, with_default]), json!([id]), Mode::Full, vec![]),
        (json!([id, plain]), json!([id, aliased]), Mode::Backward, vec![]),
        (
            json!([id, plain]),
            json!([id, aliased]),
            Mode::Forward,
            vec!["/amount the new schema does not write"],
        ),
        (
            json!([id, plain]),
            json!([id, renamed]),
            Mode::Backward,
            vec!["/sum the old schema does not write"],
        ),
    ];
    for (old, new, mode, wanted) in table {
        let told = told(&record(&old).to_string(), &record(&new).to_string(), mode);
        let wanted: Vec<String> = wanted.iter().map(|line| format!("Breaks {line} {missing}")).collect();
        assert_eq!(told.len(), wanted.len(), "{old} {new}: {told:?}");
        assert!(
            told.iter().zip(&wanted).all(|(told, wanted)| told.starts_with(wanted)),
            "{told:?} {wanted:?}"
        );
    }
    let (old, new) = (record(&json!([plain])).to_string(), record(&json!([renamed])).to_string());
    let found = check(&old, &new, Mode::Backward).unwrap();
    assert_eq!(found[0].remedy, "give it a default, or an alias if it was \"amount\"");
}

#[test]
fn names_symbols_sizes_and_branches() {
    let enumeration = |symbols: &[&str], default: Option<&str>| {
        let mut schema = json!({ "type": "enum", "name": "State", "symbols": symbols });
        if let Some(default) = default {
            schema["default"] = json!(default);
        }
        schema
    };
    let fixed = |name: &str, size: u32| json!({ "type": "fixed", "name": name, "size": size });
    let table = [
        (enumeration(&["A"], None), enumeration(&["A", "B"], None), vec![]),
        (
            enumeration(&["A", "B", "C"], None),
            enumeration(&["A"], None),
            vec!["Breaks /f \"B\"", "Breaks /f \"C\""],
        ),
        (enumeration(&["A", "B"], None), enumeration(&["A"], Some("A")), vec![]),
        (fixed("Id", 4), fixed("Id", 8), vec!["Breaks /f the fixed shop.Id of 4 bytes cannot be read as"]),
        (fixed("Id", 4), fixed("Key", 4), vec!["Breaks /f the fixed shop.Id"]),
        (json!("int"), json!(["null", "int"]), vec![]),
        (json!("int"), json!(["null", "long"]), vec![]),
        (json!(["null", "int"]), json!("int"), vec!["Breaks /f/null null cannot be read as int"]),
        (json!(["null", "int", "string"]), json!(["null", "string"]), vec!["Breaks /f/int int is no branch"]),
        (
            json!({ "type": "array", "items": "int" }),
            json!({ "type": "array", "items": "string" }),
            vec!["Breaks /f/[] int"],
        ),
        (
            json!({ "type": "map", "values": "int" }),
            json!({ "type": "map", "values": "boolean" }),
            vec!["Breaks /f/{} int"],
        ),
    ];
    for (old, new, wanted) in table {
        let told = changed(old.clone(), new.clone(), Mode::Backward);
        assert_eq!(told.len(), wanted.len(), "{old} {new}: {told:?}");
        assert!(
            told.iter().zip(&wanted).all(|(told, wanted)| told.starts_with(wanted)),
            "{told:?} {wanted:?}"
        );
    }
    let named = |name: &str, alias: &[&str]| {
        json!({ "type": "record", "name": name, "aliases": alias, "fields": [] }).to_string()
    };
    assert_eq!(told(&named("a.Order", &[]), &named("b.Order", &[]), Mode::Full).len(), 0);
    assert_eq!(told(&named("Order", &[]), &named("Bill", &["Order"]), Mode::Backward).len(), 0);
    let found = check(&named("Order", &[]), &named("Bill", &[]), Mode::Backward).unwrap();
    assert_eq!(
        found[0].to_string(),
        "breaks: /: the record Order is Bill now (new reads old); give it the alias \"Order\""
    );
}

#[test]
fn records_that_hold_themselves_come_to_an_end() {
    let tree = |kind: &str| {
        json!({ "type": "record", "name": "Tree", "fields": [
            { "name": "value", "type": kind },
            { "name": "left", "type": ["null", "Tree"] },
            { "name": "others", "type": { "type": "array", "items": "Tree" } },
        ]})
        .to_string()
    };
    assert_eq!(told(&tree("int"), &tree("long"), Mode::Backward), [""; 0]);
    assert_eq!(told(&tree("long"), &tree("int"), Mode::Backward).len(), 1);
    let error = check("{", &tree("int"), Mode::Full).unwrap_err().to_string();
    assert!(error.starts_with("the old schema is none: "), "{error}");
}

/// The type of a field, with names of its own.
fn kind(name: &'static str, depth: u32) -> BoxedStrategy<Json> {
    let primitive =
        prop::sample::select(vec!["null", "boolean", "int", "long", "float", "double", "bytes", "string"]);
    let symbols = prop::sample::subsequence(vec!["A", "B", "C"], 1..=3);
    let enumeration = (symbols, any::<bool>()).prop_map(move |(symbols, has_default)| {
        let mut schema = json!({ "type": "enum", "name": format!("E{name}"), "symbols": symbols });
        if has_default {
            schema["default"] = json!(symbols[0]);
        }
        schema
    });
    let fixed =
        (1..3_u32).prop_map(move |size| json!({ "type": "fixed", "name": format!("F{name}"), "size": size }));
    let leaf = prop_oneof![4 => primitive.clone().prop_map(|name| json!(name)), 1 => enumeration, 1 => fixed];
    if depth == 0 {
        return leaf.boxed();
    }
    let branches = prop::sample::subsequence(vec!["null", "int", "long", "string", "double"], 1..4);
    let (x, y) = if name == "a" { ("ax", "ay") } else { ("bx", "by") };
    let field = |name| prop::option::of((kind(name, 0), any::<bool>()));
    let inner = (field(x), field(y)).prop_map(move |(x, y)| {
        json!({ "type": "record", "name": format!("R{name}"), "fields": fields_of(&["x", "y"], &[x, y]) })
    });
    prop_oneof![
        4 => leaf,
        2 => branches.prop_map(|branches| json!(branches)),
        1 => (prop::sample::subsequence(vec!["null", "int"], 0..=2), kind(name, 0)).prop_filter_map("twice", |(mut branches, own)| {
            let own_name = own.as_str().map(str::to_owned);
            branches.retain(|name| Some(*name) != own_name.as_deref());
            let mut branches: Vec<Json> = branches.into_iter().map(|name| json!(name)).collect();
            branches.push(own);
            Some(json!(branches))
        }),
        1 => kind(name, 0).prop_map(|items| json!({ "type": "array", "items": items })),
        1 => kind(name, 0).prop_map(|values| json!({ "type": "map", "values": values })),
        2 => inner,
    ]
    .boxed()
}

/// Fields of these names, those that are there, some with a default.
fn fields_of(names: &[&str], fields: &[Option<(Json, bool)>]) -> Json {
    let there = names.iter().zip(fields).filter_map(|(name, field)| Some((name, field.as_ref()?)));
    there
        .map(|(name, (kind, has_default))| {
            let mut field = json!({ "name": name, "type": kind });
            if *has_default {
                field["default"] = default(kind);
            }
            field
        })
        .collect()
}

fn default(kind: &Json) -> Json {
    if let Some(branches) = kind.as_array() {
        return default(&branches[0]);
    }
    match kind.get("type").unwrap_or(kind).as_str().unwrap() {
        "null" => json!(null),
        "boolean" => json!(true),
        "int" | "long" => json!(1),
        "float" | "double" => json!(1.5),
        "bytes" | "string" => json!("d"),
        "array" => json!([]),
        "map" => json!({}),
        "enum" => kind["symbols"][0].clone(),
        "fixed" => json!("d".repeat(kind["size"].as_u64().unwrap() as usize)),
        _ => {
            let fields = kind["fields"].as_array().unwrap().iter();
            fields
                .map(|field| (field["name"].as_str().unwrap().to_owned(), default(&field["type"])))
                .collect()
        }
    }
}

/// Values of a schema: each branch, each symbol, and numbers that no narrower type holds.
fn samples(kind: &Json) -> Vec<Avro> {
    if let Some(branches) = kind.as_array() {
        let of = |(at, branch): (usize, &Json)| {
            samples(branch).into_iter().map(move |value| Avro::Union(at as u32, Box::new(value)))
        };
        return branches.iter().enumerate().flat_map(of).collect();
    }
    match kind.get("type").unwrap_or(kind).as_str().unwrap() {
        "null" => vec![Avro::Null],
        "boolean" => vec![Avro::Boolean(true)],
        "int" => vec![Avro::Int(7)],
        "long" => vec![Avro::Long(1 << 40)],
        "float" => vec![Avro::Float(1.5)],
        "double" => vec![Avro::Double(1e300)],
        "bytes" => vec![Avro::Bytes(b"\xff".to_vec())],
        "string" => vec![Avro::String("s".to_owned())],
        "array" => samples(&kind["items"]).into_iter().map(|item| Avro::Array(vec![item])).collect(),
        "map" => {
            let of = |item| Avro::Map([("k".to_owned(), item)].into());
            samples(&kind["values"]).into_iter().map(of).collect()
        }
        "enum" => {
            let symbols = kind["symbols"].as_array().unwrap().iter().enumerate();
            symbols.map(|(at, symbol)| Avro::Enum(at as u32, symbol.as_str().unwrap().to_owned())).collect()
        }
        "fixed" => {
            let size = kind["size"].as_u64().unwrap() as usize;
            vec![Avro::Fixed(size, vec![b'x'; size])]
        }
        _ => {
            let fields: Vec<(String, Vec<Avro>)> = kind["fields"]
                .as_array()
                .unwrap()
                .iter()
                .map(|field| (field["name"].as_str().unwrap().to_owned(), samples(&field["type"])))
                .collect();
            let most = fields.iter().map(|(_, values)| values.len()).max().unwrap_or(1);
            let nth = |at: usize| {
                Avro::Record(
                    fields.iter().map(|(name, all)| (name.clone(), all[at % all.len()].clone())).collect(),
                )
            };
            (0..most).map(nth).collect()
        }
    }
}

fn generated() -> impl Strategy<Value = Json> {
    let field = |name| prop::option::weighted(0.8, (kind(name, 1), any::<bool>()));
    (field("a"), field("b"), any::<bool>()).prop_map(|(a, b, renames)| {
        let mut schema = record(&fields_of(&["a", "b"], &[a, b]));
        // A field that was another one.
        if renames && schema["fields"].as_array().unwrap().len() == 1 {
            schema["fields"][0]["aliases"] = json!(["a", "b"]);
            schema["fields"][0]["name"] = json!("c");
        }
        schema
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn what_is_compatible_is_read_and_what_breaks_is_not(old in generated(), new in generated()) {
        let findings = check(&old.to_string(), &new.to_string(), Mode::Backward).unwrap();
        let is_of = |weight| findings.iter().any(|found| found.weight == weight);
        let parsed = apache_avro::Schema::parse_str(&old.to_string()).unwrap();
        let writer = GenericDatumWriter::builder(&parsed).build().unwrap();
        let schema = |json: &Json| Schema::parse(&json.to_string(), &[]).unwrap();
        let resolved = Resolved::new(schema(&old), schema(&new));
        let read: Vec<bool> = samples(&old)
            .into_iter()
            .map(|value| {
                let mut bytes = Vec::new();
                writer.write_value_ref(&mut bytes, &value).unwrap();
                resolved.as_ref().is_ok_and(|resolved| resolved.decode(&bytes).is_ok())
            })
            .collect();
        if is_of(Weight::Breaks) {
            prop_assert!(read.contains(&false), "{old}\n{new}\n{findings:?}");
        } else if !is_of(Weight::Warning) {
            prop_assert!(!read.contains(&false), "{old}\n{new}\n{read:?}");
        }
    }
}
