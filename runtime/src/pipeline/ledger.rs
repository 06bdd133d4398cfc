//! The ledger: which messages are in flight, what became of the others, how far the source may be
//! committed (P1, P2), and the books (P11).
//!
//! A read opens a claim on its rows. From then on every message in flight is in exactly one
//! [`Held`], which can only be divided, advanced through a plugin, fanned out to sinks, and
//! settled. One that is dropped unsettled is a *leak*: nothing is committed past it, ever, and the
//! pipeline stops with an error that names it.

mod held;
mod revoked;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use crate::dead_letters::replay;
use crate::message::{Batch, Message, Position, Row};
use crate::sources::{CommitKind, Replayed, SettledAs, SettledRow};
use crate::state::{Ending, Ticket};

pub use held::{Aside, Held};

/// The accounts of a pipeline for the life of the process (P11), in messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Books {
    /// Read from the source.
    pub received: u64,
    /// By plugins that made several of one, and by fan-out to several sinks.
    pub added: u64,
    pub delivered: u64,
    pub filtered: u64,
    pub dead_lettered: u64,
    /// Given back to the source unsettled.
    pub returned: u64,
    pub in_flight: u64,
}

impl Books {
    /// Whether they balance. They always do, or the ledger has a defect.
    pub fn balance(&self) -> bool {
        self.received + self.added
            == self.delivered + self.filtered + self.dead_lettered + self.returned + self.in_flight
    }
}

/// The accounts of one sink, in messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SinkBooks {
    pub offered: u64,
    pub delivered: u64,
    pub dead_lettered: u64,
    pub returned: u64,
    pub in_flight: u64,
}

impl SinkBooks {
    pub fn balance(&self) -> bool {
        self.offered == self.delivered + self.dead_lettered + self.returned + self.in_flight
    }
}

/// All accounts, from one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub books: Books,
    pub sinks: Vec<SinkBooks>,
}

/// A source, or a replay beside it, as the ledger knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FeedId(usize);

/// What a feed may be told to commit.
#[derive(Debug, Default)]
pub struct Committable {
    /// For [`CommitKind::UpTo`]: the highest gapless position of each partition that moved.
    pub positions: Vec<Position>,
    /// For [`CommitKind::Each`].
    pub rows: Vec<SettledRow>,
    /// Source messages for which plugins wrote state, and how they ended. To be final and durable
    /// before the rest is committed.
    pub ended: Vec<(Ticket, Ending)>,
}

impl Committable {
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty() && self.rows.is_empty() && self.ended.is_empty()
    }
}

pub struct Ledger {
    state: Mutex<State>,
    budget: Arc<Budget>,
    /// Cancelled at the first leak.
    leaked: CancellationToken,
    /// Cancelled by [`Ledger::give_up`].
    given_up: CancellationToken,
    /// Claims below this number are given back, wherever their messages are.
    revoked_below: AtomicU64,
}

struct State {
    books: Books,
    /// Of those received: dead letters that were read again.
    replayed: u64,
    sinks: Vec<SinkBooks>,
    /// In the order in which they were opened; the first has number `first_claim`. `None` once
    /// everything of it has been handed to the committer.
    claims: VecDeque<Option<Claim>>,
    first_claim: u64,
    feeds: Vec<Feed>,
    leak: Option<String>,
}

struct Feed {
    name: String,
    kind: CommitKind,
    /// Rows settled since they were last taken, for [`CommitKind::Each`].
    settled: Vec<SettledRow>,
    /// See [`Committable::ended`].
    ended: Vec<(Ticket, Ending)>,
    /// Claims of it that are still in `claims`.
    claims: usize,
    /// Claims with a row in flight.
    unsettled_claims: usize,
    /// It goes back: what is read until it has is not taken.
    rewinding: bool,
    changed: Arc<Notify>,
    /// Seconds from opening a claim to settling its last row, since they were last taken.
    latencies: Vec<Duration>,
}

struct Claim {
    feed: usize,
    /// The messages as they were read (P5).
    original: Batch,
    /// Descendants in flight of each row.
    live: Vec<u32>,
    outcomes: Vec<RowOutcome>,
    /// Rows with descendants in flight.
    unsettled: usize,
    /// What it holds of the budget.
    bytes: usize,
    opened: Instant,
    opened_at_ms: i64,
    /// Of each row, if these are dead letters that are read again; otherwise empty.
    replays: Vec<Replayed>,
    /// Reasons of dead-lettered rows, for [`CommitKind::Each`].
    reasons: HashMap<u32, String>,
    /// Failed attempts at a row and its descendants, for [`CommitKind::Each`].
    failures: HashMap<u32, u32>,
    /// Rows that plugins wrote state for.
    staged: HashSet<u32>,
}

