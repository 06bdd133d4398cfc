//! State for tests. What a call writes is final at once, and nothing is read twice.

use std::collections::HashMap;

use super::HOST;
use crate::bindings::millstream::plugin::state::{StateError, Values};
use crate::message::NONE;

/// Values and the time until which they are kept, by their keys.
pub(in super::super) type Space = HashMap<Vec<u8>, (Vec<u8>, u64)>;

/// Does something with a space, at this time; without a host, while a plugin is configured, with
/// none.
fn with<T>(name: &str, work: impl FnOnce(&mut Space, u64) -> T) -> Result<T, StateError> {
    HOST.with_borrow_mut(|host| {
        let Some(host) = host else { return Ok(work(&mut Space::default(), 0)) };
        match host.spaces.get_mut(name) {
            Some(space) => Ok(work(space, host.now_ms)),
            None => Err(StateError::NotGranted(super::how(
                &format!("the state space {name:?} is"),
                &format!("state({name:?})"),
            ))),
        }
    })
}

pub fn get_many(space: &str, arena: &[u8], keys: &[u32]) -> Result<Values, StateError> {
    with(space, |space, now| {
        let mut values = Values { arena: Vec::new(), found: Vec::new() };
        for key in keys.chunks_exact(2) {
            match space.get(bytes(arena, key)).filter(|(_, expires)| *expires > now) {
                Some((value, _)) => {
                    values.found.extend([values.arena.len() as u32, value.len() as u32]);
                    values.arena.extend_from_slice(value);
                }
                None => values.found.extend([NONE, 0]),
            }
        }
        values
    })
}

pub fn put_many(space: &str, arena: &[u8], entries: &[u32], ttl_ms: u64) -> Result<(), StateError> {
    with(space, |space, now| {
        for entry in entries.chunks_exact(5) {
            put(space, arena, entry, expiry(now, ttl_ms));
        }
    })
}

pub fn insert_if_absent(
    space: &str,
    arena: &[u8],
    entries: &[u32],
    ttl_ms: u64,
) -> Result<Vec<u8>, StateError> {
    with(space, |space, now| {
        let insert = |entry: &[u32]| {
            let key = bytes(arena, &entry[1..]);
            let is_absent = space.get(key).is_none_or(|(_, expires)| *expires <= now);
            if is_absent {
                put(space, arena, entry, expiry(now, ttl_ms));
            }
            u8::from(is_absent)
        };
        entries.chunks_exact(5).map(insert).collect()
    })
}

fn put(space: &mut Space, arena: &[u8], entry: &[u32], expires: u64) {
    let key = bytes(arena, &entry[1..]).to_vec();
    match entry[3] {
        NONE => drop(space.remove(&key)),
        _ => drop(space.insert(key, (bytes(arena, &entry[3..]).to_vec(), expires))),
    }
}

fn expiry(now: u64, ttl_ms: u64) -> u64 {
    if ttl_ms == 0 { u64::MAX } else { now.saturating_add(ttl_ms) }
}

fn bytes<'a>(arena: &'a [u8], span: &[u32]) -> &'a [u8] {
    &arena[span[0] as usize..][..span[1] as usize]
}
