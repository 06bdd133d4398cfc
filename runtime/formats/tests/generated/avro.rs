//! Schemas of Avro, and values of them.

use millstream_formats::model::{Branch, Decimal, Interval, Symbol, Time, Timestamp, Unit, Value};
use num_bigint::BigInt;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::values::distinct;

/// A schema as JSON, whose root is a record, and what values of it are.
#[derive(Clone, Debug)]
pub struct Schema {
    pub json: Json,
    nodes: Vec<Node>,
    root: usize,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Leaf),
    Enum(Vec<String>),
    Array(usize),
    Map(usize),
    Union(Vec<(String, usize)>),
    Record(Vec<(String, usize)>),
}

#[derive(Clone, Copy, Debug)]
enum Leaf {
    Primitive(&'static str),
    Fixed(usize),
    /// Of bytes, or of a fixed of this size.
    Decimal {
        precision: u32,
        scale: i32,
        size: Option<usize>,
    },
    BigDecimal,
    Uuid {
        is_fixed: bool,
    },
    Date,
    Time(Unit),
    Timestamp {
        unit: Unit,
        is_local: bool,
    },
    Duration,
}

/// A type before it has names.
#[derive(Clone, Debug)]
enum Shape {
    Leaf(Leaf),
    Enum(usize),
    Array(Box<Shape>),
    Map(Box<Shape>),
    Union(Vec<Shape>),
    /// In a namespace of its own, or in that around it.
    Record(Vec<Shape>, Option<u8>),
    /// One of those that were named before, by its number modulo theirs.
    Again(usize),
}

/// How deep records are in each other.
const DEPTH: usize = 4;

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

fn leaf() -> impl Strategy<Value = Leaf> {
    let units = || prop::sample::select(&[Unit::Millis, Unit::Micros, Unit::Nanos][..]);
    prop_oneof![
        10 => prop::sample::select(&PRIMITIVES[..]).prop_map(Leaf::Primitive),
        1 => (0usize..20).prop_map(Leaf::Fixed),
        2 => (1u32..38, 0i32..38, any::<bool>()).prop_map(|(precision, scale, is_fixed)| Leaf::Decimal {
            precision,
            scale: scale % (precision as i32 + 1),
            size: is_fixed.then_some(16),
        }),
        1 => Just(Leaf::BigDecimal),
        1 => any::<bool>().prop_map(|is_fixed| Leaf::Uuid { is_fixed }),
        1 => Just(Leaf::Date),
        1 => prop::sample::select(&[Unit::Millis, Unit::Micros][..]).prop_map(Leaf::Time),
        2 => (units(), any::<bool>()).prop_map(|(unit, is_local)| Leaf::Timestamp { unit, is_local }),
        1 => Just(Leaf::Duration),
    ]
}

pub fn schema() -> impl Strategy<Value = Schema> {
    let shape = prop_oneof![
        6 => leaf().prop_map(Shape::Leaf),
        1 => (1usize..5).prop_map(Shape::Enum),
        1 => any::<usize>().prop_map(Shape::Again),
    ];
    let shape = shape.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            1 => inner.clone().prop_map(|items| Shape::Array(items.into())),
            1 => inner.clone().prop_map(|values| Shape::Map(values.into())),
            2 => prop::collection::vec(inner.clone(), 1..5).prop_map(Shape::Union),
            2 => (prop::collection::vec(inner, 0..5), any::<Option<u8>>())
                .prop_map(|(fields, namespace)| Shape::Record(fields, namespace)),
        ]
    });
    prop::collection::vec(shape, 1..6).prop_map(|fields| {
        let mut maker = Maker { nodes: Vec::new(), named: Vec::new() };
        let (json, root, _) = maker.named_record(&fields, "root");
        Schema { json, nodes: maker.nodes, root }
    })
}

struct Maker {
    nodes: Vec<Node>,
    /// Types by their full names, and whether it is a record that is still being made.
    named: Vec<Named>,
}

struct Named {
    name: String,
    node: usize,
    is_open: bool,
}

impl Maker {
    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The next name, and its number.
    fn name(&mut self, namespace: &str, node: usize, is_open: bool) -> (String, usize) {
        let at = self.named.len();
        let short = format!("T{at}");
        self.named.push(Named { name: format!("{namespace}.{short}"), node, is_open });
        (short, at)
    }

