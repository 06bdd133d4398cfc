//! A lane: a thread that takes batches through the native steps and the plugins and sends what comes
//! out to the sinks.
//!
//! It owns its plugin instances. Order within the lane is the order of arrival; a message that a
//! plugin wants to see again later is parked, and those of its order queue up behind it (P3). New
//! plugins are taken from its mailbox between two batches: a batch goes through the old ones or the
//! new ones, and what is parked goes on with those that are there when its time comes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Shared;
use super::chain::Chain;
use super::deliver::Parcel;
use super::desk::{DeskDoor, Origin, Why};
use super::followers::FollowersDoor;
use super::ledger::{Aside, Held};
use super::retry::{absent_delay, next_delay};
use super::swap::Mailbox;
use super::traced::PluginCall;
use crate::codecs::NotReady;
use crate::dead_letters::Stage;
use crate::message::{Batch, Row, SinkSet};
use crate::plugin::{Determined, Epochs, FateVerdict, Passage, PluginIdentity, Processed};

/// What a lane waits for, by the name that readiness tells.
const CODEC: &str = "codec of the source";

/// Batches on their way to a lane.
pub const QUEUE: usize = 4;

/// A plugin as a lane uses it.
pub trait Step: Send {
    fn identity(&self) -> &PluginIdentity;

    /// What becomes of a batch. An error means that the plugin cannot run any more at all.
    fn process(&mut self, batch: Batch, passage: &Passage) -> anyhow::Result<Processed>;

    /// Whether it may write to the state: then it is told when its messages were read.
    fn keeps_state(&self) -> bool {
        false
    }

    /// Guest memory it has now, in bytes.
    fn memory_bytes(&self) -> usize;

    /// A fault that a test asks for: every call with a message of this record of the source is taken
    /// to last longer than the limit. What has no limit of time does not do it.
    fn overrun_at(&mut self, _record: u64) {}

    /// Takes its randomness from here, and its time from the passage, in a test.
    fn determine(&mut self, _random: Determined) {}
}

/// Messages that wait for the one before them, and the stage of the chain they are to enter next.
struct Waiting {
    origin: Origin,
    held: Held,
    stage: usize,
    /// How often the step there has asked for it again.
    attempts: u32,
}

struct Parked {
    /// The one that a step wants to see again.
    head: Waiting,
    due: Instant,
    behind: VecDeque<Waiting>,
}

pub struct Lane {
    shared: Arc<Shared>,
    chain: Chain,
    /// Guest memory that the budget knows of.
    memory: usize,
    mailbox: Arc<Mailbox>,
    batches: mpsc::Receiver<Parcel>,
    sinks: Vec<mpsc::Sender<Parcel>>,
    desk: DeskDoor,
    followers: FollowersDoor,
    parked: HashMap<u64, Parked>,
    due: BTreeSet<(Instant, u64)>,
}

impl Lane {
    pub fn new(
        shared: Arc<Shared>,
        chain: Chain,
        mailbox: Arc<Mailbox>,
        batches: mpsc::Receiver<Parcel>,
        sinks: Vec<mpsc::Sender<Parcel>>,
        desk: DeskDoor,
        followers: FollowersDoor,
    ) -> Lane {
        let (parked, due) = (HashMap::new(), BTreeSet::new());
        Lane { shared, chain, memory: 0, mailbox, batches, sinks, desk, followers, parked, due }
    }

    /// Runs until no more batches come and everything has been sent on. Plugin calls block the
    /// thread: it must be the lane's own.
    pub async fn run(mut self) -> anyhow::Result<()> {
        self.note_memory();
        let mut open = true;
        while open || !self.parked.is_empty() {
            let next_due = self.due.first().map(|&(due, _)| due);
            tokio::select! {
                biased;
                fresh = self.mailbox.taken() => {
                    for (plugin, step) in fresh {
                        self.chain.replace(plugin, step);
                    }
                    self.note_memory();
                }
                () = until(next_due) => self.try_parked().await?,
                parcel = self.batches.recv(), if open => match parcel {
                    Some(Parcel { origin, held }) => self.admit(origin, held, 0, 0).await?,
                    None => open = false,
                },
            }
        }
        Ok(())
    }

    /// Takes messages through the chain from `stage` on. `attempts` is how often the step there
    /// has asked for the message again; it is 0 unless there is but one.
    async fn admit(&mut self, origin: Origin, held: Held, stage: usize, attempts: u32) -> anyhow::Result<()> {
        if held.is_revoked() {
            held.abandon();
            return Ok(());
        }
        let mut held = self.queue_behind_parked(&origin, held, stage, attempts);
        let mut attempts = attempts;
        for stage in stage..self.chain.stages() {
            if held.is_empty() {
                return Ok(());
            }
            if !self.has_what_it_needs(stage, &held).await? {
                held.abandon();
                return Ok(());
            }
            let now_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
            let keeps_state = self.chain.plugin(stage).is_some_and(Step::keeps_state);
            let epochs = match keeps_state && !self.shared.positions_last {
                true => held.epochs(),
                false => Epochs::None,
            };
            let passage = Passage { now_ms, claim: held.claim(), epochs };
            let call = self.chain.plugin(stage).and_then(|_| PluginCall::begin(&held));
            let (mut passed, parents, asides) =
                held.advance(|batch| self.chain.process(stage, batch, &passage))?;
            if let (Some(call), Some(tracer), Some(plugin)) =
                (call, &self.shared.tracer, self.chain.identity(stage))
            {
                call.end(tracer, plugin, &mut passed, &asides);
            }
            self.note_memory();
            held = self.deal_with(&origin, passed, &parents, asides, stage, attempts).await;
            attempts = 0;
        }
        if !held.is_empty() {
            self.send(origin, held).await;
        }
        Ok(())
    }

