//! The plugins that are part of this binary.

/// A plugin in this binary.
pub struct BuiltIn {
    /// As a pipeline names it in `use`.
    pub name: &'static str,
    pub(super) wasm: &'static [u8],
    /// Of `wasm`, so that loading need not read it when it is compiled already.
    pub(super) sha256: &'static [u8; 32],
    /// A `[[plugin]]` section that works, as TOML.
    pub example: &'static str,
    /// Its page of the reference, made of what the plugin says of itself.
    pub page: &'static str,
}

// `BUILT_INS`, made by `build.rs` of what `make plugins` built.
include!(concat!(env!("OUT_DIR"), "/built_ins.rs"));

pub fn find(name: &str) -> Option<&'static BuiltIn> {
    BUILT_INS.iter().find(|built_in| built_in.name == name)
}
