//! Plugins in WebAssembly text, for what no Rust can say. The tests of `runtime/src/plugin` write
//! theirs with it too.

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The only copy of the contract.
const WIT: &str = include_str!("../../plugin-sdk/wit/plugin.wit");

/// Where the memory begins that `cabi_realloc` gives away. Below it there is room for data, from
/// 4096.
const HEAP: u32 = 1 << 20;

/// A plugin that passes everything, but for what a test puts in the place of its parts.
pub struct Text<'t> {
    /// The columns that it reads, as the contract numbers their flags.
    pub reads: u8,
    /// More fields of the module: data, functions, tables.
    pub items: &'t str,
    /// Leaves the address of a description.
    pub describe: &'t str,
    /// Leaves the address of what became of the configuration.
    pub configure: &'t str,
    /// Done before memory is given to the host: `$size` bytes of it.
    pub realloc: &'t str,
    /// Has the address of the batch in `$batch`, and `$n`, `$row`, `$emitted` and `$span` to work
    /// with; leaves the address of an outcome.
    pub process: &'t str,
    /// Done when the host has taken the outcome.
    pub post_return: &'t str,
}

impl Default for Text<'_> {
    fn default() -> Self {
        Text {
            reads: 0b0111,
            items: "",
            describe: "(i32.const 64)",
            configure: "(i32.const 128)",
            realloc: "",
            process: "(call $pass (local.get $batch))",
            post_return: "",
        }
    }
}

impl Text<'_> {
    /// As a file that a host loads.
    pub fn plugin(&self) -> Vec<u8> {
        with_world(&self.module(), WIT)
    }

    pub fn module(&self) -> String {
        let Text { reads, items, describe, configure, realloc, process, post_return } = self;
        let version = contract_version();
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
  {items}
  (func $grow (param $to i32)
    (local $pages i32)
    (local.set $pages
      (i32.sub (i32.shr_u (i32.add (local.get $to) (i32.const 65535)) (i32.const 16)) (memory.size)))
    (if (i32.gt_s (local.get $pages) (i32.const 0))
      (then (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then (unreachable))))))
  (func $alloc (export "cabi_realloc") (param $old i32) (param $was i32) (param $align i32) (param $size i32)
    (result i32)
    (local $at i32)
    {realloc}
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (call $grow (global.get $heap))
    (local.get $at))
  (func (export "millstream:plugin/processor@{version}#describe") (result i32) {describe})
  (func (export "millstream:plugin/processor@{version}#configure") (param i32 i32) (result i32)
    {configure})
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
    {post_return}
    (global.set $heap (i32.const {HEAP}))))
"#
        )
    }
}

/// The version of the contract, which its package has.
pub fn contract_version() -> &'static str {
    let after = WIT.split_once("\npackage millstream:plugin@").expect("the contract is a package").1;
    after.split_once(';').expect("it is one line").0
}

/// Wraps a core module into what `wit-bindgen` would have made of it, for this contract.
pub fn with_world(wat: &str, wit: &str) -> Vec<u8> {
    let mut module = wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("plugin.wit", wit).expect("the contract is WIT");
    let world = resolve.select_world(&[package], Some("plugin")).expect("it has the world `plugin`");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("its world is known");
    module
}
