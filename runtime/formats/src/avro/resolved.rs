//! Values that were written by one schema, read as those of another one. It is decided once for the two schemas
//! what is read next and what is made of it; a value is then read as quickly as by its own schema.

use std::collections::HashMap;

use super::Schema;
use super::plan::{Node, NodeId, Record, branch_name};
use super::read::{Reader, memory_of, time};
use super::resolve::{Pairs, named, no_pair, no_record, position, same_record, scalars_match};
use crate::error::At;
use crate::json::deeper;
use crate::model::{Symbol, Timestamp};
use crate::{Error, MAX_DEPTH, Value, wanted};

/// Decodes by the schema of who wrote into that of who reads.
pub struct Resolved {
    writer: Schema,
    reader: Schema,
    steps: Vec<Step>,
    root: StepId,
}

/// A step by its number.
type StepId = usize;

/// What comes next by the writer's schema, and what is made of it.
enum Step {
    Array(StepId),
    Map(StepId),
    Record(Fields),
    /// Of a union of the writer: one a branch.
    Branches(Vec<StepId>),
    /// Of a union of the reader: the name of the branch, if values say it.
    Branch(Option<String>, StepId),
    /// A value that holds no others: as it was written, and as it is read.
    Scalar(NodeId, NodeId),
    /// It cannot be resolved. It may never come: a branch may not be written, and a list may be empty.
    Misfit(Error),
    /// Stands for one that is being made.
    Unfinished,
}

struct Fields {
    /// Those of the reader, with the defaults of what the writer does not write.
    read: Vec<(String, Value)>,
    /// What they take.
    memory: usize,
    written: Vec<Written>,
}

/// A field of the writer.
enum Written {
    /// It is this one of the reader's.
    Read(usize, StepId),
    /// The reader does not have it.
    Skipped(String, NodeId),
}

impl Resolved {
    /// # Errors
    /// The two can never go together; says where.
    pub fn new(writer: Schema, reader: Schema) -> Result<Resolved, Error> {
        let (from, to) = (writer.plan().root(), reader.plan().root());
        Pairs::new(writer.plan(), reader.plan()).check(from, to)?;
        let mut maker = Maker { writer: &writer, reader: &reader, steps: Vec::new(), made: HashMap::new() };
        let root = maker.step(from, to);
        let steps = maker.steps;
        Ok(Resolved { writer, reader, steps, root })
    }

    /// As [`Schema::decode`].
    ///
    /// # Errors
    /// As there, or this value cannot be resolved: a symbol that the reader does not know, say.
    pub fn decode(&self, bytes: &[u8]) -> Result<Value, Error> {
        Reader::whole(bytes, |input| self.read(input))
    }

    pub(super) fn read(&self, input: &mut Reader<'_>) -> Result<Value, Error> {
        self.step(self.root, input, MAX_DEPTH)
    }

    fn step(&self, id: StepId, input: &mut Reader<'_>, depth: usize) -> Result<Value, Error> {
        match &self.steps[id] {
            Step::Array(items) => input.list(depth, |input, depth| self.step(*items, input, depth)),
            Step::Map(values) => input.map(depth, |input, depth| self.step(*values, input, depth)),
            Step::Record(fields) => self.record(fields, input, deeper(depth)?),
            Step::Branches(branches) => {
                let at = input.branch(branches.len())?;
                self.step(branches[at], input, depth)
            }
            Step::Branch(name, step) => {
                let value = self.step(*step, input, depth)?;
                input.tagged(name.as_deref(), value)
            }
            Step::Scalar(from, to) => {
                let value = input.scalar(self.writer.plan().node(*from))?;
                scalar(self.reader.plan().node(*to), value)
            }
            Step::Misfit(error) => Err(error.clone()),
            Step::Unfinished => unreachable!("all steps were made"),
        }
    }

    fn record(&self, fields: &Fields, input: &mut Reader<'_>, depth: usize) -> Result<Value, Error> {
        input.take(fields.memory)?;
        let mut record = fields.read.clone();
        for field in &fields.written {
            match field {
                Written::Read(at, step) => {
                    let (name, value) = &mut record[*at];
                    *value = self.step(*step, input, depth).at(name)?;
                }
                // It is read all the same, to know where it ends.
                Written::Skipped(name, node) => {
                    input.value(self.writer.plan(), *node, depth).at(name)?;
                }
            }
        }
        Ok(Value::Record(record))
    }
}

/// Makes a step of each two nodes that meet.
struct Maker<'a> {
    writer: &'a Schema,
    reader: &'a Schema,
    steps: Vec<Step>,
    made: HashMap<(NodeId, NodeId), StepId>,
}

