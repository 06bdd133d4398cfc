//! Keys on their way to the host, and values on their way back: an arena and spans into it.

use crate::message::NONE;

/// The keys in one arena, and a span a key.
pub(crate) fn of_keys<K: AsRef<[u8]>>(keys: &[K]) -> (Vec<u8>, Vec<u32>) {
    let mut arena = Vec::with_capacity(keys.iter().map(|key| key.as_ref().len()).sum());
    let mut spans = Vec::with_capacity(keys.len() * 2);
    for key in keys {
        spans.extend(place(&mut arena, key.as_ref()));
    }
    (arena, spans)
}

/// Appends bytes to an arena; returns their span.
pub(crate) fn place(arena: &mut Vec<u8>, bytes: &[u8]) -> [u32; 2] {
    let span = [arena.len() as u32, bytes.len() as u32];
    arena.extend_from_slice(bytes);
    span
}

/// The bytes of the span with this number; `None` if there is none for that key.
pub(crate) fn bytes<'a>(arena: &'a [u8], spans: &[u32], index: usize) -> Option<&'a [u8]> {
    let (start, len) = (spans[index * 2], spans[index * 2 + 1]);
    (start != NONE).then(|| &arena[start as usize..start as usize + len as usize])
}
