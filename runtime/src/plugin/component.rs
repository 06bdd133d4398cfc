//! From a plugin's file to a component that is compiled and keeps the contract.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::bindings::{CONTRACT, CONTRACT_VERSION, PROCESSOR, PluginPre};
use super::builtin::{self, BuiltIn};
use super::capabilities;
use super::compile;
use super::engine::PluginEngine;
use super::guest::Guest;
use super::{PluginCode, PluginSpec};
use crate::config::problem::Problem;
use crate::config::units::{ByteSize, Interval};

/// SHA-256 of a plugin's file.
pub(super) type Digest = [u8; 32];

/// A component that was loaded.
pub(super) struct Loaded {
    pub component: Component,
    pub digest: Digest,
    /// It imports WASI, which is denied.
    pub wants_wasi: bool,
}

impl PluginEngine {
    /// Loads the code of a plugin; takes it from the cache if it was compiled before.
    ///
    /// # Errors
    /// What is wrong with it, its place within the `[[plugin]]`.
    pub(super) fn load(&self, spec: &PluginSpec) -> Result<Loaded, Problem> {
        let at = match spec.code {
            PluginCode::BuiltIn(_) => "/use",
            PluginCode::File(_) => "/wasm",
        };
        let code = Code::of(&spec.code, spec.limits.file);
        let code = code.map_err(|(message, help)| problem(at, message, help))?;
        if let Some(pinned) = &spec.sha256 {
            check_pin(pinned, &code)?;
        }
        self.load_code(&code, spec.limits.compile).map_err(|(message, help)| problem(at, message, help))
    }

    /// `time` is what compiling it may take.
    pub(super) fn load_code(&self, code: &Code, time: Interval) -> Result<Loaded, Wrong> {
        let component = self.component(code, time)?;
        let wants_wasi = check_contract(&component)
            .map_err(|(message, help)| (format!("{} {message}", code.shown), help))?;
        Ok(Loaded { component, digest: code.digest, wants_wasi })
    }

    /// A plugin with its imports, ready to be started.
    ///
    /// # Errors
    /// It wants what this host does not have.
    pub(super) fn link(&self, loaded: &Loaded) -> anyhow::Result<PluginPre<Guest>> {
        let linker = &self.linker;
        let pre = match loaded.wants_wasi {
            true => capabilities::deny_wasi(linker, &loaded.component)?.instantiate_pre(&loaded.component)?,
            false => linker.instantiate_pre(&loaded.component)?,
        };
        Ok(PluginPre::new(pre)?)
    }

    fn component(&self, code: &Code, time: Interval) -> Result<Component, Wrong> {
        // Held while compiling: two pipelines with one plugin compile it once.
        let mut loaded = self.loaded.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(component) = loaded.get(&code.digest) {
            return Ok(component.clone());
        }
        let component = compile::cached(self, code, time)?;
        loaded.insert(code.digest, component.clone());
        Ok(component)
    }
}

/// What is wrong, and what to do.
pub(super) type Wrong = (String, String);

fn problem(at: &str, message: String, help: String) -> Problem {
    Problem::new(at, message).help(help)
}

/// A plugin's file as it was given.
pub(super) struct Code {
    /// How to speak of it.
    pub shown: String,
    pub bytes: Cow<'static, [u8]>,
    pub digest: Digest,
}

impl Code {
    /// A file may have `most` bytes.
    pub fn of(code: &PluginCode, most: ByteSize) -> Result<Code, Wrong> {
        match code {
            PluginCode::BuiltIn(name) => Self::built_in(name),
            PluginCode::File(path) => Self::file(path, most),
        }
    }

    fn built_in(name: &str) -> Result<Code, Wrong> {
        let BuiltIn { name, wasm, sha256, .. } = builtin::find(name).ok_or_else(|| {
            let names: Vec<&str> = builtin::BUILT_INS.iter().map(|built_in| built_in.name).collect();
            (
                format!("{name:?} is not a built-in plugin"),
                format!("use one of {}, or wasm = \"path.wasm\" for your own", names.join(", ")),
            )
        })?;
        Ok(Code { shown: format!("the built-in {name}"), bytes: Cow::Borrowed(wasm), digest: **sha256 })
    }

