//! What the host does for a plugin, for tests.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::bindings::millstream::plugin::lookup;
use crate::log::Level;
use crate::message::NONE;

/// Rows as JSON text, by table and key.
pub(super) type Tables = HashMap<String, HashMap<Vec<u8>, Vec<u8>>>;

/// A line that a plugin logged.
#[derive(Clone, Debug)]
pub struct Logged {
    pub level: Level,
    /// The row of its batch that this is about, if any.
    pub row: Option<u32>,
    pub message: String,
}

struct Host {
    tables: Tables,
    logs: Vec<Logged>,
}

thread_local! {
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// Calls `guest` with these tables; gives them back, and what was logged.
pub(super) fn with<T>(tables: Tables, guest: impl FnOnce() -> T) -> (T, Tables, Vec<Logged>) {
    HOST.set(Some(Host { tables, logs: Vec::new() }));
    let result = guest();
    let host = HOST.take().expect("it was set above, and calls do not nest");
    (result, host.tables, host.logs)
}

pub(crate) fn log(level: Level, row: Option<u32>, message: &str) {
    HOST.with_borrow_mut(|host| match host {
        Some(host) => host.logs.push(Logged { level, row, message: message.to_owned() }),
        None => eprintln!("{level:?}: {message}"),
    });
}

pub(crate) fn get_many(
    table: &str,
    arena: &[u8],
    keys: &[u32],
) -> Result<lookup::Values, lookup::LookupError> {
    HOST.with_borrow(|host| {
        let Some(host) = host else {
            // While a plugin is configured; its tables come after that.
            return Ok(lookup::Values { arena: Vec::new(), found: [NONE, 0].repeat(keys.len() / 2) });
        };
        let Some(rows) = host.tables.get(table) else {
            return Err(lookup::LookupError::NotGranted(format!(
                "table `{table}` is not granted; give it to the harness with .table(\"{table}\", rows)"
            )));
        };
        let mut values = lookup::Values { arena: Vec::new(), found: Vec::new() };
        for key in keys.chunks_exact(2) {
            let key = &arena[key[0] as usize..][..key[1] as usize];
            match rows.get(key) {
                Some(row) => {
                    values.found.extend([values.arena.len() as u32, row.len() as u32]);
                    values.arena.extend_from_slice(row);
                }
                None => values.found.extend([NONE, 0]),
            }
        }
        Ok(values)
    })
}
