//! CBOR (RFC 8949), with the tags for what the model has a type for.
//!
//! The rows of the table in `runtime/docs/formats.md` are tested in `examples_are_read`,
//! `what_has_a_tag_keeps_its_type`, `what_has_no_tag_is_a_text` and
//! `what_has_no_place_in_the_model_is_refused`, and all together in `cbor_gives_back_what_it_can` and
//! `cbor_goes_both_ways`.

use ciborium_io::Read;
use ciborium_ll::{Decoder, Encoder, Header, simple};
use num_bigint::{BigInt, BigUint, Sign};
use num_traits::{Signed, ToPrimitive};

use crate::entries::{Entries, place_of};
use crate::error::At;
use crate::json::{deeper, is_too_long};
use crate::model::{Decimal, Timestamp, Unit, Value};
use crate::wanted::{self, plain_text};
use crate::{Error, MAX_DEPTH};

/// Tags, by the registry of IANA. Text with a date and a time, and seconds since 1970.
const DATE_TIME: u64 = 0;
const EPOCH: u64 = 1;
const BIG: u64 = 2;
const NEGATIVE_BIG: u64 = 3;
const DECIMAL: u64 = 4;
const UUID: u64 = 37;
/// Days since 1970.
const DATE: u64 = 100;
const DATE_TEXT: u64 = 1004;
/// Says that it is CBOR, and nothing more.
const SELF_DESCRIBED: u64 = 55799;

/// More tags before one item than anyone has a use for.
const MAX_TAGS: usize = 8;

/// The longest number that is read: 414 bytes have 997 digits, and JSON reads up to 1000.
const MAX_BIG: usize = 414;

/// Why nothing fails that writes to a `Vec`.
const TAKES_ALL: &str = "a Vec takes all";

