//! `millstream plugin build`: from a crate to a component.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use wit_component::DecodedWasm;

use super::toolchain::{TARGET, Toolchain, Way};
use crate::config::units::ByteSize;
use crate::plugin::PROCESSOR;
use crate::plugin::compile::to_component;

/// Build a plugin's crate to a WebAssembly component.
///
/// Takes the target of rustup, which is added where it is missing, or Debian's packages rustc-web
/// and rust-web-src.
#[derive(Args)]
pub struct Build {
    /// Folder of the crate.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Where to write the component; by default NAME.wasm in that folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The way to build, in place of the first that works.
    #[arg(long, value_name = "WAY")]
    toolchain: Option<Way>,
    /// Keep source lines, for the faults that `plugin run` shows. The code is the same; the file is
    /// several times as large.
    #[arg(long)]
    debug: bool,
}

impl Build {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        build_with(&self.folder, self.out, self.toolchain, self.debug)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds the crate and returns the component's file, after it has said what it made.
pub fn build(folder: &Path, out: Option<PathBuf>, way: Option<Way>) -> anyhow::Result<PathBuf> {
    build_with(folder, out, way, false)
}

fn build_with(folder: &Path, out: Option<PathBuf>, way: Option<Way>, debug: bool) -> anyhow::Result<PathBuf> {
    if !folder.join("Cargo.toml").is_file() {
        bail!(
            "{} has no Cargo.toml: give the folder of a plugin, or make one with `millstream plugin new`",
            folder.display()
        );
    }
    let toolchain = Toolchain::find(way)?;
    eprintln!("building with {}", toolchain.shown);
    let Module { name, file } = compile(folder, &toolchain, debug)?;
    let wasm = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let component = to_component(&wasm).and_then(|component| check_exports(&component).map(|()| component));
    let component = component.map_err(|error| {
        anyhow::anyhow!(
            "{name} is no plugin: {error}; depend on millstream-plugin-sdk and call its export! macro once"
        )
    })?;
    let out = out.unwrap_or_else(|| folder.join(format!("{name}.wasm")));
    write_whole(&out, &component)?;
    println!(
        "{}  {}  sha256 {}",
        out.display(),
        ByteSize(component.len() as u64),
        hex::encode(Sha256::digest(&component))
    );
    Ok(out)
}

/// Whether a component exports what the host calls.
fn check_exports(component: &[u8]) -> Result<(), String> {
    let decoded = wit_component::decode(component).map_err(|error| format!("{error:#}"))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err("it is a package of interfaces".to_owned());
    };
    let mut exports = resolve.worlds[world].exports.keys().map(|export| resolve.name_world_key(export));
    match exports.any(|name| name.starts_with(PROCESSOR)) {
        true => Ok(()),
        false => Err(format!("it does not export {PROCESSOR}")),
    }
}

/// A running pipeline that watches the file sees the old one or the new one, never a part.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let cannot_write = || format!("cannot write {}", path.display());
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(cannot_write)?;
    std::io::Write::write_all(&mut file, bytes).with_context(cannot_write)?;
    file.persist(path).with_context(cannot_write)?;
    Ok(())
}

/// What cargo made.
struct Module {
    /// Of the package.
    name: String,
    file: PathBuf,
}

/// A line of `cargo build --message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

/// Settings of the profile that a guest wants, wherever its crate is: in a workspace its own are
/// ignored. A panic ends the call anyway; calls cost more than natively, so more is inlined.
const SETTINGS: [&str; 4] = [
    "profile.release.lto=\"fat\"",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
    "target.wasm32-unknown-unknown.rustflags=[\"-Cllvm-args=--inline-threshold=600\"]",
];

/// Names of functions are always kept: a fault is told with them.
const WITHOUT_LINES: [&str; 1] = ["profile.release.strip=\"debuginfo\""];
const WITH_LINES: [&str; 2] =
    ["profile.release.strip=\"none\"", "profile.release.debug=\"line-tables-only\""];

/// Runs cargo, whose complaints go to standard error as they are.
fn compile(folder: &Path, toolchain: &Toolchain, debug: bool) -> anyhow::Result<Module> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--lib", "--target", TARGET]);
    cargo.arg("--message-format=json-render-diagnostics").args(&toolchain.arguments);
    let lines: &[&str] = if debug { &WITH_LINES } else { &WITHOUT_LINES };
    for setting in SETTINGS.iter().chain(lines) {
        cargo.args(["--config", setting]);
    }
    let environment = toolchain.environment.iter().map(|(name, value)| (name, value));
    let mut child = cargo
        .envs(environment)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo cannot be run; get it with Rust from https://rustup.rs")?;
    let manifest = folder.join("Cargo.toml").canonicalize().context("the folder of the crate has moved")?;
    let mut found = None;
    let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
    for line in lines {
        let line = line.context("what cargo says cannot be read")?;
        // Build scripts and tests may say anything.
        let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
        let Some(Target { crate_types }) = message.target else { continue };
        let is_ours = message.reason == "compiler-artifact" && message.manifest_path == manifest;
        if is_ours && crate_types.iter().any(|kind| kind == "cdylib") {
            found = message.filenames.into_iter().find(|file| file.extension().is_some_and(|e| e == "wasm"));
        }
    }
    let status = child.wait().context("cargo was lost")?;
    if !status.success() {
        bail!("cargo could not build {}", folder.display());
    }
    let file = found.with_context(|| {
        format!(
            "{} makes no module; add to it: [lib]\ncrate-type = [\"cdylib\", \"rlib\"]",
            manifest.display()
        )
    })?;
    Ok(Module { name: package_name(&manifest)?, file })
}

fn package_name(manifest: &Path) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Manifest {
        package: Package,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
    }
    let text = fs::read_to_string(manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let manifest: Manifest = toml::from_str(&text).context("Cargo.toml has no package with a name")?;
    Ok(manifest.package.name)
}
