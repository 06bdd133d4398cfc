//! Messages in flight: the tickets of the ledger.

use std::ops::DerefMut;
use std::sync::Arc;

use bytes::Bytes;

use super::{Ledger, Original, Settlement};
use crate::message::{Batch, HeaderSpan, Row, SinkSet};
use crate::pipeline::traced::Traced;
use crate::plugin::{Epochs, Fate, FateVerdict, Processed};
use crate::sources::CommitKind;

/// Messages in flight, all of one claim, each counted in the ledger. The only way to settle them.
#[must_use = "dropping messages unsettled stops the pipeline"]
pub struct Held {
    pub(super) batch: Batch,
    pub(super) claim: u64,
    /// The sink it was offered to, once it was fanned out.
    pub(super) sink: Option<usize>,
    /// Which of them are traced; `None` if none is.
    pub(super) traced: Option<Arc<Traced>>,
    pub(super) ledger: Arc<Ledger>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Held({} messages of claim {})", self.batch.len(), self.claim)
    }
}

/// What messages need besides themselves to be held.
struct Ticket {
    claim: u64,
    sink: Option<usize>,
    traced: Option<Arc<Traced>>,
    ledger: Arc<Ledger>,
}

impl Ticket {
    fn hold(&self, batch: Batch, sink: Option<usize>) -> Held {
        let (traced, ledger) = (self.traced.clone(), Arc::clone(&self.ledger));
        Held { batch, claim: self.claim, sink, traced, ledger }
    }
}

/// A message that a plugin did not let pass, to be dealt with.
#[derive(Debug)]
pub struct Aside {
    /// The one message.
    pub held: Held,
    /// Its row in the batch that the plugin was given.
    pub parent: u32,
    pub verdict: FateVerdict,
}

impl Held {
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    pub fn len(&self) -> usize {
        self.batch.len()
    }

    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// A source message of this claim as it was read.
    pub fn original(&self, row: &Row) -> Option<Original> {
        self.ledger.original(self, row)
    }

    /// Whether they are dead letters that were read again.
    pub fn is_replay(&self) -> bool {
        self.ledger.state().claim(self.claim).is_some_and(|claim| !claim.replays.is_empty())
    }

    /// Number of their claim.
    pub fn claim(&self) -> u64 {
        self.claim
    }

    /// Whether they are to be abandoned: the transaction they belonged to was aborted.
    pub fn is_revoked(&self) -> bool {
        self.ledger.is_revoked(self.claim)
    }

    /// Notes that an attempt at each of them failed: their source is told, if it commits message by
    /// message.
    pub fn note_failure(&self) {
        let mut state = self.ledger.state();
        let state = state.deref_mut();
        let first_claim = state.first_claim;
        let index = self.claim.checked_sub(first_claim).and_then(|index| usize::try_from(index).ok());
        let Some(claim) = index.and_then(|index| state.claims.get_mut(index)?.as_mut()) else { return };
        if state.feeds[claim.feed].kind == CommitKind::Each {
            for row in self.batch.rows() {
                *claim.failures.entry(row.claim_row).or_default() += 1;
            }
        }
    }

    /// When the messages of their claim were read from their source.
    pub fn epochs(&self) -> Epochs {
        let state = self.ledger.state();
        match state.claim(self.claim) {
            None => Epochs::None,
            Some(claim) if claim.replays.is_empty() => Epochs::One(claim.opened_at_ms),
            Some(claim) => Epochs::Each(claim.replays.iter().map(|replay| replay.read_at_ms).collect()),
        }
    }

    /// Which of them are traced, and perhaps others of their claim.
    pub fn traced(&self) -> Option<&Arc<Traced>> {
        self.traced.as_ref()
    }

    pub fn set_traced(&mut self, traced: Option<Arc<Traced>>) {
        self.traced = traced;
    }

    /// Gives messages other headers: `changed` has the index of each, in order, and how many of `headers`
    /// are its own. Spans may be into `arena`, which becomes the last one of the batch. False, and nothing
    /// is done, if the batch has as many arenas as it can.
    pub fn set_headers(&mut self, arena: Bytes, headers: &[HeaderSpan], changed: &[(usize, u32)]) -> bool {
        if self.batch.add_arena(arena).is_none() {
            return false;
        }
        let mut first = self.batch.add_headers(headers);
        let rows = self.batch.rows_mut();
        for &(index, count) in changed {
            rows[index].first_header = first;
            rows[index].header_count = count;
            first += count;
        }
        true
    }

    /// The messages without their tickets: the caller makes new `Held`s of all of them.
    fn release(mut self) -> (Batch, Ticket) {
        let batch = std::mem::take(&mut self.batch);
        let ticket = Ticket {
            claim: self.claim,
            sink: self.sink,
            traced: self.traced.take(),
            ledger: Arc::clone(&self.ledger),
        };
        (batch, ticket)
    }

    /// Divides them into `parts` by a number for each message; parts may be empty.
    pub fn split(self, parts: usize, mut part_of: impl FnMut(usize, &Row) -> usize) -> Vec<Held> {
        let (mut batch, ticket) = self.release();
        let mut rows: Vec<Vec<Row>> = Vec::with_capacity(parts);
        rows.resize_with(parts, Vec::new);
        for (index, row) in batch.take_rows().into_iter().enumerate() {
            rows[part_of(index, &row)].push(row);
        }
        rows.into_iter().map(|rows| ticket.hold(batch.with_rows(rows), ticket.sink)).collect()
    }

    /// One `Held` a message.
    pub fn singles(self) -> impl Iterator<Item = Held> {
        let count = self.len();
        self.split(count, |index, _| index).into_iter()
    }

