//! JSON at the two ends of a program: what goes in is strict, what comes out is compact.

use jaq_json::{Num, Val};
use serde::de::IgnoredAny;

/// Levels of nesting, in and out: what serde_json reads, which is what stands behind the other
/// plugins.
const MAX_DEPTH: usize = 128;

/// Bytes of an error's text: it may quote the value it is about.
const MAX_ERROR_BYTES: usize = 300;

/// jaq's own parser reads a superset of JSON (comments, `NaN`, byte strings), without a limit of
/// depth, and keeps the digits of numbers: so it parses, after this has checked.
pub fn check(text: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|e| e.to_string())?;
    if depth(text.as_bytes()) > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH} levels"));
    }
    Ok(())
}

/// The depth of a text that is known to be JSON.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut in_string = false;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' => drop(bytes.next()),
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
    }
    deepest
}

/// Compact JSON text, or what in the value JSON cannot hold.
pub fn write(value: &Val) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    write_at(&mut out, value, 0).map_err(|what| format!("the output holds {what}"))?;
    Ok(out)
}

fn write_at(out: &mut Vec<u8>, value: &Val, depth: usize) -> Result<(), String> {
    match value {
        Val::Null => out.extend_from_slice(b"null"),
        Val::Bool(true) => out.extend_from_slice(b"true"),
        Val::Bool(false) => out.extend_from_slice(b"false"),
        Val::Num(number) => write_number(out, number)?,
        Val::TStr(text) => write_string(out, text)?,
        Val::BStr(_) => return Err("a byte string, which JSON does not have".into()),
        Val::Arr(_) | Val::Obj(_) if depth == MAX_DEPTH => {
            return Err(format!("more than {MAX_DEPTH} levels of nesting"));
        }
        Val::Arr(array) => {
            out.push(b'[');
            for (i, element) in array.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_at(out, element, depth + 1)?;
            }
            out.push(b']');
        }
        Val::Obj(object) => {
            out.push(b'{');
            for (i, (key, element)) in object.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                let Val::TStr(key) = key else {
                    let key = shorten(&key.to_string());
                    return Err(format!("an object with {key} as a key; JSON needs strings"));
                };
                write_string(out, key)?;
                out.push(b':');
                write_at(out, element, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_number(out: &mut Vec<u8>, number: &Num) -> Result<(), String> {
    let text = number.to_string();
    // `tonumber` reads more than JSON's numbers, such as +1.5.
    if serde_json::from_str::<IgnoredAny>(&text).is_ok() {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    match text.parse::<f64>() {
        Ok(float) if float.is_finite() => {
            out.extend_from_slice(float.to_string().as_bytes());
            Ok(())
        }
        _ => Err(format!("the number {text}, which JSON does not have")),
    }
}

fn write_string(out: &mut Vec<u8>, text: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(text)
        .map_err(|_| "a string that is not UTF-8; @base64 makes it one".to_owned())?;
    serde_json::to_writer(out, text).map_err(|e| e.to_string())
}

pub fn shorten(text: &str) -> String {
    if text.len() <= MAX_ERROR_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_ERROR_BYTES);
    format!("{}... ({} bytes)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<String, String> {
        let value = jaq_json::read::parse_single(text.as_bytes()).unwrap();
        write(&value).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn only_json_is_let_in() {
        for text in ["{}", " [1.50, -2e9, \"\\u00e9\\\"[\"] ", "null"] {
            assert_eq!(check(text.as_bytes()), Ok(()), "{text}");
        }
        for text in ["", "{", "NaN", "# x\n1", "b\"x\"", "+1", "01", "{1:2}", "1 2"] {
            assert!(check(text.as_bytes()).is_err(), "{text}");
        }
        assert!(check(b"\"\xff\"").is_err());
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert_eq!(check(nested(MAX_DEPTH).as_bytes()), Ok(()));
        assert_eq!(check(nested(MAX_DEPTH + 1).as_bytes()), Err("nested deeper than 128 levels".into()));
        assert_eq!(written(&nested(MAX_DEPTH)), Ok(nested(MAX_DEPTH)));
        assert!(written(&nested(MAX_DEPTH + 1)).is_err());
        // Brackets in strings do not count.
        assert_eq!(check(format!("\"{}\"", "[\\\"".repeat(200)).as_bytes()), Ok(()));
    }

    #[test]
    fn numbers_keep_their_digits() {
        let text = "[1.10,12345678901234567890123,1e400,-0.0,9007199254740993]";
        assert_eq!(written(text), Ok(text.into()));
        assert_eq!(written("[+1.5, 007, 01.5]"), Ok("[1.5,7,1.5]".into()));
    }

    #[test]
    fn what_json_cannot_hold_is_an_error() {
        for (text, word) in [("[NaN]", "NaN"), ("Infinity", "Infinity"), ("{1: 2}", "key")] {
            assert!(written(text).unwrap_err().contains(word), "{text}");
        }
        assert!(written("b\"\\xff\"").unwrap_err().contains("byte string"));
        assert!(write(&Val::utf8_str(vec![0xff])).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn strings_are_escaped() {
        let text = "{\"a\\\"\\n\\u0001é\":\"\\\\\"}";
        assert_eq!(written(text), Ok(text.into()));
    }
}
