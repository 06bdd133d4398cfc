//! Messages of `google.protobuf` that have a form of their own in the model, which is the one that the
//! Protocol Buffers JSON mapping gives them.

use super::decode::Decoder;
use super::encode::Encoder;
use super::schema::{Layout, MessageKind};
use crate::Error;
use crate::error::At;
use crate::model::{Duration, Timestamp, Unit, Value};
use crate::wanted;

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, between which a `Timestamp` is.
const TIMESTAMPS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A `Duration` is of at most 10 000 years to either side.
const DURATIONS: std::ops::RangeInclusive<i64> = -315_576_000_000..=315_576_000_000;

/// Where an `Any` says which message it is, in the JSON mapping.
const TYPE: &str = "@type";

impl Decoder<'_> {
    /// `fields` are those of the message, in its order.
    pub fn well_known(
        &mut self,
        layout: &Layout,
        fields: Vec<Option<Value>>,
        depth: usize,
    ) -> Result<Value, Error> {
        let mut fields = fields.into_iter();
        let mut next = || fields.next().flatten();
        Ok(match layout.kind {
            MessageKind::Timestamp => match (next(), next()) {
                (Some(Value::Int(seconds)), Some(Value::Int(nanos))) => timestamp(seconds, nanos)?,
                _ => return Err(not_as_known(layout)),
            },
            MessageKind::Duration => match (next(), next()) {
                (Some(Value::Int(seconds)), Some(Value::Int(nanos))) => duration(seconds, nanos)?,
                _ => return Err(not_as_known(layout)),
            },
            MessageKind::Wrapper | MessageKind::ListValue => next().ok_or_else(|| not_as_known(layout))?,
            MessageKind::Struct => match next() {
                Some(Value::Map(entries)) => record(entries),
                _ => return Err(not_as_known(layout)),
            },
            MessageKind::Value => match (next(), fields.flatten().next()) {
                (Some(_), _) => Value::Null,
                (None, Some(value)) => value,
                (None, None) => return Err(Error::new("a google.protobuf.Value without a value")),
            },
            MessageKind::Any => match (next(), next()) {
                (Some(Value::Text(url)), Some(Value::Bytes(bytes))) => self.any(url, &bytes, depth)?,
                _ => return Err(not_as_known(layout)),
            },
            MessageKind::Plain => unreachable!("it has no other form"),
        })
    }

    fn any(&mut self, url: String, bytes: &[u8], depth: usize) -> Result<Value, Error> {
        if url.is_empty() && bytes.is_empty() {
            return Ok(Value::Record(Vec::new()));
        }
        let layout = self.named(name_of(&url)).ok_or_else(|| unknown_type(&url))?;
        let value = self.message(layout, bytes, depth).at(&url)?;
        let mut fields = vec![(TYPE.to_owned(), Value::Text(url))];
        match (layout.kind, value) {
            (MessageKind::Plain, Value::Record(of_message)) => fields.extend(of_message),
            (_, value) => fields.push(("value".to_owned(), value)),
        }
        Ok(Value::Record(fields))
    }
}

