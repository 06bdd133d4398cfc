//! A schema made into nodes that know each other by number: nothing is looked up by name for a value.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, NamesRef, UuidSchema};

use super::default;
use crate::model::Unit;
use crate::{Error, Value};

/// A node by its number.
pub type NodeId = usize;

pub struct Plan {
    nodes: Vec<Node>,
    root: NodeId,
}

#[derive(Debug)]
pub enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed {
        name: String,
        size: usize,
    },
    Enum {
        name: String,
        symbols: Vec<String>,
        default: Option<usize>,
    },
    Array(NodeId),
    Map(NodeId),
    Union(Union),
    Record(Record),
    /// `fixed` is its name and size, if it is one.
    Decimal {
        precision: usize,
        scale: i32,
        fixed: Option<(String, usize)>,
    },
    BigDecimal,
    Uuid {
        is_text: bool,
        fixed: Option<String>,
    },
    Date,
    Time(Unit),
    Timestamp {
        unit: Unit,
        is_local: bool,
    },
    Duration {
        name: String,
    },
    /// Stands for one that is being made.
    Unfinished,
}

#[derive(Debug)]
pub struct Union {
    pub branches: Vec<(String, NodeId)>,
    /// Whether a value of it says its branch, since JSON would not tell.
    pub is_tagged: bool,
}

#[derive(Debug)]
pub struct Record {
    pub name: String,
    /// Names that it had, in full.
    pub aliases: Vec<String>,
    pub fields: Vec<Field>,
    /// What the fields take in a value of it, without what their values hold.
    pub memory: usize,
}

#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub node: NodeId,
    /// As it is written.
    pub default: Option<Vec<u8>>,
}

/// JSON types that the values of a node are written as.
mod json_type {
    pub const BOOLEAN: u8 = 1;
    pub const NUMBER: u8 = 2;
    pub const STRING: u8 = 4;
    pub const ARRAY: u8 = 8;
    pub const OBJECT: u8 = 16;
}

impl Plan {
    pub fn of(schema: &Schema, names: &NamesRef<'_>) -> Result<Plan, Error> {
        let mut planner = Planner { nodes: Vec::new(), named: HashMap::new(), names, defaults: Vec::new() };
        let root = planner.node(schema, None)?;
        let Planner { nodes, defaults, .. } = planner;
        let mut plan = Plan { nodes, root };
        plan.refuse_endless()?;
        for (record, field, json) in defaults {
            let Node::Record(Record { name, fields, .. }) = &plan.nodes[record] else { continue };
            let mut default = Vec::new();
            default::write(&plan, fields[field].node, &json, &mut default).map_err(|error| {
                Error::new(format!("the default of {name}.{} is none: {error}", fields[field].name))
            })?;
            if let Node::Record(record) = &mut plan.nodes[record] {
                record.fields[field].default = Some(default);
            }
        }
        Ok(plan)
    }

    pub fn root(&self) -> NodeId {
        self.root
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The name of a branch, if values of it say it.
    pub fn tag<'u>(&self, union: &'u Union, at: usize) -> Option<&'u str> {
        let (name, branch) = &union.branches[at];
        (union.is_tagged && !matches!(self.node(*branch), Node::Null)).then_some(name)
    }

    /// A record that has itself as a field, with no choice in between, has no values; decoding one would not end.
    fn refuse_endless(&self) -> Result<(), Error> {
        fn visit(plan: &Plan, id: NodeId, states: &mut [u8]) -> Result<(), Error> {
            let Node::Record(record) = plan.node(id) else { return Ok(()) };
            match states[id] {
                2 => return Ok(()),
                1 => {
                    return Err(Error::new(format!(
                        "the record {} contains itself without end",
                        record.name
                    )));
                }
                _ => states[id] = 1,
            }
            for field in &record.fields {
                visit(plan, field.node, states)?;
            }
            states[id] = 2;
            Ok(())
        }
        let mut states = vec![0; self.nodes.len()];
        (0..self.nodes.len()).try_for_each(|id| visit(self, id, &mut states))
    }

    /// What values of a node are in JSON.
    fn json_types(&self, id: NodeId) -> u8 {
        use json_type::{ARRAY, BOOLEAN, NUMBER, OBJECT, STRING};
        match self.node(id) {
            Node::Null => 0,
            Node::Boolean => BOOLEAN,
            Node::Int | Node::Long => NUMBER,
            // NaN is a string.
            Node::Float | Node::Double => NUMBER | STRING,
            Node::Decimal { .. } | Node::BigDecimal => NUMBER | STRING,
            Node::Array(_) => ARRAY,
            Node::Map(_) | Node::Record(_) | Node::Union(_) | Node::Unfinished => OBJECT,
            _ => STRING,
        }
    }
}

