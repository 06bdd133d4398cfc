//! Values of the model as the binary encoding of a schema, straight from the one to the other.

use std::borrow::Cow;

use super::plan::{Node, NodeId, Plan, Record, Union};
use crate::error::At;
use crate::json::{deeper, key_text};
use crate::model::{Branch, Decimal};
use crate::{Error, ExtraFields, Value, wanted};

/// Appends the encoding of values.
pub struct Writer<'a> {
    pub plan: &'a Plan,
    pub extra: ExtraFields,
    pub out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    /// After an error something may have been appended.
    pub fn value(&mut self, id: NodeId, value: &Value, depth: usize) -> Result<(), Error> {
        let plan = self.plan;
        // A union is its own level of the schema, and none of the value.
        if let Node::Union(union) = plan.node(id) {
            return self.union(union, value, depth);
        }
        if let Value::Union(Branch { name, value }) = value {
            return self.value(id, value, deeper(depth)?).at(name);
        }
        match plan.node(id) {
            Node::Array(items) => {
                let Value::List(list) = value else {
                    return Err(Error::new(format!("{} where an array is wanted", value.kind())));
                };
                let depth = deeper(depth)?;
                self.in_one_block(list.len(), |writer| {
                    let mut items_of_list = list.iter().enumerate();
                    items_of_list.try_for_each(|(at, item)| writer.value(*items, item, depth).at(at))
                })
            }
            Node::Map(values) => self.map(*values, value, deeper(depth)?),
            Node::Record(record) => self.record(record, value, deeper(depth)?),
            node => self.scalar(node, value),
        }
    }

    /// Items behind their number, which are all that there are.
    fn in_one_block(
        &mut self,
        count: usize,
        items: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if count > 0 {
            length(count, self.out);
            items(self)?;
        }
        length(0, self.out);
        Ok(())
    }

    fn scalar(&mut self, node: &Node, value: &Value) -> Result<(), Error> {
        match node {
            Node::Null => match value {
                Value::Null => {}
                other => return Err(Error::new(format!("{} where null is wanted", other.kind()))),
            },
            Node::Boolean => self.out.push(wanted::boolean(value)?.into()),
            Node::Int => {
                long(wanted::integer(value, i32::MIN.into(), i32::MAX.into(), "an int")? as i64, self.out);
            }
            Node::Long => {
                long(wanted::integer(value, i64::MIN.into(), i64::MAX.into(), "a long")? as i64, self.out);
            }
            Node::Float => self.out.extend_from_slice(&wanted::float(value)?.to_le_bytes()),
            Node::Double => self.out.extend_from_slice(&wanted::double(value)?.to_le_bytes()),
            Node::Bytes => match value {
                Value::Bytes(given) => bytes(given, self.out),
                other => bytes(&wanted::bytes(other)?, self.out),
            },
            Node::String => match value {
                Value::Text(text) => bytes(text.as_bytes(), self.out),
                other => bytes(wanted::text(other)?.as_bytes(), self.out),
            },
            Node::Fixed { size, .. } => {
                let given = wanted::bytes(value)?;
                if given.len() != *size {
                    return Err(Error::new(format!("{} bytes where {size} are wanted", given.len())));
                }
                self.out.extend_from_slice(&given);
            }
            Node::Enum { name, symbols, .. } => length(symbol(name, symbols, value)?, self.out),
            Node::Decimal { precision, scale, fixed } => {
                let unscaled = wanted::decimal_of(value, *scale, *precision)?;
                let given = unscaled.to_signed_bytes_be();
                match fixed {
                    None => bytes(&given, self.out),
                    Some((_, size)) => {
                        let before = size.checked_sub(given.len()).ok_or_else(|| {
                            Error::new(format!("a decimal of {} bytes where {size} are wanted", given.len()))
                        })?;
                        let sign = if unscaled.sign() == num_bigint::Sign::Minus { 0xff } else { 0 };
                        self.out.extend(std::iter::repeat_n(sign, before));
                        self.out.extend_from_slice(&given);
                    }
                }
            }
            Node::BigDecimal => {
                let Decimal { unscaled, scale } = wanted::any_decimal(value)?;
                let mut inner = Vec::new();
                bytes(&unscaled.to_signed_bytes_be(), &mut inner);
                long(scale.into(), &mut inner);
                bytes(&inner, self.out);
            }
            Node::Uuid { is_text, fixed } => {
                let uuid = wanted::uuid(value)?;
                match (is_text, fixed) {
                    (true, _) => bytes(uuid::Uuid::from_bytes(uuid).to_string().as_bytes(), self.out),
                    (false, None) => bytes(&uuid, self.out),
                    (false, Some(_)) => self.out.extend_from_slice(&uuid),
                }
            }
            Node::Date => long(wanted::date(value)?.into(), self.out),
            Node::Time(unit) => long(wanted::time(value, *unit)? as i64, self.out),
            Node::Timestamp { unit, is_local } => {
                long(wanted::timestamp_count(value, *unit, *is_local)?, self.out);
            }
            Node::Duration { .. } => {
                let interval = wanted::interval(value)?;
                for part in [interval.months, interval.days, interval.millis] {
                    self.out.extend_from_slice(&part.to_le_bytes());
                }
            }
            Node::Array(_) | Node::Map(_) | Node::Union(_) | Node::Record(_) | Node::Unfinished => {
                unreachable!("it holds others")
            }
        }
        Ok(())
    }

    fn map(&mut self, values: NodeId, value: &Value, depth: usize) -> Result<(), Error> {
        let entries: Vec<(Cow<'_, str>, &Value)> = match value {
            Value::Record(fields) => {
                fields.iter().map(|(name, value)| (name.as_str().into(), value)).collect()
            }
            Value::Map(entries) => {
                let text = |(key, value)| Ok((text_of_key(key)?, value));
                entries.iter().map(|(key, value)| text((key, value))).collect::<Result<_, Error>>()?
            }
            other => return Err(Error::new(format!("{} where a map is wanted", other.kind()))),
        };
        crate::json::no_key_twice(&entries)?;
        self.in_one_block(entries.len(), |writer| {
            entries.iter().try_for_each(|(key, value)| {
                bytes(key.as_bytes(), writer.out);
                writer.value(values, value, depth).at(key)
            })
        })
    }

    fn record(&mut self, record: &Record, value: &Value, depth: usize) -> Result<(), Error> {
        match value {
            Value::Record(fields) => self.fields(record, fields, |(name, value)| (name, value), depth),
            Value::Map(entries) if entries.iter().all(|(key, _)| matches!(key, Value::Text(_))) => {
                self.fields(record, entries, |(key, value)| (name_of(key), value), depth)
            }
            other => Err(Error::new(format!("{} where the record {} is wanted", other.kind(), record.name))),
        }
    }

    /// The fields of a record, from entries that have them by their names.
    fn fields<Entry>(
        &mut self,
        record: &Record,
        given: &[Entry],
        of: impl Fn(&Entry) -> (&str, &Value),
        depth: usize,
    ) -> Result<(), Error> {
        let mut used = 0;
        for (at, field) in record.fields.iter().enumerate() {
            let is_it = |entry: &&Entry| of(entry).0 == field.name;
            // Mostly in the order of the schema.
            let found = given.get(at).filter(is_it).or_else(|| given.iter().find(is_it));
            match (found, &field.default) {
                (Some(entry), _) => {
                    used += 1;
                    self.value(field.node, of(entry).1, depth).at(&field.name)?;
                }
                (None, Some(default)) => self.out.extend_from_slice(default),
                (None, None) => {
                    let missing = format!("missing: a field of {} without a default", record.name);
                    return Err(Error::new(missing).at(&field.name));
                }
            }
        }
        if used < given.len() && self.extra == ExtraFields::Reject {
            let is_unknown = |name: &str| record.fields.iter().all(|field| field.name != name);
            if let Some(name) = given.iter().map(|entry| of(entry).0).find(|name| is_unknown(name)) {
                return Err(crate::unknown_field(&record.name).at(name));
            }
        }
        Ok(())
    }

    /// The branch of a union: as the value says, or the only one that it fits.
    fn union(&mut self, union: &Union, value: &Value, depth: usize) -> Result<(), Error> {
        let plan = self.plan;
        let names = || union.branches.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some((at, value)) = named(plan, union, value) {
            return self.branch(union, at, value, depth).at(&union.branches[at].0);
        }
        if let Value::Union(Branch { name, .. }) = value {
            return Err(Error::new(format!("{name:?} is no branch of the union; those are {}", names())));
        }
        let all = 0..union.branches.len();
        let is_exact = |at: &usize| is_of(plan.node(union.branches[*at].1), value);
        let mut exact = all.clone().filter(is_exact);
        let (first, second) = (exact.next(), exact.next());
        if let (Some(at), None) = (first, second) {
            return self.branch(union, at, value, depth);
        }
        let mut fits = Vec::new();
        let mut misfit = None;
        for at in all.filter(|at| first.is_none() || is_exact(at)) {
            let before = self.out.len();
            match self.branch(union, at, value, depth) {
                // It stays there: if another one fits too, it is an error.
                Ok(()) => fits.push(at),
                Err(error) => {
                    self.out.truncate(before);
                    // With one way to be no null, its error says more than that none fits.
                    if !matches!(plan.node(union.branches[at].1), Node::Null) {
                        misfit = Some((misfit.is_none(), error));
                    }
                }
            }
        }
        match (fits.as_slice(), misfit) {
            ([_], _) => Ok(()),
            ([], Some((true, error))) => Err(error),
            ([], _) => Err(Error::new(format!("{} fits no branch of the union: {}", value.kind(), names()))),
            _ => {
                let names: Vec<_> = fits.iter().map(|at| union.branches[*at].0.as_str()).collect();
                let name = names[0];
                Err(Error::new(format!(
                    "fits several branches of the union ({}); say which: {{\"{name}\": ...}}",
                    names.join(", ")
                )))
            }
        }
    }

    fn branch(&mut self, union: &Union, at: usize, value: &Value, depth: usize) -> Result<(), Error> {
        length(at, self.out);
        self.value(union.branches[at].1, value, depth)
    }
}

