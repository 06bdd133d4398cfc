//! What a plugin can ask of the host: its log, and what the pipeline grants (P7). All else is
//! refused: a component that wants WASI gets functions that trap.
//!
//! - here: the log, and tables of [`super::tables`]
//! - [`clock`]: the time of day, and random bytes
//! - [`state`]: keys and values that it keeps
//! - [`mod@http`] sends requests
//! - [`metrics`]: counters and histograms of its own

pub mod clock;
pub mod http;
pub mod metrics;
pub mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use wasmtime::component::{Component, HasSelf, Linker};

use super::bindings::{self, Level, NONE, lookup, types};
use super::fault::Stop;
use super::grants::Grants;
use super::guest::{Clock, Guest};
use super::tables::Tables;
use crate::config::problem::Problem;
use crate::config::units::ByteSize;
use http::Server;

/// What is granted to a plugin, made ready.
#[derive(Debug, Default)]
pub(super) struct Capabilities {
    pub grants: Grants,
    pub tables: Arc<Tables>,
    pub servers: BTreeMap<String, Arc<Server>>,
    /// Names of metrics that the plugin has used.
    pub names: Mutex<BTreeSet<String>>,
}

impl Capabilities {
    /// # Errors
    /// What is wrong with the grants, each with its place within the `[[plugin]]`.
    pub fn prepare(grants: &Grants) -> Result<Arc<Capabilities>, Vec<Problem>> {
        let mut problems = Vec::new();
        let tables = Tables::load(&grants.lookup).map_err(|found| problems.extend(found)).ok();
        let mut servers = BTreeMap::new();
        for (name, granted) in &grants.http {
            match Server::open(name, granted) {
                Ok(server) => drop(servers.insert(name.clone(), Arc::new(server))),
                Err(found) => problems.extend(found),
            }
        }
        match tables {
            Some(tables) if problems.is_empty() => Ok(Arc::new(Capabilities {
                grants: grants.clone(),
                tables,
                servers,
                names: Mutex::default(),
            })),
            _ => Err(problems),
        }
    }
}

/// What a pipeline lacks, and how it gets it.
pub(super) fn line_to_add(what: &str, line: &str) -> String {
    format!("{what} not granted; add to its [[plugin]]: {line}")
}

/// A name as a key of TOML.
pub(super) fn quoted(name: &str) -> String {
    let bare =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { name.to_owned() } else { Value::from(name).to_string() }
}

/// Link: makes the capabilities known by name, whether granted or not.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> anyhow::Result<()> {
    bindings::Plugin::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)?;
    Ok(())
}

/// A linker in which the WASI that `component` imports is there but traps when it is called.
pub(super) fn deny_wasi(linker: &Linker<Guest>, component: &Component) -> anyhow::Result<Linker<Guest>> {
    let mut linker = linker.clone();
    linker.define_unknown_imports_as_traps(component)?;
    Ok(linker)
}

impl types::Host for Guest {}

impl bindings::log::Host for Guest {
    fn write(&mut self, level: Level, row: Option<u32>, message: String) -> wasmtime::Result<()> {
        Clock::host_call(self, |guest| guest.log.write(level, row, &message))
    }
}

impl lookup::Host for Guest {
    fn get_many(
        &mut self,
        table: String,
        arena: Vec<u8>,
        keys: Vec<u32>,
    ) -> wasmtime::Result<Result<lookup::Values, lookup::LookupError>> {
        Clock::host_call(self, |guest| {
            let Some(table) = guest.tables.rows(&table) else {
                return Ok(Err(lookup::LookupError::NotGranted(guest.tables.line_to_add(&table))));
            };
            let (keys, []) = keys.as_chunks::<2>() else {
                return Err(malformed("looked up an odd number of u32: a key is two of them").into());
            };
            let mut values = Packed::new(keys.len(), guest.memory.limit);
            for &[start, len] in keys {
                values.push(match start {
                    NONE => None,
                    _ => table.get(key_of(&arena, start, len)?),
                })?;
            }
            let Packed { arena, found, .. } = values;
            Ok(Ok(lookup::Values { arena, found }))
        })
    }
}

/// What was found for the keys of a call, as it goes to the guest.
struct Packed {
    arena: Vec<u8>,
    /// A span a key.
    found: Vec<u32>,
    /// Bytes that the guest has room for.
    limit: usize,
}

impl Packed {
    fn new(keys: usize, limit: usize) -> Packed {
        Packed { arena: Vec::new(), found: Vec::with_capacity(keys * 2), limit }
    }

    fn push(&mut self, value: Option<&[u8]>) -> Result<(), Stop> {
        let Some(value) = value else {
            self.found.extend([NONE, 0]);
            return Ok(());
        };
        self.found.extend([self.arena.len() as u32, value.len() as u32]);
        self.arena.extend_from_slice(value);
        // What does not fit the guest need not be made.
        match self.arena.len() > self.limit {
            true => Err(Stop::Lookup(ByteSize(self.limit as u64))),
            false => Ok(()),
        }
    }
}

fn key_of(arena: &[u8], start: u32, len: u32) -> Result<&[u8], Stop> {
    let end = start as u64 + len as u64;
    let key = usize::try_from(end).ok().and_then(|end| arena.get(start as usize..end));
    key.ok_or_else(|| {
        malformed(&format!("looked up the key at {start}..{end} of an arena of {} bytes", arena.len()))
    })
}

fn malformed(text: &str) -> Stop {
    Stop::Malformed(text.to_owned())
}
