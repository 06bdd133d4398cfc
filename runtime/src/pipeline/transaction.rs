//! Exactly once: transactions of whole claims, with the positions of the source inside.
//!
//! Sinks and desk write into the transaction that is open, and hand in what is written; it stays in
//! flight until the transaction is committed. To end a transaction a boundary is drawn: messages of
//! claims below it are brought to their end, those of later claims wait at the [`Gate`], and once
//! everything below is handed in, it is committed together with the positions that it came from.
//!
//! If anything fails the transaction is aborted: every message in flight is given back, wherever it is,
//! the source goes back to what is committed, and all is run again.
//!
//! Replays beside the source are written in the same transactions. That a dead letter is none any more is
//! noted after the commit, so a process that is killed in between replays it once more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::desk::Why;
use super::ledger::{FeedId, Held};
use super::retry::unavailable_delay;
use crate::message::Position;
use crate::sources::Committer;
use crate::transactions::{TransactionError, Transactions};

/// No claim has this number: all are let through.
const ALL: u64 = u64::MAX;

/// The part that waits, in readiness.
const PART: &str = "transaction";

/// What a message becomes when the transaction is committed.
#[derive(Debug)]
pub enum End {
    /// In the sink with this number.
    Delivered(usize),
    /// For this reason.
    DeadLettered(String),
}

/// Where a message fails that the brokers refuse: the place it was read from, and the sink.
type Culprit = (u32, u64, usize);

struct Condemned {
    why: Why,
    /// It was a dead letter before, from behind what is committed.
    is_replay: bool,
}

/// Where sinks and desk ask whether they may write, and hand in what they have written.
#[derive(Default)]
pub struct Gate {
    /// Claims from this number on wait.
    boundary: AtomicU64,
    /// How often the boundary was drawn.
    drawn: AtomicU64,
    state: Mutex<State>,
    /// For the one who ends transactions.
    changed: Notify,
    /// For those who wait.
    opened: Notify,
    /// Those of the source and of replays.
    readers: AtomicUsize,
}

/// A reader whose messages are written in transactions.
pub struct GateReader(Arc<Gate>);

impl Drop for GateReader {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct State {
    written: Vec<(Held, End)>,
    /// Why the open transaction is to be aborted.
    failure: Option<String>,
    condemned: HashMap<Culprit, Condemned>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether messages of this claim may be written now.
    pub fn admits(&self, claim: u64) -> bool {
        claim < self.boundary()
    }

    /// Waits until the boundary is drawn anew after so many times. Cancel-safe.
    pub async fn wait(&self, drawn: u64) {
        loop {
            let opened = self.opened.notified();
            if self.drawn() != drawn {
                return;
            }
            opened.await;
        }
    }

    pub fn boundary(&self) -> u64 {
        self.boundary.load(Ordering::Acquire)
    }

    /// How often the boundary was drawn: to be asked before looking at it, and given to [`Gate::wait`].
    pub fn drawn(&self) -> u64 {
        self.drawn.load(Ordering::Acquire)
    }

    /// These are written, and final when the transaction is. If it was aborted meanwhile they are abandoned.
    pub fn hand_in(&self, held: Held, end: End) {
        let mut state = self.state();
        // Under the lock: what is not seen to be revoked here is there when what was written is abandoned.
        if held.is_revoked() {
            drop(state);
            held.abandon();
            return;
        }
        state.written.push((held, end));
        drop(state);
        self.changed.notify_one();
    }

    /// The open transaction is to be aborted. To be called before what failed is given back.
    pub fn fail(&self, reason: String) {
        self.state().failure.get_or_insert(reason);
        self.changed.notify_one();
    }

    /// As [`Gate::fail`]: the brokers refuse this message, which is a dead letter the next time.
    pub fn condemn(&self, position: Position, sink: usize, is_replay: bool, why: Why) {
        let mut state = self.state();
        state.failure.get_or_insert_with(|| why.reason.clone());
        let culprit = (position.partition, position.offset, sink);
        state.condemned.insert(culprit, Condemned { why, is_replay });
        drop(state);
        self.changed.notify_one();
    }

    /// Whether any message was refused before.
    pub fn has_condemned(&self) -> bool {
        !self.state().condemned.is_empty()
    }

    /// Why a message is a dead letter that was refused before.
    pub fn condemned(&self, position: Position, sink: usize) -> Option<Why> {
        let state = self.state();
        state.condemned.get(&(position.partition, position.offset, sink)).map(|it| it.why.clone())
    }

