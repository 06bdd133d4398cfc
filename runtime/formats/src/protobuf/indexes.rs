//! The list of indexes before a message in the wire format of schema registries: which message of the file
//! it is.

use prost::encoding::{decode_varint, encode_varint};

use crate::{Error, MAX_DEPTH};

/// Takes the list off the front of `bytes`: its length and the indexes as varints in zigzag; the byte 0 stands
/// for the first message of the file.
///
/// # Errors
/// It is cut short, longer than messages can be nested, or has an index that is none.
pub fn read_indexes(bytes: &mut &[u8]) -> Result<Vec<i32>, Error> {
    let mut rest = *bytes;
    let count = read(&mut rest)?;
    if count == 0 {
        *bytes = rest;
        return Ok(vec![0]);
    }
    if !(1..=MAX_DEPTH as i64).contains(&count) {
        return Err(Error::new(format!(
            "a list of {count} message indexes: from 1 to {MAX_DEPTH} are wanted"
        )));
    }
    let mut indexes = Vec::new();
    for _ in 0..count {
        let index = read(&mut rest)?;
        let index = i32::try_from(index).ok().filter(|index| *index >= 0);
        indexes.push(index.ok_or_else(|| Error::new("a message index that is none: below 0 or over 2^31"))?);
    }
    *bytes = rest;
    Ok(indexes)
}

fn read(rest: &mut &[u8]) -> Result<i64, Error> {
    let number = decode_varint(rest).map_err(|_| Error::new("the list of message indexes is cut short"))?;
    Ok((number >> 1) as i64 ^ -((number & 1) as i64))
}

/// Appends such a list.
pub fn write_indexes(indexes: &[i32], out: &mut Vec<u8>) {
    if indexes == [0] {
        return out.push(0);
    }
    let zigzag = |number: i64| ((number << 1) ^ (number >> 63)) as u64;
    encode_varint(zigzag(indexes.len() as i64), out);
    for &index in indexes {
        encode_varint(zigzag(index.into()), out);
    }
}
