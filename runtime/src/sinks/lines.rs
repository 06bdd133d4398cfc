//! Messages of a call, encoded one behind the other.

use super::{Outcome, Outcomes};
use crate::codecs::Encoder;
use crate::message::MessageRef;

/// Code of a message that its codec cannot write.
pub const ENCODE_ERROR: &str = "encode-error";

/// A buffer that is empty again is kept for the next call up to this size, so that one call of huge
/// messages does not hold its memory for good.
const KEPT_BYTES: usize = 8 << 20;

/// Appends each message and what ends it. Those that cannot be encoded are left out.
///
/// The outcomes are those of a write that succeeds.
pub fn encode_lines(codec: &dyn Encoder, messages: &[MessageRef<'_>], out: &mut Vec<u8>) -> Outcomes {
    let mut rejected: Vec<(usize, Outcome)> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        match codec.encode(message, out) {
            Ok(()) => out.extend_from_slice(codec.ends().delimiter()),
            Err(error) => {
                rejected.push((index, Outcome::Reject { code: ENCODE_ERROR, reason: error.to_string() }));
            }
        }
    }
    if rejected.is_empty() {
        return Outcomes::AllDurable;
    }
    let mut outcomes = vec![Outcome::Durable; messages.len()];
    for (index, outcome) in rejected {
        outcomes[index] = outcome;
    }
    Outcomes::Each(outcomes)
}

/// Empties a buffer for the next call.
pub fn reuse(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.shrink_to(KEPT_BYTES);
    buffer
}
