//! MessagePack. Its type -1 of extensions is a timestamp; the others are nobody's in particular.
//!
//! The rows of the table in `runtime/docs/formats.md` are tested in `values_are_read_in_every_length`,
//! `a_map_with_texts_for_keys_is_a_record`, `a_timestamp_is_as_precise_as_it_was`,
//! `what_has_no_place_in_the_model_is_refused` and `what_has_no_type_is_a_text`, and all together in
//! `msgpack_gives_back_what_it_can` and `msgpack_goes_both_ways`.

use rmp::Marker;
use rmp::decode::{RmpRead, read_marker};
use rmp::encode::{
    write_array_len, write_bin_len, write_bool, write_ext_meta, write_f32, write_f64, write_map_len,
    write_nil, write_sint, write_str_len, write_uint,
};

use crate::entries::{Entries, place_of};
use crate::error::At;
use crate::json::deeper;
use crate::model::{Timestamp, Unit, Value};
use crate::wanted::plain_text;
use crate::{Error, MAX_DEPTH};

/// The type of extensions that is a timestamp.
const TIMESTAMP: i8 = -1;

/// Why nothing fails that writes to a `Vec`.
const TAKES_ALL: &str = "a Vec takes all";

/// The value of a MessagePack object.
///
/// # Errors
/// It is none, or more than one; it has an extension that is no timestamp, a text that is no UTF-8 or a key
/// twice, or it is nested too deep.
pub fn decode(bytes: &[u8]) -> Result<Value, Error> {
    let mut rest = bytes;
    let value = read(&mut rest, MAX_DEPTH)?;
    match rest.len() {
        0 => Ok(value),
        left => Err(Error::new(format!("{left} bytes after the MessagePack object"))),
    }
}

fn read(rest: &mut &[u8], depth: usize) -> Result<Value, Error> {
    let marker = read_marker(rest).map_err(|_| cut_short())?;
    // What is behind the marker; its errors say only that it is not there.
    macro_rules! data {
        ($read:ident) => {
            rest.$read().map_err(|_| cut_short())?
        };
    }
    Ok(match marker {
        Marker::Null => Value::Null,
        Marker::True => Value::Bool(true),
        Marker::False => Value::Bool(false),
        Marker::FixPos(number) => Value::Int(number.into()),
        Marker::FixNeg(number) => Value::Int(number.into()),
        Marker::U8 => Value::Int(data!(read_data_u8).into()),
        Marker::U16 => Value::Int(data!(read_data_u16).into()),
        Marker::U32 => Value::Int(data!(read_data_u32).into()),
        Marker::U64 => Value::from_u64(data!(read_data_u64)),
        Marker::I8 => Value::Int(data!(read_data_i8).into()),
        Marker::I16 => Value::Int(data!(read_data_i16).into()),
        Marker::I32 => Value::Int(data!(read_data_i32).into()),
        Marker::I64 => Value::Int(data!(read_data_i64)),
        Marker::F32 => Value::Float(data!(read_data_f32)),
        Marker::F64 => Value::Double(data!(read_data_f64)),
        Marker::FixStr(length) => text(length.into(), rest)?,
        Marker::Str8 => text(data!(read_data_u8).into(), rest)?,
        Marker::Str16 => text(data!(read_data_u16).into(), rest)?,
        Marker::Str32 => text(data!(read_data_u32), rest)?,
        Marker::Bin8 => Value::Bytes(take(data!(read_data_u8).into(), rest)?.to_vec()),
        Marker::Bin16 => Value::Bytes(take(data!(read_data_u16).into(), rest)?.to_vec()),
        Marker::Bin32 => Value::Bytes(take(data!(read_data_u32), rest)?.to_vec()),
        Marker::FixArray(length) => list(length.into(), rest, depth)?,
        Marker::Array16 => list(data!(read_data_u16).into(), rest, depth)?,
        Marker::Array32 => list(data!(read_data_u32), rest, depth)?,
        Marker::FixMap(length) => map(length.into(), rest, depth)?,
        Marker::Map16 => map(data!(read_data_u16).into(), rest, depth)?,
        Marker::Map32 => map(data!(read_data_u32), rest, depth)?,
        Marker::FixExt1 => extension(1, rest)?,
        Marker::FixExt2 => extension(2, rest)?,
        Marker::FixExt4 => extension(4, rest)?,
        Marker::FixExt8 => extension(8, rest)?,
        Marker::FixExt16 => extension(16, rest)?,
        Marker::Ext8 => extension(data!(read_data_u8).into(), rest)?,
        Marker::Ext16 => extension(data!(read_data_u16).into(), rest)?,
        Marker::Ext32 => extension(data!(read_data_u32), rest)?,
        Marker::Reserved => return Err(Error::new("no MessagePack: the byte 0xc1")),
    })
}

fn cut_short() -> Error {
    Error::new("no MessagePack: it is cut short")
}

fn take<'a>(length: u32, rest: &mut &'a [u8]) -> Result<&'a [u8], Error> {
    let (taken, after) = rest.split_at_checked(length as usize).ok_or_else(cut_short)?;
    *rest = after;
    Ok(taken)
}

fn text(length: u32, rest: &mut &[u8]) -> Result<Value, Error> {
    let text = str::from_utf8(take(length, rest)?).map_err(|error| Error::new(format!("a text: {error}")))?;
    Ok(Value::Text(text.to_owned()))
}

fn list(length: u32, rest: &mut &[u8], depth: usize) -> Result<Value, Error> {
    let depth = deeper(depth)?;
    // As it comes: the length may be a lie.
    let mut list = Vec::new();
    for at in 0..length {
        list.push(read(rest, depth).at(at)?);
    }
    Ok(Value::List(list))
}

