//! Reader and committer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::{CommitKind, Committer, Read, ReadLimit, Reader};
use super::fetch::Fetched;
use super::filling::{Filling, Unread};
use super::leases::{Checkpoint, Table};
use super::ownership::{Ownership, Settled};
use super::troubles::Trouble;
use crate::codecs::Decoder;
use crate::message::Position;

pub struct KinesisReader {
    pub queue: mpsc::UnboundedReceiver<anyhow::Result<Fetched>>,
    /// What did not fit into the last batch.
    pub unread: Option<Unread>,
    pub decoder: Box<dyn Decoder>,
    pub max_message_bytes: usize,
    pub ownership: Arc<Ownership>,
    pub reserved: usize,
    /// Tells the coordinator that nothing more is read.
    pub _reads: DropGuard,
}

impl KinesisReader {
    /// Of what is there already.
    fn fill(&mut self, limit: ReadLimit) -> anyhow::Result<Option<Read>> {
        let mut filling = Filling::new(&mut *self.decoder, self.max_message_bytes, &self.ownership, limit);
        while !filling.is_full() {
            let unread = match self.unread.take() {
                Some(unread) => unread,
                None => match self.queue.try_recv() {
                    Ok(fetched) => Unread::new(fetched?),
                    Err(_) => break,
                },
            };
            self.unread = filling.take(unread);
        }
        Ok((!filling.is_empty()).then(|| Read::Batch(filling.finish())))
    }
}

#[async_trait]
impl Reader for KinesisReader {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        loop {
            let lost = self.ownership.take_lost();
            if !lost.is_empty() {
                return Ok(Read::Lost(lost));
            }
            if let Some(read) = self.fill(limit)? {
                return Ok(read);
            }
            tokio::select! {
                () = self.ownership.lost.notified() => {}
                fetched = self.queue.recv() => {
                    let fetched = fetched.context("those who fetch have ended; see the log")??;
                    self.unread = Some(Unread::new(fetched));
                }
            }
        }
    }

    fn reserved(&self) -> usize {
        self.reserved
    }
}

pub struct KinesisCommitter {
    pub table: Arc<dyn Table>,
    pub member: Arc<str>,
    pub ownership: Arc<Ownership>,
    /// How long to wait between two commits, unless the pipeline stops.
    pub interval: Duration,
    pub last: Option<Instant>,
    /// Cancelled once nothing more is read.
    pub stopping: CancellationToken,
    /// Ends the coordinator.
    pub closing: CancellationToken,
    pub coordinator: Option<JoinHandle<()>>,
}

/// How long giving up the leases may take at a stop; without it other members wait for them to expire.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

impl Drop for KinesisCommitter {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

#[async_trait]
impl Committer for KinesisCommitter {
    fn kind(&self) -> CommitKind {
        CommitKind::UpTo
    }

    async fn up_to(&mut self, positions: &[Position]) -> anyhow::Result<()> {
        let since = self.last.map_or(self.interval, |last| last.elapsed());
        if since < self.interval {
            self.stopping.run_until_cancelled(tokio::time::sleep(self.interval - since)).await;
        }
        // Asked after the wait: what was lost meanwhile is not committed any more.
        let settled = self.ownership.to_commit(positions);
        if settled.is_empty() {
            return Ok(());
        }
        self.last = Some(Instant::now());
        let checkpoints: Vec<(String, Checkpoint)> =
            settled.iter().map(|settled| (settled.shard.clone(), settled.checkpoint.clone())).collect();
        let lost = self.table.save(&checkpoints, &self.member).await.map_err(Trouble::into_error)?;
        let is_lost = |settled: &&Settled| lost.contains(&settled.shard);
        settled
            .iter()
            .filter(|settled| !is_lost(settled))
            .for_each(|settled| self.ownership.committed(settled));
        for settled in settled.iter().filter(is_lost) {
            self.ownership.lose(settled.number());
        }
        Ok(())
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        self.closing.cancel();
        let Some(coordinator) = self.coordinator.take() else { return Ok(()) };
        match tokio::time::timeout(CLOSE_TIMEOUT, coordinator).await {
            Ok(ended) => ended.context("the coordinator panicked"),
            Err(_) => {
                tracing::warn!("leases could not be given up in time; other members wait until they expire");
                Ok(())
            }
        }
    }
}