impl Maker<'_> {
    fn step(&mut self, from: NodeId, to: NodeId) -> StepId {
        if let Some(&id) = self.made.get(&(from, to)) {
            return id;
        }
        let id = self.steps.len();
        self.steps.push(Step::Unfinished);
        self.made.insert((from, to), id);
        let (writer, reader) = (self.writer.plan(), self.reader.plan());
        self.steps[id] = match (writer.node(from), reader.node(to)) {
            (Node::Union(union), _) => {
                Step::Branches(union.branches.iter().map(|(_, branch)| self.step(*branch, to)).collect())
            }
            (have, Node::Union(union)) => match self.branch(from, &union.branches) {
                Some(at) => {
                    let step = self.step(from, union.branches[at].1);
                    Step::Branch(reader.tag(union, at).map(str::to_owned), step)
                }
                None => {
                    Step::Misfit(Error::new(format!("{} fits no branch of the reader's union", named(have))))
                }
            },
            (Node::Array(from), Node::Array(to)) => Step::Array(self.step(*from, *to)),
            (Node::Map(from), Node::Map(to)) => Step::Map(self.step(*from, *to)),
            (Node::Record(have), Node::Record(want)) => {
                self.fields(have, want).map_or_else(Step::Misfit, Step::Record)
            }
            (have, want) if scalars_match(have, want) => Step::Scalar(from, to),
            (have, want) => Step::Misfit(no_pair(have, want)),
        };
        id
    }

    fn fields(&mut self, have: &Record, want: &Record) -> Result<Fields, Error> {
        if !same_record(have, want) {
            return Err(no_record(have, want));
        }
        let mut written: Vec<Option<usize>> = vec![None; have.fields.len()];
        let mut read = Vec::with_capacity(want.fields.len());
        for (at, field) in want.fields.iter().enumerate() {
            // Two fields may have been one by their aliases: it is the first one now.
            let free = position(have, field).and_then(|of| written.get_mut(of)).filter(|of| of.is_none());
            let value = match (free, &field.default) {
                (Some(free), _) => {
                    *free = Some(at);
                    Ok(Value::Null)
                }
                (None, Some(default)) => {
                    Reader::whole(default, |input| input.value(self.reader.plan(), field.node, MAX_DEPTH))
                }
                (None, None) => Err(Error::new("missing, and has no default")),
            };
            read.push((field.name.clone(), value.at(&field.name)?));
        }
        let step = |(field, at): (&super::plan::Field, Option<usize>)| match at {
            Some(at) => Written::Read(at, self.step(field.node, want.fields[at].node)),
            None => Written::Skipped(field.name.clone(), field.node),
        };
        let written = have.fields.iter().zip(written).map(step).collect();
        let defaults: usize = read.iter().map(|(_, value)| memory_of(value)).sum();
        Ok(Fields { memory: want.memory + defaults, read, written })
    }

    /// The reader's branch for a node of the writer: of the same type if there is one, or the first that it can
    /// be promoted to.
    fn branch(&self, from: NodeId, branches: &[(String, NodeId)]) -> Option<usize> {
        let (writer, reader) = (self.writer.plan(), self.reader.plan());
        let have = writer.node(from);
        let same = |&(_, branch): &(String, NodeId)| match (have, reader.node(branch)) {
            (Node::Record(have), Node::Record(want)) => have.name == want.name,
            (have, want) => {
                std::mem::discriminant(have) == std::mem::discriminant(want) && scalars_match(have, want)
            }
        };
        let fits = |&(_, branch): &(String, NodeId)| Pairs::new(writer, reader).check(from, branch).is_ok();
        // Of several of the same type, such as two fixed ones, that of the same name.
        let name = branch_name(have);
        branches
            .iter()
            .position(|branch| branch.0 == name && same(branch) && fits(branch))
            .or_else(|| branches.iter().position(|branch| same(branch) && fits(branch)))
            .or_else(|| branches.iter().position(fits))
    }
}

/// A value into a logical type from what it is made of, or out of it, or to a wider number.
fn scalar(want: &Node, value: Value) -> Result<Value, Error> {
    let count = match &value {
        Value::Int(count) => Some(*count),
        Value::Date(days) => Some(i64::from(*days)),
        Value::Time(time) => Some((time.nanos / u64::from(time.unit.nanos())) as i64),
        Value::Timestamp(timestamp) => timestamp.count(timestamp.unit),
        _ => None,
    };
    if let Some(count) = count {
        return match want {
            Node::Int | Node::Long => Ok(Value::Int(count)),
            Node::Date => wanted::date(&Value::Int(count)).map(Value::Date),
            Node::Time(unit) => time(count, *unit).map(Value::Time),
            Node::Timestamp { unit, is_local } => {
                Ok(Value::Timestamp(Timestamp::from_count(count, *unit, *is_local)))
            }
            Node::Float => wanted::float(&Value::Int(count)).map(Value::Float),
            Node::Double => wanted::double(&Value::Int(count)).map(Value::Double),
            _ => Ok(value),
        };
    }
    match (want, value) {
        (Node::Enum { name, symbols, default }, Value::Enum(symbol)) => {
            if symbols.contains(&symbol.name) {
                return Ok(Value::Enum(symbol));
            }
            let default = default.ok_or_else(|| {
                let symbol = symbol.name;
                Error::new(format!("{symbol:?} is no symbol of the reader's {name}, which has no default"))
            })?;
            Ok(Value::Enum(Symbol { name: symbols[default].clone(), number: None }))
        }
        (Node::Double, value) => wanted::double(&value).map(Value::Double),
        (Node::String, Value::Bytes(bytes)) => String::from_utf8(bytes)
            .map(Value::Text)
            .map_err(|_| Error::new("bytes that are not UTF-8 cannot be read as a string")),
        (Node::String, value @ Value::Uuid(_)) => wanted::text(&value).map(Value::Text),
        (Node::Uuid { is_text: true, .. }, Value::Bytes(_)) => {
            Err(Error::new("bytes cannot be read as a UUID of text"))
        }
        (Node::Uuid { is_text: true, .. }, value) => wanted::uuid(&value).map(Value::Uuid),
        (Node::Bytes, Value::Text(text)) => Ok(Value::Bytes(text.into_bytes())),
        (Node::Bytes, value @ Value::Uuid(_)) => {
            wanted::text(&value).map(|text| Value::Bytes(text.into_bytes()))
        }
        (_, value) => Ok(value),
    }
}

#[cfg(test)]
mod tests;