/// Appends a number: zigzag, in groups of seven bits, the lowest first.
pub fn long(number: i64, out: &mut Vec<u8>) {
    let mut left = (number << 1 ^ number >> 63) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// Appends a number of things that are there.
pub fn length(number: usize, out: &mut Vec<u8>) {
    long(i64::try_from(number).expect("so many are in no memory"), out);
}

/// Appends bytes behind their length.
pub fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn text_of_key(key: &Value) -> Result<Cow<'_, str>, Error> {
    match key {
        Value::Text(text) => Ok(text.into()),
        other => key_text(other).map(Cow::Owned),
    }
}

/// A key that is a text.
fn name_of(key: &Value) -> &str {
    match key {
        Value::Text(name) => name,
        other => unreachable!("{} as the name of a field", other.kind()),
    }
}

fn symbol(name: &str, symbols: &[String], value: &Value) -> Result<usize, Error> {
    let symbol = match value {
        Value::Enum(symbol) => &symbol.name,
        Value::Text(text) => text,
        other => return Err(Error::new(format!("{} where a symbol of {name} is wanted", other.kind()))),
    };
    let at = symbols.iter().position(|known| known == symbol);
    at.ok_or_else(|| Error::new(format!("{symbol:?} is no symbol of {name}; those are {symbols:?}")))
}

