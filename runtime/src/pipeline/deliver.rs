//! Delivery to one sink: batches, retries, parked orders, a sink that is not there.
//!
//! Messages of one order reach the sink in the order in which they came (P3): when one fails it is
//! parked, and everything of its order that comes later queues up behind it.

pub(super) mod in_transaction;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use in_transaction::opened;

use super::Shared;
use super::desk::{DeskDoor, Origin, Why};
use super::ledger::Held;
use super::retry::{absent_delay, next_delay, unavailable_delay};
use super::transaction::End;
use crate::config::{OnUnavailable, SinkCommon};
use crate::dead_letters::Stage;
use crate::message::MessageRef;
use crate::sinks::{CallError, Outcome, Outcomes, Sink, SinkTraits};

/// Payload bytes of a call, about: what a sink encodes stands outside the budget, so it is bounded
/// here. 4 MiB are 14,000 messages of 300 bytes to an fsync.
const CALL_BYTES: usize = 4 << 20;

/// Batches on their way from the lanes to a sink: enough for a call of [`CALL_BYTES`].
pub const QUEUE: usize = 64;

/// What a lane sends to a sink.
pub struct Parcel {
    pub origin: Origin,
    pub held: Held,
}

/// Part of a call.
struct Piece {
    origin: Origin,
    held: Held,
    /// Failed attempts of the one message; 0 for messages that are tried for the first time.
    attempts: u32,
    /// Times the one message was put off without blame.
    put_off: u32,
}

/// Messages of one order that wait for the first of them.
struct Parked {
    head: Piece,
    behind: VecDeque<Parcel>,
}

pub struct Delivery {
    shared: Arc<Shared>,
    name: String,
    number: usize,
    sink: Box<dyn Sink>,
    common: SinkCommon,
    traits: SinkTraits,
    parcels: mpsc::Receiver<Parcel>,
    desk: DeskDoor,
    /// Not yet tried, in order.
    fresh: VecDeque<Parcel>,
    /// Those that wait for the next transaction, in order.
    held_back: VecDeque<Parcel>,
    parked: HashMap<u64, Parked>,
    /// When which parked order is due.
    due: BTreeSet<(Instant, u64)>,
    /// Calls in a row that the sink was not there for.
    tries: u32,
}

impl Delivery {
    #[expect(clippy::too_many_arguments, reason = "each is needed once, and named at the one call")]
    pub fn new(
        shared: Arc<Shared>,
        name: String,
        number: usize,
        sink: Box<dyn Sink>,
        common: SinkCommon,
        traits: SinkTraits,
        parcels: mpsc::Receiver<Parcel>,
        desk: DeskDoor,
    ) -> Delivery {
        Delivery {
            shared,
            name,
            number,
            sink,
            common,
            traits,
            parcels,
            desk,
            fresh: VecDeque::new(),
            held_back: VecDeque::new(),
            parked: HashMap::new(),
            due: BTreeSet::new(),
            tries: 0,
        }
    }

