//! Avro: the rules of schema resolution in its specification, with what only some values break told too.
//!
//! Paths are those of a value, with `[]` for the items of an array, `{}` for the values of a map, and the
//! name of a branch for what is in a union.

use std::collections::HashSet;

use super::{Finding, Findings, Mode};
use crate::Error;
use crate::avro::Schema;
use crate::avro::plan::{Node, NodeId, Plan, Record};
use crate::avro::resolve::{position, same_record, scalars_match, short, width};

/// Compares two versions of a schema.
///
/// # Errors
/// One of them is none; it says which.
pub fn check(old: &str, new: &str, mode: Mode) -> Result<Vec<Finding>, Error> {
    let parse = |text: &str, which: &str| {
        Schema::parse(text, &[]).map_err(|error| Error::new(format!("the {which} schema is none: {error}")))
    };
    let (old, new) = (parse(old, "old")?, parse(new, "new")?);
    Ok(Findings::of(mode, |findings| {
        let (writer, reader) = findings.way.pair(old.plan(), new.plan());
        let mut pairs = Pairs { writer, reader, seen: HashSet::new() };
        pairs.compare("", writer.root(), reader.root(), findings);
    }))
}

struct Pairs<'a> {
    writer: &'a Plan,
    reader: &'a Plan,
    /// Records that were compared or are being compared.
    seen: HashSet<(NodeId, NodeId)>,
}

impl Pairs<'_> {
    fn compare(&mut self, path: &str, from: NodeId, to: NodeId, findings: &mut Findings) {
        let way = findings.way;
        match (self.writer.node(from), self.reader.node(to)) {
            (Node::Union(union), _) => {
                for (name, branch) in &union.branches {
                    self.compare(&format!("{path}/{name}"), *branch, to, findings);
                }
            }
            (have, Node::Union(union)) => {
                // The reader takes the branch of the same type, or the first that fits: what that one has to
                // complain of is what breaks.
                let same = |branch: NodeId| same_type(have, self.reader.node(branch));
                let branches: Vec<NodeId> = union.branches.iter().map(|(_, branch)| *branch).collect();
                let fits = |branch: &NodeId| self.misfits(from, *branch).is_empty();
                let chosen = branches
                    .iter()
                    .find(|branch| same(**branch) && fits(branch))
                    .or_else(|| branches.iter().find(|branch| fits(branch)))
                    .or_else(|| branches.iter().find(|branch| same(**branch)));
                match chosen {
                    Some(branch) => self.compare(path, from, *branch, findings),
                    None => findings.breaks(
                        path,
                        format!("{} is no branch of the {} union", described(have), way.reader()),
                        way.remedy("keep the branch", "write only what was written before"),
                    ),
                }
            }
            (Node::Array(from), Node::Array(to)) => {
                self.compare(&format!("{path}/[]"), *from, *to, findings);
            }
            (Node::Map(from), Node::Map(to)) => self.compare(&format!("{path}/{{}}"), *from, *to, findings),
            (Node::Record(have), Node::Record(want)) => self.records(path, (from, to), have, want, findings),
            (have, want) => scalars(path, have, want, findings),
        }
    }

    fn misfits(&self, from: NodeId, to: NodeId) -> Vec<Finding> {
        Findings::of(Mode::Backward, |findings| {
            let mut pairs = Pairs { writer: self.writer, reader: self.reader, seen: self.seen.clone() };
            pairs.compare("", from, to, findings);
            findings.list.retain(|finding| finding.weight == super::Weight::Breaks);
        })
    }

    fn records(
        &mut self,
        path: &str,
        pair: (NodeId, NodeId),
        have: &Record,
        want: &Record,
        findings: &mut Findings,
    ) {
        if !self.seen.insert(pair) {
            return;
        }
        if !same_record(have, want) {
            findings.breaks(
                path,
                format!("the record {} is {} now", have.name, want.name),
                findings.way.remedy(
                    &format!("give it the alias {:?}", have.name),
                    "keep the name, which the readers there are know",
                ),
            );
            return;
        }
        for field in &want.fields {
            let path = format!("{path}/{}", field.name);
            match position(have, field) {
                Some(at) => self.compare(&path, have.fields[at].node, field.node, findings),
                None if field.default.is_some() => {}
                None => self.missing(&path, have, want, findings),
            }
        }
    }

    fn missing(&self, path: &str, have: &Record, want: &Record, findings: &mut Findings) {
        let way = findings.way;
        let what = format!("the {} schema does not write it, and it has no default", way.writer());
        // What was a field before and is none any more may be the same one under another name.
        let gone: Vec<&str> = have
            .fields
            .iter()
            .filter(|known| {
                want.fields
                    .iter()
                    .all(|field| position(have, field).is_none_or(|at| have.fields[at].name != known.name))
            })
            .map(|field| field.name.as_str())
            .collect();
        let alias = match gone.as_slice() {
            [] => String::new(),
            names => format!(", or an alias if it was {:?}", names.join("\" or \"")),
        };
        let remedy = way.remedy(
            "give it a default",
            "keep it until all readers have a schema in which it has a default or is not there",
        );
        let alias = if way == super::Way::OldToNew { alias } else { String::new() };
        findings.breaks(path, what, format!("{remedy}{alias}"));
    }
}

