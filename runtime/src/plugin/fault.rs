//! What went wrong in a guest, in words.

use std::fmt::Write as _;
use std::time::Duration;

use wasmtime::{FrameSymbol, Trap, WasmBacktrace};

use super::engine::MAX_TABLE_ELEMENTS;
use super::guest::{Guest, Refused};
use super::log::printable;
use super::{Fault, FaultKind};
use crate::config::secrets::Redactor;
use crate::config::units::{ByteSize, Interval};

/// Why the host ended a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error("ran longer than {}", Interval(*.0))]
    Timeout(Duration),
    #[error("spent more than {} in calls to the host", Interval(*.0))]
    HostTime(Duration),
    #[error("wrote more than {0} of log")]
    Log(ByteSize),
    #[error("asked for more than {0} of rows or values at once")]
    Lookup(ByteSize),
    #[error("gave back more than {0} for one message")]
    Output(ByteSize),
    #[error("{0}")]
    Malformed(String),
}

impl Stop {
    fn kind(&self) -> FaultKind {
        match self {
            Stop::Timeout(_) | Stop::HostTime(_) => FaultKind::Timeout,
            Stop::Log(_) => FaultKind::LogLimit,
            Stop::Lookup(_) => FaultKind::OutOfMemory,
            Stop::Output(_) => FaultKind::OutputLimit,
            Stop::Malformed(_) => FaultKind::Malformed,
        }
    }
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Fault {
        Fault { kind: stop.kind(), message: stop.to_string() }
    }
}

/// Frames that are told, from the innermost.
const FRAMES: usize = 8;

/// The fault that a failed call was. `output` is what the call could hand over.
pub(super) fn fault_of(error: &wasmtime::Error, guest: &Guest, output: ByteSize) -> Fault {
    let (kind, mut message) = told(error, guest, output);
    if let (FaultKind::Trap | FaultKind::OutOfMemory, Some(last)) = (kind, guest.log.last_error()) {
        let _ = write!(message, ": {last}");
    }
    if let Some(frames) =
        error.downcast_ref::<WasmBacktrace>().map(frames).filter(|frames| !frames.is_empty())
    {
        let _ = write!(message, "; in {frames}");
    }
    // Names of functions are whatever a stranger put into the file.
    Fault { kind, message: printable(&Redactor::global().redact(&message)) }
}

fn told(error: &wasmtime::Error, guest: &Guest, output: ByteSize) -> (FaultKind, String) {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return (stop.kind(), stop.to_string());
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::StackOverflow) {
        return (FaultKind::StackOverflow, "called itself until its stack was full".into());
    }
    match guest.memory.refused {
        Some(Refused::Memory) => {
            let limit = ByteSize(guest.memory.limit as u64);
            return (FaultKind::OutOfMemory, format!("needs more than its {limit} of memory"));
        }
        Some(Refused::Table) => {
            let message = format!("needs a table of more than {MAX_TABLE_ELEMENTS} elements");
            return (FaultKind::OutOfMemory, message);
        }
        None => {}
    }
    match trap {
        Some(Trap::UnreachableCodeReached) => return (FaultKind::Trap, "panicked or aborted".into()),
        Some(trap) => {
            let trap = trap.to_string();
            return (FaultKind::Trap, trap.trim_start_matches("wasm trap: ").to_owned());
        }
        None => {}
    }
    let cause = error.root_cause().to_string();
    if cause.contains("fuel allocated for hostcalls") {
        return (FaultKind::OutputLimit, format!("gave back more than {output}"));
    }
    match cause.strip_prefix("unknown import: `").and_then(|rest| rest.split_once('`')) {
        Some((import, _)) => (FaultKind::Trap, format!("called {import}, which is granted to no plugin")),
        None => (FaultKind::Malformed, format!("gave back what is malformed: {cause}")),
    }
}

/// Frames of what every panic and every failed allocation goes through.
const MACHINERY: [&str; 5] = ["std::", "core::", "alloc::", "__rust", "rust_"];

fn frames(backtrace: &WasmBacktrace) -> String {
    let all: Vec<String> = backtrace
        .frames()
        .iter()
        .flat_map(|frame| {
            let own = match frame.func_name() {
                Some(name) => demangled(name),
                None => format!("function {}", frame.func_index()),
            };
            // Those that were inlined into it come first, if the plugin says where it is from.
            let mut lines: Vec<String> = frame.symbols().iter().map(inlined).collect();
            lines.pop();
            lines.push(own + &frame.symbols().last().map_or_else(String::new, place));
            lines
        })
        .collect();
    let machinery = |frame: &String| MACHINERY.iter().any(|start| frame.starts_with(start));
    let from = all.iter().position(|frame| !machinery(frame)).unwrap_or(0);
    let told = &all[from..all.len().min(from + FRAMES)];
    let rest = if from + FRAMES < all.len() { " < ..." } else { "" };
    told.join(" < ") + rest
}

fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// Debug information names a function without its path; the types it is made for are left out.
fn inlined(symbol: &FrameSymbol) -> String {
    let name = demangled(symbol.name().unwrap_or("unknown"));
    let plain = name.split('<').next().filter(|plain| !plain.is_empty()).unwrap_or(&name);
    plain.to_owned() + &place(symbol)
}

fn place(symbol: &FrameSymbol) -> String {
    match (symbol.file(), symbol.line()) {
        (Some(file), Some(line)) => format!(" ({file}:{line})"),
        (Some(file), None) => format!(" ({file})"),
        (None, _) => String::new(),
    }
}