    /// A type as JSON, its node, and its name as a branch.
    fn make(&mut self, shape: &Shape, namespace: &str) -> (Json, usize, String) {
        match shape {
            Shape::Leaf(leaf) => self.leaf(*leaf, namespace),
            Shape::Enum(count) => {
                let symbols: Vec<_> = (0..*count).map(|at| format!("S{at}")).collect();
                let node = self.add(Node::Enum(symbols.clone()));
                let (name, at) = self.name(namespace, node, false);
                (json!({"type": "enum", "name": name, "symbols": symbols}), node, self.named[at].name.clone())
            }
            Shape::Array(items) => {
                let (items, node, _) = self.make(items, namespace);
                (json!({"type": "array", "items": items}), self.add(Node::Array(node)), "array".into())
            }
            Shape::Map(values) => {
                let (values, node, _) = self.make(values, namespace);
                (json!({"type": "map", "values": values}), self.add(Node::Map(node)), "map".into())
            }
            Shape::Union(branches) => self.union(branches, namespace),
            Shape::Record(fields, own) => {
                let own = own.map(|number| format!("space.n{number}"));
                self.named_record(fields, own.as_deref().unwrap_or(namespace))
            }
            Shape::Again(number) => {
                let at = number % self.named.len();
                // There must be an end to it.
                match self.named[at].is_open {
                    true => self.union(std::slice::from_ref(shape), namespace),
                    false => self.reference(at, namespace),
                }
            }
        }
    }

    fn reference(&self, at: usize, namespace: &str) -> (Json, usize, String) {
        let Named { name, node, .. } = &self.named[at];
        // In its own namespace a name may be short.
        let short = name.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('.'));
        let short = short.filter(|short| at.is_multiple_of(2) && !short.contains('.'));
        (json!(short.unwrap_or(name)), *node, name.clone())
    }

    fn named_record(&mut self, shapes: &[Shape], namespace: &str) -> (Json, usize, String) {
        let node = self.add(Node::Record(Vec::new()));
        let (name, at) = self.name(namespace, node, true);
        let (mut fields, mut nodes) = (Vec::new(), Vec::new());
        for (at, shape) in shapes.iter().enumerate() {
            let (json, field, _) = self.make(shape, namespace);
            fields.push(json!({"name": format!("f{at}"), "type": json}));
            nodes.push((format!("f{at}"), field));
        }
        self.nodes[node] = Node::Record(nodes);
        self.named[at].is_open = false;
        let full = self.named[at].name.clone();
        let json = match at % 3 {
            0 => json!({"type": "record", "name": full, "fields": fields}),
            _ => json!({"type": "record", "name": name, "namespace": namespace, "fields": fields}),
        };
        (json, node, full)
    }

    /// No type twice and no union in it; with null if a record may so come again in itself.
    fn union(&mut self, shapes: &[Shape], namespace: &str) -> (Json, usize, String) {
        let (mut types, mut branches) = (Vec::new(), Vec::<(String, usize)>::new());
        let null = Shape::Leaf(Leaf::Primitive("null"));
        let with_null = shapes.iter().any(|shape| matches!(shape, Shape::Again(_))).then_some(&null);
        for shape in with_null.into_iter().chain(shapes) {
            let before = (self.nodes.len(), self.named.len());
            let (json, node, name) = match shape {
                Shape::Union(_) => continue,
                Shape::Again(number) => self.reference(number % self.named.len(), namespace),
                shape => self.make(shape, namespace),
            };
            if branches.iter().any(|(known, _)| *known == name) {
                self.nodes.truncate(before.0);
                self.named.truncate(before.1);
                continue;
            }
            types.push(json);
            branches.push((name, node));
        }
        if types.is_empty() {
            return self.leaf(Leaf::Primitive("null"), namespace);
        }
        (Json::Array(types), self.add(Node::Union(branches)), "union".into())
    }

    fn leaf(&mut self, leaf: Leaf, namespace: &str) -> (Json, usize, String) {
        let node = self.add(Node::Leaf(leaf));
        let logical = |of: &str, name: &str| (json!({"type": of, "logicalType": name}), of.to_owned());
        let mut fixed = |size: usize| {
            let (name, at) = self.name(namespace, node, false);
            (json!({"type": "fixed", "name": name, "size": size}), self.named[at].name.clone())
        };
        let (mut json, name) = match leaf {
            Leaf::Primitive(name) => (json!(name), name.to_owned()),
            Leaf::Fixed(size) => fixed(size),
            Leaf::Decimal { size: Some(size), .. } => fixed(size),
            Leaf::Decimal { .. } => logical("bytes", "decimal"),
            Leaf::BigDecimal => logical("bytes", "big-decimal"),
            Leaf::Uuid { is_fixed: true } => fixed(16),
            Leaf::Uuid { .. } => logical("string", "uuid"),
            Leaf::Date => logical("int", "date"),
            Leaf::Time(Unit::Millis) => logical("int", "time-millis"),
            Leaf::Time(_) => logical("long", "time-micros"),
            Leaf::Timestamp { unit, is_local } => {
                let local = if is_local { "local-" } else { "" };
                let unit = format!("{unit:?}").to_lowercase();
                logical("long", &format!("{local}timestamp-{unit}"))
            }
            Leaf::Duration => fixed(12),
        };
        match leaf {
            Leaf::Decimal { precision, scale, .. } => {
                json["logicalType"] = json!("decimal");
                json["precision"] = json!(precision);
                json["scale"] = json!(scale);
            }
            Leaf::Uuid { .. } => json["logicalType"] = json!("uuid"),
            Leaf::Duration => json["logicalType"] = json!("duration"),
            _ => {}
        }
        (json, node, name)
    }
}