/// A source message as it was read.
#[derive(Debug)]
pub struct Original {
    pub message: Message,
    pub position: Position,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub read_at_ms: i64,
    /// How often it has been replayed, this time included.
    pub replays: u32,
}

/// What has become of the settled descendants of a row.
#[derive(Clone, Copy, Default)]
struct RowOutcome {
    delivered: bool,
    dead_lettered: bool,
    returned: bool,
    /// Its position has been handed to the committer, or never will be.
    committed: bool,
}

#[derive(Clone, Copy)]
enum Settlement<'a> {
    Delivered,
    Filtered,
    DeadLettered(&'a str),
    Returned,
}

impl Ledger {
    pub fn new(sinks: usize, budget: Arc<Budget>) -> Arc<Ledger> {
        Arc::new(Ledger {
            state: Mutex::new(State {
                books: Books::default(),
                replayed: 0,
                sinks: vec![SinkBooks::default(); sinks],
                claims: VecDeque::new(),
                first_claim: 0,
                feeds: Vec::new(),
                leak: None,
            }),
            budget,
            leaked: CancellationToken::new(),
            given_up: CancellationToken::new(),
            revoked_below: AtomicU64::new(0),
        })
    }

    /// A panic elsewhere while holding the lock cannot leave the state half changed in a way that
    /// loses a message: counts of a claim only ever err towards "not settled".
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a source. `changed` is notified when something of it can be committed.
    pub fn add_feed(&self, name: &str, kind: CommitKind) -> (FeedId, Arc<Notify>) {
        let changed = Arc::new(Notify::new());
        let mut state = self.state();
        state.feeds.push(Feed {
            name: name.to_owned(),
            kind,
            settled: Vec::new(),
            ended: Vec::new(),
            claims: 0,
            unsettled_claims: 0,
            rewinding: false,
            changed: Arc::clone(&changed),
            latencies: Vec::new(),
        });
        (FeedId(state.feeds.len() - 1), changed)
    }

    /// Opens a claim on what was read: row n of the batch must have `claim_row` n. `None` while the
    /// source goes back, for then it will be read again.
    pub fn open(self: &Arc<Ledger>, feed: FeedId, batch: Batch) -> Option<Held> {
        self.open_claim(feed, batch.clone(), batch, Vec::new())
    }

    /// Opens a claim on dead letters that are read again. What goes on carries the mark of a replay;
    /// the claim keeps them as they were read from their source (P5).
    pub fn open_replays(
        self: &Arc<Ledger>,
        feed: FeedId,
        batch: Batch,
        replays: Vec<Replayed>,
    ) -> Option<Held> {
        debug_assert_eq!(batch.len(), replays.len());
        let mut marked = batch.clone();
        replay::mark(&mut marked, &replays);
        self.open_claim(feed, batch, marked, replays)
    }

    fn open_claim(
        self: &Arc<Ledger>,
        feed: FeedId,
        original: Batch,
        batch: Batch,
        replays: Vec<Replayed>,
    ) -> Option<Held> {
        debug_assert!(batch.rows().iter().enumerate().all(|(n, row)| row.claim_row as usize == n));
        let rows = batch.len();
        let bytes = batch.footprint();
        let mut state = self.state();
        if state.feeds[feed.0].rewinding {
            return None;
        }
        self.budget.take(bytes);
        state.books.received += rows as u64;
        state.replayed += replays.len() as u64;
        state.books.in_flight += rows as u64;
        state.feeds[feed.0].claims += 1;
        state.feeds[feed.0].unsettled_claims += 1;
        state.claims.push_back(Some(Claim {
            feed: feed.0,
            original,
            live: vec![1; rows],
            outcomes: vec![RowOutcome::default(); rows],
            unsettled: rows,
            bytes,
            opened: Instant::now(),
            opened_at_ms: jiff::Timestamp::now().as_millisecond(),
            replays,
            reasons: HashMap::new(),
            failures: HashMap::new(),
            staged: HashSet::new(),
        }));
        let claim = state.next_claim() - 1;
        drop(state);
        Some(Held { batch, claim, sink: None, traced: None, ledger: Arc::clone(self) })
    }