    /// Forgets that a replayed message was refused: it is final as a dead letter.
    fn forget_refused(&self, position: Position) {
        let of_it = |culprit: &Culprit| (culprit.0, culprit.1) == (position.partition, position.offset);
        self.state().condemned.retain(|culprit, it| !(it.is_replay && of_it(culprit)));
    }

    /// As long as this lives transactions go on being ended.
    pub fn reader(self: &Arc<Gate>) -> GateReader {
        self.readers.fetch_add(1, Ordering::AcqRel);
        GateReader(Arc::clone(self))
    }

    fn set_boundary(&self, boundary: u64) {
        self.boundary.store(boundary, Ordering::Release);
        self.drawn.fetch_add(1, Ordering::AcqRel);
        self.opened.notify_waiters();
    }

    fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// Takes what is written.
    fn take_written(&self) -> Vec<(Held, End)> {
        std::mem::take(&mut self.state().written)
    }

    fn abandon_written(&self) {
        self.take_written().into_iter().for_each(|(held, _)| held.abandon());
    }
}

/// What ends the transactions of a pipeline, and counts them.
pub struct Ends {
    pub transactions: Arc<dyn Transactions>,
    /// How long one is open while messages come.
    pub interval: Duration,
    pub committed: IntCounter,
    pub aborted: IntCounter,
}

/// Ends transactions, in place of the commits of a feed.
pub struct Transactor {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    ends: Ends,
    feed: FeedId,
    committer: Box<dyn Committer>,
    /// The reader has.
    ended: CancellationToken,
    /// Transactions in a row that were aborted.
    failures: u32,
}

impl Transactor {
    pub fn new(
        shared: Arc<Shared>,
        gate: Arc<Gate>,
        ends: Ends,
        feed: FeedId,
        committer: Box<dyn Committer>,
        ended: CancellationToken,
    ) -> Transactor {
        Transactor { shared, gate, ends, feed, committer, ended, failures: 0 }
    }

    /// Runs until all readers have ended and everything they read is committed, or is given up (P8); then
    /// closes the source. What a transaction has left open the brokers abort.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let given_up = self.shared.ledger.given_up().clone();
        tokio::select! {
            biased;
            () = given_up.cancelled() => self.gate.abandon_written(),
            ended = self.end_transactions() => ended?,
        }
        self.committer.close().await.map_err(|error| error.context("closing the source"))
    }

    async fn end_transactions(&mut self) -> anyhow::Result<()> {
        let (ended, ledger) = (self.ended.clone(), Arc::clone(&self.shared.ledger));
        tokio::select! {
            biased;
            opened = self.open() => opened?,
            // It has read nothing, and a broker that is not there need not be waited for.
            () = ended.cancelled(), if !ledger.has_claims() => {}
        }
        let mut was_ended = false;
        loop {
            tokio::select! {
                biased;
                () = ended.cancelled(), if !was_ended => was_ended = true,
                () = tokio::time::sleep(self.ends.interval) => {}
            }
            // Asked first: what the last reader has read has a claim by then.
            let has_ended = ended.is_cancelled() && self.gate.readers.load(Ordering::Acquire) == 0;
            if ledger.has_claims() || self.gate.failure().is_some() {
                self.end_transaction().await?;
            } else if has_ended {
                return Ok(());
            }
        }
    }

    /// Opens a transaction, and the gate.
    async fn open(&mut self) -> anyhow::Result<()> {
        let mut tries = 0;
        loop {
            match self.ends.transactions.begin().await {
                Ok(()) => break,
                Err(TransactionError::Fatal(reason)) => {
                    anyhow::bail!("no transaction can be opened: {reason}")
                }
                Err(TransactionError::Failed(reason)) => self.wait(&mut tries, &reason).await,
            }
        }
        if tries > 0 {
            self.shared.waits.clear(PART);
        }
        self.gate.set_boundary(ALL);
        Ok(())
    }

    /// Commits what is in flight now, or aborts it.
    async fn end_transaction(&mut self) -> anyhow::Result<()> {
        let boundary = self.shared.ledger.next_claim();
        self.gate.set_boundary(boundary);
        let failed = match self.all_written(boundary).await {
            Ok(()) => self.commit(boundary).await?,
            Err(reason) => Some(reason),
        };
        match failed {
            None => {
                self.failures = 0;
                self.ends.committed.inc();
            }
            Some(reason) => self.start_over(reason).await?,
        }
        self.open().await
    }

