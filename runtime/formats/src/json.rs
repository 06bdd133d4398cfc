//! JSON (RFC 8259): what plugins see by default. What it has no type for is a string, in the form that the
//! Protocol Buffers JSON mapping has for it or ISO 8601; a schema brings it back.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiter::{Jiter, JiterError, Peek};
use num_bigint::BigInt;

use crate::error::At;
use crate::model::{Decimal, Value};
use crate::wanted::{TextOf, text_of};
use crate::{Error, MAX_DEPTH};

/// Digits that any double can be told by, and most that a number may have to be read as one.
const DOUBLE_DIGITS: usize = 17;

/// Digits that a double always keeps.
const EXACT_DIGITS: usize = 15;

/// Digits of the largest number that is read: more are no number anyone counts with, and take quadratic time.
const MAX_DIGITS: usize = 1000;

/// The value of a JSON text. A number with digits that a double would lose is a decimal.
///
/// # Errors
/// It is not JSON, an object has a key twice, or it is nested too deep.
pub fn decode(text: &[u8]) -> Result<Value, Error> {
    let mut jiter = Jiter::new(text);
    let peek = jiter.peek().map_err(|error| not_json(&jiter, &error))?;
    let value = read(&mut jiter, peek, MAX_DEPTH)?;
    jiter.finish().map_err(|error| not_json(&jiter, &error))?;
    Ok(value)
}

fn not_json(jiter: &Jiter<'_>, error: &JiterError) -> Error {
    let place = jiter.error_position(error.index);
    Error::new(format!("not JSON: {} at line {} column {}", error.error_type, place.line, place.column))
}

fn read(jiter: &mut Jiter<'_>, peek: Peek, depth: usize) -> Result<Value, Error> {
    // The position of an error is asked of the same reader.
    macro_rules! ok {
        ($read:expr) => {
            match $read {
                Ok(read) => read,
                Err(error) => return Err(not_json(jiter, &error)),
            }
        };
    }
    Ok(match peek {
        Peek::Null => {
            ok!(jiter.known_null());
            Value::Null
        }
        Peek::True | Peek::False => Value::Bool(ok!(jiter.known_bool(peek))),
        Peek::String => Value::Text(ok!(jiter.known_str().map(str::to_owned))),
        Peek::Array => {
            let depth = deeper(depth)?;
            let mut list = Vec::new();
            let mut next = ok!(jiter.known_array());
            while let Some(peek) = next {
                list.push(read(jiter, peek, depth).at(list.len())?);
                next = ok!(jiter.array_step());
            }
            Value::List(list)
        }
        Peek::Object => {
            let depth = deeper(depth)?;
            let mut fields: Vec<(String, Value)> = Vec::new();
            let mut next = ok!(jiter.known_object().map(|key| key.map(str::to_owned)));
            while let Some(key) = next {
                let peek = ok!(jiter.peek());
                let value = read(jiter, peek, depth).at(&key)?;
                fields.push((key, value));
                next = ok!(jiter.next_key().map(|key| key.map(str::to_owned)));
            }
            no_key_twice(&fields)?;
            Value::Record(fields)
        }
        _ => {
            let bytes = ok!(jiter.known_number_bytes(peek).map(<[u8]>::to_vec));
            number(str::from_utf8(&bytes).expect("digits and signs"))?
        }
    })
}

/// The depth that is left within something.
pub(crate) fn deeper(depth: usize) -> Result<usize, Error> {
    depth.checked_sub(1).ok_or_else(|| Error::new(format!("nested deeper than {MAX_DEPTH} levels")))
}

/// Refuses names that come twice.
pub(crate) fn no_key_twice<Key: AsRef<str>, Of>(fields: &[(Key, Of)]) -> Result<(), Error> {
    let name = |at: usize| fields[at].0.as_ref();
    // Few are compared faster than hashed.
    let twice = if fields.len() <= 8 {
        (1..fields.len()).find(|&at| (0..at).any(|before| name(before) == name(at)))
    } else {
        let mut seen = HashSet::with_capacity(fields.len());
        (0..fields.len()).find(|&at| !seen.insert(name(at)))
    };
    match twice {
        Some(at) => Err(Error::new(format!("the key {:?} is there twice", name(at)))),
        None => Ok(()),
    }
}

/// A number as JSON writes it.
fn number(text: &str) -> Result<Value, Error> {
    if text.len() > MAX_DIGITS {
        return Err(Error::new(format!("a number of {} digits, more than {MAX_DIGITS}", text.len())));
    }
    let is_integer = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if is_integer && text != "-0" {
        if let Ok(number) = text.parse() {
            return Ok(Value::Int(number));
        }
        return Ok(Value::from_big(text.parse::<BigInt>().map_err(|error| Error::new(error.to_string()))?));
    }
    let double: f64 = text.parse().map_err(|_| Error::new(format!("{text} is no number")))?;
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let digits = mantissa.trim_start_matches(['-', '0', '.']).bytes().filter(u8::is_ascii_digit).count();
    // Below the normal ones doubles have fewer digits, down to none.
    let is_exact = digits <= EXACT_DIGITS && (double.is_normal() || digits == 0);
    if double.is_finite() && (is_exact || digits <= DOUBLE_DIGITS && is_shortest(double, text)) {
        return Ok(Value::Double(double));
    }
    decimal(text).map(Value::Decimal)
}