    /// What a plugin made of them, given what `process` made of the batch: those that go on, the row
    /// each of them comes from, and those that do not. Dropped ones are settled here.
    ///
    /// A row that `process` forgot is a leak.
    pub fn advance<E>(
        self,
        process: impl FnOnce(Batch) -> Result<Processed, E>,
    ) -> Result<(Held, Vec<u32>, Vec<Aside>), E> {
        let given: Vec<u32> = self.batch.rows().iter().map(|row| row.claim_row).collect();
        // What the plugin is given is a copy of the rows, so that on an error they are still held.
        let mut held = self;
        let Processed { batch, parents, fates, staged } = process(held.batch.clone())?;
        let Held { ledger, claim, .. } = &held;
        let (ledger, claim) = (Arc::clone(ledger), *claim);
        let grown = batch.footprint().saturating_sub(held.batch.footprint()) + staged.bytes;

        let mut children = vec![0u32; given.len()];
        for &parent in &parents {
            children[parent as usize] += 1;
        }
        let mut asides = Vec::new();
        {
            let mut state = ledger.state();
            let state = state.deref_mut();
            let mut dropped: Vec<Row> = Vec::new();
            for Fate { parent, row, verdict } in fates {
                children[parent as usize] += 1;
                match verdict {
                    FateVerdict::Dropped => dropped.push(row),
                    verdict => asides.push((parent, row, verdict)),
                }
            }
            let mut added = 0;
            let mut forgotten = 0;
            if let Some(claim) = state.claim_mut(claim) {
                claim.staged.extend(staged.rows.iter().map(|&row| given[row as usize]));
                for (parent, &count) in children.iter().enumerate() {
                    match count {
                        0 => forgotten += 1,
                        1 => {}
                        _ => {
                            claim.live[given[parent] as usize] += count - 1;
                            added += u64::from(count - 1);
                        }
                    }
                }
                if grown > 0 && claim.unsettled > 0 {
                    claim.bytes += grown;
                    ledger.budget.take(grown);
                }
            }
            state.books.added += added;
            state.books.in_flight += added;
            if !dropped.is_empty() {
                state.settle(claim, None, dropped.iter(), Settlement::Filtered, &ledger.budget);
            }
            if forgotten > 0 {
                ledger.note_leak(state, claim, forgotten);
            }
        }
        let asides = asides
            .into_iter()
            .map(|(parent, row, verdict)| Aside {
                held: Held {
                    batch: batch.with_rows(vec![row]),
                    claim,
                    sink: None,
                    traced: held.traced.clone(),
                    ledger: Arc::clone(&ledger),
                },
                parent,
                verdict,
            })
            .collect();
        held.batch = batch;
        Ok((held, parents, asides))
    }

    /// Copies each message to its sinks. Returns what each sink gets and what none gets.
    pub fn fan_out(
        self,
        sinks: usize,
        mut sinks_of: impl FnMut(&Batch, &Row) -> SinkSet,
    ) -> (Vec<(usize, Held)>, Option<Held>) {
        let (mut batch, ticket) = self.release();
        let rows = batch.take_rows();
        let mut offered: Vec<Vec<Row>> = Vec::new();
        offered.resize_with(sinks, Vec::new);
        let mut unrouted = Vec::new();
        let mut copies: Vec<(u32, u32)> = Vec::new();
        if sinks == 1 && rows.iter().all(|row| sinks_of(&batch, row).len() == 1) {
            offered[0] = rows;
        } else {
            for row in rows {
                let set = sinks_of(&batch, &row);
                match set.len() {
                    0 => unrouted.push(row),
                    1 => offered[set.iter().next().unwrap_or_default()].push(row),
                    count => {
                        copies.push((row.claim_row, count as u32 - 1));
                        for sink in set.iter() {
                            offered[sink].push(row);
                        }
                    }
                }
            }
        }
        {
            let mut state = ticket.ledger.state();
            let added: u64 = copies.iter().map(|&(_, count)| u64::from(count)).sum();
            state.books.added += added;
            state.books.in_flight += added;
            if let Some(claim) = state.claim_mut(ticket.claim) {
                for (row, count) in copies {
                    claim.live[row as usize] += count;
                }
            }
            for (sink, rows) in offered.iter().enumerate() {
                state.sinks[sink].offered += rows.len() as u64;
                state.sinks[sink].in_flight += rows.len() as u64;
            }
        }
        let part = |rows, sink| ticket.hold(batch.with_rows(rows), sink);
        let unrouted = (!unrouted.is_empty()).then(|| part(unrouted, None));
        let offered = offered
            .into_iter()
            .enumerate()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(sink, rows)| (sink, part(rows, Some(sink))))
            .collect();
        (offered, unrouted)
    }

    /// They are durable in their sink.
    pub fn delivered(self) {
        self.settle(Settlement::Delivered);
    }

    /// They are dropped after all.
    pub fn filtered(self) {
        self.settle(Settlement::Filtered);
    }

    /// They are durable among the dead letters.
    pub fn dead_lettered(self, reason: &str) {
        self.settle(Settlement::DeadLettered(reason));
    }

    /// They are given back to the source on purpose.
    pub fn abandon(self) {
        self.settle(Settlement::Returned);
    }

    fn settle(mut self, settlement: Settlement<'_>) {
        let batch = std::mem::take(&mut self.batch);
        self.ledger.state().settle(
            self.claim,
            self.sink,
            batch.rows().iter(),
            settlement,
            &self.ledger.budget,
        );
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut state = self.ledger.state();
        if self.ledger.given_up.is_cancelled() {
            let budget = &self.ledger.budget;
            state.settle(self.claim, self.sink, self.batch.rows().iter(), Settlement::Returned, budget);
        } else {
            self.ledger.note_leak(&mut state, self.claim, self.batch.len());
        }
    }
}