fn map(length: u32, rest: &mut &[u8], depth: usize) -> Result<Value, Error> {
    let depth = deeper(depth)?;
    let mut entries = Entries::default();
    for _ in 0..length {
        let key = read(rest, depth)?;
        let value = read(rest, depth).map_err(|error| error.at(place_of(&key)))?;
        entries.push(key, value);
    }
    entries.into_value(encode)
}

fn extension(length: u32, rest: &mut &[u8]) -> Result<Value, Error> {
    let kind = rest.read_data_i8().map_err(|_| cut_short())?;
    let data = take(length, rest)?;
    if kind != TIMESTAMP {
        return Err(Error::new(format!(
            "an extension of type {kind}: only {TIMESTAMP}, a timestamp, is known"
        )));
    }
    let (seconds, nanos, unit) = match *data {
        [a, b, c, d] => (u32::from_be_bytes([a, b, c, d]).into(), 0, Unit::Seconds),
        [a, b, c, d, e, f, g, h] => {
            let both = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            ((both & ((1 << 34) - 1)) as i64, (both >> 34) as u32, Unit::Nanos)
        }
        [a, b, c, d, ref seconds @ ..] if seconds.len() == 8 => {
            let seconds = seconds.try_into().expect("8 bytes");
            (i64::from_be_bytes(seconds), u32::from_be_bytes([a, b, c, d]), Unit::Nanos)
        }
        _ => return Err(Error::new(format!("a timestamp of {length} bytes: 4, 8 or 12 are wanted"))),
    };
    match nanos < 1_000_000_000 {
        true => Ok(Value::Timestamp(Timestamp { seconds, nanos, unit, is_local: false })),
        false => Err(Error::new(format!("a timestamp of {nanos} ns: below 1000000000 are wanted"))),
    }
}

/// Appends the value as a MessagePack object.
///
/// # Errors
/// It has more elements or bytes than MessagePack counts, or a date that has no form as text. Then something
/// may have been appended.
pub fn encode(value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    write(value, out, MAX_DEPTH)
}

fn write(value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
    match value {
        Value::Null => write_nil(out).expect(TAKES_ALL),
        Value::Bool(flag) => write_bool(out, *flag).expect(TAKES_ALL),
        Value::Int(number) => drop(write_sint(out, *number).expect(TAKES_ALL)),
        Value::UInt(number) => drop(write_uint(out, *number).expect(TAKES_ALL)),
        Value::Float(number) => write_f32(out, *number).expect(TAKES_ALL),
        Value::Double(number) => write_f64(out, *number).expect(TAKES_ALL),
        Value::Text(text) => write_text(text, out)?,
        Value::Enum(symbol) => write_text(&symbol.name, out)?,
        Value::Bytes(bytes) => {
            write_bin_len(out, length(bytes.len())?).expect(TAKES_ALL);
            out.extend_from_slice(bytes);
        }
        Value::List(list) => {
            let depth = deeper(depth)?;
            write_array_len(out, length(list.len())?).expect(TAKES_ALL);
            for (at, value) in list.iter().enumerate() {
                write(value, out, depth).at(at)?;
            }
        }
        Value::Record(fields) => {
            let depth = deeper(depth)?;
            write_map_len(out, length(fields.len())?).expect(TAKES_ALL);
            for (name, value) in fields {
                write_text(name, out)?;
                write(value, out, depth).at(name)?;
            }
        }
        Value::Map(entries) => {
            let depth = deeper(depth)?;
            write_map_len(out, length(entries.len())?).expect(TAKES_ALL);
            for (key, value) in entries {
                write(key, out, depth).map_err(|error| error.at(place_of(key)))?;
                write(value, out, depth).map_err(|error| error.at(place_of(key)))?;
            }
        }
        Value::Union(branch) => {
            let depth = deeper(depth)?;
            write_map_len(out, 1).expect(TAKES_ALL);
            write_text(&branch.name, out)?;
            write(&branch.value, out, depth).at(&branch.name)?;
        }
        Value::Timestamp(timestamp) if !timestamp.is_local => write_timestamp(timestamp, out),
        other => write_text(&plain_text(other)?, out)?,
    }
    Ok(())
}

fn length(length: usize) -> Result<u32, Error> {
    u32::try_from(length)
        .map_err(|_| Error::new(format!("{length} bytes or elements: MessagePack counts to {}", u32::MAX)))
}

fn write_text(text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
    write_str_len(out, length(text.len())?).expect(TAKES_ALL);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// In the shortest of the three forms that also says how precise it is: the one of 4 bytes is of seconds.
fn write_timestamp(timestamp: &Timestamp, out: &mut Vec<u8>) {
    let Timestamp { seconds, nanos, unit, .. } = *timestamp;
    match (u32::try_from(seconds), u64::try_from(seconds)) {
        (Ok(seconds), _) if unit == Unit::Seconds && nanos == 0 => {
            write_ext_meta(out, 4, TIMESTAMP).expect(TAKES_ALL);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        (_, Ok(seconds @ 0..0x4_0000_0000)) => {
            write_ext_meta(out, 8, TIMESTAMP).expect(TAKES_ALL);
            out.extend_from_slice(&(u64::from(nanos) << 34 | seconds).to_be_bytes());
        }
        _ => {
            write_ext_meta(out, 12, TIMESTAMP).expect(TAKES_ALL);
            out.extend_from_slice(&nanos.to_be_bytes());
            out.extend_from_slice(&seconds.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
