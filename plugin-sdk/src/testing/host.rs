//! What the host does for a plugin, for tests.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::bindings::millstream::plugin::{clock, http, lookup, metrics, random};
use crate::log::Level;
use crate::message::NONE;

pub(crate) mod state;

/// Rows as JSON text, by table and key.
type Tables = HashMap<String, HashMap<Vec<u8>, Vec<u8>>>;

/// What answers requests.
pub type Answer = Box<dyn FnMut(&http::Request) -> Result<http::Response, http::RequestError>>;

/// A line that a plugin logged.
#[derive(Clone, Debug)]
pub struct Logged {
    pub level: Level,
    /// The row of its batch that this is about, if any.
    pub row: Option<u32>,
    pub message: String,
}

/// What is granted to a plugin under test, and what it did with it.
#[derive(Default)]
pub(super) struct Host {
    pub tables: Tables,
    pub spaces: HashMap<String, state::Space>,
    pub servers: HashMap<String, Answer>,
    pub has_clock: bool,
    pub has_random: bool,
    pub has_metrics: bool,
    pub now_ms: u64,
    /// Random bytes that were given.
    pub drawn: u64,
    pub logs: Vec<Logged>,
    pub points: Vec<metrics::Point>,
}

thread_local! {
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// Calls `guest` with this host, and gives it back.
pub(super) fn with<T>(host: Host, guest: impl FnOnce() -> T) -> (T, Host) {
    HOST.set(Some(host));
    let result = guest();
    (result, HOST.take().expect("it was set above, and calls do not nest"))
}

fn how(what: &str, method: &str) -> String {
    format!("{what} not granted; give it to the harness with .{method}")
}

pub(crate) fn now() -> Result<u64, clock::ClockError> {
    HOST.with_borrow(|host| match host {
        Some(host) if host.has_clock => Ok(host.now_ms * 1_000_000),
        Some(_) => Err(clock::ClockError::NotGranted(how("the clock is", "clock()"))),
        None => Ok(0),
    })
}

pub(crate) fn random(count: u32) -> Result<Vec<u8>, random::RandomError> {
    HOST.with_borrow_mut(|host| match host {
        Some(host) if !host.has_random => {
            Err(random::RandomError::NotGranted(how("random bytes are", "random()")))
        }
        Some(host) => {
            // Not random, but different: a count through which a multiplication was run.
            let bytes = (host.drawn..).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8);
            host.drawn += u64::from(count);
            Ok(bytes.take(count as usize).collect())
        }
        None => Ok(vec![0; count as usize]),
    })
}

pub(crate) fn add_many(points: &[metrics::Point]) -> Result<(), metrics::MetricsError> {
    HOST.with_borrow_mut(|host| match host {
        Some(host) if !host.has_metrics => {
            Err(metrics::MetricsError::NotGranted(how("metrics of its own are", "metrics()")))
        }
        Some(host) => {
            host.points.extend_from_slice(points);
            Ok(())
        }
        None => Ok(()),
    })
}

pub(crate) fn send_many(
    server: &str,
    requests: &[http::Request],
) -> Result<Vec<Result<http::Response, http::RequestError>>, http::HttpError> {
    HOST.with_borrow_mut(|host| {
        let Some(host) = host else { return Ok(Vec::new()) };
        let Some(answer) = host.servers.get_mut(server) else {
            let text = how(&format!("the server {server:?} is"), &format!("server({server:?}, answer)"));
            return Err(http::HttpError::NotGranted(text));
        };
        Ok(requests.iter().map(answer).collect())
    })
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
