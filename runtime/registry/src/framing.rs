//! Confluent's wire format: a zero, the id of the schema in four bytes, big-endian, then the message.
//!
//! <https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format>

/// The first byte of a framed message.
pub const MAGIC: u8 = 0;

/// Bytes before the message.
pub const PREFIX_BYTES: usize = 5;

/// Why a message is not a framed one; says what is there instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FramingError {
    #[error("first byte 0x{0:02x}, not the magic byte 0: the message was not written with a schema registry")]
    Magic(u8),
    #[error("{0} bytes, which is less than the magic byte 0 and an id of four bytes")]
    Short(usize),
}

/// The id of the schema, and what stands behind it.
///
/// # Errors
/// It does not begin with the magic byte and an id.
pub fn parse(message: &[u8]) -> Result<(u32, &[u8]), FramingError> {
    match message {
        [MAGIC, a, b, c, d, rest @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), rest)),
        [] | [MAGIC, ..] => Err(FramingError::Short(message.len())),
        [first, ..] => Err(FramingError::Magic(*first)),
    }
}

/// Adds what stands before a message of the schema `id`.
pub fn write(id: u32, out: &mut Vec<u8>) {
    out.push(MAGIC);
    out.extend(id.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for id in [0, 1, 0x0102_0304, u32::MAX] {
            let mut message = Vec::new();
            write(id, &mut message);
            assert_eq!(message.len(), PREFIX_BYTES);
            message.extend(b"rest");
            assert_eq!(parse(&message), Ok((id, &b"rest"[..])));
        }
        assert_eq!(parse(&[0, 0, 0, 1, 2]), Ok((258, &[][..])));
    }

    #[test]
    fn what_is_no_framed_message_says_what_it_is() {
        let told = |message: &[u8]| parse(message).unwrap_err().to_string();
        assert!(told(b"{\"a\":1}").starts_with("first byte 0x7b, not the magic byte 0: "));
        assert!(told(b"{").starts_with("first byte 0x7b"));
        assert!(told(b"").starts_with("0 bytes, "));
        assert!(told(&[0, 0, 0, 0]).starts_with("4 bytes, "));
    }
}
