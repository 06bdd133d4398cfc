//! Schema resolution as Avro specifies it: data of a writer's schema, as a reader's schema has it.

use std::collections::HashMap;

use apache_avro::types::Value as Avro;

use super::plan::{Field, Node, NodeId, Plan, Record, branch_name};
use super::read;
use crate::error::At;
use crate::model::{Symbol, Time, Timestamp, Unit};
use crate::{Error, Value, wanted};

/// How nodes of a writer become those of a reader. Made once for a pair of schemas.
pub struct Resolution {
    /// For each pair of records, one a field of the reader: which field of the writer it is, if any.
    records: HashMap<(NodeId, NodeId), Vec<Option<usize>>>,
}

impl Resolution {
    /// # Errors
    /// Says where the reader has something that the writer never gives and that has no default, or types do not
    /// go together. What only some values break is an error of those values.
    pub fn of(writer: &Plan, reader: &Plan) -> Result<Resolution, Error> {
        let mut resolution = Resolution { records: HashMap::new() };
        resolution.pair(writer, reader, writer.root(), reader.root())?;
        Ok(resolution)
    }

    fn pair(&mut self, writer: &Plan, reader: &Plan, from: NodeId, to: NodeId) -> Result<(), Error> {
        match (writer.node(from), reader.node(to)) {
            (Node::Union(union), _) => {
                // It depends on the value which branch it is; one must do.
                let mut misfits = Vec::new();
                for (name, branch) in &union.branches {
                    if let Err(error) = self.pair(writer, reader, *branch, to) {
                        misfits.push(error.at(name));
                    }
                }
                match misfits.len() == union.branches.len() {
                    true => Err(misfits.remove(0)),
                    false => Ok(()),
                }
            }
            (_, Node::Union(union)) => {
                let mut misfits = Vec::new();
                for (name, branch) in &union.branches {
                    if let Err(error) = self.pair(writer, reader, from, *branch) {
                        misfits.push(error.at(name));
                    }
                }
                match misfits.len() == union.branches.len() {
                    true => Err(Error::new("fits no branch of the reader's union")),
                    false => Ok(()),
                }
            }
            (Node::Array(from), Node::Array(to)) => self.pair(writer, reader, *from, *to).at("[]"),
            (Node::Map(from), Node::Map(to)) => self.pair(writer, reader, *from, *to).at("{}"),
            (Node::Record(have), Node::Record(want)) => {
                if self.records.contains_key(&(from, to)) {
                    return Ok(());
                }
                if !same_record(have, want) {
                    return Err(Error::new(format!("the record {} is not {}", have.name, want.name)));
                }
                let fields: Vec<_> = want.fields.iter().map(|field| position(have, field)).collect();
                self.records.insert((from, to), fields.clone());
                for (field, found) in want.fields.iter().zip(fields) {
                    match found {
                        Some(at) => {
                            self.pair(writer, reader, have.fields[at].node, field.node).at(&field.name)?;
                        }
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
            (from, to) => Err(Error::new(format!("{} cannot be read as {}", named(from), named(to)))),
        }
    }

    pub fn value(&self, writer: &Plan, reader: &Plan, avro: Avro) -> Result<Value, Error> {
        self.resolve(writer, reader, writer.root(), reader.root(), avro)
    }

    fn resolve(
        &self,
        writer: &Plan,
        reader: &Plan,
        from: NodeId,
        to: NodeId,
        avro: Avro,
    ) -> Result<Value, Error> {
        Ok(match (writer.node(from), reader.node(to), avro) {
            (Node::Union(union), _, Avro::Union(at, value)) => {
                let Some((_, branch)) = union.branches.get(at as usize) else {
                    return Err(Error::new("a union without such a branch"));
                };
                return self.resolve(writer, reader, *branch, to, *value);
            }
            (have, Node::Union(union), avro) => {
                let at = self.branch(writer, reader, from, have, &union.branches).ok_or_else(|| {
                    Error::new(format!("{} fits no branch of the reader's union", named(have)))
                })?;
                let value = self.resolve(writer, reader, from, union.branches[at].1, avro)?;
                read::tagged(reader, union, at, value)
            }
            (Node::Array(from), Node::Array(to), Avro::Array(list)) => {
                let items = list.into_iter().enumerate();
                let items = items.map(|(at, item)| self.resolve(writer, reader, *from, *to, item).at(at));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            (Node::Map(from), Node::Map(to), Avro::Map(map)) => {
                let mut entries = map
                    .into_iter()
                    .map(|(key, item)| {
                        let item = self.resolve(writer, reader, *from, *to, item).at(&key)?;
                        Ok((Value::Text(key), item))
                    })
                    .collect::<Result<Vec<_>, Error>>()?;
                read::sort(&mut entries);
                Value::Map(entries)
            }
            (Node::Record(have), Node::Record(want), Avro::Record(fields)) => {
                let Some(positions) = self.records.get(&(from, to)).filter(|_| same_record(have, want))
                else {
                    return Err(Error::new(format!("the record {} is not {}", have.name, want.name)));
                };
                let mut given: Vec<Option<Avro>> = fields.into_iter().map(|(_, value)| Some(value)).collect();
                let mut record = Vec::with_capacity(want.fields.len());
                for (field, found) in want.fields.iter().zip(positions) {
                    let given = found.and_then(|at| Some((at, given.get_mut(at)?.take()?)));
                    let value = match (given, &field.default) {
                        (Some((at, value)), _) => {
                            self.resolve(writer, reader, have.fields[at].node, field.node, value)
                        }
                        (None, Some(default)) => read::value(reader, field.node, default.clone()),
                        (None, None) => Err(Error::new("missing, and has no default")),
                    };
                    record.push((field.name.clone(), value.at(&field.name)?));
                }
                Value::Record(record)
            }
            (have, want, avro) => scalar(have, want, avro)?,
        })
    }

    /// The reader's branch for a node of the writer: of the same type if there is one, or the first that it can
    /// be promoted to.
    fn branch(
        &self,
        writer: &Plan,
        reader: &Plan,
        from: NodeId,
        have: &Node,
        branches: &[(String, NodeId)],
    ) -> Option<usize> {
        let same = |&(_, branch): &(String, NodeId)| {
            let node = reader.node(branch);
            match (have, node) {
                (Node::Record(have), Node::Record(want)) => have.name == want.name,
                _ => {
                    std::mem::discriminant(have) == std::mem::discriminant(node) && scalars_match(have, node)
                }
            }
        };
        let fits = |&(_, branch): &(String, NodeId)| {
            let mut tried = Resolution { records: HashMap::new() };
            tried.pair(writer, reader, from, branch).is_ok()
        };
        // Of several of the same type, such as two fixed ones, that of the same name.
        let name = branch_name(have);
        branches
            .iter()
            .position(|branch| branch.0 == name && same(branch) && fits(branch))
            .or_else(|| branches.iter().position(|branch| same(branch) && fits(branch)))
            .or_else(|| branches.iter().position(fits))
    }
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

fn named(node: &Node) -> String {
    match node {
        Node::Record(Record { name, .. }) | Node::Enum { name, .. } | Node::Fixed { name, .. } => {
            name.clone()
        }
        Node::Array(_) => "an array".to_owned(),
        Node::Map(_) => "a map".to_owned(),
        other => format!("{other:?}"),
    }
}

fn scalar(have: &Node, want: &Node, avro: Avro) -> Result<Value, Error> {
    if !scalars_match(have, want) {
        return Err(Error::new(format!("{} cannot be read as {}", named(have), named(want))));
    }
    if let (Node::Enum { name, symbols, default }, Avro::Enum(_, symbol)) = (want, &avro)
        && !symbols.contains(symbol)
    {
        let default = default.ok_or_else(|| {
            Error::new(format!("{symbol:?} is no symbol of the reader's {name}, which has no default"))
        })?;
        return Ok(Value::Enum(Symbol { name: symbols[default].clone(), number: None }));
    }
    let value = read::scalar(have, avro)?;
    // Into a logical type from what it is made of, or out of it, or to a wider number.
    let count = match &value {
        Value::Int(count) => Some(*count),
        Value::Date(days) => Some(i64::from(*days)),
        Value::Time(time) => Some((time.nanos / u64::from(time.unit.nanos())) as i64),
        Value::Timestamp(timestamp) => timestamp.count(timestamp.unit),
        _ => None,
    };
    match (want, count) {
        (Node::Int | Node::Long, Some(count)) => Ok(Value::Int(count)),
        (Node::Date, Some(count)) => wanted::date(&Value::Int(count)).map(Value::Date),
        (Node::Time(unit), Some(count)) => Time::from_count(count, *unit)
            .map(Value::Time)
            .ok_or_else(|| Error::new(format!("{count} {unit:?} is no time of day"))),
        (Node::Timestamp { unit, is_local }, Some(count)) => {
            Ok(Value::Timestamp(Timestamp::from_count(count, *unit, *is_local)))
        }
        (Node::Float, Some(count)) => wanted::float(&Value::Int(count)).map(Value::Float),
        (Node::Double, Some(count)) => wanted::double(&Value::Int(count)).map(Value::Double),
        (Node::Double, None) => wanted::double(&value).map(Value::Double),
        (Node::String, None) => match value {
            Value::Bytes(bytes) => String::from_utf8(bytes)
                .map(Value::Text)
                .map_err(|_| Error::new("bytes that are not UTF-8 cannot be read as a string")),
            other => wanted::text(&other).map(Value::Text),
        },
        (Node::Uuid { is_text: true, .. }, None) => match value {
            Value::Bytes(_) => Err(Error::new("bytes cannot be read as a UUID of text")),
            other => wanted::uuid(&other).map(Value::Uuid),
        },
        (Node::Bytes, None) => match value {
            Value::Text(text) => Ok(Value::Bytes(text.into_bytes())),
            Value::Uuid(_) => wanted::text(&value).map(|text| Value::Bytes(text.into_bytes())),
            other => Ok(other),
        },
        _ => Ok(value),
    }
}
