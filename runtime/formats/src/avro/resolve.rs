//! Schema resolution as Avro specifies it: which schemas read what another one wrote.

use std::collections::HashSet;

use super::plan::{Field, Node, NodeId, Plan, Record};
use crate::Error;
use crate::error::At;
use crate::model::Unit;

/// Nodes of a writer beside those of a reader.
pub struct Pairs<'a> {
    writer: &'a Plan,
    reader: &'a Plan,
    /// Records that were compared or are being compared.
    seen: HashSet<(NodeId, NodeId)>,
}

impl<'a> Pairs<'a> {
    pub fn new(writer: &'a Plan, reader: &'a Plan) -> Pairs<'a> {
        Pairs { writer, reader, seen: HashSet::new() }
    }

    /// # Errors
    /// Says where the reader has something that the writer never gives and that has no default, or types do not
    /// go together. What only some values break is an error of those values.
    pub fn check(&mut self, from: NodeId, to: NodeId) -> Result<(), Error> {
        match (self.writer.node(from), self.reader.node(to)) {
            (Node::Union(union), _) => {
                // It depends on the value which branch it is; one must do.
                let mut misfits = Vec::new();
                for (name, branch) in &union.branches {
                    if let Err(error) = self.check(*branch, to) {
                        misfits.push(error.at(name));
                    }
                }
                match misfits.len() == union.branches.len() {
                    true => Err(misfits.remove(0)),
                    false => Ok(()),
                }
            }
            (_, Node::Union(union)) => {
                // All are compared, also behind one that fits: what they have within is then seen.
                let fits = union.branches.iter().filter(|(_, branch)| self.check(from, *branch).is_ok());
                match fits.count() {
                    0 => Err(Error::new("fits no branch of the reader's union")),
                    _ => Ok(()),
                }
            }
            (Node::Array(from), Node::Array(to)) => self.check(*from, *to).at("[]"),
            (Node::Map(from), Node::Map(to)) => self.check(*from, *to).at("{}"),
            (Node::Record(have), Node::Record(want)) => {
                if !self.seen.insert((from, to)) {
                    return Ok(());
                }
                if !same_record(have, want) {
                    return Err(no_record(have, want));
                }
                for field in &want.fields {
                    match position(have, field) {
                        Some(at) => self.check(have.fields[at].node, field.node).at(&field.name)?,
                        None if field.default.is_some() => {}
                        None => {
                            return Err(Error::new(format!(
                                "the writer's {} has no such field, and it has no default",
                                have.name
                            ))
                            .at(&field.name));
                        }
                    }
                }
                Ok(())
            }
            (from, to) if scalars_match(from, to) => Ok(()),
            (from, to) => Err(no_pair(from, to)),
        }
    }
}

pub(super) fn no_pair(from: &Node, to: &Node) -> Error {
    Error::new(format!("{} cannot be read as {}", named(from), named(to)))
}

pub(super) fn no_record(have: &Record, want: &Record) -> Error {
    Error::new(format!("the record {} is not {}", have.name, want.name))
}

/// By their full names, an alias of the reader's, or their names without namespaces, as the specification allows.
pub(crate) fn same_record(have: &Record, want: &Record) -> bool {
    have.name == want.name || want.aliases.contains(&have.name) || short(&have.name) == short(&want.name)
}

/// Where the writer's record has a field of the reader's: by its name, or an alias that the reader gives it.
pub(crate) fn position(have: &Record, field: &Field) -> Option<usize> {
    let find = |name: &String| have.fields.iter().position(|known| known.name == *name);
    find(&field.name).or_else(|| field.aliases.iter().find_map(find))
}

/// Whether a value that holds no others can be read so, if the value itself permits it.
pub(crate) fn scalars_match(from: &Node, to: &Node) -> bool {
    match (from, to) {
        (Node::Decimal { scale: a, fixed: f, .. }, Node::Decimal { scale: b, fixed: t, .. }) => {
            a == b && f.as_ref().map(|(_, size)| size) == t.as_ref().map(|(_, size)| size)
        }
        (Node::Uuid { is_text: a, .. }, Node::Uuid { is_text: b, .. }) => a == b,
        (Node::Enum { name: a, .. }, Node::Enum { name: b, .. }) => short(a) == short(b),
        (Node::Fixed { name: a, size: m }, Node::Fixed { name: b, size: n }) => {
            short(a) == short(b) && m == n
        }
        (Node::Duration { .. }, Node::Duration { .. })
        | (Node::BigDecimal, Node::BigDecimal)
        | (Node::Null, Node::Null)
        | (Node::Boolean, Node::Boolean) => true,
        // Counts of different units, or of different things, are no promotion.
        (
            Node::Date | Node::Time(_) | Node::Timestamp { .. },
            Node::Date | Node::Time(_) | Node::Timestamp { .. },
        ) => format!("{from:?}") == format!("{to:?}"),
        _ => {
            matches!(
                (width(from), width(to)),
                (Some(from), Some(to)) if from <= to
            ) || is_text_or_bytes(from) && is_text_or_bytes(to)
        }
    }
}

/// Of numbers, the order in which they are promoted.
pub(crate) fn width(node: &Node) -> Option<u8> {
    match node {
        Node::Int | Node::Date | Node::Time(Unit::Seconds | Unit::Millis) => Some(0),
        Node::Long | Node::Time(_) | Node::Timestamp { .. } => Some(1),
        Node::Float => Some(2),
        Node::Double => Some(3),
        _ => None,
    }
}

fn is_text_or_bytes(node: &Node) -> bool {
    matches!(node, Node::String | Node::Bytes | Node::Uuid { is_text: true, .. })
}

pub(crate) fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

pub(super) fn named(node: &Node) -> String {
    match node {
        Node::Record(Record { name, .. }) | Node::Enum { name, .. } | Node::Fixed { name, .. } => {
            name.clone()
        }
        Node::Array(_) => "an array".to_owned(),
        Node::Map(_) => "a map".to_owned(),
        other => format!("{other:?}"),
    }
}