impl Schema {
    /// Values, of which each of a union says its branch.
    pub fn value(&self) -> BoxedStrategy<Value> {
        self.node(self.root, DEPTH)
    }

    fn node(&self, node: usize, depth: usize) -> BoxedStrategy<Value> {
        // Nothing goes deeper where there is no depth left.
        let most = if depth == 0 { 1 } else { 4 };
        match &self.nodes[node] {
            Node::Leaf(leaf) => of_leaf(*leaf),
            Node::Enum(symbols) => prop::sample::select(symbols.clone())
                .prop_map(|name| Value::Enum(Symbol { name, number: None }))
                .boxed(),
            Node::Array(items) => prop::collection::vec(self.node(*items, depth.saturating_sub(1)), 0..most)
                .prop_map(Value::List)
                .boxed(),
            Node::Map(values) => {
                let entry = (".{0,6}".prop_map(Value::Text), self.node(*values, depth.saturating_sub(1)));
                prop::collection::vec(entry, 0..most)
                    .prop_map(|entries| Value::Map(distinct(entries)))
                    .boxed()
            }
            Node::Union(branches) => {
                let has_null = branches.iter().any(|(name, _)| name == "null");
                let branches = branches.iter().filter(|(name, _)| !has_null || depth > 0 || name == "null");
                let values = branches.map(|(name, branch)| {
                    let name = name.clone();
                    let of = move |value| match value {
                        Value::Null => Value::Null,
                        value => Value::Union(Branch { name: name.clone(), value: Box::new(value) }),
                    };
                    self.node(*branch, depth.saturating_sub(1)).prop_map(of).boxed()
                });
                proptest::strategy::Union::new(values).boxed()
            }
            Node::Record(fields) => {
                let of = |(name, field): &(String, usize)| {
                    let name = name.clone();
                    self.node(*field, depth.saturating_sub(1)).prop_map(move |value| (name.clone(), value))
                };
                fields.iter().map(of).collect::<Vec<_>>().prop_map(Value::Record).boxed()
            }
        }
    }
}

fn of_leaf(leaf: Leaf) -> BoxedStrategy<Value> {
    match leaf {
        Leaf::Primitive("null") => Just(Value::Null).boxed(),
        Leaf::Primitive("boolean") => any::<bool>().prop_map(Value::Bool).boxed(),
        Leaf::Primitive("int") => any::<i32>().prop_map(|number| Value::Int(number.into())).boxed(),
        Leaf::Primitive("long") => prop_oneof![any::<i64>(), -200i64..200, Just(i64::MIN), Just(i64::MAX)]
            .prop_map(Value::Int)
            .boxed(),
        Leaf::Primitive("float") => prop::num::f32::ANY.prop_map(Value::Float).boxed(),
        Leaf::Primitive("double") => prop::num::f64::ANY.prop_map(Value::Double).boxed(),
        Leaf::Primitive("bytes") => prop::collection::vec(any::<u8>(), 0..150).prop_map(Value::Bytes).boxed(),
        Leaf::Primitive("string") => ".{0,80}".prop_map(Value::Text).boxed(),
        Leaf::Primitive(other) => unreachable!("{other}"),
        Leaf::Fixed(size) => prop::collection::vec(any::<u8>(), size).prop_map(Value::Bytes).boxed(),
        Leaf::Decimal { precision, scale, .. } => {
            let below = 10i128.pow(precision);
            (-below + 1..below)
                .prop_map(move |number| Value::Decimal(Decimal { unscaled: number.into(), scale }))
                .boxed()
        }
        Leaf::BigDecimal => (any::<i128>(), -30i32..60)
            .prop_map(|(number, scale)| Value::Decimal(Decimal { unscaled: BigInt::from(number), scale }))
            .boxed(),
        Leaf::Uuid { .. } => any::<[u8; 16]>().prop_map(Value::Uuid).boxed(),
        Leaf::Date => super::values::date().boxed(),
        Leaf::Time(unit) => (0u64..86_400_000_000_000)
            .prop_map(move |nanos| Value::Time(Time { nanos: nanos - nanos % u64::from(unit.nanos()), unit }))
            .boxed(),
        Leaf::Timestamp { unit: Unit::Nanos, is_local } => any::<i64>()
            .prop_map(move |count| Value::Timestamp(Timestamp::from_count(count, Unit::Nanos, is_local)))
            .boxed(),
        Leaf::Timestamp { unit, is_local } => super::values::timestamp()
            .prop_map(move |at| {
                let nanos = at.nanos - at.nanos % unit.nanos();
                Value::Timestamp(Timestamp { nanos, unit, is_local, ..at })
            })
            .boxed(),
        Leaf::Duration => any::<(u32, u32, u32)>()
            .prop_map(|(months, days, millis)| Value::Interval(Interval { months, days, millis }))
            .boxed(),
    }
}