/// The value of a CBOR data item.
///
/// # Errors
/// It is none, or more than one; it has a tag or a simple value that the model has no place for, a key twice,
/// or it is nested too deep.
pub fn decode(bytes: &[u8]) -> Result<Value, Error> {
    let mut reader = Reader { bytes, decoder: Decoder::from(bytes) };
    let value = reader.read(MAX_DEPTH)?;
    match bytes.len() - reader.decoder.offset() {
        0 => Ok(value),
        left => Err(Error::new(format!("{left} bytes after the CBOR data item"))),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    decoder: Decoder<&'a [u8]>,
}

impl Reader<'_> {
    /// The first byte of the next item, which says how long a number is, and what the item is.
    fn next(&mut self) -> Result<(u8, Header), Error> {
        let first = self.bytes.get(self.decoder.offset()).copied().unwrap_or_default();
        match self.decoder.pull() {
            Ok(header) => Ok((first, header)),
            Err(ciborium_ll::Error::Io(_)) => Err(cut_short()),
            Err(ciborium_ll::Error::Syntax(at)) => {
                Err(Error::new(format!("no CBOR: the byte {first:#04x} at {at}")))
            }
        }
    }

    fn read(&mut self, depth: usize) -> Result<Value, Error> {
        let (first, header) = self.next()?;
        self.item(first, header, depth)
    }

    fn item(&mut self, first: u8, header: Header, depth: usize) -> Result<Value, Error> {
        Ok(match header {
            Header::Positive(number) => Value::from_u64(number),
            Header::Negative(below) => match i64::try_from(below) {
                Ok(below) => Value::Int(!below),
                Err(_) => Value::from_big(-1 - BigInt::from(below)),
            },
            Header::Float(number) if first == 0xfb => Value::Double(number),
            // Of 16 or 32 bits.
            Header::Float(number) => Value::Float(number as f32),
            // In two bytes it is another one, or wrong.
            Header::Simple(number) if first == 0xf8 => return Err(simple_value(number)),
            Header::Simple(simple::FALSE) => Value::Bool(false),
            Header::Simple(simple::TRUE) => Value::Bool(true),
            Header::Simple(simple::NULL) => Value::Null,
            Header::Simple(number) => return Err(simple_value(number)),
            Header::Break => return Err(Error::new("no CBOR: a break where nothing is to be ended")),
            Header::Bytes(length) => Value::Bytes(self.chunks(length, false)?),
            Header::Text(length) => {
                Value::Text(String::from_utf8(self.chunks(length, true)?).map_err(|error| not_text(&error))?)
            }
            Header::Array(length) => {
                let depth = deeper(depth)?;
                // As it comes: the length may be a lie.
                let mut list = Vec::new();
                while length.is_none_or(|length| list.len() < length) {
                    let (first, header) = self.next()?;
                    if header == Header::Break && length.is_none() {
                        break;
                    }
                    list.push(self.item(first, header, depth).at(list.len())?);
                }
                Value::List(list)
            }
            Header::Map(length) => {
                let depth = deeper(depth)?;
                let mut entries = Entries::default();
                let mut count = 0;
                while length.is_none_or(|length| count < length) {
                    let (first, header) = self.next()?;
                    if header == Header::Break && length.is_none() {
                        break;
                    }
                    let key = self.item(first, header, depth)?;
                    let value = self.read(depth).map_err(|error| error.at(place_of(&key)))?;
                    entries.push(key, value);
                    count += 1;
                }
                entries.into_value(encode)?
            }
            Header::Tag(tag) => {
                let mut tags = vec![tag];
                let (first, header) = loop {
                    match self.next()? {
                        (_, Header::Tag(tag)) if tags.len() < MAX_TAGS => tags.push(tag),
                        (_, Header::Tag(_)) => {
                            return Err(Error::new(format!("more than {MAX_TAGS} tags, each of the next")));
                        }
                        item => break item,
                    }
                };
                let content = self.item(first, header, depth)?;
                tags.into_iter().rev().try_fold(content, |content, tag| tagged(tag, content))?
            }
        })
    }

    /// The bytes of a text or of bytes, which may be in chunks up to a break.
    fn chunks(&mut self, length: Option<usize>, is_text: bool) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        if let Some(length) = length {
            self.append(length, &mut bytes)?;
            return Ok(bytes);
        }
        loop {
            let from = bytes.len();
            match self.next()?.1 {
                Header::Break => return Ok(bytes),
                Header::Bytes(Some(length)) if !is_text => self.append(length, &mut bytes)?,
                Header::Text(Some(length)) if is_text => {
                    self.append(length, &mut bytes)?;
                    // No character is in two chunks.
                    str::from_utf8(&bytes[from..]).map_err(|error| not_text(&error))?;
                }
                _ => return Err(Error::new("no CBOR: a chunk of another type than what it is of")),
            }
        }
    }

    fn append(&mut self, length: usize, bytes: &mut Vec<u8>) -> Result<(), Error> {
        if length > self.bytes.len() - self.decoder.offset() {
            return Err(cut_short());
        }
        let from = bytes.len();
        bytes.resize(from + length, 0);
        self.decoder.read_exact(&mut bytes[from..]).map_err(|_| cut_short())
    }
}

fn cut_short() -> Error {
    Error::new("no CBOR: it is cut short")
}

fn not_text(error: &dyn std::error::Error) -> Error {
    Error::new(format!("a text: {error}"))
}

fn simple_value(number: u8) -> Error {
    match number {
        simple::UNDEFINED => Error::new("undefined, which is neither null nor a value"),
        number => Error::new(format!("the simple value {number}, which is nothing in particular")),
    }
}

