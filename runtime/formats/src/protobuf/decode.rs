//! Messages into values. Nothing stands between: what the model has no place for is seen where it comes, and
//! the entries of a map keep their order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::UnknownFields;
use super::schema::{Kind, Layout, MessageKind, Schema, Shape};
use crate::Error;
use crate::error::At;
use crate::json::{deeper, key_text};
use crate::model::Value;

/// What values may take, beside what a message's length allows: small ones may have many fields of their
/// schema that are not in them.
const FREE_MEMORY: usize = 1 << 20;

/// How much larger than its message a value may be. A byte of a list of booleans becomes a value, whose size
/// is a fifth of this.
const GROWTH: usize = 256;

/// What a field of a message's schema counts before it is known whether it is there.
const FIELD_COST: usize = 8;

pub(super) struct Decoder<'a> {
    schema: &'a Schema,
    unknown: UnknownFields,
    /// Bytes that values may still take.
    memory: usize,
}

/// What is known of a field while the message is read.
#[derive(Clone)]
enum Slot<'a> {
    Missing,
    Value(Value),
    /// A message: it may come in parts, which are joined as bytes. That is what merging is defined by.
    Message(&'a [u8]),
    Joined(Vec<u8>),
}

impl<'a> Decoder<'a> {
    pub fn new(schema: &'a Schema, unknown: UnknownFields, length: usize) -> Decoder<'a> {
        Decoder { schema, unknown, memory: FREE_MEMORY.saturating_add(length.saturating_mul(GROWTH)) }
    }

    pub fn message(&mut self, layout: &Layout, bytes: &[u8], depth: usize) -> Result<Value, Error> {
        let depth = deeper(depth)?;
        let slots = self.slots(layout, bytes, depth)?;
        if layout.kind != MessageKind::Plain {
            let mut values = Vec::with_capacity(slots.len());
            for (at, slot) in slots.into_iter().enumerate() {
                values.push(self.value(layout, at, slot, depth).map_err(|error| layout.place(at, error))?);
            }
            return self.well_known(layout, values, depth);
        }
        let is_there = |(at, slot): &(usize, &Slot<'_>)| {
            !matches!(slot, Slot::Missing) || layout.fields[*at].shape != Shape::Optional
        };
        let mut record = Vec::with_capacity(slots.iter().enumerate().filter(is_there).count());
        for (at, slot) in slots.into_iter().enumerate() {
            let name = &layout.fields[at].name;
            if let Some(value) = self.value(layout, at, slot, depth).at(name)? {
                self.take(size_of::<(String, Value)>() + name.len())?;
                record.push((name.clone(), value));
            }
        }
        Ok(Value::Record(record))
    }

    pub fn named(&self, name: &str) -> Option<&'a Layout> {
        self.schema.message(name).map(|at| &self.schema.messages[at])
    }

    fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.memory = self.memory.checked_sub(bytes).ok_or_else(|| {
            Error::new(format!("the message decodes into more than {GROWTH} times its length and 1 MiB"))
        })?;
        Ok(())
    }

    /// What a field has at the end of its message; `None` if it is not there, and that is told.
    fn value(
        &mut self,
        layout: &Layout,
        at: usize,
        slot: Slot<'_>,
        depth: usize,
    ) -> Result<Option<Value>, Error> {
        let field = &layout.fields[at];
        Ok(match slot {
            Slot::Missing => match field.shape {
                Shape::Optional => None,
                Shape::Required => return Err(Error::new("a required field is missing")),
                _ => Some(field.default.clone()),
            },
            Slot::Value(Value::Map(entries)) => Some(Value::Map(last_of_each_key(entries))),
            Slot::Value(value) => Some(value),
            Slot::Message(bytes) => Some(self.message(self.layout_of(field.kind), bytes, depth)?),
            Slot::Joined(bytes) => Some(self.message(self.layout_of(field.kind), &bytes, depth)?),
        })
    }

    fn layout_of(&self, kind: Kind) -> &'a Layout {
        match kind {
            Kind::Message(at) | Kind::Group(at) => &self.schema.messages[at],
            _ => unreachable!("only messages have parts"),
        }
    }

    /// Reads the fields of a message.
    fn slots<'b>(
        &mut self,
        layout: &Layout,
        mut rest: &'b [u8],
        depth: usize,
    ) -> Result<Vec<Slot<'b>>, Error> {
        self.take(FIELD_COST * layout.fields.len())?;
        let mut slots = vec![Slot::Missing; layout.fields.len()];
        let mut next = 0;
        while !rest.is_empty() {
            let (number, wire) = key(&mut rest)?;
            let Some(at) = layout.numbered(number, &mut next) else {
                self.unknown(layout, number, wire, &mut rest)?;
                continue;
            };
            let field = &layout.fields[at];
            if let Some(oneof) = field.oneof {
                // The last one counts.
                for &member in &layout.oneofs[oneof].members {
                    if member != at {
                        slots[member] = Slot::Missing;
                    }
                }
            }
            self.field(layout, at, wire, &mut rest, &mut slots[at], depth)
                .map_err(|error| layout.place(at, error))?;
        }
        Ok(slots)
    }

    fn field<'b>(
        &mut self,
        layout: &Layout,
        at: usize,
        wire: WireType,
        rest: &mut &'b [u8],
        slot: &mut Slot<'b>,
        depth: usize,
    ) -> Result<(), Error> {
        let field = &layout.fields[at];
        match (field.shape, field.kind) {
            (Shape::Map, kind) => {
                expect(wire, WireType::LengthDelimited)?;
                let entry = self.entry(self.layout_of(kind), delimited(rest)?, deeper(depth)?)?;
                let Some(entry) = entry else { return Ok(()) };
                self.take(size_of::<(Value, Value)>())?;
                match slot {
                    Slot::Value(Value::Map(entries)) => entries.push(entry),
                    _ => *slot = Slot::Value(Value::Map(vec![entry])),
                }
            }
            (Shape::List { .. }, kind) => {
                let depth = deeper(depth)?;
                if !matches!(slot, Slot::Value(_)) {
                    *slot = Slot::Value(Value::List(Vec::new()));
                }
                let Slot::Value(Value::List(list)) = slot else { unreachable!("it was just made one") };
                match kind {
                    Kind::Message(_) | Kind::Group(_) => {
                        let part = part(kind, field.number, wire, rest)?;
                        self.take(size_of::<Value>())?;
                        list.push(self.message(self.layout_of(kind), part, depth).at(list.len())?);
                    }
                    _ if wire == WireType::LengthDelimited && is_packable(kind) => {
                        let mut packed = delimited(rest)?;
                        while !packed.is_empty() {
                            self.take(size_of::<Value>())?;
                            let scalar = self.scalar(kind, wire_of(kind), &mut packed).at(list.len())?;
                            list.extend(scalar);
                        }
                    }
                    _ => {
                        self.take(size_of::<Value>())?;
                        list.extend(self.scalar(kind, wire, rest).at(list.len())?);
                    }
                }
            }
            (_, kind @ (Kind::Message(_) | Kind::Group(_))) => {
                let part = part(kind, field.number, wire, rest)?;
                match slot {
                    Slot::Message(before) => *slot = Slot::Joined([*before, part].concat()),
                    Slot::Joined(before) => before.extend_from_slice(part),
                    _ => *slot = Slot::Message(part),
                }
            }
            (_, kind) => {
                if let Some(value) = self.scalar(kind, wire, rest)? {
                    *slot = Slot::Value(value);
                }
            }
        }
        Ok(())
    }

    /// An entry of a map; `None` if its value is an unknown number of a closed enum, which is dropped.
    fn entry(
        &mut self,
        layout: &Layout,
        mut rest: &[u8],
        depth: usize,
    ) -> Result<Option<(Value, Value)>, Error> {
        let &[(1, key_at), (2, value_at)] = layout.by_number.as_slice() else {
            return Err(Error::new(format!("{} is no entry of a map", layout.name)));
        };
        let mut entry_key = layout.fields[key_at].default.clone();
        let (mut slot, mut is_dropped) = (Slot::Missing, false);
        while !rest.is_empty() {
            let (number, wire) = key(&mut rest)?;
            match number {
                1 => {
                    let read = self.scalar(layout.fields[key_at].kind, wire, &mut rest)?;
                    entry_key = read.unwrap_or(entry_key);
                }
                2 => {
                    let place = || key_text(&entry_key).unwrap_or_default();
                    self.field(layout, value_at, wire, &mut rest, &mut slot, depth)
                        .map_err(|error| error.at(place()))?;
                    is_dropped = matches!(slot, Slot::Missing);
                }
                _ => self.unknown(layout, number, wire, &mut rest)?,
            }
        }
        let field = &layout.fields[value_at];
        let value = match (slot, field.kind) {
            (Slot::Missing, _) if is_dropped => return Ok(None),
            // Not there is as good as empty.
            (Slot::Missing, Kind::Message(_)) => self.message(self.layout_of(field.kind), &[], depth),
            (Slot::Missing, _) => Ok(field.default.clone()),
            (Slot::Value(value), _) => Ok(value),
            (Slot::Message(bytes), _) => self.message(self.layout_of(field.kind), bytes, depth),
            (Slot::Joined(bytes), _) => self.message(self.layout_of(field.kind), &bytes, depth),
        };
        let value = value.map_err(|error| error.at(key_text(&entry_key).unwrap_or_default()))?;
        Ok(Some((entry_key, value)))
    }

    /// A value of a field that is no message; `None` if it is an unknown number of a closed enum.
    fn scalar(&mut self, kind: Kind, wire: WireType, rest: &mut &[u8]) -> Result<Option<Value>, Error> {
        expect(wire, wire_of(kind))?;
        Ok(Some(match kind {
            Kind::Double => Value::Double(f64::from_le_bytes(fixed(rest)?)),
            Kind::Float => Value::Float(f32::from_le_bytes(fixed(rest)?)),
            // Numbers of 32 bits are sent with as many as 64, of which the lower ones count.
            Kind::Int32 => Value::Int((varint(rest)? as i32).into()),
            Kind::Int64 => Value::Int(varint(rest)? as i64),
            Kind::UInt32 => Value::Int((varint(rest)? as u32).into()),
            Kind::UInt64 => Value::from_u64(varint(rest)?),
            Kind::SInt32 => {
                let number = varint(rest)? as u32;
                Value::Int(((number >> 1) as i32 ^ -((number & 1) as i32)).into())
            }
            Kind::SInt64 => {
                let number = varint(rest)?;
                Value::Int((number >> 1) as i64 ^ -((number & 1) as i64))
            }
            Kind::Fixed32 => Value::Int(u32::from_le_bytes(fixed(rest)?).into()),
            Kind::Fixed64 => Value::from_u64(u64::from_le_bytes(fixed(rest)?)),
            Kind::SFixed32 => Value::Int(i32::from_le_bytes(fixed(rest)?).into()),
            Kind::SFixed64 => Value::Int(i64::from_le_bytes(fixed(rest)?)),
            Kind::Bool => Value::Bool(varint(rest)? != 0),
            Kind::Text => {
                let text = str::from_utf8(delimited(rest)?);
                Value::Text(text.map_err(|error| Error::new(format!("a text: {error}")))?.to_owned())
            }
            Kind::Bytes => Value::Bytes(delimited(rest)?.to_vec()),
            Kind::Enum(at) => {
                let (number, symbols) = (varint(rest)? as i32, &self.schema.enums[at]);
                if symbols.is_closed && !symbols.has(number) {
                    return match self.unknown {
                        UnknownFields::Drop => Ok(None),
                        UnknownFields::Reject => Err(Error::new(format!(
                            "{number} is no symbol of the enum {}, which is closed; unknown_fields = \"drop\" \
                             drops it",
                            symbols.name
                        ))),
                    };
                }
                symbols.value(number)
            }
            Kind::Message(_) | Kind::Group(_) => unreachable!("messages are no scalars"),
        }))
    }

    /// A field that the message's schema lacks.
    fn unknown(&self, layout: &Layout, number: u32, wire: WireType, rest: &mut &[u8]) -> Result<(), Error> {
        if self.unknown == UnknownFields::Reject {
            let what = match layout.is_extension(number) {
                true => format!("field {number} is an extension of message {}", layout.name),
                false => format!("message {} has no field {number}", layout.name),
            };
            return Err(Error::new(format!("{what}; unknown_fields = \"drop\" drops it")));
        }
        skip_field(wire, number, rest, DecodeContext::default())
            .map_err(|error| Error::new(format!("field {number}: {error}")))
    }
}