    /// Runs until the lanes are gone and everything is settled.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut open = true;
        loop {
            let gate = self.shared.gate.clone();
            let drawn = gate.as_ref().map_or(0, |gate| gate.drawn());
            let boundary = self.let_in();
            if self.fresh.is_empty() && (open || !self.held_back.is_empty()) {
                let next_due = self.due.first().map(|&(due, _)| due);
                tokio::select! {
                    parcel = self.parcels.recv(), if open => match parcel {
                        Some(parcel) => {
                            self.fresh.push_back(parcel);
                            self.linger().await;
                        }
                        None => open = false,
                    },
                    () = until(next_due) => {}
                    () = opened(gate.as_deref(), drawn) => {}
                }
            }
            while let Ok(parcel) = self.parcels.try_recv() {
                self.fresh.push_back(parcel);
                if self.fresh.len() >= QUEUE {
                    break;
                }
            }
            if !open && self.fresh.is_empty() && self.held_back.is_empty() {
                match self.due.first() {
                    Some(&(due, _)) => tokio::time::sleep_until(due).await,
                    None => break,
                }
            }
            let call = self.next_call(boundary);
            match self.shared.gate.clone() {
                _ if call.is_empty() => {}
                Some(gate) => self.make_in_transaction(&gate, call).await?,
                None => self.make(call).await?,
            }
        }
        self.sink.close().await.map_err(|error| error.context(format!("closing sink {}", self.name)))
    }

    fn max_batch(&self) -> usize {
        self.common.batch.unwrap_or(self.traits.default_batch).max(1)
    }

    /// Waits for more messages, so long as the pipeline allows.
    async fn linger(&mut self) {
        let linger = self.common.linger.0;
        if linger == Duration::ZERO {
            return;
        }
        let until = Instant::now() + linger;
        let mut waiting: usize = self.fresh.iter().map(|parcel| parcel.held.len()).sum();
        while waiting < self.max_batch() && self.fresh.len() < QUEUE {
            match tokio::time::timeout_at(until, self.parcels.recv()).await {
                Ok(Some(parcel)) => {
                    waiting += parcel.held.len();
                    self.fresh.push_back(parcel);
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Puts together what the next call writes: parked messages that are due, then fresh ones of claims
    /// below the boundary.
    fn next_call(&mut self, mut boundary: u64) -> Vec<Piece> {
        let mut call = Vec::new();
        let mut rows = 0;
        let mut bytes = 0;
        let now = Instant::now();
        let mut orders: HashSet<u64> = HashSet::new();
        while let Some(&(due, order)) = self.due.first().filter(|&&(due, _)| due <= now) {
            if rows >= self.max_batch() {
                return call;
            }
            self.due.remove(&(due, order));
            let Some(Parked { head, behind, .. }) = self.parked.remove(&order) else { continue };
            // What waited behind it comes before everything fresh, and after it.
            for parcel in behind.into_iter().rev() {
                self.fresh.push_front(parcel);
            }
            rows += head.held.len();
            bytes += payload_bytes(&head.held);
            orders.insert(order);
            call.push(head);
        }
        let retried = !orders.is_empty();
        while let Some(Parcel { origin, held }) = self.fresh.pop_front() {
            if held.is_revoked() {
                held.abandon();
                continue;
            }
            // It only sinks here: what comes behind one that is held back must not pass it (P3).
            boundary = self.shared.gate.as_ref().map_or(boundary, |gate| boundary.min(gate.boundary()));
            if held.claim() >= boundary {
                self.held_back.push_back(Parcel { origin, held });
                continue;
            }
            let room = self.max_batch().saturating_sub(rows);
            if room == 0 || bytes >= CALL_BYTES {
                self.fresh.push_front(Parcel { origin, held });
                break;
            }
            let mut held = held;
            if held.len() > room {
                let mut parts = held.split(2, |index, _| usize::from(index >= room)).into_iter();
                held = parts.next().expect("two parts were asked for");
                if let Some(rest) = parts.next() {
                    self.fresh.push_front(Parcel { origin: origin.clone(), held: rest });
                }
            }
            if !self.parked.is_empty() {
                held = self.queue_behind_parked(&origin, held);
            }
            if self.traits.partial_failures || retried {
                // A retried message may fail again, and one of its order must not overtake it then.
                let unique = self.traits.partial_failures;
                let mut later_from = None;
                let mut seen = orders.clone();
                for (index, row) in held.batch().rows().iter().enumerate() {
                    let clash = if unique { !seen.insert(row.order) } else { orders.contains(&row.order) };
                    if clash {
                        later_from = Some(index);
                        break;
                    }
                }
                if unique {
                    orders = seen;
                }
                if let Some(from) = later_from {
                    let mut parts = held.split(2, |index, _| usize::from(index >= from)).into_iter();
                    let now = parts.next().expect("two parts were asked for");
                    if let Some(later) = parts.next() {
                        self.fresh.push_front(Parcel { origin: origin.clone(), held: later });
                    }
                    if !now.is_empty() {
                        call.push(Piece { origin, held: now, attempts: 0, put_off: 0 });
                    }
                    return call;
                }
            }
            if !held.is_empty() {
                rows += held.len();
                bytes += payload_bytes(&held);
                call.push(Piece { origin, held, attempts: 0, put_off: 0 });
            }
        }
        call
    }

    fn refused(&self, code: &str, reason: String, attempts: u32) -> Why {
        Why {
            stage: Stage::Sink(self.name.clone()),
            plugin: None,
            code: code.to_owned(),
            reason,
            trap: None,
            attempts,
        }
    }

    /// Queues messages whose order is parked, and returns the others.
    fn queue_behind_parked(&mut self, origin: &Origin, held: Held) -> Held {
        let parked = &self.parked;
        if !held.batch().rows().iter().any(|row| parked.contains_key(&row.order)) {
            return held;
        }
        let mut parts = held.split(2, |_, row| usize::from(parked.contains_key(&row.order))).into_iter();
        let free = parts.next().expect("two parts were asked for");
        for single in parts.flat_map(Held::singles) {
            let order = single.batch().rows()[0].order;
            if let Some(parked) = self.parked.get_mut(&order) {
                parked.behind.push_back(Parcel { origin: origin.clone(), held: single });
            }
        }
        free
    }

    /// Makes one call, again and again while the sink is not there, and deals with what it says.
    async fn make(&mut self, mut call: Vec<Piece>) -> anyhow::Result<()> {
        call.iter_mut().for_each(|piece| piece.held.begin_sending());
        loop {
            let messages: Vec<MessageRef<'_>> =
                call.iter().flat_map(|piece| piece.held.batch().messages()).collect();
            let result = self.sink.write(&messages).await;
            let count = messages.len();
            drop(messages);
            match result {
                Ok(Outcomes::AllDurable) => {
                    self.is_back();
                    call.into_iter().for_each(|piece| self.delivered(piece.held));
                    return Ok(());
                }
                Ok(Outcomes::Each(outcomes)) => {
                    self.is_back();
                    return self.settle(call, outcomes, count).await;
                }
                Ok(Outcomes::Until(outcomes, why)) => {
                    // Settled before the wait, so that what is durable is committed.
                    let not_written = not_written(&why, self.common.on_unavailable);
                    let outcomes =
                        outcomes.into_iter().map(|known| known.unwrap_or_else(|| not_written.clone()));
                    self.settle(call, outcomes.collect(), count).await?;
                    self.tries = 0;
                    return self.wait(why).await;
                }
                Err(why) if self.common.on_unavailable == OnUnavailable::DeadLetter => {
                    let outcomes = vec![not_written(&why, self.common.on_unavailable); count];
                    // An error for which no waiting helps ends it before anything is settled.
                    self.wait(why).await?;
                    return self.settle(call, outcomes, count).await;
                }
                Err(why) => self.wait(why).await?,
            }
        }
    }

    /// Waits for a sink that is not there, if the pipeline does.
    async fn wait(&mut self, why: CallError) -> anyhow::Result<()> {
        let (reason, retry_after, credentials) = match why {
            CallError::Fatal(reason) | CallError::Refused { reason, .. } => {
                anyhow::bail!("sink {}: {reason}", self.name)
            }
            CallError::Unavailable { reason, retry_after, credentials } => (reason, retry_after, credentials),
        };
        self.shared.count_error(&format!("sink:{}", self.name), "unavailable");
        match self.common.on_unavailable {
            OnUnavailable::Stop => anyhow::bail!("sink {} is unavailable: {reason}", self.name),
            OnUnavailable::DeadLetter => return Ok(()),
            OnUnavailable::Wait => {}
        }
        let delay = absent_delay(&self.shared.retry, self.tries, retry_after, credentials);
        tracing::warn!(pipeline = %self.shared.name, sink = %self.name, reason, ?delay, "the sink is unavailable; waiting for it");
        self.shared.waits.set(&format!("sink {}", self.name), reason);
        self.shared.metrics.unavailable[self.number].set(1);
        self.tries += 1;
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn is_back(&mut self) {
        if self.tries == 0 {
            return;
        }
        self.tries = 0;
        tracing::info!(pipeline = %self.shared.name, sink = %self.name, "the sink is back");
        self.shared.waits.clear(&format!("sink {}", self.name));
        self.shared.metrics.unavailable[self.number].set(0);
    }

    fn delivered(&self, held: Held) {
        match &self.shared.gate {
            Some(gate) => gate.hand_in(held, End::Delivered(self.number)),
            None => {
                self.shared.sent(self.number, &held);
                held.delivered();
            }
        }
    }

    async fn settle(&mut self, call: Vec<Piece>, outcomes: Vec<Outcome>, count: usize) -> anyhow::Result<()> {
        anyhow::ensure!(
            outcomes.len() == count,
            "sink {} gave {} outcomes for {count} messages, a defect of the sink",
            self.name,
            outcomes.len()
        );
        let mut outcomes = outcomes.into_iter();
        for piece in call {
            let of_piece: Vec<Outcome> = outcomes.by_ref().take(piece.held.len()).collect();
            if of_piece.iter().all(|outcome| *outcome == Outcome::Durable) {
                self.delivered(piece.held);
                continue;
            }
            let Piece { origin, held, attempts, put_off } = piece;
            for (held, outcome) in held.singles().zip(of_piece) {
                let one = Piece { origin: origin.clone(), held, attempts, put_off };
                self.settle_one(one, outcome).await;
            }
        }
        Ok(())
    }

    async fn settle_one(&mut self, mut piece: Piece, outcome: Outcome) {
        let order = piece.held.batch().rows()[0].order;
        let (code, reason, again) = match outcome {
            Outcome::Durable => {
                self.delivered(piece.held);
                return;
            }
            Outcome::Later { reason, after } => {
                let delay =
                    after.unwrap_or_else(|| unavailable_delay(&self.shared.retry, piece.put_off, None));
                piece.put_off = piece.put_off.saturating_add(1);
                ("put-off", reason, Some(delay))
            }
            Outcome::Retry { reason, after } => {
                let delay = next_delay(&self.shared.retry, piece.attempts, after);
                piece.attempts += 1;
                piece.held.note_failure();
                piece.held.note_attempt(&reason);
                let again = piece.attempts < self.shared.retry.max_attempts;
                ("retries-exhausted", reason, again.then_some(delay))
            }
            Outcome::Reject { code, reason } => {
                piece.attempts += 1;
                piece.held.note_failure();
                (code, reason, None)
            }
        };
        match again {
            Some(delay) => {
                self.shared.metrics.retries(&self.shared.name, &format!("sink:{}", self.name)).inc();
                tracing::debug!(pipeline = %self.shared.name, sink = %self.name, reason, attempt = piece.attempts, ?delay, "tried again later");
                self.park(order, piece, Instant::now() + delay);
            }
            None => {
                self.shared.not_sent(self.number, &piece.held, code, &reason);
                let why = self.refused(code, reason, piece.attempts);
                self.desk.give_up(&piece.origin, piece.held, why).await;
            }
        }
    }

    /// Parks a message that failed, or queues it if one of its order that came before it did.
    fn park(&mut self, order: u64, piece: Piece, due: Instant) {
        if let Some(parked) = self.parked.get_mut(&order) {
            parked.behind.push_back(Parcel { origin: piece.origin, held: piece.held });
            return;
        }
        self.due.insert((due, order));
        self.parked.insert(order, Parked { head: piece, behind: VecDeque::new() });
    }
}

/// What becomes of a message that the sink could not be given.
fn not_written(why: &CallError, on_unavailable: OnUnavailable) -> Outcome {
    match (why, on_unavailable) {
        (CallError::Unavailable { reason, retry_after, .. }, OnUnavailable::DeadLetter) => {
            Outcome::Retry { reason: reason.clone(), after: *retry_after }
        }
        // As soon as the wait for the sink is over.
        _ => Outcome::Later { reason: why.to_string(), after: Some(Duration::ZERO) },
    }
}

fn payload_bytes(held: &Held) -> usize {
    held.batch().rows().iter().map(|row| row.payload.len() as usize).sum()
}

/// Waits for a moment, or for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
