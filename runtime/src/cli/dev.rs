//! `millstream dev`: builds, tests and reloads whenever something is saved.
//!
//! What it does it has the other verbs do, as a person would: `plugin build`, `plugin test`, `test`,
//! `run` and a SIGHUP. A plugin that was built is taken by the running pipeline itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::output::tell;
use crate::stamp::Stamp;

/// Run a pipeline while you write it and its plugins.
///
/// Watches the pipeline file, the crates of its plugins (`wasm = "DIR/NAME.wasm"` beside a Cargo.toml)
/// and their fixtures. When something is saved, what has changed is built and tested, the tests in the
/// pipeline file are run, and the running pipeline takes the new plugin or configuration. What does not
/// build leaves the last that did running. Ctrl-C and SIGTERM end it and, from front to back, the pipeline.
#[derive(Args)]
pub struct Dev {
    /// A pipeline file.
    file: PathBuf,
    /// Address of the admin server of the pipeline.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
}

/// How often files are looked at. A change is taken when two looks have seen it alike, so that what an
/// editor writes in several steps is one.
const LOOK: Duration = Duration::from_millis(250);

/// A crate whose component a `[[plugin]]` names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    folder: PathBuf,
    wasm: PathBuf,
}

/// How each watched file looks.
type Stamps = BTreeMap<PathBuf, Stamp>;