fn tagged(tag: u64, content: Value) -> Result<Value, Error> {
    let misfit = |wanted: &str| Error::new(format!("tag {tag} with {}: {wanted} is wanted", content.kind()));
    Ok(match (tag, &content) {
        (DATE_TIME, Value::Text(text)) => Value::Timestamp(date_time(text)?),
        (DATE_TIME, _) => return Err(misfit("a text")),
        (EPOCH, Value::Int(seconds)) => {
            Value::Timestamp(Timestamp::from_count(*seconds, Unit::Seconds, false))
        }
        (EPOCH, Value::Float(seconds)) => Value::Timestamp(seconds_of(f64::from(*seconds))?),
        (EPOCH, Value::Double(seconds)) => Value::Timestamp(seconds_of(*seconds)?),
        (EPOCH, _) => return Err(misfit("a number of 64 bits")),
        (BIG | NEGATIVE_BIG, Value::Bytes(bytes)) if bytes.len() > MAX_BIG => {
            return Err(Error::new(format!("a number of {} bytes, more than {MAX_BIG}", bytes.len())));
        }
        (BIG, Value::Bytes(bytes)) => Value::from_big(BigInt::from_bytes_be(Sign::Plus, bytes)),
        (NEGATIVE_BIG, Value::Bytes(bytes)) => Value::from_big(-1 - BigInt::from_bytes_be(Sign::Plus, bytes)),
        (BIG | NEGATIVE_BIG, _) => return Err(misfit("bytes")),
        (DECIMAL, Value::List(parts)) => decimal(parts)?,
        (DECIMAL, _) => return Err(misfit("a list of an exponent and a number")),
        (UUID, Value::Bytes(_)) => Value::Uuid(wanted::uuid(&content)?),
        (UUID, _) => return Err(misfit("bytes")),
        (DATE, Value::Int(_)) => Value::Date(wanted::date(&content)?),
        (DATE, _) => return Err(misfit("an integer")),
        (DATE_TEXT, Value::Text(_)) => Value::Date(wanted::date(&content)?),
        (DATE_TEXT, _) => return Err(misfit("a text")),
        (SELF_DESCRIBED, _) => content,
        (tag, content) => return Err(Error::new(format!("{} with the unknown tag {tag}", content.kind()))),
    })
}

/// A timestamp as precise as it is written.
fn date_time(text: &str) -> Result<Timestamp, Error> {
    let timestamp = wanted::timestamp(&Value::Text(text.to_owned()), Unit::Nanos, false)?;
    // ISO 8601 has the comma too.
    let fraction = text.split_once(['.', ',']).map_or("", |(_, rest)| rest);
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let units = [Unit::Seconds, Unit::Millis, Unit::Micros];
    let unit = units.into_iter().find(|unit| digits <= unit.digits()).unwrap_or(Unit::Nanos);
    Ok(Timestamp { unit, ..timestamp })
}

/// A double of today's seconds is precise to less than a microsecond, and not to much less.
fn seconds_of(seconds: f64) -> Result<Timestamp, Error> {
    let micros = (seconds * 1e6).round();
    if !micros.is_finite() || micros.abs() > 9e18 {
        return Err(Error::new(format!("{seconds} s after 1970 are no timestamp")));
    }
    let timestamp = Timestamp::from_count(micros as i64, Unit::Micros, false);
    // It is written as text, which has an end.
    plain_text(&Value::Timestamp(timestamp))?;
    Ok(timestamp)
}

fn decimal(parts: &[Value]) -> Result<Value, Error> {
    let [Value::Int(exponent), number] = parts else {
        return Err(Error::new("a decimal is a list of an exponent and a number"));
    };
    let unscaled = match number {
        Value::Int(number) => BigInt::from(*number),
        Value::UInt(number) => BigInt::from(*number),
        Value::Decimal(Decimal { unscaled, scale: 0 }) => unscaled.clone(),
        other => return Err(Error::new(format!("{} where a decimal has an integer", other.kind()))),
    };
    // A bit is 0.30103 digits.
    let digits = unscaled.bits() as usize * 30103 / 100_000 + 1;
    match i32::try_from(exponent.saturating_neg()) {
        Ok(scale) if !is_too_long(digits, scale) => Ok(Value::Decimal(Decimal { unscaled, scale })),
        _ => Err(Error::new(format!(
            "a decimal of {digits} digits with the exponent {exponent}: too long to be written out"
        ))),
    }
}

/// Appends the value as a CBOR data item.
///
/// # Errors
/// It is nested too deep, or has a value that has no form as text. Then something may have been appended.
pub fn encode(value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    write(value, out, MAX_DEPTH)
}

fn push(out: &mut Vec<u8>, header: Header) {
    Encoder::from(out).push(header).expect(TAKES_ALL);
}

