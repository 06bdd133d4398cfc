//! Schemas of Protocol Buffers, and values of them.

use std::fmt::Write;

use millstream_formats::model::{Symbol, Timestamp, Unit, Value};
use proptest::prelude::*;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use super::values::{distinct, duration, timestamp};

/// A schema, whose first message is the one that values are of.
#[derive(Clone, Debug)]
pub struct Schema {
    pub is_proto2: bool,
    pub messages: Vec<Vec<Field>>,
}

#[derive(Clone, Debug)]
pub struct Field {
    pub number: u32,
    pub kind: Kind,
    pub shape: Shape,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// By its name in the schema.
    Scalar(&'static str),
    Enum,
    /// The message of this place, modulo their number.
    Message(usize),
    /// One of `google.protobuf`.
    Known(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Plain,
    Optional,
    Required,
    List { packed: Option<bool> },
    Map { key: &'static str },
    Member,
}

const SCALARS: [&str; 15] = [
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64",
    "sfixed32", "sfixed64", "bool", "string", "bytes",
];
const KEYS: [&str; 12] = [
    "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64",
    "bool", "string",
];
const KNOWN: [&str; 13] = [
    "Timestamp",
    "Duration",
    "DoubleValue",
    "FloatValue",
    "Int64Value",
    "UInt64Value",
    "Int32Value",
    "UInt32Value",
    "BoolValue",
    "StringValue",
    "BytesValue",
    "Struct",
    "Value",
];

/// How deep messages are in each other.
const DEPTH: usize = 3;

pub fn schema() -> impl Strategy<Value = Schema> {
    let kind = || {
        prop_oneof![
            6 => prop::sample::select(&SCALARS[..]).prop_map(Kind::Scalar),
            1 => Just(Kind::Enum),
            2 => any::<usize>().prop_map(Kind::Message),
            2 => prop::sample::select(&KNOWN[..]).prop_map(Kind::Known),
        ]
    };
    let shape = || {
        prop_oneof![
            3 => Just(Shape::Plain),
            1 => Just(Shape::Optional),
            1 => Just(Shape::Required),
            2 => any::<Option<bool>>().prop_map(|packed| Shape::List { packed }),
            1 => prop::sample::select(&KEYS[..]).prop_map(|key| Shape::Map { key }),
            2 => Just(Shape::Member),
        ]
    };
    let number = prop_oneof![1u32..16, 16u32..3000, Just((1 << 29) - 1)];
    let fields = prop::collection::vec((number, kind(), shape()), 1..8);
    (any::<bool>(), prop::collection::vec(fields, 1..4)).prop_map(|(is_proto2, messages)| {
        let messages = messages.into_iter().map(|fields| fields_of(fields, is_proto2)).collect();
        Schema { is_proto2, messages }
    })
}

/// Fields as the language has them: no number twice, members of the oneof last.
fn fields_of(fields: Vec<(u32, Kind, Shape)>, is_proto2: bool) -> Vec<Field> {
    let mut seen = std::collections::HashSet::new();
    let mut fields: Vec<_> = fields
        .into_iter()
        .filter(|(number, ..)| seen.insert(*number))
        .map(|(number, kind, shape)| {
            let is_message = matches!(kind, Kind::Message(_) | Kind::Known(_));
            let is_packable = !is_message && !matches!(kind, Kind::Scalar("string" | "bytes"));
            let shape = match shape {
                Shape::Plain if is_proto2 || is_message => Shape::Optional,
                Shape::Required if !is_proto2 && is_message => Shape::Optional,
                Shape::Required if !is_proto2 => Shape::Plain,
                // There must be an end to it.
                Shape::Required if is_message => Shape::Optional,
                Shape::List { packed: Some(_) } if !is_packable => Shape::List { packed: None },
                shape => shape,
            };
            Field { number, kind, shape }
        })
        .collect();
    fields.sort_by_key(|field| field.shape == Shape::Member);
    fields
}

impl Schema {
    pub fn text(&self) -> String {
        let mut text = format!("syntax = \"{}\";\n", if self.is_proto2 { "proto2" } else { "proto3" });
        text.push_str("package generated;\n");
        for import in ["duration", "struct", "timestamp", "wrappers"] {
            writeln!(text, "import \"google/protobuf/{import}.proto\";").unwrap();
        }
        text.push_str("enum E { E_ZERO = 0; E_ONE = 1; E_NEGATIVE = -5; E_LARGE = 2147483647; }\n");
        for (at, fields) in self.messages.iter().enumerate() {
            writeln!(text, "message M{at} {{").unwrap();
            let (members, others): (Vec<_>, Vec<_>) =
                fields.iter().partition(|field| field.shape == Shape::Member);
            others.iter().for_each(|field| self.field(field, &mut text));
            if !members.is_empty() {
                text.push_str("oneof one {\n");
                members.iter().for_each(|field| self.field(field, &mut text));
                text.push_str("}\n");
            }
            text.push_str("}\n");
        }
        text
    }

    fn field(&self, field: &Field, text: &mut String) {
        let kind = match &field.kind {
            Kind::Scalar(name) => (*name).to_owned(),
            Kind::Enum => "E".to_owned(),
            Kind::Message(at) => format!("M{}", at % self.messages.len()),
            Kind::Known(name) => format!("google.protobuf.{name}"),
        };
        let (number, mut options) = (field.number, String::new());
        let kind = match field.shape {
            Shape::Plain | Shape::Member => kind,
            Shape::Optional => format!("optional {kind}"),
            Shape::Required => format!("required {kind}"),
            Shape::Map { key } => format!("map<{key}, {kind}>"),
            Shape::List { packed } => {
                if let Some(packed) = packed {
                    options = format!(" [packed = {packed}]");
                }
                format!("repeated {kind}")
            }
        };
        writeln!(text, "  {kind} f_{number} = {number}{options};").unwrap();
    }

    /// Values of the first message, as they are decoded.
    pub fn value(&self) -> BoxedStrategy<Value> {
        self.message(0, DEPTH)
    }

    fn message(&self, at: usize, depth: usize) -> BoxedStrategy<Value> {
        let (members, others): (Vec<_>, Vec<_>) =
            self.messages[at].iter().partition(|field| field.shape == Shape::Member);
        let of = |field: &Field| {
            let name = format!("f_{}", field.number);
            self.field_value(field, depth).prop_map(move |value| value.map(|value| (name.clone(), value)))
        };
        let others: Vec<_> = others.into_iter().map(of).collect();
        let members: Vec<_> = members.into_iter().map(of).map(Strategy::boxed).collect();
        let member = match members.is_empty() {
            true => Just(None).boxed(),
            false => proptest::strategy::Union::new(members).boxed(),
        };
        (others, member)
            .prop_map(|(others, member)| {
                Value::Record(others.into_iter().chain([member]).flatten().collect())
            })
            .boxed()
    }

    /// `None` is not there.
    fn field_value(&self, field: &Field, depth: usize) -> BoxedStrategy<Option<Value>> {
        let is_message = matches!(field.kind, Kind::Message(_) | Kind::Known(_));
        // Nothing goes deeper where there is no depth left.
        let most = if is_message && depth == 0 { 0 } else { 4 };
        if most == 0 {
            return match field.shape {
                Shape::List { .. } => Just(Some(Value::List(vec![]))).boxed(),
                Shape::Map { .. } => Just(Some(Value::Map(vec![]))).boxed(),
                _ => Just(None).boxed(),
            };
        }
        let one = self.one(&field.kind, depth);
        match field.shape {
            Shape::Plain | Shape::Required => one.prop_map(Some).boxed(),
            Shape::Optional | Shape::Member => prop::option::of(one).boxed(),
            Shape::List { .. } => {
                prop::collection::vec(one, 0..most).prop_map(|list| Some(Value::List(list))).boxed()
            }
            Shape::Map { key } => prop::collection::vec((scalar(key), one), 0..most)
                .prop_map(|entries| Some(Value::Map(distinct(entries))))
                .boxed(),
        }
    }

    fn one(&self, kind: &Kind, depth: usize) -> BoxedStrategy<Value> {
        match kind {
            Kind::Scalar(name) => scalar(name),
            Kind::Enum => prop::sample::select(&[("E_ZERO", 0), ("E_ONE", 1), ("E_NEGATIVE", -5)][..])
                .prop_map(|(name, number)| Value::Enum(Symbol { name: name.into(), number: Some(number) }))
                .boxed(),
            Kind::Message(at) => self.message(at % self.messages.len(), depth - 1),
            Kind::Known(name) => known(name),
        }
    }
}

fn scalar(name: &str) -> BoxedStrategy<Value> {
    match name {
        "double" => prop_oneof![prop::num::f64::ANY, Just(0.0), Just(-0.0)].prop_map(Value::Double).boxed(),
        "float" => prop_oneof![prop::num::f32::ANY, Just(0.0), Just(-0.0)].prop_map(Value::Float).boxed(),
        "int32" | "sint32" | "sfixed32" => any::<i32>().prop_map(|number| Value::Int(number.into())).boxed(),
        "int64" | "sint64" | "sfixed64" => any::<i64>().prop_map(Value::Int).boxed(),
        "uint32" | "fixed32" => any::<u32>().prop_map(|number| Value::Int(number.into())).boxed(),
        "uint64" | "fixed64" => any::<u64>().prop_map(Value::from_u64).boxed(),
        "bool" => any::<bool>().prop_map(Value::Bool).boxed(),
        "string" => ".{0,150}".prop_map(Value::Text).boxed(),
        "bytes" => prop::collection::vec(any::<u8>(), 0..150).prop_map(Value::Bytes).boxed(),
        other => unreachable!("{other}"),
    }
}

fn known(name: &str) -> BoxedStrategy<Value> {
    match name {
        "Timestamp" => {
            timestamp().prop_map(|at| Value::Timestamp(Timestamp { unit: Unit::Nanos, ..at })).boxed()
        }
        "Duration" => duration().boxed(),
        "DoubleValue" => scalar("double"),
        "FloatValue" => scalar("float"),
        "Int64Value" => scalar("int64"),
        "UInt64Value" => scalar("uint64"),
        "Int32Value" => scalar("int32"),
        "UInt32Value" => scalar("uint32"),
        "BoolValue" => scalar("bool"),
        "StringValue" => scalar("string"),
        "BytesValue" => scalar("bytes"),
        "Struct" => object(json_value()).boxed(),
        "Value" => json_value().boxed(),
        other => unreachable!("{other}"),
    }
}

fn object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::vec((".{0,5}", inner), 0..4).prop_map(|fields| Value::Record(distinct(fields)))
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        prop::num::f64::NORMAL.prop_map(Value::Double),
        ".{0,8}".prop_map(Value::Text),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List), object(inner)]
    })
}

/// The text of a schema, compiled, with what it imports.
pub fn descriptor_set(text: &str) -> Vec<u8> {
    struct Text(String);
    impl FileResolver for Text {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            match name {
                "generated.proto" => File::from_source(name, &self.0),
                _ => Err(protox::Error::file_not_found(name)),
            }
        }
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(Text(text.to_owned()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("generated.proto").expect("it compiles");
    compiler.encode_file_descriptor_set()
}
