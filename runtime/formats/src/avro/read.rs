//! From values of apache-avro to those of the model.

use apache_avro::types::Value as Avro;
use num_bigint::BigInt;

use super::plan::{Node, NodeId, Plan, Union};
use crate::error::At;
use crate::model::{Branch, Decimal, Interval, Symbol, Time, Timestamp, Unit};
use crate::{Error, Value};

pub fn value(plan: &Plan, id: NodeId, avro: Avro) -> Result<Value, Error> {
    let node = plan.node(id);
    Ok(match (node, avro) {
        (Node::Array(items), Avro::Array(list)) => {
            let items = list.into_iter().enumerate().map(|(at, item)| value(plan, *items, item).at(at));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        (Node::Map(values), Avro::Map(map)) => {
            let mut entries = map
                .into_iter()
                .map(|(key, item)| {
                    let item = value(plan, *values, item).at(&key)?;
                    Ok((Value::Text(key), item))
                })
                .collect::<Result<Vec<_>, Error>>()?;
            sort(&mut entries);
            Value::Map(entries)
        }
        (Node::Record(record), Avro::Record(fields)) => {
            let fields = record.fields.iter().zip(fields).map(|(field, (name, item))| {
                let item = value(plan, field.node, item).at(&name)?;
                Ok((name, item))
            });
            Value::Record(fields.collect::<Result<_, Error>>()?)
        }
        (Node::Union(union), Avro::Union(at, item)) => {
            let Some((_, branch)) = union.branches.get(at as usize) else { return Err(unexpected(node)) };
            tagged(plan, union, at as usize, value(plan, *branch, *item)?)
        }
        (node, avro) => scalar(node, avro)?,
    })
}

/// The entries of a map have no order in Avro; here they always have the same.
pub fn sort(entries: &mut [(Value, Value)]) {
    entries.sort_by(|(a, _), (b, _)| match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        _ => std::cmp::Ordering::Equal,
    });
}

/// A value of a branch, with its name where that is needed.
pub fn tagged(plan: &Plan, union: &Union, at: usize, value: Value) -> Value {
    let (name, branch) = &union.branches[at];
    match union.is_tagged && !matches!(plan.node(*branch), Node::Null) {
        true => Value::Union(Branch { name: name.clone(), value: Box::new(value) }),
        false => value,
    }
}

/// A value that holds no others.
pub fn scalar(node: &Node, avro: Avro) -> Result<Value, Error> {
    let timestamp = |count, unit, is_local| Value::Timestamp(Timestamp::from_count(count, unit, is_local));
    let time = |count, unit| match Time::from_count(count, unit) {
        Some(time) => Ok(Value::Time(time)),
        None => Err(Error::new(format!("{count} {unit:?} is no time of day"))),
    };
    Ok(match (node, avro) {
        (Node::Null, Avro::Null) => Value::Null,
        (_, Avro::Boolean(flag)) => Value::Bool(flag),
        (_, Avro::Int(number)) => Value::Int(number.into()),
        (_, Avro::Long(number)) => Value::Int(number),
        (_, Avro::Float(number)) => Value::Float(number),
        (_, Avro::Double(number)) => Value::Double(number),
        (_, Avro::Bytes(bytes) | Avro::Fixed(_, bytes)) => Value::Bytes(bytes),
        (_, Avro::String(text)) => Value::Text(text),
        (_, Avro::Enum(_, name)) => Value::Enum(Symbol { name, number: None }),
        (_, Avro::Date(days)) => Value::Date(days),
        (_, Avro::TimeMillis(count)) => time(count.into(), Unit::Millis)?,
        (_, Avro::TimeMicros(count)) => time(count, Unit::Micros)?,
        (_, Avro::TimestampMillis(count)) => timestamp(count, Unit::Millis, false),
        (_, Avro::TimestampMicros(count)) => timestamp(count, Unit::Micros, false),
        (_, Avro::TimestampNanos(count)) => timestamp(count, Unit::Nanos, false),
        (_, Avro::LocalTimestampMillis(count)) => timestamp(count, Unit::Millis, true),
        (_, Avro::LocalTimestampMicros(count)) => timestamp(count, Unit::Micros, true),
        (_, Avro::LocalTimestampNanos(count)) => timestamp(count, Unit::Nanos, true),
        (_, Avro::Duration(duration)) => Value::Interval(Interval {
            months: duration.months().into(),
            days: duration.days().into(),
            millis: duration.millis().into(),
        }),
        (_, Avro::Uuid(uuid)) => Value::Uuid(uuid.into_bytes()),
        (Node::Decimal { scale, .. }, Avro::Decimal(decimal)) => {
            Value::Decimal(Decimal { unscaled: BigInt::from(decimal), scale: *scale })
        }
        (_, Avro::BigDecimal(decimal)) => {
            let (unscaled, scale) = decimal.into_bigint_and_exponent();
            let scale = i32::try_from(scale)
                .ok()
                .filter(|scale| scale.unsigned_abs() <= 1000)
                .ok_or_else(|| Error::new(format!("a decimal with a scale of {scale}, beyond 1000")))?;
            Value::Decimal(Decimal { unscaled, scale })
        }
        (node, _) => return Err(unexpected(node)),
    })
}

/// The crate gave another type than the schema has; it does so where the input ends too early.
fn unexpected(node: &Node) -> Error {
    Error::new(format!("not Avro of this schema: no value of {node:?}"))
}
