//! From values of the model to those of apache-avro.

use apache_avro::types::Value as Avro;
use apache_avro::{BigDecimal, Days, Duration, Millis, Months};

use super::plan::{Node, NodeId, Plan, Record, Union};
use crate::error::At;
use crate::json::{deeper, key_text};
use crate::model::{Branch, Unit};
use crate::{Error, ExtraFields, Value, wanted};

pub fn value(
    plan: &Plan,
    id: NodeId,
    value: &Value,
    extra: ExtraFields,
    depth: usize,
) -> Result<Avro, Error> {
    // A union is its own level of the schema, and none of the value.
    if let Node::Union(union) = plan.node(id) {
        return branch(plan, union, value, extra, depth);
    }
    if let Value::Union(Branch { name, value }) = value {
        return self::value(plan, id, value, extra, deeper(depth)?).at(name);
    }
    Ok(match plan.node(id) {
        Node::Null => match value {
            Value::Null => Avro::Null,
            other => return Err(Error::new(format!("{} where null is wanted", other.kind()))),
        },
        Node::Boolean => Avro::Boolean(wanted::boolean(value)?),
        Node::Int => Avro::Int(wanted::integer(value, i32::MIN.into(), i32::MAX.into(), "an int")? as i32),
        Node::Long => Avro::Long(wanted::integer(value, i64::MIN.into(), i64::MAX.into(), "a long")? as i64),
        Node::Float => Avro::Float(wanted::float(value)?),
        Node::Double => Avro::Double(wanted::double(value)?),
        Node::Bytes => Avro::Bytes(wanted::bytes(value)?),
        Node::String => Avro::String(wanted::text(value)?),
        Node::Fixed { size, .. } => {
            let bytes = wanted::bytes(value)?;
            if bytes.len() != *size {
                return Err(Error::new(format!("{} bytes where {size} are wanted", bytes.len())));
            }
            Avro::Fixed(*size, bytes)
        }
        Node::Enum { name, symbols, .. } => {
            let symbol = match value {
                Value::Enum(symbol) => &symbol.name,
                Value::Text(text) => text,
                other => {
                    return Err(Error::new(format!("{} where a symbol of {name} is wanted", other.kind())));
                }
            };
            let at = symbols.iter().position(|known| known == symbol).ok_or_else(|| {
                Error::new(format!("{symbol:?} is no symbol of {name}; those are {symbols:?}"))
            })?;
            Avro::Enum(at as u32, symbol.clone())
        }
        Node::Array(items) => {
            let Value::List(list) = value else {
                return Err(Error::new(format!("{} where an array is wanted", value.kind())));
            };
            let depth = deeper(depth)?;
            let items = list
                .iter()
                .enumerate()
                .map(|(at, item)| self::value(plan, *items, item, extra, depth).at(at));
            Avro::Array(items.collect::<Result<_, _>>()?)
        }
        Node::Map(values) => map(plan, *values, value, extra, deeper(depth)?)?,
        Node::Record(record) => self::record(plan, record, value, extra, deeper(depth)?)?,
        Node::Union(_) => unreachable!("dealt with above"),
        Node::Decimal { precision, scale, fixed } => {
            let unscaled = wanted::decimal_of(value, *scale, *precision)?;
            let bytes = unscaled.to_signed_bytes_be();
            if let Some((_, size)) = fixed.as_ref().filter(|(_, size)| bytes.len() > *size) {
                return Err(Error::new(format!(
                    "a decimal of {} bytes where {size} are wanted",
                    bytes.len()
                )));
            }
            Avro::Decimal(bytes.into())
        }
        Node::BigDecimal => {
            let decimal = wanted::any_decimal(value)?;
            Avro::BigDecimal(BigDecimal::new(decimal.unscaled, decimal.scale.into()))
        }
        Node::Uuid { .. } => Avro::Uuid(apache_avro::Uuid::from_bytes(wanted::uuid(value)?)),
        Node::Date => Avro::Date(wanted::date(value)?),
        Node::Time(Unit::Micros) => Avro::TimeMicros(wanted::time(value, Unit::Micros)? as i64),
        Node::Time(unit) => Avro::TimeMillis(wanted::time(value, *unit)? as i32),
        Node::Timestamp { unit, is_local } => {
            let count = wanted::timestamp_count(value, *unit, *is_local)?;
            match (unit, is_local) {
                (Unit::Micros, false) => Avro::TimestampMicros(count),
                (Unit::Nanos, false) => Avro::TimestampNanos(count),
                (_, false) => Avro::TimestampMillis(count),
                (Unit::Micros, true) => Avro::LocalTimestampMicros(count),
                (Unit::Nanos, true) => Avro::LocalTimestampNanos(count),
                (_, true) => Avro::LocalTimestampMillis(count),
            }
        }
        Node::Duration { .. } => {
            let interval = wanted::interval(value)?;
            Avro::Duration(Duration::new(
                Months::new(interval.months),
                Days::new(interval.days),
                Millis::new(interval.millis),
            ))
        }
        Node::Unfinished => unreachable!("a plan is finished"),
    })
}