/// The entries with the last value of each key, where the key came first.
fn last_of_each_key(entries: Vec<(Value, Value)>) -> Vec<(Value, Value)> {
    #[derive(PartialEq, Eq, Hash)]
    enum Key {
        Number(i128),
        Text(String),
    }
    // Few are compared faster than hashed.
    let is_twice = match entries.len() {
        0..=8 => (1..entries.len()).any(|at| entries[..at].iter().any(|(key, _)| *key == entries[at].0)),
        _ => true,
    };
    if !is_twice {
        return entries;
    }
    let mut places: HashMap<Key, usize> = HashMap::with_capacity(entries.len());
    let mut last: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let hashed = match &key {
            Value::Bool(flag) => Key::Number((*flag).into()),
            Value::Int(number) => Key::Number((*number).into()),
            Value::UInt(number) => Key::Number((*number).into()),
            Value::Text(text) => Key::Text(text.clone()),
            other => unreachable!("{} is no key of a map", other.kind()),
        };
        match places.entry(hashed) {
            Entry::Occupied(place) => last[*place.get()].1 = value,
            Entry::Vacant(place) => {
                place.insert(last.len());
                last.push((key, value));
            }
        }
    }
    last
}

fn key(rest: &mut &[u8]) -> Result<(u32, WireType), Error> {
    decode_key(rest).map_err(|error| Error::new(format!("no key of a field: {error}")))
}

