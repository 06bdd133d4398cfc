//! What a format reads of any bytes it writes again, and reads the same of that.

use std::fmt::Debug;

use millstream_formats::{Error, Value};

/// The rest of a fuzzer: `bytes` are refused, or their value goes there and back.
pub fn there_and_back(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<Value, Error>,
    encode: impl Fn(&Value, &mut Vec<u8>) -> Result<(), Error>,
) {
    let Ok(value) = decode(bytes) else { return };
    let mut written = Vec::new();
    encode(&value, &mut written).unwrap_or_else(|error| panic!("{value:?} is read and not written: {error}"));
    let again = decode(&written).unwrap_or_else(|error| panic!("{value:?} is written and not read: {error}"));
    // As text, where NaN is like NaN.
    same(&again, &value);
}

fn same(a: &impl Debug, b: &impl Debug) {
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}