impl Dev {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("no threads can be started")?
            .block_on(self.watch())
    }

    async fn watch(self) -> anyhow::Result<ExitCode> {
        let stop = super::run::stop_on_signals()?;
        // With a folder before it, as everything that is watched has one.
        let file = match self.file.parent() {
            Some(folder) if folder == Path::new("") => Path::new(".").join(&self.file),
            _ => self.file,
        };
        let mut session = Session { file, admin: self.admin, pipeline: None };
        // A file that cannot be read now is no mistake of an editor.
        let mut crates = crates(&session.file)?;
        let mut taken = Stamps::new();
        let mut seen = stamps(&session.file, &crates);
        loop {
            let now = stamps(&session.file, &crates);
            if now != taken && now == seen {
                let changed = changed(&taken, &now);
                stop.run_until_cancelled(session.round(&crates, &changed)).await.transpose()?;
                taken = now;
                if changed.contains(&session.file) {
                    match self::crates(&session.file) {
                        Ok(found) => crates = found,
                        Err(error) => tell(format_args!("dev: {error:#}")),
                    }
                }
                // A crate that is new is built at the next look.
                seen = stamps(&session.file, &crates);
            } else {
                seen = now;
            }
            session.look_after();
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                session.end().await?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

struct Session {
    file: PathBuf,
    admin: Option<String>,
    pipeline: Option<Child>,
}

impl Session {
    /// Builds and tests what has changed, and has the pipeline take it.
    async fn round(&mut self, crates: &BTreeSet<Crate>, changed: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
        let mut is_ready = true;
        for Crate { folder, wasm } in crates {
            let fixtures = folder.join("fixtures");
            let of_it = |file: &&PathBuf| file.starts_with(folder) && **file != self.file;
            let (of_fixtures, sources): (Vec<&PathBuf>, Vec<&PathBuf>) =
                changed.iter().filter(of_it).partition(|file| file.starts_with(&fixtures));
            if !sources.is_empty()
                && !says_yes(&["plugin".as_ref(), "build".as_ref(), folder, "--out".as_ref(), wasm]).await?
            {
                let last = if wasm.exists() { "the last that did is used" } else { "there is none yet" };
                tell(format_args!("dev: {} does not build; {last}", folder.display()));
                is_ready &= wasm.exists();
                continue;
            }
            let is_changed = !sources.is_empty() || !of_fixtures.is_empty();
            if is_changed && fixtures.join("input.ndjson").is_file() {
                says_yes(&["plugin".as_ref(), "test".as_ref(), "--no-build".as_ref(), folder]).await?;
            }
        }
        if !is_ready {
            return Ok(());
        }
        says_yes(&["test".as_ref(), &self.file]).await?;
        match self.pipeline.as_ref().and_then(pid_of) {
            Some(pid) if changed.contains(&self.file) => {
                // It may have ended just now.
                let _ = kill_process(pid, Signal::HUP);
                tell("dev: the pipeline reads its file again");
            }
            Some(_) => {}
            None => self.start()?,
        }
        Ok(())
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let mut command = millstream()?;
        command.arg("run").arg(&self.file);
        if let Some(address) = &self.admin {
            command.args(["--admin", address]);
        }
        let child = command.kill_on_drop(true).spawn();
        self.pipeline = Some(child.context("the pipeline cannot be started")?);
        tell("dev: the pipeline runs");
        Ok(())
    }

    /// Says once that the pipeline has ended.
    fn look_after(&mut self) {
        let ended = self.pipeline.as_mut().map(Child::try_wait);
        if let Some(Ok(Some(status))) = ended {
            self.pipeline = None;
            tell(format_args!(
                "dev: the pipeline has ended with {status}; it starts again when something is saved"
            ));
        }
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.pipeline.take() else { return Ok(()) };
        if let Some(pid) = pid_of(&child) {
            // It may have ended just now.
            let _ = kill_process(pid, Signal::TERM);
        }
        child.wait().await.context("the pipeline was lost")?;
        Ok(())
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

/// This binary.
fn millstream() -> anyhow::Result<Command> {
    let binary = std::env::current_exe().context("the path of this binary is not known")?;
    let mut command = Command::new(binary);
    command.stdin(std::process::Stdio::null());
    Ok(command)
}

/// Runs a verb to its end; whether it says that all is well.
async fn says_yes(arguments: &[&Path]) -> anyhow::Result<bool> {
    let shown: Vec<String> = arguments.iter().map(|argument| argument.display().to_string()).collect();
    tell(format_args!("dev: millstream {}", shown.join(" ")));
    let mut command = millstream()?;
    let status = command.args(arguments).kill_on_drop(true).status().await;
    Ok(status.with_context(|| format!("millstream {} cannot be started", shown.join(" ")))?.success())
}

/// The crates beside which the components of a pipeline lie.
///
/// # Errors
/// The file cannot be read, or is no TOML.
fn crates(file: &Path) -> anyhow::Result<BTreeSet<Crate>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let pipeline: toml::Table =
        toml::from_str(&text).with_context(|| format!("{} is no pipeline file", file.display()))?;
    let base = file.parent().unwrap_or(Path::new("."));
    let plugins = pipeline.get("plugin").and_then(toml::Value::as_array).into_iter().flatten();
    let components = plugins.filter_map(|plugin| plugin.get("wasm")?.as_str()).map(|wasm| base.join(wasm));
    let found = components.filter_map(|wasm| {
        let folder = wasm.parent()?.to_owned();
        folder.join("Cargo.toml").is_file().then_some(Crate { folder, wasm })
    });
    Ok(found.collect())
}

/// How everything that is watched looks.
fn stamps(file: &Path, crates: &BTreeSet<Crate>) -> Stamps {
    let mut stamps = Stamps::new();
    add(&mut stamps, file);
    for Crate { folder, wasm } in crates {
        // Of the folder itself only files: other crates may lie there.
        for entry in entries(folder) {
            let is_file = entry.is_file();
            let is_watched = match entry.file_name().and_then(|name| name.to_str()) {
                Some("src" | "fixtures") => true,
                Some("Cargo.lock") => false,
                _ => is_file && entry != *wasm,
            };
            if is_watched {
                add(&mut stamps, &entry);
            }
        }
    }
    stamps
}

fn add(stamps: &mut Stamps, path: &Path) {
    if path.is_dir() {
        entries(path).iter().for_each(|entry| add(stamps, entry));
    } else if let Some(stamp) = Stamp::of(path) {
        stamps.insert(path.to_owned(), stamp);
    }
}

/// What is in a folder, but for what is hidden; nothing if it cannot be read, for it may come back.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let is_shown =
        |path: &PathBuf| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    all.map(|entry| entry.path()).filter(is_shown).collect()
}

/// Files that are new, gone or different.
fn changed(before: &Stamps, now: &Stamps) -> BTreeSet<PathBuf> {
    let of = |one: &Stamps, other: &Stamps| -> Vec<PathBuf> {
        one.iter()
            .filter(|(path, stamp)| other.get(*path) != Some(stamp))
            .map(|(path, _)| path.clone())
            .collect()
    };
    of(before, now).into_iter().chain(of(now, before)).collect()
}
