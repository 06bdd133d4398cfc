//! The way to wasm32 on this machine: the target of rustup, or Debian's compiler.
//!
//! `plugins/build.sh` goes the same ways before there is a `millstream`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

pub const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's packages with a compiler for wasm32 and the standard library's source.
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// How guests are built here.
#[derive(Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// In words, for the one who builds.
    pub shown: String,
    /// What cargo is to have in its environment.
    pub environment: Vec<(&'static str, String)>,
    /// What cargo is to be told besides.
    pub arguments: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// The compiler of the path, with the target that rustup brings.
    Rustup,
    /// Debian's packages rustc-web and rust-web-src.
    Debian,
}

impl Toolchain {
    /// The first way that works, or the one that is asked for. Adds rustup's target where it is
    /// missing; installs no packages.
    ///
    /// # Errors
    /// No way works, and what would make each of them work.
    pub fn find(way: Option<Way>) -> anyhow::Result<Toolchain> {
        match way {
            Some(Way::Rustup) => rustup(),
            Some(Way::Debian) => debian(),
            None => rustup().or_else(|without_rustup| {
                debian().map_err(|without_debian| {
                    anyhow::anyhow!(
                        "no way to build for {TARGET}:\n- {without_rustup:#}\n- {without_debian:#}"
                    )
                })
            }),
        }
    }
}

fn rustup() -> anyhow::Result<Toolchain> {
    let version = said(Command::new("rustc").arg("--version"))
        .context("there is no Rust compiler; get one from https://rustup.rs")?;
    if !has_target() {
        eprintln!("rustup target add {TARGET}");
        let added = Command::new("rustup").args(["target", "add", TARGET]).stdout(Stdio::null()).status();
        if !added.is_ok_and(|status| status.success()) || !has_target() {
            bail!("rustup cannot add the target {TARGET} to {version}");
        }
    }
    Ok(Toolchain {
        shown: format!("{version}, its own {TARGET}"),
        environment: Vec::new(),
        arguments: Vec::new(),
    })
}

/// Whether the compiler of the path has the standard library for the target.
fn has_target() -> bool {
    let libraries = said(Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]));
    let Some(files) = libraries.ok().and_then(|folder| std::fs::read_dir(folder).ok()) else { return false };
    files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

fn debian() -> anyhow::Result<Toolchain> {
    let install = format!("apt-get install {}", DEBIAN_PACKAGES.join(" "));
    for package in DEBIAN_PACKAGES {
        said(Command::new("dpkg").args(["-s", package]))
            .with_context(|| format!("Debian's package {package} is not installed; as root, {install}"))?;
    }
    let files = said(Command::new("dpkg").args(["-L", DEBIAN_PACKAGES[0]]))?;
    let compiler = files.lines().find(|file| file.ends_with("/bin/rustc"));
    let compiler = compiler.context("Debian's package rustc-web holds no rustc")?;
    let version = said(Command::new(compiler).arg("--version"))?;
    Ok(Toolchain {
        shown: format!("Debian's {version}, with the standard library built from source"),
        environment: vec![
            ("RUSTC", compiler.to_owned()),
            // -Zbuild-std is for nightly compilers, or for one that is told to be.
            ("RUSTC_BOOTSTRAP", "1".to_owned()),
            ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker()?.display().to_string()),
        ],
        arguments: vec!["-Zbuild-std=std,panic_abort"],
    })
}

/// A linker for wasm32: that of a rustup toolchain, or of Debian's lld.
fn linker() -> anyhow::Result<PathBuf> {
    if let Ok(root) = said(Command::new("rustc").args(["--print", "sysroot"])) {
        let hosts = Path::new(&root).join("lib/rustlib");
        let hosts = std::fs::read_dir(hosts).into_iter().flatten().flatten();
        if let Some(found) = hosts.map(|host| host.path().join("bin/rust-lld")).find(|path| path.is_file()) {
            return Ok(found);
        }
    }
    let found = said(Command::new("sh").args(["-c", "command -v wasm-ld || command -v lld"]));
    found.map(PathBuf::from).with_context(|| format!("there is no linker for {TARGET}; apt-get install lld"))
}

/// What a command says on standard output, if it succeeds.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("{name} cannot be run"))?;
    if !status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}
