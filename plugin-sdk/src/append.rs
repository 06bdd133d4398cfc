//! Appending the short pieces in which JSON is written.
//!
//! A copy whose length the compiler does not know becomes `memory.copy`, for which the engine leaves
//! the sandbox: about 20 ns each, half of the time of a JSON transform. Pieces of a known length are
//! loads and stores.

use std::io;

#[inline(always)]
pub(crate) fn append(bytes: &mut Vec<u8>, piece: &[u8]) {
    // Most pieces are a quote, a comma, a colon.
    if let [byte] = piece { bytes.push(*byte) } else { append_any(bytes, piece) }
}

#[inline(never)]
fn append_any(bytes: &mut Vec<u8>, piece: &[u8]) {
    match piece.len() {
        0 => {}
        1 => bytes.push(piece[0]),
        2..=4 => append_ends::<2>(bytes, piece),
        5..=8 => append_ends::<4>(bytes, piece),
        9..=16 => append_ends::<8>(bytes, piece),
        17..=32 => append_ends::<16>(bytes, piece),
        33..=64 => append_ends::<32>(bytes, piece),
        // Here `memory.copy` is worth its call.
        _ => bytes.extend_from_slice(piece),
    }
}

/// Appends a piece of `END` to twice as many bytes: its first `END` and its last, which may overlap.
#[inline(always)]
fn append_ends<const END: usize>(bytes: &mut Vec<u8>, piece: &[u8]) {
    let (Some(first), Some(last)) = (piece.first_chunk::<END>(), piece.last_chunk::<END>()) else {
        return bytes.extend_from_slice(piece);
    };
    assert!(piece.len() <= 2 * END);
    bytes.reserve(piece.len());
    let len = bytes.len();
    let start = bytes.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY: the piece has at least END bytes, since it has a first chunk of END, and `reserve` made
    // room for all of it at `start`: both copies stay within it. Together they fill it, and only then
    // does the vector count it: a piece of at most 2 * END, as was asserted, is covered by its two
    // ends.
    unsafe {
        start.cast::<[u8; END]>().write_unaligned(*first);
        start.add(piece.len() - END).cast::<[u8; END]>().write_unaligned(*last);
        bytes.set_len(len + piece.len());
    }
}

/// Writes to the end of a vector by [`append`].
pub(crate) struct Appending<'a>(pub(crate) &'a mut Vec<u8>);

impl io::Write for Appending<'_> {
    #[inline(always)]
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        append(self.0, piece);
        Ok(piece.len())
    }

    #[inline(always)]
    fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        append(self.0, piece);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_every_length_are_appended() {
        let from: Vec<u8> = (0..300).map(|index| (index % 251) as u8).collect();
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for len in (0..=200).chain((0..=200).rev()) {
            let piece = &from[len % 7..len % 7 + len];
            append(&mut bytes, piece);
            expected.extend_from_slice(piece);
            assert_eq!(bytes, expected, "{len}");
        }
    }
}
