//! Compiling, which nothing interrupts: so it happens in a process of its own, under limits, and
//! once for each plugin.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, setrlimit};
use tempfile::NamedTempFile;
use wasmtime::Module;
use wasmtime::component::Component;
use wit_component::ComponentEncoder;

use super::component::{Code, Wrong, private_folder};
use super::engine::{
    MAX_CORE_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES, PluginEngine, compiling_engine,
};
use super::log::printable;
use crate::config::units::{ByteSize, Interval};

/// Name of the hidden subcommand.
pub const SUBCOMMAND: &str = "compile-plugin";
/// Its flag for [`super::EngineSettings::source_lines`].
const SOURCE_LINES: &str = "--source-lines";

/// Processor time of all threads for each second that compiling may take: ends a compiler whose host
/// is gone.
const CPU_SECONDS_A_SECOND: u64 = 4;
const ADDRESS_SPACE: ByteSize = ByteSize::mib(4 << 10);
const MAX_ARTEFACT: ByteSize = ByteSize::mib(1 << 10);
/// More threads would each reserve their part of the address space.
const THREADS: usize = 8;
/// What is read of a compiler's complaint.
const COMPLAINT_BYTES: u64 = 16 << 10;

/// The component of a plugin, from the cache or compiled into it.
///
/// `time` is what compiling it may take.
pub(super) fn cached(engine: &PluginEngine, code: &Code, time: Interval) -> Result<Component, Wrong> {
    let folder = &engine.settings.cache_dir;
    let cache_trouble = |error: io::Error| {
        (
            format!("the folder for compiled plugins, {}, cannot be used: {error}", folder.display()),
            "make it writable, or set another data folder".to_owned(),
        )
    };
    let folder = private_folder(folder).map_err(cache_trouble)?;
    let entry = folder.join(format!("{}-{:016x}.cwasm", hex::encode(code.digest), engine.compatibility));
    if let Some(Ok(component)) = take(engine, &entry) {
        return Ok(component);
    }
    let artefact = match &engine.settings.compiler {
        Some(compiler) => compile_apart(compiler, &folder, code, time, engine.settings.source_lines)?,
        None => {
            let artefact =
                compile(&code.bytes, engine.settings.source_lines).map_err(|error| refused(code, &error))?;
            let mut file = NamedTempFile::new_in(&folder).map_err(cache_trouble)?;
            file.write_all(&artefact).map_err(cache_trouble)?;
            file
        }
    };
    keep(artefact, &entry).map_err(cache_trouble)?;
    match take(engine, &entry) {
        Some(Ok(component)) => Ok(component),
        // It wants more than the engine gives, or the compiler did not do its work.
        Some(Err(error)) => {
            let _ = fs::remove_file(&entry);
            Err((
                format!("{} cannot be loaded: {}", code.shown, printable(&format!("{error:#}"))),
                format!(
                    "make it smaller: a plugin may have {MAX_CORE_INSTANCES} core instances, {MAX_MEMORIES} \
                     memories and {MAX_TABLES} tables of {MAX_TABLE_ELEMENTS} elements"
                ),
            ))
        }
        None => Err((
            format!("{} was compiled, but the result at {} is damaged", code.shown, entry.display()),
            "look whether that disk is full or broken".to_owned(),
        )),
    }
}

/// Loads a cache entry that is as it was written. Another is as good as none.
fn take(engine: &PluginEngine, entry: &Path) -> Option<wasmtime::Result<Component>> {
    let expected = fs::read_to_string(sum_of(entry)).ok()?;
    if expected.trim() != checksum(entry).ok()? {
        tracing::warn!(file = %entry.display(), "a compiled plugin is damaged and is compiled again");
        return None;
    }
    // SAFETY: the file was made by our own compiler, from a digest and engine settings that its name
    // holds, in a folder that only our user can write to, and it is as it was written: its checksum
    // says so. It is replaced by renaming, never written to while it is mapped.
    Some(unsafe { Component::deserialize_file(&engine.engine, entry) })
}

/// Puts a new entry in its place at once.
fn keep(artefact: NamedTempFile, entry: &Path) -> io::Result<()> {
    let sum = checksum(artefact.path())?;
    let mut sum_file = NamedTempFile::new_in(entry.parent().unwrap_or(Path::new(".")))?;
    sum_file.write_all(sum.as_bytes())?;
    artefact.persist(entry)?;
    sum_file.persist(sum_of(entry))?;
    Ok(())
}

fn sum_of(entry: &Path) -> std::path::PathBuf {
    entry.with_extension("crc32")
}

/// CRC-32: against damage, not against someone who can write to the folder.
fn checksum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:08x}", hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn refused(code: &Code, error: &str) -> Wrong {
    (
        // What the error cites is whatever a stranger put into the file.
        format!("{} cannot be loaded: {}", code.shown, printable(error)),
        "build it again with millstream-plugin-sdk for wasm32-unknown-unknown".to_owned(),
    )
}

/// The layer field in the header of a component (`Binary.md` of the component model).
const COMPONENT: [u8; 4] = [0x0d, 0x00, 0x01, 0x00];

