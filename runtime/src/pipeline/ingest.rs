//! Reading: all backpressure starts here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::deliver::Parcel;
use super::desk::{DeskDoor, Origin, Why};
use super::ledger::{FeedId, Held};
use super::traced::Receipt;
use crate::config::Ordering;
use crate::dead_letters::Stage;
use crate::message::{Batch, Row};
use crate::sources::{Progress, Read, ReadBatch, ReadLimit, Reader, RejectedRow};
use crate::traces::now;

/// Bytes of one read, at most: several batches must fit into the budget, or the lanes wait for the
/// reader and the reader for the lanes.
const READ_BYTES: usize = 4 << 20;

/// How far a source with an end is.
#[derive(Debug, Default)]
pub struct SharedProgress {
    read: AtomicU64,
    total: AtomicU64,
}

impl SharedProgress {
    pub fn get(&self) -> Option<Progress> {
        let total_bytes = self.total.load(Relaxed);
        (total_bytes > 0).then(|| Progress { read_bytes: self.read.load(Relaxed), total_bytes })
    }
}

pub struct Ingest {
    pub reader: Box<dyn Reader>,
    pub feeder: Feeder,
    pub progress: Arc<SharedProgress>,
    /// Messages read at once, at most.
    pub rows: usize,
}

/// Brings what was read into the pipeline.
pub struct Feeder {
    pub shared: Arc<Shared>,
    pub feed: FeedId,
    pub origin: Origin,
    pub lanes: Vec<mpsc::Sender<Parcel>>,
    pub desk: DeskDoor,
    /// A replay stands outside the order.
    pub ordering: Ordering,
    pub next_lane: usize,
}

impl Ingest {
    /// Runs until the source has ended or `stop` says so.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let read = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                read = self.read() => read?,
            };
            if let Some(Progress { read_bytes, total_bytes }) = self.reader.progress() {
                self.progress.read.store(read_bytes, Relaxed);
                self.progress.total.store(total_bytes, Relaxed);
            }
            match read {
                Read::Batch(read) => self.feeder.feed(read).await,
                Read::Lost(partitions) => self.feeder.lose(&partitions),
                Read::Rewound => self.feeder.shared.ledger.rewound(self.feeder.feed),
                Read::End => return Ok(()),
            }
        }
    }

    async fn read(&mut self) -> anyhow::Result<Read> {
        let room = self.feeder.shared.budget.wait_for_room().await;
        self.reader.read(ReadLimit { rows: self.rows, bytes: room.min(READ_BYTES) }).await
    }
}

impl Feeder {
    async fn feed(&mut self, read: ReadBatch) {
        let ReadBatch { mut batch, rejected, replays } = read;
        if batch.is_empty() {
            return;
        }
        self.set_orders(&mut batch);
        let at = self.shared.tracer.as_ref().map(|_| now());
        let ledger = &self.shared.ledger;
        let held = match replays.is_empty() {
            true => ledger.open(self.feed, batch),
            false => ledger.open_replays(self.feed, batch, replays.clone()),
        };
        let Some(mut held) = held else { return };
        self.shared.count_received(held.batch());
        if let (Some(tracer), Some(at)) = (&self.shared.tracer, at) {
            let describe = &self.origin.describe;
            let receipt =
                Receipt { batch: held.batch(), rejected: &rejected, replays: &replays, describe, at };
            let traced = tracer.received(&receipt);
            held.set_traced(traced);
        }
        if !rejected.is_empty() {
            held = self.give_up_rejected(held, rejected).await;
        }
        self.dispatch(held).await;
    }

    /// These partitions belong to somebody else now.
    fn lose(&self, partitions: &[u32]) {
        if let Some(gate) = &self.shared.gate {
            gate.fail("partitions with messages in flight went to another member".to_owned());
        }
        self.shared.ledger.forfeit(self.feed, partitions);
    }

    fn set_orders(&self, batch: &mut Batch) {
        let orders: Vec<u64> = match self.ordering {
            Ordering::Partition => {
                batch.rows().iter().map(|row| self.shared.partition_order(self.feed, row)).collect()
            }
            Ordering::Key => (batch.messages())
                .map(|message| match message.key() {
                    Some(key) => self.shared.key_order(key),
                    None => self.shared.partition_order(self.feed, message.row()),
                })
                .collect(),
            Ordering::None => batch.rows().iter().map(|_| self.shared.no_order()).collect(),
        };
        for (row, order) in batch.rows_mut().iter_mut().zip(orders) {
            row.order = order;
        }
    }

    async fn give_up_rejected(&self, held: Held, rejected: Vec<RejectedRow>) -> Held {
        let is_rejected =
            |row: &Row| rejected.binary_search_by_key(&row.claim_row, |rejected| rejected.row).is_ok();
        let mut parts = held.split(2, |_, row| usize::from(is_rejected(row))).into_iter();
        let good = parts.next().expect("two parts were asked for");
        for (held, rejected) in parts.flat_map(Held::singles).zip(&rejected) {
            let why = Why {
                stage: Stage::Source,
                plugin: None,
                code: rejected.code.to_owned(),
                reason: rejected.reason.clone(),
                trap: None,
                attempts: 1,
            };
            self.desk.give_up(&self.origin, held, why).await;
        }
        good
    }

    /// Sends each message to the lane of its order.
    async fn dispatch(&mut self, held: Held) {
        let lanes = self.lanes.len();
        let first = held.batch().rows().first().map(|row| row.order);
        let parts = if lanes == 1 || self.ordering == Ordering::None {
            // Without an order a whole batch may go to any lane.
            self.next_lane = (self.next_lane + 1) % lanes;
            vec![(self.next_lane, held)]
        } else if held.batch().rows().iter().all(|row| Some(row.order) == first) {
            vec![((first.unwrap_or(0) % lanes as u64) as usize, held)]
        } else {
            held.split(lanes, |_, row| (row.order % lanes as u64) as usize).into_iter().enumerate().collect()
        };
        for (lane, held) in parts.into_iter().filter(|(_, held)| !held.is_empty()) {
            let parcel = Parcel { origin: self.origin.clone(), held };
            if let Err(refused) = self.lanes[lane].send(parcel).await {
                // The lane is gone: the pipeline has failed.
                refused.0.held.abandon();
            }
        }
    }
}