/// Whether a double is written like that, so that it keeps all digits.
fn is_shortest(double: f64, text: &str) -> bool {
    decimal(text).is_ok_and(|written| {
        decimal(&double.to_string()).is_ok_and(|shortest| same_number(&written, &shortest))
    })
}

fn same_number(a: &Decimal, b: &Decimal) -> bool {
    let scale = a.scale.max(b.scale);
    let at = |decimal: &Decimal| &decimal.unscaled * BigInt::from(10).pow((scale - decimal.scale) as u32);
    at(a) == at(b)
}

/// A decimal as JSON or the model writes it: `-12.30`, `1e3`.
///
/// # Errors
/// It is none, or has an exponent beyond any use.
pub fn decimal(text: &str) -> Result<Decimal, Error> {
    let wrong = || Error::new(format!("{text:?} is no decimal number"));
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| wrong())?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || !all_digits(digits) || !all_digits(fraction) || text.len() > MAX_DIGITS {
        return Err(wrong());
    }
    let scale = fraction.len() as i32 - exponent.clamp(-2 * MAX_DIGITS as i32, 2 * MAX_DIGITS as i32);
    let significant = digits.bytes().chain(fraction.bytes()).skip_while(|byte| *byte == b'0').count();
    if is_too_long(significant, scale) {
        return Err(Error::new(format!("{text} has more than {MAX_DIGITS} digits, written out")));
    }
    let unscaled: BigInt = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
    Ok(match scale {
        0.. => Decimal { unscaled, scale },
        _ => Decimal { unscaled: unscaled * BigInt::from(10).pow(scale.unsigned_abs()), scale: 0 },
    })
}

/// Whether a decimal of so many digits would be too long to be read again, once it is written out: with a sign,
/// a point and a zero before that.
pub(crate) fn is_too_long(digits: usize, scale: i32) -> bool {
    let written = match usize::try_from(scale) {
        Ok(scale) => digits.max(scale),
        Err(_) => digits.saturating_add(scale.unsigned_abs() as usize),
    };
    written > MAX_DIGITS - 3
}

/// Appends the value as JSON, on one line.
///
/// # Errors
/// A map has a key that is neither text nor a number nor a boolean, or two that are written alike. Then
/// something may have been appended.
pub fn encode(value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Text(text) => write_string(text, out),
        Value::Int(number) => push(out, number),
        Value::UInt(number) => push(out, number),
        Value::Bytes(bytes) => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
        Value::List(list) => {
            out.push(b'[');
            for (at, value) in list.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                encode(value, out).at(at)?;
            }
            out.push(b']');
        }
        Value::Record(fields) => {
            out.push(b'{');
            for (at, (name, value)) in fields.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_string(name, out);
                out.push(b':');
                encode(value, out).at(name)?;
            }
            out.push(b'}');
        }
        Value::Map(entries) => encode_map(entries, out)?,
        Value::Union(branch) => {
            out.push(b'{');
            write_string(&branch.name, out);
            out.push(b':');
            encode(&branch.value, out).at(&branch.name)?;
            out.push(b'}');
        }
        Value::Enum(symbol) => write_string(&symbol.name, out),
        other => match text_of(other)? {
            TextOf::Number(text) => out.extend_from_slice(text.as_bytes()),
            TextOf::Text(text) => write_string(&text, out),
        },
    }
    Ok(())
}

fn encode_map(entries: &[(Value, Value)], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut seen = HashSet::with_capacity(entries.len());
    out.push(b'{');
    for (at, (key, value)) in entries.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let key = key_text(key)?;
        write_string(&key, out);
        out.push(b':');
        encode(value, out).at(&key)?;
        if seen.contains(&key) {
            return Err(Error::new(format!("two keys of the map are both written {key:?}")));
        }
        seen.insert(key);
    }
    out.push(b'}');
    Ok(())
}

/// A key of a map in formats whose keys are text.
pub(crate) fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key {
        Value::Text(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::Enum(symbol) => symbol.name.clone(),
        Value::Uuid(_) | Value::Date(_) | Value::Timestamp(_) => match text_of(key)? {
            TextOf::Text(text) | TextOf::Number(text) => text,
        },
        other => return Err(Error::new(format!("{} cannot be a key of a map", other.kind()))),
    })
}

fn push(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    use std::io::Write;
    write!(out, "{number}").expect("a Vec takes all");
}

/// Appends a string with its quotes.
fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..=0x1f => 0,
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match short {
            0 => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            short => out.extend_from_slice(&[b'\\', short]),
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests;