/// Whether a reader with a choice takes this one for its type alone.
fn same_type(have: &Node, want: &Node) -> bool {
    match (have, want) {
        (Node::Record(have), Node::Record(want)) => same_record(have, want),
        (Node::Enum { name: a, .. }, Node::Enum { name: b, .. })
        | (Node::Fixed { name: a, .. }, Node::Fixed { name: b, .. }) => short(a) == short(b),
        _ => std::mem::discriminant(have) == std::mem::discriminant(want),
    }
}

fn scalars(path: &str, have: &Node, want: &Node, findings: &mut Findings) {
    let way = findings.way;
    if !scalars_match(have, want) {
        let what = format!("{} cannot be read as {}", described(have), described(want));
        findings.breaks(
            path,
            what,
            way.remedy("keep the type, or add a field", "keep the type, or add a field"),
        );
        return;
    }
    match (have, want) {
        (Node::Enum { symbols, .. }, Node::Enum { symbols: known, default: None, name }) => {
            for symbol in symbols.iter().filter(|symbol| !known.contains(symbol)) {
                findings.breaks(
                    path,
                    format!("{symbol:?} is no symbol of the {} {name}, which has no default", way.reader()),
                    way.remedy(
                        "keep the symbol, or give the enum a default",
                        "write it once all readers know it; with a default of the enum they would read that",
                    ),
                );
            }
        }
        (Node::Decimal { precision: from, .. }, Node::Decimal { precision: to, .. }) if from > to => {
            findings.warn(
                path,
                format!("decimals of {from} digits are read as ones of {to}"),
                "keep the precision unless no number needs it",
            );
        }
        (Node::Bytes, Node::String) => {
            findings.warn(path, "bytes are read as a string", "good only if they are UTF-8");
        }
        (Node::String | Node::Bytes, Node::Uuid { is_text: true, .. }) => {
            findings.warn(path, "any text is read as a UUID", "good only if it is one");
        }
        (Node::Int | Node::Long, Node::Date | Node::Time(_) | Node::Timestamp { .. }) => {
            findings.warn(
                path,
                format!("{} is read as {}", described(have), described(want)),
                "good only if it counts just that",
            );
        }
        (Node::Int | Node::Long, Node::Float) | (Node::Long, Node::Double) => {
            findings.warn(
                path,
                format!("{} is read as {}", described(have), described(want)),
                "good only for numbers that it holds to the last digit",
            );
        }
        (have, want) if width(have).is_some() && is_count(have) && width(want) > Some(1) => {
            findings.warn(
                path,
                format!("{} is read as {}", described(have), described(want)),
                "the number stays, what it counts is not said any more",
            );
        }
        _ => {}
    }
}

fn is_count(node: &Node) -> bool {
    matches!(node, Node::Date | Node::Time(_) | Node::Timestamp { .. })
}

/// A type, in the words of a schema.
fn described(node: &Node) -> String {
    match node {
        Node::Null => "null".to_owned(),
        Node::Boolean => "boolean".to_owned(),
        Node::Int => "int".to_owned(),
        Node::Long => "long".to_owned(),
        Node::Float => "float".to_owned(),
        Node::Double => "double".to_owned(),
        Node::Bytes => "bytes".to_owned(),
        Node::String => "string".to_owned(),
        Node::Fixed { name, size } => format!("the fixed {name} of {size} bytes"),
        Node::Enum { name, .. } => format!("the enum {name}"),
        Node::Record(record) => format!("the record {}", record.name),
        Node::Decimal { precision, scale, fixed: None } => format!("decimal({precision}, {scale}) of bytes"),
        Node::Decimal { precision, scale, fixed: Some((_, size)) } => {
            format!("decimal({precision}, {scale}) of {size} fixed bytes")
        }
        Node::BigDecimal => "big-decimal".to_owned(),
        Node::Uuid { .. } => "uuid".to_owned(),
        Node::Date => "date".to_owned(),
        Node::Time(unit) => format!("time of day in {unit:?}").to_lowercase(),
        Node::Timestamp { unit, is_local: false } => format!("timestamp in {unit:?}").to_lowercase(),
        Node::Timestamp { unit, is_local: true } => format!("local timestamp in {unit:?}").to_lowercase(),
        Node::Duration { .. } => "duration".to_owned(),
        Node::Array(_) => "an array".to_owned(),
        Node::Map(_) => "a map".to_owned(),
        Node::Union(_) => "a union".to_owned(),
        Node::Unfinished => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests;