fn write(value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
    match value {
        Value::Null => push(out, Header::Simple(simple::NULL)),
        Value::Bool(false) => push(out, Header::Simple(simple::FALSE)),
        Value::Bool(true) => push(out, Header::Simple(simple::TRUE)),
        Value::Int(number) => write_int(*number, out),
        Value::UInt(number) => push(out, Header::Positive(*number)),
        // In their own size, not in the smallest that holds them, so that they are read as what they were.
        Value::Float(number) => {
            out.push(0xfa);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Double(number) => {
            out.push(0xfb);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Text(text) => write_text(text, out),
        Value::Enum(symbol) => write_text(&symbol.name, out),
        Value::Bytes(bytes) => write_bytes(bytes, out),
        Value::Decimal(number) => write_decimal(number, out, depth)?,
        Value::Uuid(bytes) => {
            push(out, Header::Tag(UUID));
            write_bytes(bytes, out);
        }
        Value::Date(days) => {
            push(out, Header::Tag(DATE));
            write_int((*days).into(), out);
        }
        Value::Timestamp(timestamp) if timestamp.unit == Unit::Seconds && is_count(timestamp) => {
            push(out, Header::Tag(EPOCH));
            write_int(timestamp.seconds, out);
        }
        Value::Timestamp(timestamp) if !timestamp.is_local => {
            let text = plain_text(value)?;
            push(out, Header::Tag(DATE_TIME));
            write_text(&text, out);
        }
        Value::List(list) => {
            let depth = deeper(depth)?;
            push(out, Header::Array(Some(list.len())));
            for (at, value) in list.iter().enumerate() {
                write(value, out, depth).at(at)?;
            }
        }
        Value::Record(fields) => {
            let depth = deeper(depth)?;
            push(out, Header::Map(Some(fields.len())));
            for (name, value) in fields {
                write_text(name, out);
                write(value, out, depth).at(name)?;
            }
        }
        Value::Map(entries) => {
            let depth = deeper(depth)?;
            push(out, Header::Map(Some(entries.len())));
            for (key, value) in entries {
                write(key, out, depth).map_err(|error| error.at(place_of(key)))?;
                write(value, out, depth).map_err(|error| error.at(place_of(key)))?;
            }
        }
        Value::Union(branch) => {
            let depth = deeper(depth)?;
            push(out, Header::Map(Some(1)));
            write_text(&branch.name, out);
            write(&branch.value, out, depth).at(&branch.name)?;
        }
        other => write_text(&plain_text(other)?, out),
    }
    Ok(())
}

fn is_count(timestamp: &Timestamp) -> bool {
    timestamp.nanos == 0 && !timestamp.is_local
}

fn write_int(number: i64, out: &mut Vec<u8>) {
    match u64::try_from(number) {
        Ok(number) => push(out, Header::Positive(number)),
        Err(_) => push(out, Header::Negative(!number as u64)),
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    push(out, Header::Text(Some(text.len())));
    out.extend_from_slice(text.as_bytes());
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    push(out, Header::Bytes(Some(bytes.len())));
    out.extend_from_slice(bytes);
}

/// A number that only [`Value::Decimal`] holds as an integer, any other as a decimal fraction.
fn write_decimal(number: &Decimal, out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
    let is_beyond = number.unscaled.to_i64().is_none() && number.unscaled.to_u64().is_none();
    if number.scale == 0 && is_beyond {
        write_big(&number.unscaled, out);
        return Ok(());
    }
    // A decimal is a list.
    deeper(depth)?;
    push(out, Header::Tag(DECIMAL));
    push(out, Header::Array(Some(2)));
    write_int(-i64::from(number.scale), out);
    write_big(&number.unscaled, out);
    Ok(())
}

/// An integer as one of CBOR, which has 65 bits, or in bytes.
fn write_big(number: &BigInt, out: &mut Vec<u8>) {
    let below: BigUint = match number.is_negative() {
        true => number.magnitude() - 1u32,
        false => number.magnitude().clone(),
    };
    match (below.to_u64(), number.is_negative()) {
        (Some(below), true) => push(out, Header::Negative(below)),
        (Some(number), false) => push(out, Header::Positive(number)),
        (None, is_negative) => {
            push(out, Header::Tag(if is_negative { NEGATIVE_BIG } else { BIG }));
            write_bytes(&below.to_bytes_be(), out);
        }
    }
}

#[cfg(test)]
mod tests;
