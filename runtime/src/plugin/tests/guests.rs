//! Plugins written as WebAssembly text: each says exactly what its test needs, lies included.

use crate::plugin::bindings::{CONTRACT_VERSION, Outcome, Reason};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

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
    with_world(&module(reads, process, data), include_str!("../../../../plugin-sdk/wit/plugin.wit"))
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

/// Where a test's own data begins; there is 1 MiB of it.
pub const DATA: u32 = 4096;
const HEAP: u32 = 1 << 20;

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

/// Wraps a core module into what `wit-bindgen` would have made of it, for this contract.
pub fn with_world(wat: &str, wit: &str) -> Vec<u8> {
    let mut module = wat::parse_str(wat).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("plugin.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

pub fn module(reads: u8, process: &str, data: &str) -> String {
    let version = CONTRACT_VERSION;
    format!(
        r#"
(module
  (import "millstream:plugin/log@{version}" "write" (func $log (param i32 i32 i32 i32 i32)))
  (import "millstream:plugin/lookup@{version}" "get-many"
    (func $lookup (param i32 i32 i32 i32 i32 i32 i32)))
  (memory (export "memory") 17)
  (global $heap (mut i32) (i32.const {HEAP}))
  (data (i32.const 16) "test0.1.0{{}}")
  (data (i32.const 64)
    "\10\00\00\00\04\00\00\00" "\14\00\00\00\05\00\00\00" "\10\00\00\00\04\00\00\00"
    "\{reads:02x}\00\00\00" "\19\00\00\00\02\00\00\00")
  {data}
  (func $grow (param $to i32)
    (local $pages i32)
    (local.set $pages
      (i32.sub (i32.shr_u (i32.add (local.get $to) (i32.const 65535)) (i32.const 16)) (memory.size)))
    (if (i32.gt_s (local.get $pages) (i32.const 0))
      (then (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then (unreachable))))))
  (func $alloc (export "cabi_realloc") (param $old i32) (param $was i32) (param $align i32) (param $size i32)
    (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (call $grow (global.get $heap))
    (local.get $at))
  (func (export "millstream:plugin/processor@{version}#describe") (result i32) (i32.const 64))
  (func (export "millstream:plugin/processor@{version}#configure") (param i32 i32) (result i32)
    (i32.const 128))
  ;; The outcome in which all messages pass.
  (func $pass (param $batch i32) (result i32)
    (local $at i32)
    (local.set $at (call $alloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 56)))
    (memory.fill (local.get $at) (i32.const 0) (i32.const 56))
    (i32.store (local.get $at)
      (call $alloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.load (local.get $batch))))
    (i32.store offset=4 (local.get $at) (i32.load (local.get $batch)))
    (memory.fill (i32.load (local.get $at)) (i32.const 0) (i32.load (local.get $batch)))
    (local.get $at))
  ;; Whether the payload of some message begins with this byte.
  (func $some (param $batch i32) (param $byte i32) (result i32)
    (local $row i32) (local $start i32)
    (block $none
      (loop $next
        (br_if $none (i32.ge_u (local.get $row) (i32.load (local.get $batch))))
        (local.set $start
          (i32.load (i32.add (i32.load offset=24 (local.get $batch)) (i32.shl (local.get $row) (i32.const 3)))))
        (if (i32.ne (local.get $start) (i32.const -2))
          (then
            (if (i32.eq (local.get $byte)
                  (i32.load8_u (i32.add (i32.load offset=16 (local.get $batch)) (local.get $start))))
              (then (return (i32.const 1))))))
        (local.set $row (i32.add (local.get $row) (i32.const 1)))
        (br $next)))
    (i32.const 0))
  (func $recurse (param i32) (result i32)
    (i32.add (i32.const 1) (call $recurse (i32.add (local.get 0) (i32.const 1)))))
  (func $process (export "millstream:plugin/processor@{version}#process") (param $batch i32) (result i32)
    (local $n i32) (local $row i32) (local $emitted i32) (local $span i32)
    {process})
  (func (export "cabi_post_millstream:plugin/processor@{version}#process") (param i32)
    (global.set $heap (i32.const {HEAP}))))
"#
    )
}