    fn file(path: &Path, most: ByteSize) -> Result<Code, Wrong> {
        let shown = path.display().to_string();
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(most.0.saturating_add(1)).read_to_end(&mut bytes))
            .map_err(|error| {
                (
                    format!("{shown} cannot be read: {error}"),
                    "give the path of a .wasm file, relative to the pipeline file".to_owned(),
                )
            })?;
        if bytes.len() as u64 > most.0 {
            return Err((
                format!("{shown} is larger than {most}, the most that a plugin's file may be"),
                "build it with --release and without debug information, or set a larger limits.file"
                    .to_owned(),
            ));
        }
        check_header(&shown, &bytes)?;
        let digest = Sha256::digest(&bytes).into();
        Ok(Code { shown, bytes: Cow::Owned(bytes), digest })
    }
}

/// The pin is the SHA-256 of the file as it was given, in hex of either case.
fn check_pin(pinned: &str, code: &Code) -> Result<(), Problem> {
    let actual = hex::encode(code.digest);
    if pinned.len() != 64 || !pinned.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Problem::new("/sha256", format!("{pinned:?} is not a SHA-256 in hex"))
            .help(format!("sha256 = \"{actual}\"")));
    }
    if !pinned.eq_ignore_ascii_case(&actual) {
        return Err(Problem::new(
            "/sha256",
            format!("{} has the SHA-256 {actual}, not {pinned}", code.shown),
        )
        .help("put back the file that was pinned, or pin this one if the change is meant"));
    }
    Ok(())
}

/// Tells at once what no compiler need look at.
fn check_header(shown: &str, bytes: &[u8]) -> Result<(), Wrong> {
    let build = "give the .wasm that `cargo build --target wasm32-unknown-unknown --release` made";
    if Engine::detect_precompiled(bytes).is_some() {
        return Err((format!("{shown} is compiled already, and such code cannot be checked"), build.into()));
    }
    if bytes.len() < 8 || bytes[..4] != *b"\0asm" {
        return Err((format!("{shown} is not WebAssembly: it does not begin with \"\\0asm\""), build.into()));
    }
    Ok(())
}

/// Whether what a component exports and imports is what this host has (P7); true if it imports WASI.
fn check_contract(component: &Component) -> Result<bool, Wrong> {
    let engine = component.engine();
    let component = component.component_type();
    let exports: Vec<&str> = component.exports(engine).map(|(name, _)| name).collect();
    let processor = exports.iter().find_map(|name| name.strip_prefix(PROCESSOR)?.strip_prefix('@'));
    let Some(version) = processor else {
        return Err((
            format!("is no plugin: it does not export {PROCESSOR}@{CONTRACT_VERSION}"),
            "build it with millstream-plugin-sdk and call its export! macro once".to_owned(),
        ));
    };
    check_version(version)?;
    let mut wants_wasi = false;
    let known = ["log", "lookup", "clock", "random", "state", "http", "metrics", "types"];
    for (name, _) in component.imports(engine) {
        if name.starts_with("wasi:") {
            wants_wasi = true;
            continue;
        }
        match name.strip_prefix(CONTRACT).and_then(|rest| rest.split_once('@')) {
            Some((interface, version)) if known.contains(&interface) => check_version(version)?,
            _ => {
                return Err((
                    format!("imports {name}, which this millstream does not have"),
                    format!(
                        "remove the dependency that wants it; a plugin can import {CONTRACT} with {}",
                        known.join(", ")
                    ),
                ));
            }
        }
    }
    Ok(wants_wasi)
}

/// Below 1.0 another minor version is another contract.
fn check_version(version: &str) -> Result<(), Wrong> {
    let minor = |version: &str| version.rsplit_once('.').map(|(minor, _)| minor.to_owned());
    if minor(version) == minor(CONTRACT_VERSION) {
        return Ok(());
    }
    Err((
        format!(
            "is built for version {version} of the plugin contract, this millstream has {CONTRACT_VERSION}"
        ),
        format!(
            "build it with the millstream-plugin-sdk of millstream {}, or run the millstream it was built for",
            env!("CARGO_PKG_VERSION")
        ),
    ))
}

/// Makes the cache folder, for its owner alone: what is in there is run as it is.
pub(super) fn private_folder(path: &Path) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_minor_version_is_refused() {
        assert!(check_version("0.1.0").is_ok());
        assert!(check_version("0.1.7").is_ok());
        for version in ["0.2.0", "1.1.0", "0.10.0", ""] {
            let (message, _) = check_version(version).unwrap_err();
            assert!(message.contains(CONTRACT_VERSION), "{message}");
        }
    }
}
