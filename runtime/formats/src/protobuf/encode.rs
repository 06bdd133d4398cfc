//! Values into messages, with the fields in the order of their numbers.

use std::collections::HashSet;

use prost::encoding::{WireType, encode_key, encode_varint};

use super::decode::wire_of;
use super::schema::{Enumeration, Field, Kind, Layout, MessageKind, Schema, Shape};
use crate::error::At;
use crate::json::{deeper, key_text};
use crate::model::Value;
use crate::wanted;
use crate::{Error, ExtraFields};

pub(super) struct Encoder<'a> {
    pub schema: &'a Schema,
    pub extra: ExtraFields,
}

impl Encoder<'_> {
    pub fn message(
        &self,
        layout: &Layout,
        value: &Value,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Error> {
        let depth = deeper(depth)?;
        if layout.kind != MessageKind::Plain {
            return self.well_known(layout, value, out, depth);
        }
        match value {
            Value::Record(fields) => {
                self.record(layout, fields.iter().map(|(name, value)| (name.as_str(), value)), out, depth)
            }
            Value::Map(entries) => {
                let mut fields = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let Value::Text(name) = key else {
                        return Err(Error::new(format!(
                            "a map with {} as a key where message {} is wanted",
                            key.kind(),
                            layout.name
                        )));
                    };
                    fields.push((name.as_str(), value));
                }
                self.record(layout, fields.into_iter(), out, depth)
            }
            Value::Union(branch) => {
                self.record(layout, [(branch.name.as_str(), &*branch.value)].into_iter(), out, depth)
            }
            other => Err(Error::new(format!("{} where message {} is wanted", other.kind(), layout.name))),
        }
    }

    /// Appends the fields of a record.
    pub fn record<'v>(
        &self,
        layout: &Layout,
        fields: impl Iterator<Item = (&'v str, &'v Value)>,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Error> {
        let mut slots: Vec<Option<&Value>> = vec![None; layout.fields.len()];
        let mut next = 0;
        for (name, value) in fields {
            let Some(at) = layout.named(name, next) else {
                match self.extra {
                    ExtraFields::Drop => continue,
                    ExtraFields::Reject => {
                        return Err(Error::new(format!(
                            "message {} has no field {name:?}; extra_fields = \"drop\" drops it",
                            layout.name
                        )));
                    }
                }
            };
            next = at + 1;
            let field = &layout.fields[at];
            if slots[at].is_some() {
                return Err(Error::new(format!("field {:?} is given twice", field.name)));
            }
            slots[at] = self.is_there(field, value).then_some(value);
        }
        for oneof in &layout.oneofs {
            let mut given = oneof.members.iter().filter(|&&member| slots[member].is_some());
            if let (Some(&one), Some(&other)) = (given.next(), given.next()) {
                return Err(Error::new(format!(
                    "both {:?} and {:?} are given, of which oneof {:?} has one",
                    layout.fields[one].name, layout.fields[other].name, oneof.name
                )));
            }
        }
        self.slots(layout, &slots, out, depth)
    }

    /// Null is not there, but where null is a value.
    fn is_there(&self, field: &Field, value: &Value) -> bool {
        let takes_null = |at: usize| self.schema.messages[at].kind == MessageKind::Value;
        match (value, field.shape, field.kind) {
            (Value::Null, Shape::Optional | Shape::Required, Kind::Message(at)) => takes_null(at),
            (Value::Null, ..) => false,
            _ => true,
        }
    }

    pub fn slots(
        &self,
        layout: &Layout,
        slots: &[Option<&Value>],
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Error> {
        for &(_, at) in &layout.by_number {
            let field = &layout.fields[at];
            match slots[at] {
                Some(value) => {
                    self.field(field, value, out, depth).map_err(|error| layout.place(at, error))?;
                }
                None if field.shape == Shape::Required => {
                    return Err(Error::new("a required field is missing").at(&field.name));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn field(&self, field: &Field, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
        match field.shape {
            Shape::Map => self.map(field, value, out, deeper(depth)?),
            Shape::List { is_packed } => {
                let Value::List(list) = value else {
                    return Err(Error::new(format!("{} where a list is wanted", value.kind())));
                };
                let depth = deeper(depth)?;
                if list.is_empty() {
                    return Ok(());
                }
                if is_packed {
                    encode_key(field.number, WireType::LengthDelimited, out);
                    return delimited(out, |out| {
                        let mut elements = list.iter().enumerate();
                        elements
                            .try_for_each(|(at, value)| self.scalar(field.kind, value, out).map(drop).at(at))
                    });
                }
                let mut elements = list.iter().enumerate();
                elements.try_for_each(|(at, value)| self.one(field, value, out, depth).map(drop).at(at))
            }
            Shape::Optional | Shape::Required => self.one(field, value, out, depth).map(drop),
            Shape::Implicit => {
                let from = out.len();
                if self.one(field, value, out, depth)? {
                    out.truncate(from);
                }
                Ok(())
            }
        }
    }

    /// Appends a field with its key; true if its value is the default of its kind.
    fn one(&self, field: &Field, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<bool, Error> {
        encode_key(field.number, wire_of(field.kind), out);
        match field.kind {
            Kind::Message(at) => {
                let layout = &self.schema.messages[at];
                delimited(out, |out| self.message(layout, value, out, depth)).map(|()| false)
            }
            Kind::Group(at) => {
                self.message(&self.schema.messages[at], value, out, depth)?;
                encode_key(field.number, WireType::EndGroup, out);
                Ok(false)
            }
            kind => self.scalar(kind, value, out),
        }
    }

    fn map(&self, field: &Field, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
        let Kind::Message(entry) = field.kind else { unreachable!("a map has a message for its entries") };
        let layout = &self.schema.messages[entry];
        let &[(1, key_at), (2, value_at)] = layout.by_number.as_slice() else {
            return Err(Error::new(format!("{} is no entry of a map", layout.name)));
        };
        let (key_field, value_field) = (&layout.fields[key_at], &layout.fields[value_at]);
        // Texts are all different in the model; as numbers or beside numbers they may not be.
        let mut seen = HashSet::new();
        let mut entry = |key: &Value, value: &Value, is_text: bool, out: &mut Vec<u8>| {
            encode_key(field.number, WireType::LengthDelimited, out);
            delimited(out, |out| {
                let from = out.len();
                encode_key(1, wire_of(key_field.kind), out);
                self.key(key_field.kind, key, out)?;
                let is_other = is_text && key_field.kind == Kind::Text;
                if !is_other && !seen.insert(out[from..].to_vec()) {
                    return Err(Error::new("two keys of the map are the same as the schema has them"));
                }
                self.one(value_field, value, out, depth).map(drop)
            })
            .map_err(|error| error.at(key_text(key).unwrap_or_else(|_| key.kind().to_owned())))
        };
        match value {
            Value::Record(fields) => {
                fields.iter().try_for_each(|(key, value)| entry(&key.as_str().into(), value, true, out))
            }
            Value::Map(entries) => {
                let is_text = entries.iter().all(|(key, _)| matches!(key, Value::Text(_)));
                entries.iter().try_for_each(|(key, value)| entry(key, value, is_text, out))
            }
            Value::Union(branch) => entry(&branch.name.as_str().into(), &branch.value, true, out),
            other => Err(Error::new(format!("{} where a map is wanted", other.kind()))),
        }
    }

    /// A key, which formats with texts for keys have as a text.
    fn key(&self, kind: Kind, key: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        match kind {
            Kind::Bool => self.scalar(kind, &Value::Bool(wanted::boolean_key(key)?), out).map(drop),
            Kind::Text => self.scalar(kind, &Value::Text(key_text(key)?), out).map(drop),
            kind => self.scalar(kind, key, out).map(drop),
        }
    }

    /// Appends a value of a kind that is no message; true if it is the default of the kind.
    fn scalar(&self, kind: Kind, value: &Value, out: &mut Vec<u8>) -> Result<bool, Error> {
        let mut varint = |number: u64| {
            encode_varint(number, out);
            Ok(number == 0)
        };
        match kind {
            Kind::Int32 => varint(signed(value, 32)? as u64),
            Kind::Int64 => varint(signed(value, 64)? as u64),
            Kind::UInt32 => varint(unsigned(value, 32)?),
            Kind::UInt64 => varint(unsigned(value, 64)?),
            Kind::SInt32 => varint(zigzag(signed(value, 32)?)),
            Kind::SInt64 => varint(zigzag(signed(value, 64)?)),
            Kind::Enum(at) => varint(i64::from(symbol(&self.schema.enums[at], value)?) as u64),
            Kind::Bool => varint(wanted::boolean(value)?.into()),
            // All bits: -0.0 is not the default.
            Kind::Double => Ok(append(out, &wanted::double(value)?.to_le_bytes())),
            Kind::Float => Ok(append(out, &wanted::float(value)?.to_le_bytes())),
            Kind::Fixed32 => Ok(append(out, &(unsigned(value, 32)? as u32).to_le_bytes())),
            Kind::Fixed64 => Ok(append(out, &unsigned(value, 64)?.to_le_bytes())),
            Kind::SFixed32 => Ok(append(out, &(signed(value, 32)? as i32).to_le_bytes())),
            Kind::SFixed64 => Ok(append(out, &signed(value, 64)?.to_le_bytes())),
            Kind::Text => match value {
                Value::Text(text) => Ok(append_delimited(out, text.as_bytes())),
                other => Ok(append_delimited(out, wanted::text(other)?.as_bytes())),
            },
            Kind::Bytes => match value {
                Value::Bytes(bytes) => Ok(append_delimited(out, bytes)),
                other => Ok(append_delimited(out, &wanted::bytes(other)?)),
            },
            Kind::Message(_) | Kind::Group(_) => unreachable!("messages are no scalars"),
        }
    }
}

/// Appends bytes; true if all are 0.
fn append(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    out.extend_from_slice(bytes);
    bytes.iter().all(|byte| *byte == 0)
}

/// Appends bytes after their length; true if there are none.
fn append_delimited(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
    bytes.is_empty()
}

/// Appends what `write` appends, after its length.
fn delimited(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Result<(), Error> {
    // Most are short: room for one byte, and if that is not enough the rest moves.
    let at = out.len();
    out.push(0);
    write(out)?;
    let length = out.len() - at - 1;
    match u8::try_from(length) {
        Ok(length @ 0..=0x7f) => out[at] = length,
        _ => {
            let mut prefix = Vec::with_capacity(10);
            encode_varint(length as u64, &mut prefix);
            out.splice(at..=at, prefix);
        }
    }
    Ok(())
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn signed(value: &Value, bits: u32) -> Result<i64, Error> {
    let (min, name) = if bits == 32 {
        (i32::MIN.into(), "an integer of 32 bits")
    } else {
        (i64::MIN, "an integer of 64 bits")
    };
    match value {
        Value::Int(number) if *number >= min && *number <= !min => Ok(*number),
        other => wanted::integer(other, min.into(), (!min).into(), name).map(|number| number as i64),
    }
}

fn unsigned(value: &Value, bits: u32) -> Result<u64, Error> {
    let (max, name) = if bits == 32 {
        (u32::MAX.into(), "an unsigned integer of 32 bits")
    } else {
        (u64::MAX, "an unsigned integer of 64 bits")
    };
    wanted::integer(value, 0, max.into(), name).map(|number| number as u64)
}

/// The number of a symbol.
fn symbol(symbols: &Enumeration, value: &Value) -> Result<i32, Error> {
    let name = match value {
        Value::Enum(symbol) => &symbol.name,
        Value::Text(text) => text,
        other => {
            let wanted = format!("a symbol of the enum {}", symbols.name);
            let number = wanted::integer(other, i32::MIN.into(), i32::MAX.into(), &wanted)? as i32;
            return match symbols.is_closed && !symbols.has(number) {
                true => Err(Error::new(format!("{number} is no symbol of the enum {}", symbols.name))),
                false => Ok(number),
            };
        }
    };
    symbols.number(name).ok_or_else(|| {
        Error::new(format!(
            "{name:?} is no symbol of the enum {}; it has {}",
            symbols.name,
            symbols.symbols()
        ))
    })
}
