//! Puts the built-in plugins, which `make plugins` builds, into the binary, with their examples and
//! their pages of the reference.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

const BUILT_INS: [&str; 9] = [
    "jq",
    "validate-schema",
    "verify-signature",
    "envelope",
    "enrich",
    "mask",
    "route",
    "deduplicate",
    "identity",
];

fn main() {
    println!("cargo::rerun-if-env-changed=MILLSTREAM_PLUGINS");
    println!("cargo::rerun-if-changed=build.rs");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let folder = env::var_os("MILLSTREAM_PLUGINS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| manifest.join("../target/plugins"));
    let mut table = String::from("/// The built-in plugins.\npub const BUILT_INS: &[BuiltIn] = &[\n");
    for name in BUILT_INS {
        let path = folder.join(format!("{name}.wasm"));
        println!("cargo::rerun-if-changed={}", path.display());
        let wasm = fs::read(&path).unwrap_or_else(|error| {
            println!("cargo::error=the plugin {} is not there: {error}; run `make plugins`", path.display());
            std::process::exit(1)
        });
        let path = path.canonicalize().expect("it was read");
        let digest: [u8; 32] = Sha256::digest(&wasm).into();
        let example = manifest.join(format!("../plugins/{name}/example.toml"));
        let page = manifest.join(format!("docs/reference/plugin-{name}.md"));
        println!("cargo::rerun-if-changed={}", page.display());
        // A new plugin has no page until the reference is written.
        let page = if page.exists() { format!("include_str!({page:?})") } else { "\"\"".to_owned() };
        writeln!(
            table,
            "    BuiltIn {{ name: {name:?}, wasm: include_bytes!({path:?}), sha256: &{digest:?}, \
             example: include_str!({example:?}), page: {page} }},"
        )
        .expect("a string takes all");
    }
    table.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("built_ins.rs");
    fs::write(&out, table).unwrap_or_else(|error| panic!("{} cannot be written: {error}", out.display()));
}
