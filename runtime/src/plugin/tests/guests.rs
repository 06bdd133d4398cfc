//! Plugins written as WebAssembly text: each says exactly what its test needs, lies included.

#[path = "../../../../tests/hostile/text.rs"]
mod text;

use crate::plugin::bindings::{Outcome, Reason};
use text::Text;
pub use text::with_world;

/// What `process` gives back, byte for byte.
#[derive(Clone, Default)]
pub struct Answer {
    pub verdicts: Vec<u8>,
    pub arena: Vec<u8>,
    pub emitted: Vec<u32>,
    pub headers: Vec<u32>,
    pub timestamps: Vec<i64>,
    pub routes: Vec<Vec<&'static str>>,
    /// row, code, text
    pub reasons: Vec<(u32, &'static [u8], &'static [u8])>,
}

impl Answer {
    /// The same for the host, without a guest between.
    pub fn outcome(&self) -> Outcome {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let reasons = self.reasons.iter();
        Outcome {
            verdicts: self.verdicts.clone(),
            arena: self.arena.clone(),
            emitted: self.emitted.clone(),
            headers: self.headers.clone(),
            timestamps: self.timestamps.clone(),
            routes: self.routes.iter().map(|set| set.iter().map(|&name| name.to_owned()).collect()).collect(),
            reasons: reasons
                .map(|&(row, code, reason)| Reason { row, code: text(code), text: text(reason) })
                .collect(),
        }
    }
}

/// A plugin that reads the payload, key and headers and does what `process` says: WebAssembly text
/// with the batch's address in `$batch`, that leaves the address of an outcome.
pub fn guest(process: &str, data: &str) -> Vec<u8> {
    guest_that_reads(0b0111, process, data)
}

pub fn guest_that_reads(reads: u8, process: &str, data: &str) -> Vec<u8> {
    Text { reads, process, items: data, ..Text::default() }.plugin()
}

/// The same, before it is wrapped.
pub fn module(reads: u8, process: &str, data: &str) -> String {
    Text { reads, process, items: data, ..Text::default() }.module()
}

/// A plugin that answers every batch alike.
pub fn answering(answer: &Answer) -> Vec<u8> {
    let mut image = Image { base: DATA, bytes: vec![0; 56] };
    let fields = [
        (image.put(&answer.verdicts), answer.verdicts.len()),
        (image.put(&answer.arena), answer.arena.len()),
        (image.put_u32(&answer.emitted), answer.emitted.len()),
        (image.put_u32(&answer.headers), answer.headers.len()),
        (image.put_i64(&answer.timestamps), answer.timestamps.len()),
        image.put_routes(&answer.routes),
        image.put_reasons(&answer.reasons),
    ];
    for (index, (at, len)) in fields.into_iter().enumerate() {
        image.set(index * 8, at);
        image.set(index * 8 + 4, len as u32);
    }
    let data = format!("(data (i32.const {DATA}) \"{}\")", image.escaped());
    guest(&format!("(i32.const {DATA})"), &data)
}

/// Where a test's own data begins.
pub const DATA: u32 = 4096;
struct Image {
    base: u32,
    bytes: Vec<u8>,
}

impl Image {
    fn put(&mut self, bytes: &[u8]) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = self.base + self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        at
    }

    fn put_u32(&mut self, numbers: &[u32]) -> u32 {
        self.put(&numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
    }

    fn put_i64(&mut self, numbers: &[i64]) -> u32 {
        self.put(&numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
    }

    fn put_routes(&mut self, routes: &[Vec<&str>]) -> (u32, usize) {
        let mut sets = Vec::new();
        for set in routes {
            let names: Vec<u32> =
                set.iter().flat_map(|name| [self.put(name.as_bytes()), name.len() as u32]).collect();
            sets.extend([self.put_u32(&names), set.len() as u32]);
        }
        (self.put_u32(&sets), routes.len())
    }

    fn put_reasons(&mut self, reasons: &[(u32, &[u8], &[u8])]) -> (u32, usize) {
        let mut all = Vec::new();
        for (row, code, text) in reasons {
            all.extend([*row, self.put(code), code.len() as u32, self.put(text), text.len() as u32]);
        }
        (self.put_u32(&all), reasons.len())
    }

    fn set(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn escaped(&self) -> String {
        self.bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
    }
}
