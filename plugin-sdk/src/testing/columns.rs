//! Messages to columns and back, with the checks that the host makes.

use std::ops::Range;

use super::{Harness, Outcome, Record};
use crate::bindings::millstream::plugin::types;
use crate::message::NONE;
use crate::output::{AS_PARENT, STRIDE, TIMESTAMP_AS_PARENT};

/// How a result breaks the contract of `wit/plugin.wit`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContractError(pub String);

impl std::fmt::Display for ContractError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ContractError {}

fn broken<T>(what: impl Into<String>) -> Result<T, ContractError> {
    Err(ContractError(what.into()))
}

pub(super) fn encode(harness: &Harness, records: &[Record]) -> types::Batch {
    let reads = harness.reads;
    let mut batch = types::Batch {
        rows: records.len() as u32,
        now: harness.host.now_ms,
        arena: Vec::new(),
        payloads: Vec::new(),
        keys: Vec::new(),
        header_ends: Vec::new(),
        headers: Vec::new(),
        timestamps: Vec::new(),
        source: harness.source.clone(),
        partitions: Vec::new(),
        offsets: Vec::new(),
    };
    for (index, record) in records.iter().enumerate() {
        if reads.payload {
            let span = place(&mut batch.arena, record.payload.as_deref());
            batch.payloads.extend(span);
        }
        if reads.key {
            let span = place(&mut batch.arena, record.key.as_deref());
            batch.keys.extend(span);
        }
        if reads.headers {
            for (name, value) in &record.headers {
                let name = place(&mut batch.arena, Some(name.as_bytes()));
                let value = place(&mut batch.arena, Some(value));
                batch.headers.extend(name.into_iter().chain(value));
            }
            batch.header_ends.push(batch.headers.len() as u32 / 4);
        }
        if reads.metadata {
            batch.timestamps.push(record.timestamp_ms);
            batch.partitions.push(harness.partition);
            batch.offsets.push(harness.offset + index as u64);
        }
    }
    batch
}

fn place(arena: &mut Vec<u8>, bytes: Option<&[u8]>) -> [u32; 2] {
    let Some(bytes) = bytes else { return [NONE, 0] };
    let start = arena.len() as u32;
    arena.extend_from_slice(bytes);
    [start, bytes.len() as u32]
}

pub(super) fn decode(
    records: &[Record],
    batch: &types::Batch,
    outcome: &types::Outcome,
) -> Result<Vec<Outcome>, ContractError> {
    if outcome.verdicts.len() != records.len() {
        return broken(format!("{} verdicts for {} messages", outcome.verdicts.len(), records.len()));
    }
    let mut emitted = Emitted::new(batch, outcome)?;
    let mut reasons = outcome.reasons.iter().peekable();
    let mut outcomes = Vec::with_capacity(records.len());
    for (row, (record, verdict)) in records.iter().zip(&outcome.verdicts).enumerate() {
        let reason = reasons.next_if(|reason| reason.row as usize == row);
        let result = match (verdict, reason) {
            (0, None) => Outcome::Pass,
            (1, None) => Outcome::Drop,
            (2, None) => Outcome::Emit(emitted.of(row, record)?),
            (3, Some(reason)) => Outcome::Reject { code: reason.code.clone(), text: reason.text.clone() },
            (4, Some(reason)) => Outcome::Retry { code: reason.code.clone(), text: reason.text.clone() },
            (3 | 4, None) => return broken(format!("row {row} is refused without a reason")),
            (0..=2, Some(_)) => return broken(format!("row {row} has a reason but is not refused")),
            (other, _) => return broken(format!("verdict {other} of row {row} is none")),
        };
        outcomes.push(result);
    }
    if let Some(reason) = reasons.next() {
        return broken(format!("the reason of row {} is out of order or of no row", reason.row));
    }
    emitted.end()?;
    Ok(outcomes)
}

/// Reads `emitted` from front to back.
struct Emitted<'a> {
    batch: &'a types::Batch,
    outcome: &'a types::Outcome,
    row: usize,
    header: usize,
}

