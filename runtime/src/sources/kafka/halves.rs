//! Reader and committer: the two ends of the thread that polls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use prometheus::Histogram;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::mpsc;

use super::super::{CommitKind, Committer, Read, ReadLimit, Reader, SourceContext};
use super::ownership::Ownership;
use super::worker::{Ends, Limit, WorkerHandle};
use crate::kafka::transactional;
use crate::message::Position;
use crate::transactions::{TransactionError, Transactions};

pub struct KafkaReader {
    batches: mpsc::Receiver<anyhow::Result<Read>>,
    limit: Arc<Limit>,
    reserved: usize,
}

impl KafkaReader {
    pub fn new(
        batches: mpsc::Receiver<anyhow::Result<Read>>,
        limit: Arc<Limit>,
        reserved: usize,
    ) -> KafkaReader {
        KafkaReader { batches, limit, reserved }
    }
}

#[async_trait]
impl Reader for KafkaReader {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        self.limit.set(limit);
        self.batches.recv().await.context("the thread that polls Kafka has ended; see the log")?
    }

    fn reserved(&self) -> usize {
        self.reserved
    }
}

pub struct KafkaCommitter {
    worker: WorkerHandle,
    ownership: Arc<Ownership>,
    latency: Histogram,
    /// Losses of partitions when the open transaction began.
    losses: u64,
}

/// How long leaving the group may take at a stop; without it the group waits for the session timeout.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long librdkafka may take for letting go of a consumer that has left. Now and then it does not come
/// back from that at all, having miscounted who uses a connection.
const GONE_TIMEOUT: Duration = Duration::from_secs(2);

/// A group in the middle of a rebalance takes no commits for a moment.
const REBALANCE_PAUSE: Duration = Duration::from_millis(50);

impl KafkaCommitter {
    pub fn new(worker: WorkerHandle, ownership: Arc<Ownership>, context: &SourceContext) -> KafkaCommitter {
        let latency = context.metrics.kafka_commit.with_label_values(&[&context.pipeline]);
        KafkaCommitter { worker, ownership, latency, losses: 0 }
    }

    async fn commit(&self, offsets: TopicPartitionList) -> anyhow::Result<()> {
        let Some(consumer) = self.worker.consumer() else { return Ok(()) };
        let started = Instant::now();
        let (result, offsets) =
            tokio::task::spawn_blocking(move || (consumer.commit(&offsets, CommitMode::Sync), offsets))
                .await?;
        result?;
        self.latency.observe(started.elapsed().as_secs_f64());
        self.ownership.committed(&offsets);
        Ok(())
    }
}

#[async_trait]
impl Committer for KafkaCommitter {
    fn kind(&self) -> CommitKind {
        CommitKind::UpTo
    }

    async fn up_to(&mut self, positions: &[Position]) -> anyhow::Result<()> {
        loop {
            // Asked each time: what was lost meanwhile is not committed any more.
            let offsets = self.ownership.to_commit(positions);
            if offsets.count() == 0 {
                return Ok(());
            }
            match self.commit(offsets).await {
                Err(error) if is_rebalancing(&error) => tokio::time::sleep(REBALANCE_PAUSE).await,
                other => return other.context("the group does not take the offsets"),
            }
        }
    }

    async fn commit_in(
        &mut self,
        transactions: &dyn Transactions,
        positions: &[Position],
    ) -> Result<(), TransactionError> {
        let failed = |reason: &str| TransactionError::Failed(reason.to_owned());
        let transactional = transactional::of(transactions)
            .ok_or_else(|| TransactionError::Fatal("these are no transactions of Kafka".to_owned()))?;
        let consumer = self.worker.consumer().ok_or_else(|| failed("the consumer has ended"))?;
        // Asked for before looking at the losses: if it is that of a later membership, the loss that
        // came before it is seen; if it is that of an earlier one, the brokers refuse it.
        let group = consumer.group_metadata().ok_or_else(|| failed("this member is in no group"))?;
        if self.ownership.losses() != self.losses {
            return Err(failed("partitions with messages in the transaction went to another member"));
        }
        let offsets = self.ownership.to_commit(positions);
        let started = Instant::now();
        transactional.commit(offsets.clone(), group).await?;
        self.latency.observe(started.elapsed().as_secs_f64());
        self.ownership.committed(&offsets);
        Ok(())
    }

    async fn rewind(&mut self) -> anyhow::Result<()> {
        self.losses = self.ownership.losses();
        if let Some(rewound) = self.worker.rewind() {
            // If the thread has ended there is nothing that it could read.
            let _ = rewound.await;
        }
        Ok(())
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        let Some(Ends { left, gone }) = self.worker.close() else { return Ok(()) };
        match tokio::time::timeout(CLOSE_TIMEOUT, left).await {
            Ok(left) => left.context("the thread that polls Kafka panicked")?,
            Err(_) => {
                tracing::warn!(
                    "the group did not answer in time; its other members wait for the session timeout"
                );
                return Ok(());
            }
        }
        if tokio::time::timeout(GONE_TIMEOUT, gone).await.is_err() {
            tracing::debug!("librdkafka still holds on to a connection; it goes with the process");
        }
        Ok(())
    }
}

fn is_rebalancing(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<KafkaError>().and_then(KafkaError::rdkafka_error_code);
    code == Some(RDKafkaErrorCode::RebalanceInProgress)
}
