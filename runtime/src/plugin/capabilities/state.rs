//! Keys and values that a plugin keeps: see [`crate::state`].

use std::sync::Arc;

use super::super::bindings::NONE;
use super::super::bindings::state::{self, StateError, Values};
use super::super::fault::Stop;
use super::super::guest::{Clock, Guest};
use super::super::outcome::Assembly;
use super::super::{FateVerdict, grants::StateSpace};
use super::{Packed, key_of, line_to_add, malformed, quoted};
use crate::config::units::ByteSize;
use crate::message::Row;
use crate::state::{Allowed, Calling, Entry, Inserted, Owner, Pending, States, Ticket, Writer};

const MAX_KEY_BYTES: usize = 1 << 10;
const MAX_VALUE_BYTES: usize = 64 << 10;

/// When the source messages of a batch were read, where that is a part of who they are.
#[derive(Clone, Debug, Default)]
pub enum Epochs {
    /// A position is never used for another message.
    #[default]
    None,
    /// All at once; milliseconds since 1970-01-01T00:00:00Z.
    One(i64),
    /// By their row in the claim.
    Each(Vec<i64>),
}

impl Epochs {
    fn of(&self, row: u32) -> i64 {
        match self {
            Epochs::None => 0,
            Epochs::One(epoch) => *epoch,
            Epochs::Each(epochs) => epochs.get(row as usize).copied().unwrap_or_default(),
        }
    }
}

/// The state as one call sees it.
#[derive(Default)]
pub struct Keeping {
    states: Option<Arc<States>>,
    step: Arc<str>,
    call: u64,
    rows: Vec<(Ticket, Owner)>,
    calling: Calling,
    waits: Vec<(u32, Pending)>,
}

/// What was written for a batch.
#[derive(Clone, Debug, Default)]
pub struct Staged {
    /// Rows of the batch given that something was written for, taken back or not; may repeat.
    pub rows: Vec<u32>,
    pub bytes: usize,
}

impl Keeping {
    /// Begins a call about these rows.
    pub fn begin(
        &mut self,
        states: &Arc<States>,
        step: &Arc<str>,
        rows: &[Row],
        claim: u64,
        epochs: &Epochs,
    ) {
        self.call = states.next_call();
        self.states = Some(Arc::clone(states));
        self.step = Arc::clone(step);
        self.calling = Calling::default();
        self.waits.clear();
        self.rows.clear();
        self.rows.extend(rows.iter().map(|row| {
            let position = row.position;
            let epoch = epochs.of(row.claim_row);
            let owner = Owner { partition: position.partition, offset: position.offset, epoch };
            (Ticket { claim, row: row.claim_row }, owner)
        }));
    }

    /// The call failed: nothing of it was. Its first row is `first` of the batch.
    pub fn failed(&mut self, first: usize, staged: &mut Staged) {
        let Some(states) = self.states.take() else { return };
        staged.rows.extend(self.calling.rows().map(|row| first as u32 + row));
        self.calling.undo(&states, |_| true);
    }

    /// The call went well; `assembly` has what became of its rows, `fates` of which are new.
    pub fn went_well(&mut self, first: usize, assembly: &mut Assembly, fates: usize, staged: &mut Staged) {
        let Some(states) = self.states.take() else { return };
        staged.rows.extend(self.calling.rows().map(|row| first as u32 + row));
        if !self.calling.is_empty() || !self.waits.is_empty() {
            let mut failed = Vec::new();
            for fate in &mut assembly.fates_mut()[fates..] {
                let row = fate.parent - first as u32;
                match &fate.verdict {
                    FateVerdict::Dropped => self.share_fate(&states, row, &mut fate.verdict),
                    _ => failed.push(row),
                }
            }
            self.calling.undo(&states, |row| failed.contains(&row));
        }
        staged.bytes += self.calling.bytes();
    }

    /// A message that is dropped because of one in flight must not be gone if that one fails.
    fn share_fate(&self, states: &States, row: u32, verdict: &mut FateVerdict) {
        let Some((_, pending)) = self.waits.iter().find(|(waits, _)| *waits == row) else { return };
        *verdict = match states.follows(self.rows[row as usize].0, pending) {
            true => FateVerdict::Duplicate(pending.clone()),
            false => FateVerdict::Rejected {
                code: "duplicate-of-each-other".to_owned(),
                reason: "it is a duplicate of a message in flight that is a duplicate of this one".to_owned(),
            },
        };
    }

    fn writer(&self, row: u32) -> Result<Writer, Stop> {
        let rows = self.rows.len();
        let &(ticket, owner) = self
            .rows
            .get(row as usize)
            .ok_or_else(|| malformed(&format!("wrote state for row {row} of a batch of {rows}")))?;
        Ok(Writer { ticket, owner, step: Arc::clone(&self.step), call: self.call, row })
    }

    fn states(&self) -> Result<&Arc<States>, Stop> {
        self.states.as_ref().ok_or_else(|| malformed("used state before its first batch"))
    }
}

fn granted(guest: &Guest, space: &str) -> Result<StateSpace, StateError> {
    guest.capabilities.grants.state.get(space).copied().ok_or_else(|| {
        let line = format!("grants.state.{} = {{ ttl = \"24h\" }}", quoted(space));
        StateError::NotGranted(line_to_add(&format!("the state space {space:?} is"), &line))
    })
}