impl<'a> Emitted<'a> {
    fn new(batch: &'a types::Batch, outcome: &'a types::Outcome) -> Result<Emitted<'a>, ContractError> {
        let rows = outcome.emitted.len() / STRIDE;
        if !outcome.emitted.len().is_multiple_of(STRIDE) || !outcome.headers.len().is_multiple_of(4) {
            return broken("`emitted` or `headers` ends within an entry");
        }
        if !outcome.timestamps.is_empty() && outcome.timestamps.len() != rows {
            return broken(format!("{} timestamps for {rows} new rows", outcome.timestamps.len()));
        }
        Ok(Emitted { batch, outcome, row: 0, header: 0 })
    }

    /// The new rows of one parent.
    fn of(&mut self, parent: usize, record: &Record) -> Result<Vec<Record>, ContractError> {
        let mut records = Vec::new();
        while let Some(&[row, payload, payload_len, key, key_len, headers, mode, routes]) =
            self.outcome.emitted.get(self.row * STRIDE..(self.row + 1) * STRIDE)
        {
            if row as usize != parent {
                break;
            }
            let timestamp_ms = match self.outcome.timestamps.get(self.row) {
                None | Some(&TIMESTAMP_AS_PARENT) => record.timestamp_ms,
                Some(&timestamp) => timestamp,
            };
            let routes = match routes {
                AS_PARENT => record.routes.clone(),
                index => match self.outcome.routes.get(index as usize) {
                    Some(routes) => routes.clone(),
                    None => return broken(format!("route set {index} of row {row} is out of range")),
                },
            };
            records.push(Record {
                payload: self.bytes(payload, payload_len, record.payload.as_deref())?,
                key: self.bytes(key, key_len, record.key.as_deref())?,
                headers: self.headers(headers as usize, mode, record)?,
                timestamp_ms,
                routes,
            });
            self.row += 1;
        }
        Ok(records)
    }

    fn headers(
        &mut self,
        count: usize,
        mode: u32,
        record: &Record,
    ) -> Result<Vec<(String, Vec<u8>)>, ContractError> {
        let first = self.header;
        self.header += count;
        let Some(spans) = self.outcome.headers.get(first * 4..self.header * 4) else {
            return broken(format!("{} headers are less than new rows say", self.outcome.headers.len() / 4));
        };
        let mut set = Vec::with_capacity(count);
        for span in spans.chunks_exact(4) {
            let Some(name) = self.bytes(span[0], span[1], None)? else {
                return broken("a header has no name");
            };
            let Ok(name) = String::from_utf8(name) else {
                return broken("the name of a header is not utf-8");
            };
            set.push((name, self.bytes(span[2], span[3], None)?));
        }
        let mut headers = match mode {
            0 => record.headers.clone(),
            1 => Vec::new(),
            other => return broken(format!("header mode {other} is none")),
        };
        headers.retain(|(name, _)| !set.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
        headers.extend(set.into_iter().filter_map(|(name, value)| Some((name, value?))));
        Ok(headers)
    }

    fn bytes(&self, address: u32, len: u32, parent: Option<&[u8]>) -> Result<Option<Vec<u8>>, ContractError> {
        let input = &self.batch.arena;
        let new = &self.outcome.arena;
        match address {
            AS_PARENT if len == 0 => return Ok(parent.map(<[u8]>::to_vec)),
            NONE if len == 0 => return Ok(None),
            AS_PARENT | NONE => return broken(format!("address {address:#x} with a length of {len}")),
            _ => {}
        }
        let (address, len) = (address as usize, len as usize);
        let range = |start: usize| -> Range<usize> { start..start.saturating_add(len) };
        let bytes = match address.checked_sub(input.len()) {
            None => input.get(range(address)),
            Some(start) => new.get(range(start)),
        };
        match bytes {
            Some(bytes) => Ok(Some(bytes.to_vec())),
            None => broken(format!("address {address} of {len} bytes is out of range")),
        }
    }

    fn end(self) -> Result<(), ContractError> {
        if self.row * STRIDE != self.outcome.emitted.len() {
            return broken("new rows are out of order, or of a message that is not replaced");
        }
        if self.header * 4 != self.outcome.headers.len() {
            return broken("there are more headers than new rows say");
        }
        Ok(())
    }
}