    /// A source message as it was read.
    pub fn original(&self, held: &Held, row: &Row) -> Option<Original> {
        let state = self.state();
        let claim = state.claim(held.claim)?;
        let message = claim.original.message(row.claim_row as usize);
        let replayed = claim.replays.get(row.claim_row as usize);
        Some(Original {
            message: message.to_owned(),
            position: message.position(),
            read_at_ms: replayed.map_or(claim.opened_at_ms, |replayed| replayed.read_at_ms),
            replays: replayed.map_or(0, |replayed| replayed.times),
        })
    }

    /// All accounts, from one moment. `in_flight` is counted from the claims, not computed from the
    /// other accounts, so that [`Books::balance`] can fail.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state();
        let counted: u64 =
            state.claims.iter().flatten().flat_map(|claim| &claim.live).map(|&live| u64::from(live)).sum();
        Snapshot { books: Books { in_flight: counted, ..state.books }, sinks: state.sinks.clone() }
    }

    /// All accounts without counting anew what is in flight: for a progress line.
    pub fn books(&self) -> Books {
        self.state().books
    }

    /// Messages received, without replays.
    pub fn received_first(&self) -> u64 {
        let state = self.state();
        state.books.received - state.replayed
    }

    /// Whether nothing of the feed is in flight.
    pub fn is_settled(&self, feed: FeedId) -> bool {
        self.state().feeds[feed.0].unsettled_claims == 0
    }

    /// Cancelled at the first leak; [`Ledger::leak`] then says which.
    pub fn leaked(&self) -> &CancellationToken {
        &self.leaked
    }

    pub fn leak(&self) -> Option<String> {
        self.state().leak.clone()
    }

    /// From now on whatever is dropped unsettled counts as returned: the deadline of a stop has
    /// passed, or the pipeline has failed (P8).
    pub fn give_up(&self) {
        self.given_up.cancel();
    }

    /// Cancelled when everything in flight is given up.
    pub fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }

    /// Times from reading to settling of the batches settled since the last call.
    pub fn take_latencies(&self, feed: FeedId) -> Vec<Duration> {
        std::mem::take(&mut self.state().feeds[feed.0].latencies)
    }

    /// Takes what may be committed of a feed (P1): positions only so far as everything before them
    /// in their partition is settled.
    pub fn take_committable(&self, feed: FeedId) -> Committable {
        let mut state = self.state();
        let this = &mut state.feeds[feed.0];
        let mut committable = Committable {
            rows: std::mem::take(&mut this.settled),
            ended: std::mem::take(&mut this.ended),
            ..Default::default()
        };
        if state.feeds[feed.0].kind == CommitKind::UpTo {
            committable.positions = state.take_positions(feed.0);
        }
        state.forget_finished_claims();
        committable
    }
}

impl State {
    fn next_claim(&self) -> u64 {
        self.first_claim + self.claims.len() as u64
    }

    fn claim(&self, number: u64) -> Option<&Claim> {
        self.claims.get(usize::try_from(number.checked_sub(self.first_claim)?).ok()?)?.as_ref()
    }

    fn claim_mut(&mut self, number: u64) -> Option<&mut Claim> {
        let index = usize::try_from(number.checked_sub(self.first_claim)?).ok()?;
        self.claims.get_mut(index)?.as_mut()
    }

    fn take_positions(&mut self, feed: usize) -> Vec<Position> {
        let mut highest: Vec<Position> = Vec::new();
        let mut blocked: HashSet<u32> = HashSet::new();
        for claim in self.claims.iter_mut().flatten().filter(|claim| claim.feed == feed) {
            // Most claims are of one partition: its slot is found once.
            let mut last: Option<(u32, usize)> = None;
            for (index, outcome) in claim.outcomes.iter_mut().enumerate() {
                if outcome.committed {
                    continue;
                }
                let position = claim.original.rows()[index].position;
                if blocked.contains(&position.partition) {
                    continue;
                }
                if claim.live[index] > 0 || outcome.returned {
                    blocked.insert(position.partition);
                    continue;
                }
                outcome.committed = true;
                match last {
                    Some((partition, slot)) if partition == position.partition => highest[slot] = position,
                    _ => {
                        let slot = highest.iter().position(|known| known.partition == position.partition);
                        let slot = slot.unwrap_or_else(|| {
                            highest.push(position);
                            highest.len() - 1
                        });
                        highest[slot] = position;
                        last = Some((position.partition, slot));
                    }
                }
            }
        }
        highest
    }

