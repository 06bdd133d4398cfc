//! Keys and values that outlive instance and process, in spaces that the pipeline grants by name:
//! `grants.state.NAME = { ttl = "24h" }`.
//!
//! What is written for a message becomes final when it is delivered or dropped, and is forgotten if
//! it fails, becomes a dead letter, or is given back to the source: a message that is read again
//! finds what it would have found the first time. Others see it at once.

use crate::bindings::millstream::plugin::state as host;
use crate::message::NONE;
use crate::plugin::Failure;
use crate::spans::{self, place};

/// Why the state could not be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateError {
    /// The text tells which line to add.
    NotGranted(String),
    /// The space holds as much as the grant lets it.
    Full(String),
    /// A key or a value is too large, or the state cannot be read.
    Failed(String),
}

/// A full space may have room later.
impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        match error {
            StateError::NotGranted(text) => Failure::reject("not-granted", text),
            StateError::Full(text) => Failure::retry("state-full", text),
            StateError::Failed(text) => Failure::reject("state-failed", text),
        }
    }
}

impl From<host::StateError> for StateError {
    fn from(error: host::StateError) -> StateError {
        match error {
            host::StateError::NotGranted(text) => StateError::NotGranted(text),
            host::StateError::Full(text) => StateError::Full(text),
            host::StateError::Failed(text) => StateError::Failed(text),
        }
    }
}

/// Something to write: for which message, by its row in the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    pub row: usize,
    /// At most 1 KiB.
    pub key: &'a [u8],
    /// At most 64 KiB; `None` removes the key.
    pub value: Option<&'a [u8]>,
}

/// The values of many keys in one call to the host.
///
/// # Errors
/// See [`StateError`].
pub fn get_many<K: AsRef<[u8]>>(space: &str, keys: &[K]) -> Result<Values, StateError> {
    let (arena, spans) = spans::of_keys(keys);
    Ok(Values(to_host::get_many(space, &arena, &spans)?))
}

/// Writes all of these. They are kept for `ttl_ms`, at most as long as the grant says; 0 is that
/// long.
///
/// # Errors
/// See [`StateError`]; nothing was written.
pub fn put_many(space: &str, entries: &[Entry<'_>], ttl_ms: u64) -> Result<(), StateError> {
    let (arena, list) = columns(entries);
    Ok(to_host::put_many(space, &arena, &list, ttl_ms)?)
}

/// Writes, in order, each of these whose key is not there; says of each whether it was written. What
/// the same source message wrote when it was processed before counts as not there. `ttl_ms` as for
/// [`put_many`].
///
/// # Errors
/// See [`StateError`]; nothing was written.
pub fn insert_if_absent(space: &str, entries: &[Entry<'_>], ttl_ms: u64) -> Result<Vec<bool>, StateError> {
    let (arena, list) = columns(entries);
    let inserted = to_host::insert_if_absent(space, &arena, &list, ttl_ms)?;
    Ok(inserted.into_iter().map(|inserted| inserted == 1).collect())
}

/// Values that were found, one a key, in the order of the keys.
pub struct Values(host::Values);

impl Values {
    /// Number of keys that were looked up.
    pub fn len(&self) -> usize {
        self.0.found.len() / 2
    }

    pub fn is_empty(&self) -> bool {
        self.0.found.is_empty()
    }

    /// The value of the key at `index`; `None` if it is not there.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        spans::bytes(&self.0.arena, &self.0.found, index)
    }
}

fn columns(entries: &[Entry<'_>]) -> (Vec<u8>, Vec<u32>) {
    let (mut arena, mut list) = (Vec::new(), Vec::with_capacity(entries.len() * 5));
    for Entry { row, key, value } in entries {
        list.push(*row as u32);
        list.extend(place(&mut arena, key));
        list.extend(value.map_or([NONE, 0], |value| place(&mut arena, value)));
    }
    (arena, list)
}

#[cfg(target_arch = "wasm32")]
use host as to_host;

#[cfg(not(target_arch = "wasm32"))]
use crate::testing::host::state as to_host;