impl Encoder<'_> {
    pub fn well_known(
        &self,
        layout: &Layout,
        value: &Value,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Error> {
        match layout.kind {
            MessageKind::Timestamp => {
                let Timestamp { seconds, nanos, .. } = wanted::timestamp(value, Unit::Nanos, false)?;
                timestamp(seconds, nanos.into())?;
                let (seconds, nanos) = (Value::Int(seconds), Value::Int(nanos.into()));
                self.slots(layout, &[Some(&seconds), Some(&nanos)], out, depth)
            }
            MessageKind::Duration => {
                let Duration { seconds, nanos } = wanted::duration(value)?;
                duration(seconds, nanos.into())?;
                let (seconds, nanos) = (Value::Int(seconds), Value::Int(nanos.into()));
                self.slots(layout, &[Some(&seconds), Some(&nanos)], out, depth)
            }
            MessageKind::Wrapper | MessageKind::Struct | MessageKind::ListValue => {
                self.slots(layout, &[Some(value)], out, depth)
            }
            MessageKind::Value => self.value(layout, value, out, depth),
            MessageKind::Any => self.any(layout, value, out, depth),
            MessageKind::Plain => unreachable!("it has no other form"),
        }
    }

    fn value(&self, layout: &Layout, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
        let is_decimal_integer = matches!(value, Value::Decimal(decimal) if decimal.scale == 0);
        let (at, other) = match value {
            Value::Null => (0, Some(Value::Int(0))),
            Value::Int(_) | Value::UInt(_) | Value::Float(_) | Value::Double(_) => {
                (1, Some(Value::Double(wanted::double(value)?)))
            }
            Value::Decimal(_) if is_decimal_integer => (1, Some(Value::Double(wanted::double(value)?))),
            Value::Text(_) | Value::Enum(_) => (2, None),
            Value::Bool(_) => (3, None),
            Value::Record(_) | Value::Map(_) | Value::Union(_) => (4, None),
            Value::List(_) => (5, None),
            other => (2, Some(Value::Text(wanted::plain_text(other)?))),
        };
        let mut slots = [None; 6];
        slots[at] = Some(other.as_ref().unwrap_or(value));
        self.slots(layout, &slots, out, depth)
    }

    fn any(&self, layout: &Layout, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
        let Value::Record(fields) = value else {
            return Err(Error::new(format!("{} where a google.protobuf.Any is wanted", value.kind())));
        };
        if fields.is_empty() {
            return Ok(());
        }
        let Some(Value::Text(url)) = fields.iter().find(|(name, _)| name == TYPE).map(|(_, value)| value)
        else {
            return Err(Error::new(format!("{TYPE:?} must say the type URL of a google.protobuf.Any")));
        };
        let known = self.schema.message(name_of(url)).ok_or_else(|| unknown_type(url))?;
        let known = &self.schema.messages[known];
        let mut rest = fields.iter().filter(|(name, _)| name != TYPE);
        let mut bytes = Vec::new();
        if known.kind == MessageKind::Plain {
            let fields = rest.map(|(name, value)| (name.as_str(), value));
            self.record(known, fields, &mut bytes, crate::json::deeper(depth)?).at(url)?;
        } else {
            let (Some((name, value)), None) = (rest.next(), rest.next()) else {
                return Err(Error::new(format!("beside {TYPE:?} one field \"value\" is wanted for {url}")));
            };
            if name != "value" {
                return Err(Error::new(format!("{name:?} where \"value\" is wanted for {url}")));
            }
            self.message(known, value, &mut bytes, depth).at(url)?;
        }
        let (url, bytes) = (Value::Text(url.clone()), Value::Bytes(bytes));
        self.slots(layout, &[Some(&url), Some(&bytes)], out, depth)
    }
}

fn timestamp(seconds: i64, nanos: i64) -> Result<Value, Error> {
    match u32::try_from(nanos) {
        Ok(nanos @ 0..1_000_000_000) if TIMESTAMPS.contains(&seconds) => {
            Ok(Value::Timestamp(Timestamp { seconds, nanos, unit: Unit::Nanos, is_local: false }))
        }
        _ => Err(Error::new(format!(
            "{seconds} s and {nanos} ns after 1970 are no timestamp from the year 1 to 9999"
        ))),
    }
}

fn duration(seconds: i64, nanos: i64) -> Result<Value, Error> {
    let is_one_sign = seconds.signum() * nanos.signum() >= 0;
    match i32::try_from(nanos) {
        Ok(nanos @ -999_999_999..=999_999_999) if DURATIONS.contains(&seconds) && is_one_sign => {
            Ok(Value::Duration(Duration { seconds, nanos }))
        }
        _ => Err(Error::new(format!("{seconds} s and {nanos} ns are no duration of up to 10000 years"))),
    }
}

fn record(entries: Vec<(Value, Value)>) -> Value {
    let field = |(key, value)| match key {
        Value::Text(name) => (name, value),
        _ => unreachable!("keys of a Struct are texts"),
    };
    Value::Record(entries.into_iter().map(field).collect())
}

fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

fn unknown_type(url: &str) -> Error {
    Error::new(format!("a google.protobuf.Any of type {url:?}, which is none of the schema's messages"))
}

fn not_as_known(layout: &Layout) -> Error {
    Error::new(format!("{} without the fields that it should have", layout.name))
}