    /// Waits for what a stage needs to take these messages; false if they were revoked meanwhile.
    async fn has_what_it_needs(&self, stage: usize, held: &Held) -> anyhow::Result<bool> {
        let mut tries = 0;
        while let Some(needs) = self.chain.needs(stage, held.batch()) {
            let Err(why) = needs.await else { continue };
            let NotReady { reason, retry_after, credentials, is_final } = why;
            anyhow::ensure!(!is_final, "the codec of the source: {reason}");
            if held.is_revoked() {
                return Ok(false);
            }
            let delay = absent_delay(&self.shared.retry, tries, retry_after, credentials);
            tries += 1;
            tracing::warn!(pipeline = %self.shared.name, reason, ?delay, "the codec of the source waits for what it needs");
            self.shared.count_error("source", "unavailable");
            self.shared.waits.set(CODEC, reason);
            tokio::time::sleep(delay).await;
        }
        if tries > 0 {
            self.shared.waits.clear(CODEC);
            tracing::info!(pipeline = %self.shared.name, "the codec of the source has what it needs");
        }
        Ok(true)
    }

    /// Gives up or parks what a step did not let pass. Returns what goes on now: without the
    /// messages that came after a parked one of their order, which queue up behind it.
    async fn deal_with(
        &mut self,
        origin: &Origin,
        passed: Held,
        parents: &[u32],
        asides: Vec<Aside>,
        stage: usize,
        attempts: u32,
    ) -> Held {
        if asides.is_empty() {
            return passed;
        }
        // The first message of each order that is parked here, by its row.
        let mut parked_here: HashMap<u64, u32> = HashMap::new();
        // What was parked at an earlier stage, and so comes after all that is here.
        let mut displaced: Vec<Parked> = Vec::new();
        // What queues up behind those, by its row and the stage it is to enter next.
        let mut behind: Vec<(u32, Held, usize)> = Vec::new();
        for Aside { held, parent, verdict } in asides {
            if verdict.is_failure() {
                held.note_failure();
            }
            match verdict {
                FateVerdict::Retry { code, reason } => {
                    let attempts = attempts + 1;
                    if attempts >= self.shared.retry.max_attempts {
                        self.give_up(origin, held, stage, code, reason, None, attempts).await;
                        continue;
                    }
                    match parked_here.entry(held.batch().rows()[0].order) {
                        Entry::Occupied(_) => behind.push((parent, held, stage)),
                        Entry::Vacant(first) => {
                            first.insert(parent);
                            let head = Waiting { origin: origin.clone(), held, stage, attempts };
                            displaced.extend(self.park(head));
                        }
                    }
                }
                FateVerdict::Rejected { code, reason } => {
                    self.give_up(origin, held, stage, code, reason, None, attempts + 1).await;
                }
                FateVerdict::Faulted(fault) => {
                    let kind = fault.kind.as_str().to_owned();
                    self.give_up(
                        origin,
                        held,
                        stage,
                        kind.clone(),
                        fault.message.clone(),
                        Some(kind),
                        attempts + 1,
                    )
                    .await;
                }
                FateVerdict::Duplicate(of) => {
                    let (plugin, stage) = (self.chain.identity(stage).cloned(), self.chain.stage(stage));
                    self.followers.follow(origin, held, of, stage, plugin).await;
                }
                // The ledger has settled these already.
                FateVerdict::Dropped => drop(held),
            }
        }
        if parked_here.is_empty() {
            return passed;
        }
        let mut waiting_rows = Vec::new();
        let mut parts = passed
            .split(2, |index, row| {
                let waits = parked_here.get(&row.order).is_some_and(|&first| parents[index] > first);
                if waits {
                    waiting_rows.push(parents[index]);
                }
                usize::from(waits)
            })
            .into_iter();
        let free = parts.next().expect("two parts were asked for");
        let passed = parts.flat_map(Held::singles).zip(waiting_rows);
        behind.extend(passed.map(|(held, parent)| (parent, held, stage + 1)));
        behind.sort_by_key(|&(parent, ..)| parent);
        for (_, held, stage) in behind {
            self.queue(Waiting { origin: origin.clone(), held, stage, attempts: 0 });
        }
        for Parked { head, behind, .. } in displaced {
            self.queue(head);
            behind.into_iter().for_each(|waiting| self.queue(waiting));
        }
        free
    }