fn allowed(space: StateSpace) -> Allowed {
    let ttl_ms = space.ttl.map(|ttl| i64::try_from(ttl.0.as_millis()).unwrap_or(i64::MAX));
    Allowed { ttl_ms, size: space.size }
}

/// What a call wants to write: what is allowed, and its entries, checked.
type ToWrite<'a> = (Allowed, Vec<(Writer, Entry<'a>)>);

fn to_write<'a>(
    guest: &Guest,
    space: &str,
    arena: &'a [u8],
    entries: &[u32],
    ttl_ms: u64,
) -> Result<Result<ToWrite<'a>, StateError>, Stop> {
    let allowed = match granted(guest, space) {
        Ok(space) => allowed(space),
        Err(refused) => return Ok(Err(refused)),
    };
    let (entries, []) = entries.as_chunks::<5>() else {
        return Err(malformed("wrote entries of state that are not five u32 each"));
    };
    let mut checked = Vec::with_capacity(entries.len());
    for &[row, key, key_len, value, value_len] in entries {
        let key = key_of(arena, key, key_len)?;
        let value = match value {
            NONE => None,
            _ => Some(key_of(arena, value, value_len)?),
        };
        if let Some(wrong) = wrong_in(key, value) {
            return Ok(Err(StateError::Failed(wrong)));
        }
        checked.push((guest.keeping.writer(row)?, Entry { key, value, ttl_ms }));
    }
    Ok(Ok((allowed, checked)))
}

fn wrong_in(key: &[u8], value: Option<&[u8]>) -> Option<String> {
    let len = value.map_or(0, <[u8]>::len);
    if key.len() > MAX_KEY_BYTES {
        let most = ByteSize(MAX_KEY_BYTES as u64);
        return Some(format!("a key of {} bytes is too long: {most} is the most; hash it", key.len()));
    }
    let most = ByteSize(MAX_VALUE_BYTES as u64);
    (len > MAX_VALUE_BYTES).then(|| format!("a value of {len} bytes is too long: {most} is the most"))
}

fn told(error: crate::state::StateError) -> StateError {
    match error {
        full @ crate::state::StateError::Full { .. } => StateError::Full(full.to_string()),
        disk @ crate::state::StateError::Disk(_) => StateError::Failed(disk.to_string()),
    }
}

impl state::Host for Guest {
    fn get_many(
        &mut self,
        space: String,
        arena: Vec<u8>,
        keys: Vec<u32>,
    ) -> wasmtime::Result<Result<Values, StateError>> {
        Clock::host_call(self, |guest| {
            if let Err(refused) = granted(guest, &space) {
                return Ok(Err(refused));
            }
            let (keys, []) = keys.as_chunks::<2>() else {
                return Err(malformed("asked for an odd number of u32: a key is two of them").into());
            };
            if keys.is_empty() {
                return Ok(Ok(Values { arena: Vec::new(), found: Vec::new() }));
            }
            let keys =
                keys.iter().map(|&[start, len]| key_of(&arena, start, len)).collect::<Result<Vec<_>, _>>()?;
            let found = match guest.keeping.states()?.get(&space, keys.iter().copied(), guest.now_ms) {
                Ok(found) => found,
                Err(error) => return Ok(Err(told(error))),
            };
            let mut values = Packed::new(found.len(), guest.memory.limit);
            for value in &found {
                values.push(value.as_deref())?;
            }
            let Packed { arena, found, .. } = values;
            Ok(Ok(Values { arena, found }))
        })
    }

    fn put_many(
        &mut self,
        space: String,
        arena: Vec<u8>,
        list: Vec<u32>,
        ttl_ms: u64,
    ) -> wasmtime::Result<Result<(), StateError>> {
        Clock::host_call(self, |guest| {
            let (allowed, entries) = match to_write(guest, &space, &arena, &list, ttl_ms)? {
                Ok(to_write) => to_write,
                Err(refused) => return Ok(Err(refused)),
            };
            if entries.is_empty() {
                return Ok(Ok(()));
            }
            let states = Arc::clone(guest.keeping.states()?);
            let put = states.put(&mut guest.keeping.calling, &space, &entries, allowed, guest.now_ms);
            Ok(put.map_err(told))
        })
    }

    fn insert_if_absent(
        &mut self,
        space: String,
        arena: Vec<u8>,
        list: Vec<u32>,
        ttl_ms: u64,
    ) -> wasmtime::Result<Result<Vec<u8>, StateError>> {
        Clock::host_call(self, |guest| {
            let (allowed, entries) = match to_write(guest, &space, &arena, &list, ttl_ms)? {
                Ok(to_write) => to_write,
                Err(refused) => return Ok(Err(refused)),
            };
            if entries.is_empty() {
                return Ok(Ok(Vec::new()));
            }
            let states = Arc::clone(guest.keeping.states()?);
            let Keeping { calling, waits, .. } = &mut guest.keeping;
            let inserted = states.insert_if_absent(calling, &space, &entries, allowed, guest.now_ms);
            Ok(inserted.map_err(told).map(|inserted| {
                let told = inserted.into_iter().zip(&entries).map(|(inserted, (writer, _))| match inserted {
                    Inserted::Yes => 1,
                    Inserted::No => 0,
                    Inserted::NotYet(pending) => {
                        waits.push((writer.row, pending));
                        0
                    }
                });
                told.collect()
            }))
        })
    }
}