fn varint(rest: &mut &[u8]) -> Result<u64, Error> {
    decode_varint(rest).map_err(|error| Error::new(format!("no number: {error}")))
}

fn fixed<const LENGTH: usize>(rest: &mut &[u8]) -> Result<[u8; LENGTH], Error> {
    let (bytes, after) = rest
        .split_first_chunk()
        .ok_or_else(|| Error::new(format!("{LENGTH} bytes are wanted, and {} are left", rest.len())))?;
    *rest = after;
    Ok(*bytes)
}

fn delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Error> {
    let length = varint(rest)?;
    let (bytes, after) = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or_else(|| Error::new(format!("{length} bytes are wanted, and {} are left", rest.len())))?;
    *rest = after;
    Ok(bytes)
}

/// The bytes of a message, or of a group up to its end.
fn part<'a>(kind: Kind, number: u32, wire: WireType, rest: &mut &'a [u8]) -> Result<&'a [u8], Error> {
    if let Kind::Message(_) = kind {
        expect(wire, WireType::LengthDelimited)?;
        return delimited(rest);
    }
    expect(wire, WireType::StartGroup)?;
    let from = *rest;
    loop {
        let length = from.len() - rest.len();
        let (inner, wire) = key(rest)?;
        if wire == WireType::EndGroup && inner == number {
            return Ok(&from[..length]);
        }
        skip_field(wire, inner, rest, DecodeContext::default())
            .map_err(|error| Error::new(format!("a group: {error}")))?;
    }
}

fn expect(wire: WireType, expected: WireType) -> Result<(), Error> {
    match wire == expected {
        true => Ok(()),
        false => Err(Error::new(format!(
            "it is sent as {wire:?} where the schema wants {expected:?}: the message is of another schema"
        ))),
    }
}

fn is_packable(kind: Kind) -> bool {
    wire_of(kind) != WireType::LengthDelimited
}

pub(super) fn wire_of(kind: Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::SFixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::SFixed32 => WireType::ThirtyTwoBit,
        Kind::Text | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        Kind::Group(_) => WireType::StartGroup,
        _ => WireType::Varint,
    }
}