    /// Waits until everything below the boundary is written, or for the reason why it will not be.
    async fn all_written(&mut self, boundary: u64) -> Result<(), String> {
        loop {
            let changed = self.gate.changed.notified();
            let written = {
                let state = self.gate.state();
                if let Some(reason) = &state.failure {
                    return Err(reason.clone());
                }
                state.written.iter().map(|(held, _)| held.len() as u64).sum::<u64>()
            };
            if self.shared.ledger.in_flight_below(boundary) == written {
                // What failed is given back only after it was told.
                return self.gate.failure().map_or(Ok(()), Err);
            }
            tokio::select! {
                () = changed => {}
                // What a plugin drops is not handed in.
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
    }

    /// Commits; `Some` with the reason if that failed and it is to be aborted.
    async fn commit(&mut self, boundary: u64) -> anyhow::Result<Option<String>> {
        let positions = self.shared.ledger.positions_below(self.feed, boundary);
        match self.committer.commit_in(&*self.ends.transactions, &positions).await {
            Ok(()) => {}
            Err(TransactionError::Failed(reason)) => return Ok(Some(reason)),
            Err(TransactionError::Fatal(reason)) => {
                anyhow::bail!("the transaction cannot be committed: {reason}")
            }
        }
        for (held, end) in self.gate.take_written() {
            match end {
                End::Delivered(sink) => {
                    self.shared.sent(sink, &held);
                    held.delivered();
                }
                End::DeadLettered(reason) => {
                    if held.is_replay() {
                        held.batch().rows().iter().for_each(|row| self.gate.forget_refused(row.position));
                    }
                    held.dead_lettered(&reason);
                }
            }
        }
        for latency in self.shared.ledger.take_latencies(self.feed) {
            self.shared.metrics.latency.observe(latency.as_secs_f64());
        }
        // It is committed already: this makes the ledger forget it.
        self.shared.ledger.take_committable(self.feed);
        let behind: HashMap<u32, u64> =
            positions.iter().map(|position| (position.partition, position.offset)).collect();
        let is_ahead = |&(partition, offset, _): &Culprit| behind.get(&partition).is_none_or(|&b| b < offset);
        self.gate.state().condemned.retain(|culprit, it| it.is_replay || is_ahead(culprit));
        Ok(None)
    }

    /// Aborts, gives everything back, and has the source read it again.
    async fn start_over(&mut self, reason: String) -> anyhow::Result<()> {
        self.ends.aborted.inc();
        let revoked = self.shared.ledger.revoke_all(self.feed);
        // Those who wait at the gate find that their messages are not theirs any more.
        self.gate.set_boundary(0);
        let mut tries = self.failures;
        self.failures = self.failures.saturating_add(1);
        match self.ends.transactions.abort().await {
            Ok(()) => {}
            Err(TransactionError::Failed(why)) => {
                tracing::warn!(why, "aborting a transaction failed; it times out")
            }
            Err(TransactionError::Fatal(why)) => {
                anyhow::bail!("the transaction cannot be aborted: {why} ({reason})")
            }
        }
        for (held, end) in self.gate.take_written() {
            if let End::Delivered(sink) = end {
                self.shared.not_sent(sink, &held, "aborted", &reason);
            }
            held.abandon();
        }
        while self.shared.ledger.in_flight_below(revoked) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.shared.ledger.take_committable(self.feed);
        self.gate.state().failure = None;
        // The first time at once: a rebalance, or a message that is a dead letter now.
        if tries > 0 {
            self.wait(&mut tries, &reason).await;
            self.shared.waits.clear(PART);
        } else {
            tracing::warn!(pipeline = %self.shared.name, reason, "the transaction was aborted; its messages are read again");
        }
        self.committer.rewind().await.map_err(|error| error.context("reading again what was aborted"))?;
        // Another abort before it has gone back would have it go back twice.
        while self.shared.ledger.is_rewinding(self.feed) && !self.ended.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn wait(&mut self, tries: &mut u32, reason: &str) {
        let delay = unavailable_delay(&self.shared.retry, *tries, None);
        tracing::warn!(pipeline = %self.shared.name, reason, ?delay, "no transaction gets through; waiting");
        self.shared.waits.set(PART, reason.to_owned());
        *tries = tries.saturating_add(1);
        tokio::time::sleep(delay).await;
    }
}