/// The branch that a value names, as `{"branch": value}` in JSON.
fn named<'v>(plan: &Plan, union: &Union, value: &'v Value) -> Option<(usize, &'v Value)> {
    let find = |name: &str| union.branches.iter().position(|(known, _)| known == name);
    match value {
        Value::Union(Branch { name, value }) => Some((find(name)?, value)),
        Value::Record(fields) if fields.len() == 1 => {
            let at = find(&fields[0].0)?;
            // Where it needs no name, an object is the value itself if one can be.
            let may_be_object =
                |(_, branch): &(String, NodeId)| matches!(plan.node(*branch), Node::Record(_) | Node::Map(_));
            let is_name = union.is_tagged || !union.branches.iter().any(may_be_object);
            is_name.then_some((at, &fields[0].1))
        }
        _ => None,
    }
}

/// Whether a value is of a node's own type, so that nothing has to be made of it.
fn is_of(node: &Node, value: &Value) -> bool {
    match (node, value) {
        (Node::Null, Value::Null)
        | (Node::Boolean, Value::Bool(_))
        | (Node::Long | Node::Int, Value::Int(_))
        | (Node::Float, Value::Float(_))
        | (Node::Double, Value::Double(_))
        | (Node::Bytes | Node::Fixed { .. }, Value::Bytes(_))
        | (Node::String, Value::Text(_))
        | (Node::Enum { .. }, Value::Enum(_))
        | (Node::Array(_), Value::List(_))
        | (Node::Map(_), Value::Map(_))
        | (Node::Record(_), Value::Record(_))
        | (Node::Decimal { .. } | Node::BigDecimal, Value::Decimal(_))
        | (Node::Uuid { .. }, Value::Uuid(_))
        | (Node::Date, Value::Date(_))
        | (Node::Time(_), Value::Time(_))
        | (Node::Duration { .. }, Value::Interval(_)) => true,
        (Node::Timestamp { is_local, .. }, Value::Timestamp(timestamp)) => *is_local == timestamp.is_local,
        _ => false,
    }
}