/// The name of a node as a branch of a union: of its type, or its own.
pub(crate) fn branch_name(node: &Node) -> String {
    match node {
        Node::Null => "null",
        Node::Boolean => "boolean",
        Node::Int | Node::Date | Node::Time(Unit::Seconds | Unit::Millis) => "int",
        Node::Long | Node::Time(_) | Node::Timestamp { .. } => "long",
        Node::Float => "float",
        Node::Double => "double",
        Node::Bytes | Node::BigDecimal => "bytes",
        Node::Decimal { fixed: None, .. } | Node::Uuid { is_text: false, fixed: None } => "bytes",
        Node::String | Node::Uuid { is_text: true, .. } => "string",
        Node::Array(_) => "array",
        Node::Map(_) => "map",
        Node::Union(_) | Node::Unfinished => "union",
        Node::Fixed { name, .. }
        | Node::Enum { name, .. }
        | Node::Duration { name }
        | Node::Record(Record { name, .. })
        | Node::Decimal { fixed: Some((name, _)), .. }
        | Node::Uuid { fixed: Some(name), .. } => name,
    }
    .to_owned()
}

struct Planner<'a> {
    nodes: Vec<Node>,
    named: HashMap<String, NodeId>,
    names: &'a NamesRef<'a>,
    /// Records with fields that have a default, which is read once all nodes are there.
    defaults: Vec<(NodeId, usize, serde_json::Value)>,
}