/// Compiles a plugin's file: a core module is made a component first.
fn compile(wasm: &[u8], source_lines: bool) -> Result<Vec<u8>, String> {
    let engine = compiling_engine(source_lines).map_err(|error| format!("{error:#}"))?;
    if wasm.get(4..8) != Some(&COMPONENT) {
        // What makes a component of it panics over a module that is cut off in its middle.
        Module::validate(&engine, wasm).map_err(|error| format!("{error:#}"))?;
    }
    engine.precompile_component(&to_component(wasm)?).map_err(|error| format!("{error:#}"))
}

/// The component of a plugin's file, which may be one already or the core module that the SDK makes.
/// Nothing in it is validated: the compiler does that.
///
/// # Errors
/// The module does not say which world it is for.
pub fn to_component(wasm: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if wasm.get(4..8) == Some(&COMPONENT) {
        return Ok(Cow::Borrowed(wasm));
    }
    let encoder = ComponentEncoder::default().validate(false).module(wasm);
    let component = encoder.and_then(|mut encoder| encoder.encode());
    component.map(Cow::Owned).map_err(|error| format!("{error:#}"))
}

/// Compiles in a process of our own binary, whose crash or hang is not ours.
fn compile_apart(
    compiler: &Path,
    folder: &Path,
    code: &Code,
    time: Interval,
    source_lines: bool,
) -> Result<NamedTempFile, Wrong> {
    let not_started = |error: io::Error| {
        (
            format!("the compiler for {} could not be started: {error}", code.shown),
            format!("it is {} with the argument {SUBCOMMAND}", compiler.display()),
        )
    };
    let artefact = NamedTempFile::new_in(folder).map_err(not_started)?;
    let mut wasm = tempfile::tempfile_in(folder).map_err(not_started)?;
    wasm.write_all(&code.bytes).and_then(|()| wasm.rewind()).map_err(not_started)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let mut child = Command::new(compiler)
        .arg(SUBCOMMAND)
        .arg((time.0.as_secs() + 1).saturating_mul(CPU_SECONDS_A_SECOND).to_string())
        .args(source_lines.then_some(SOURCE_LINES))
        .env_clear()
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdin(wasm)
        .stdout(artefact.reopen().map_err(not_started)?)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_started)?;
    let (status, complaint) = wait(&mut child, time.0).map_err(not_started)?;
    let smaller =
        "make it smaller, or find out whether a dependency makes functions of unusual size".to_owned();
    match status {
        Some(status) if status.success() => Ok(artefact),
        Some(status) if status.code() == Some(i32::from(REFUSED)) => Err(refused(code, complaint.trim())),
        Some(status) => Err((
            format!(
                "{} cannot be compiled: the compiler, which may use {ADDRESS_SPACE}, ended with {}{}",
                code.shown,
                ended(status),
                complaint
                    .lines()
                    .find(|line| !line.trim().is_empty())
                    .map(|line| format!(": {}", printable(line)))
                    .unwrap_or_default()
            ),
            smaller,
        )),
        None => Err((
            format!("{} cannot be compiled within {time}", code.shown),
            format!("{smaller}; or set a longer limits.compile"),
        )),
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Waits for a child until its time is up; `None` if it was.
fn wait(child: &mut Child, time: Duration) -> io::Result<(Option<ExitStatus>, String)> {
    let stderr = child.stderr.take();
    let (sender, receiver) = mpsc::channel();
    // Its end of the pipe closes when it ends, however it does.
    std::thread::Builder::new().name("compiler-wait".into()).spawn(move || {
        let mut complaint = Vec::new();
        if let Some(mut stderr) = stderr {
            // Read to its end, or a talkative compiler would wait for us.
            let _ = stderr.by_ref().take(COMPLAINT_BYTES).read_to_end(&mut complaint);
            let _ = io::copy(&mut stderr, &mut io::sink());
        }
        let _ = sender.send(String::from_utf8_lossy(&complaint).into_owned());
    })?;
    match receiver.recv_timeout(time) {
        Ok(complaint) => Ok((Some(child.wait()?), complaint)),
        Err(_) => {
            child.kill()?;
            child.wait()?;
            Ok((None, String::new()))
        }
    }
}

/// Exit code for a plugin that is at fault itself; the sentence is on standard error.
const REFUSED: u8 = 3;

/// The hidden subcommand: a plugin on standard input, what was compiled on standard output.
///
/// # Errors
/// Limits that cannot be set, or a pipe that breaks.
pub fn run(cpu_seconds: u64, source_lines: bool) -> anyhow::Result<ExitCode> {
    set_limits(cpu_seconds).context("the limits for compiling could not be set")?;
    let mut wasm = Vec::new();
    io::stdin().lock().read_to_end(&mut wasm)?;
    match compile(&wasm, source_lines) {
        Ok(artefact) => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&artefact)?;
            stdout.flush()?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error}");
            Ok(ExitCode::from(REFUSED))
        }
    }
}

fn set_limits(cpu_seconds: u64) -> io::Result<()> {
    for (resource, limit) in [
        (Resource::As, ADDRESS_SPACE.0),
        (Resource::Cpu, cpu_seconds),
        (Resource::Fsize, MAX_ARTEFACT.0),
        (Resource::Core, 0),
    ] {
        let allowed = rustix::process::getrlimit(resource).maximum;
        let limit = allowed.map_or(limit, |allowed| limit.min(allowed));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p7_a_compiler_that_takes_too_long_is_killed() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (status, _) = wait(&mut child, Duration::from_millis(20)).unwrap();
        assert!(status.is_none());
        assert!(child.try_wait().unwrap().is_some(), "it still runs");
    }
}