    /// Drops claims from which nothing more can come, so that the list stays short.
    fn forget_finished_claims(&mut self) {
        for index in 0..self.claims.len() {
            let Some(claim) = &self.claims[index] else { continue };
            let finished = claim.unsettled == 0
                && (self.feeds[claim.feed].kind == CommitKind::Each
                    || claim.outcomes.iter().all(|outcome| outcome.committed));
            if finished {
                self.feeds[claim.feed].claims -= 1;
                self.claims[index] = None;
            }
        }
        while matches!(self.claims.front(), Some(None)) {
            self.claims.pop_front();
            self.first_claim += 1;
        }
    }

    /// Settles one descendant of each of these rows.
    fn settle<'a>(
        &mut self,
        number: u64,
        sink: Option<usize>,
        rows: impl ExactSizeIterator<Item = &'a Row>,
        settlement: Settlement<'_>,
        budget: &Budget,
    ) {
        let count = rows.len() as u64;
        let account = match settlement {
            Settlement::Delivered => &mut self.books.delivered,
            Settlement::Filtered => &mut self.books.filtered,
            Settlement::DeadLettered(_) => &mut self.books.dead_lettered,
            Settlement::Returned => &mut self.books.returned,
        };
        *account += count;
        self.books.in_flight -= count;
        if let Some(sink) = sink {
            let sink = &mut self.sinks[sink];
            sink.in_flight -= count;
            match settlement {
                Settlement::Delivered => sink.delivered += count,
                // A message that a sink was offered is never filtered.
                Settlement::Filtered => {}
                Settlement::DeadLettered(_) => sink.dead_lettered += count,
                Settlement::Returned => sink.returned += count,
            }
        }
        let first_claim = self.first_claim;
        let Some(claim) = self.claims.get_mut((number - first_claim) as usize).and_then(Option::as_mut)
        else {
            return;
        };
        let feed = &mut self.feeds[claim.feed];
        for row in rows {
            let index = row.claim_row as usize;
            let outcome = &mut claim.outcomes[index];
            match settlement {
                Settlement::Delivered => outcome.delivered = true,
                Settlement::Filtered => {}
                Settlement::DeadLettered(reason) => {
                    outcome.dead_lettered = true;
                    if feed.kind == CommitKind::Each {
                        claim.reasons.insert(row.claim_row, reason.to_owned());
                    }
                }
                Settlement::Returned => outcome.returned = true,
            }
            claim.live[index] -= 1;
            if claim.live[index] > 0 {
                continue;
            }
            claim.unsettled -= 1;
            if claim.staged.remove(&row.claim_row) {
                let ending = match *outcome {
                    RowOutcome { returned: true, .. } => Ending::Returned,
                    RowOutcome { dead_lettered: true, delivered: false, .. } => Ending::DeadLettered,
                    RowOutcome { .. } => Ending::Done,
                };
                feed.ended.push((Ticket { claim: number, row: row.claim_row }, ending));
            }
            if feed.kind == CommitKind::Each {
                feed.settled.push(SettledRow {
                    position: claim.original.rows()[index].position,
                    outcome: match *outcome {
                        RowOutcome { returned: true, .. } => SettledAs::Returned,
                        RowOutcome { dead_lettered: true, .. } => {
                            SettledAs::DeadLettered(claim.reasons.remove(&row.claim_row).unwrap_or_default())
                        }
                        RowOutcome { delivered: true, .. } => SettledAs::Delivered,
                        RowOutcome { .. } => SettledAs::Filtered,
                    },
                    failures: claim.failures.remove(&row.claim_row).unwrap_or(0),
                });
            }
        }
        if claim.unsettled == 0 {
            budget.give_back(std::mem::take(&mut claim.bytes));
            feed.unsettled_claims -= 1;
            feed.latencies.push(claim.opened.elapsed());
        }
        if claim.unsettled == 0 || !feed.settled.is_empty() || !feed.ended.is_empty() {
            feed.changed.notify_one();
        }
    }
}

impl Ledger {
    fn note_leak(&self, state: &mut State, claim: u64, rows: usize) {
        let feed = state.claim(claim).map_or("?", |claim| state.feeds[claim.feed].name.as_str());
        let text = format!("{rows} messages of a batch read from {feed} were dropped without a verdict");
        state.leak.get_or_insert(text);
        self.leaked.cancel();
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