impl Planner<'_> {
    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn node(&mut self, schema: &Schema, namespace: Option<&str>) -> Result<NodeId, Error> {
        let full = |name: &Name| name.fullname(namespace);
        let node = match schema {
            Schema::Null => Node::Null,
            Schema::Boolean => Node::Boolean,
            Schema::Int => Node::Int,
            Schema::Long => Node::Long,
            Schema::Float => Node::Float,
            Schema::Double => Node::Double,
            Schema::Bytes => Node::Bytes,
            Schema::String => Node::String,
            Schema::Fixed(fixed) => Node::Fixed { name: full(&fixed.name), size: fixed.size },
            Schema::Date => Node::Date,
            Schema::TimeMillis => Node::Time(Unit::Millis),
            Schema::TimeMicros => Node::Time(Unit::Micros),
            Schema::TimestampMillis => Node::Timestamp { unit: Unit::Millis, is_local: false },
            Schema::TimestampMicros => Node::Timestamp { unit: Unit::Micros, is_local: false },
            Schema::TimestampNanos => Node::Timestamp { unit: Unit::Nanos, is_local: false },
            Schema::LocalTimestampMillis => Node::Timestamp { unit: Unit::Millis, is_local: true },
            Schema::LocalTimestampMicros => Node::Timestamp { unit: Unit::Micros, is_local: true },
            Schema::LocalTimestampNanos => Node::Timestamp { unit: Unit::Nanos, is_local: true },
            Schema::Duration(fixed) => Node::Duration { name: full(&fixed.name) },
            Schema::BigDecimal => Node::BigDecimal,
            Schema::Uuid(UuidSchema::String) => Node::Uuid { is_text: true, fixed: None },
            Schema::Uuid(UuidSchema::Bytes) => Node::Uuid { is_text: false, fixed: None },
            Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                Node::Uuid { is_text: false, fixed: Some(full(&fixed.name)) }
            }
            Schema::Decimal(decimal) => {
                let scale = i32::try_from(decimal.scale)
                    .map_err(|_| Error::new(format!("a scale of {} is beyond any use", decimal.scale)))?;
                let fixed = match &decimal.inner {
                    InnerDecimalSchema::Bytes => None,
                    InnerDecimalSchema::Fixed(fixed) => Some((full(&fixed.name), fixed.size)),
                };
                Node::Decimal { precision: decimal.precision, scale, fixed }
            }
            Schema::Enum(symbols) => {
                let name = full(&symbols.name);
                let default = match &symbols.default {
                    None => None,
                    Some(default) => Some(
                        symbols.symbols.iter().position(|symbol| symbol == default).ok_or_else(|| {
                            Error::new(format!(
                                "the default {default:?} of the enum {name} is none of its symbols"
                            ))
                        })?,
                    ),
                };
                Node::Enum { name, symbols: symbols.symbols.clone(), default }
            }
            Schema::Array(array) => Node::Array(self.node(&array.items, namespace)?),
            Schema::Map(map) => Node::Map(self.node(&map.types, namespace)?),
            Schema::Union(union) => return self.union(union.variants(), namespace),
            Schema::Record(record) => return self.record(record, namespace),
            Schema::Ref { name } => return self.reference(name, namespace),
        };
        let name = match &node {
            Node::Enum { name, .. } | Node::Fixed { name, .. } | Node::Duration { name } => {
                Some(name.clone())
            }
            Node::Decimal { fixed: Some((name, _)), .. } | Node::Uuid { fixed: Some(name), .. } => {
                Some(name.clone())
            }
            _ => None,
        };
        let id = self.add(node);
        if let Some(name) = name {
            self.named.insert(name, id);
        }
        Ok(id)
    }

    fn union(&mut self, variants: &[Schema], namespace: Option<&str>) -> Result<NodeId, Error> {
        let id = self.add(Node::Unfinished);
        let mut branches = Vec::with_capacity(variants.len());
        for variant in variants {
            let branch = self.node(variant, namespace)?;
            branches.push((self.branch_name(variant, branch, namespace), branch));
        }
        let plan = Plan { nodes: std::mem::take(&mut self.nodes), root: id };
        let mut seen = 0;
        let is_tagged = branches.iter().any(|&(_, branch)| {
            let types = plan.json_types(branch);
            let overlaps = seen & types != 0;
            seen |= types;
            overlaps
        });
        self.nodes = plan.nodes;
        self.nodes[id] = Node::Union(Union { branches, is_tagged });
        Ok(id)
    }

    /// One that is still being made (the record around it) has its name already.
    fn branch_name(&self, variant: &Schema, branch: NodeId, namespace: Option<&str>) -> String {
        match variant {
            Schema::Ref { name } => name.fullname(namespace),
            Schema::Record(record) => record.name.fullname(namespace),
            _ => branch_name(&self.nodes[branch]),
        }
    }

    fn record(
        &mut self,
        record: &apache_avro::schema::RecordSchema,
        namespace: Option<&str>,
    ) -> Result<NodeId, Error> {
        let name = record.name.fullname(namespace);
        let id = self.add(Node::Unfinished);
        self.named.insert(name.clone(), id);
        let inner = name.rsplit_once('.').map(|(namespace, _)| namespace);
        let mut fields = Vec::with_capacity(record.fields.len());
        for (at, field) in record.fields.iter().enumerate() {
            let node = self.node(&field.schema, inner)?;
            if let Some(default) = &field.default {
                self.defaults.push((id, at, default.clone()));
            }
            let aliases = field.aliases.clone();
            fields.push(Field { name: field.name.clone(), aliases, node, default: None });
        }
        let aliases = record.aliases.iter().flatten().map(|alias| alias.fullname(inner)).collect();
        let memory = fields.iter().map(|field| size_of::<(String, Value)>() + field.name.len()).sum();
        self.nodes[id] = Node::Record(Record { name, aliases, fields, memory });
        Ok(id)
    }

    fn reference(&mut self, name: &Name, namespace: Option<&str>) -> Result<NodeId, Error> {
        let full = name.fullname(namespace);
        if let Some(&id) = self.named.get(&full) {
            return Ok(id);
        }
        let known = self.names.get(&*name.fully_qualified_name(namespace)).copied();
        match known {
            Some(schema) => self.node(schema, full.rsplit_once('.').map(|(namespace, _)| namespace)),
            None => Err(Error::new(format!("no Avro schema: the type {full:?} is not defined"))),
        }
    }
}