fn map(plan: &Plan, values: NodeId, value: &Value, extra: ExtraFields, depth: usize) -> Result<Avro, Error> {
    let item = |key: String, item: &Value| {
        let item = self::value(plan, values, item, extra, depth).at(&key)?;
        Ok((key, item))
    };
    let (count, map): (usize, std::collections::HashMap<String, Avro>) = match value {
        Value::Record(fields) => (
            fields.len(),
            fields.iter().map(|(name, field)| item(name.clone(), field)).collect::<Result<_, Error>>()?,
        ),
        Value::Map(entries) => (
            entries.len(),
            entries.iter().map(|(key, value)| item(key_text(key)?, value)).collect::<Result<_, Error>>()?,
        ),
        other => return Err(Error::new(format!("{} where a map is wanted", other.kind()))),
    };
    match map.len() == count {
        true => Ok(Avro::Map(map)),
        false => Err(Error::new("two keys of the map are written alike")),
    }
}

fn record(
    plan: &Plan,
    record: &Record,
    value: &Value,
    extra: ExtraFields,
    depth: usize,
) -> Result<Avro, Error> {
    let given = fields_of(value)
        .ok_or_else(|| Error::new(format!("{} where the record {} is wanted", value.kind(), record.name)))?;
    let mut used = 0;
    let mut fields = Vec::with_capacity(record.fields.len());
    for (at, field) in record.fields.iter().enumerate() {
        // Mostly in the order of the schema.
        let found = given
            .get(at)
            .filter(|(name, _)| *name == field.name)
            .or_else(|| given.iter().find(|(name, _)| *name == field.name));
        let written = match (found, &field.default) {
            (Some((_, value)), _) => {
                used += 1;
                self::value(plan, field.node, value, extra, depth).at(&field.name)?
            }
            (None, Some(default)) => default.clone(),
            (None, None) => {
                return Err(Error::new(format!("missing: a field of {} without a default", record.name))
                    .at(&field.name));
            }
        };
        fields.push((field.name.clone(), written));
    }
    if used < given.len() && extra == ExtraFields::Reject {
        let unknown = given.iter().find(|(name, _)| record.fields.iter().all(|field| field.name != *name));
        if let Some((name, _)) = unknown {
            return Err(crate::unknown_field(&record.name).at(name));
        }
    }
    Ok(Avro::Record(fields))
}

/// Named values, of a record or of a map whose keys are text.
fn fields_of(value: &Value) -> Option<Vec<(&str, &Value)>> {
    match value {
        Value::Record(fields) => Some(fields.iter().map(|(name, value)| (name.as_str(), value)).collect()),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, value)| match key {
                Value::Text(name) => Some((name.as_str(), value)),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// The branch of a union: as the value says, or the only one that it fits.
fn branch(
    plan: &Plan,
    union: &Union,
    value: &Value,
    extra: ExtraFields,
    depth: usize,
) -> Result<Avro, Error> {
    let write = |at: usize, value: &Value| {
        let inner = self::value(plan, union.branches[at].1, value, extra, depth)?;
        Ok(Avro::Union(at as u32, Box::new(inner)))
    };
    if let Some((at, value)) = named(plan, union, value) {
        return write(at, value).at(&union.branches[at].0);
    }
    let names = || union.branches.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    if let Value::Union(Branch { name, .. }) = value {
        return Err(Error::new(format!("{name:?} is no branch of the union; those are {}", names())));
    }
    let exact: Vec<usize> =
        (0..union.branches.len()).filter(|&at| is_of(plan.node(union.branches[at].1), value)).collect();
    if let [at] = exact[..] {
        return write(at, value);
    }
    let candidates = if exact.is_empty() { (0..union.branches.len()).collect() } else { exact };
    let mut fits = Vec::new();
    let mut misfit = None;
    for at in candidates {
        match write(at, value) {
            Ok(written) => fits.push((at, written)),
            // With one way to be no null, its error says more than that none fits.
            Err(error) if !matches!(plan.node(union.branches[at].1), Node::Null) => {
                misfit = Some((misfit.is_none(), error));
            }
            Err(_) => {}
        }
    }
    match (fits.len(), misfit) {
        (1, _) => Ok(fits.remove(0).1),
        (0, Some((true, error))) => Err(error),
        (0, _) => Err(Error::new(format!("{} fits no branch of the union: {}", value.kind(), names()))),
        _ => {
            let names: Vec<_> = fits.iter().map(|(at, _)| union.branches[*at].0.as_str()).collect();
            let name = names[0];
            Err(Error::new(format!(
                "fits several branches of the union ({}); say which: {{\"{name}\": ...}}",
                names.join(", ")
            )))
        }
    }
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