    #[expect(clippy::too_many_arguments, reason = "each is needed once, and named at the call")]
    async fn give_up(
        &mut self,
        origin: &Origin,
        held: Held,
        stage: usize,
        code: String,
        reason: String,
        trap: Option<String>,
        attempts: u32,
    ) {
        let why = Why {
            stage: self.chain.stage(stage),
            plugin: self.chain.identity(stage).cloned(),
            code,
            reason,
            trap,
            attempts,
        };
        self.desk.give_up(origin, held, why).await;
    }

    /// Parks the one message, the first of its order. Returns what had its place: one of the same batch
    /// that comes after it, and was parked at an earlier stage.
    fn park(&mut self, head: Waiting) -> Option<Parked> {
        let order = head.held.batch().rows()[0].order;
        let stage = self.chain.stage(head.stage).to_string();
        self.shared.metrics.retries(&self.shared.name, &stage).inc();
        let due = Instant::now() + next_delay(&self.shared.retry, head.attempts - 1, None);
        let displaced = self.parked.insert(order, Parked { head, due, behind: VecDeque::new() });
        if let Some(displaced) = &displaced {
            self.due.remove(&(displaced.due, order));
        }
        self.due.insert((due, order));
        displaced
    }

    /// Queues one message up behind the parked one of its order.
    fn queue(&mut self, waiting: Waiting) {
        let order = waiting.held.batch().rows()[0].order;
        if let Some(parked) = self.parked.get_mut(&order) {
            parked.behind.push_back(waiting);
        }
    }

    fn queue_behind_parked(&mut self, origin: &Origin, held: Held, stage: usize, attempts: u32) -> Held {
        let parked: HashSet<u64> = match self.parked.is_empty() {
            true => return held,
            false => held
                .batch()
                .rows()
                .iter()
                .map(|row| row.order)
                .filter(|o| self.parked.contains_key(o))
                .collect(),
        };
        if parked.is_empty() {
            return held;
        }
        let mut parts = held.split(2, |_, row| usize::from(parked.contains(&row.order))).into_iter();
        let free = parts.next().expect("two parts were asked for");
        for held in parts.flat_map(Held::singles) {
            self.queue(Waiting { origin: origin.clone(), held, stage, attempts });
        }
        free
    }

    /// Tries the parked messages that are due, and lets those behind them go on.
    async fn try_parked(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        while let Some(&(due, order)) = self.due.first().filter(|&&(due, _)| due <= now) {
            self.due.remove(&(due, order));
            let Some(Parked { head, behind, .. }) = self.parked.remove(&order) else { continue };
            // If the head is parked again, `admit` queues those behind it up once more.
            for Waiting { origin, held, stage, attempts } in std::iter::once(head).chain(behind) {
                self.admit(origin, held, stage, attempts).await?;
            }
        }
        Ok(())
    }

    /// Sends messages to their sinks; those that match none become dead letters.
    async fn send(&mut self, origin: Origin, held: Held) {
        let shared = &self.shared;
        let (offered, unrouted) = held.fan_out(self.sinks.len(), |batch, row| shared.sinks_of(batch, row));
        for (sink, held) in offered {
            let parcel = Parcel { origin: origin.clone(), held };
            if let Err(refused) = self.sinks[sink].send(parcel).await {
                // The sink's task is gone: the pipeline has failed.
                refused.0.held.abandon();
            }
        }
        for held in unrouted.into_iter().flat_map(Held::singles) {
            let reason = self.shared.unrouted_reason(&held);
            if let Some(tracer) = &self.shared.tracer {
                tracer.unrouted(&held, &reason);
            }
            let why = Why {
                stage: Stage::Route,
                plugin: None,
                code: "unrouted".to_owned(),
                reason,
                trap: None,
                attempts: 1,
            };
            self.desk.give_up(&origin, held, why).await;
        }
    }

    fn note_memory(&mut self) {
        let now = self.chain.memory_bytes();
        if now != self.memory {
            self.shared.budget.guest_memory_changed(self.memory, now);
            self.memory = now;
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.budget.guest_memory_changed(self.memory, 0);
    }
}

impl Shared {
    /// Which sinks a message goes to: each without a `route`, and those whose route a plugin named.
    pub(super) fn sinks_of(&self, batch: &Batch, row: &Row) -> SinkSet {
        let named = batch.routes_of(row);
        let set = match named {
            None => self.sinks_without_route,
            Some(named) => {
                self.routes.iter().enumerate().fold(self.sinks_without_route, |set, (sink, route)| {
                    if route.as_ref().is_some_and(|route| named.contains(route)) {
                        set.with(sink)
                    } else {
                        set
                    }
                })
            }
        };
        set.and(row.sinks)
    }

    fn unrouted_reason(&self, held: &Held) -> String {
        let known: Vec<&str> = self.routes.iter().flatten().map(String::as_str).collect();
        let named = held.batch().rows().first().and_then(|row| held.batch().routes_of(row));
        match named {
            Some(named) => format!("no sink takes its routes {named:?}; the sinks' routes are {known:?}"),
            None => format!("no plugin named a route for it, and every sink has one: {known:?}"),
        }
    }
}

pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
