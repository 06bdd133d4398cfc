//! The transactional producer of a pipeline: its sinks and its dead letters write through it, and its
//! source ends its transactions.

use std::any::Any;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use rdkafka::{ClientConfig, TopicPartitionList};
use tokio::sync::{Mutex as TurnMutex, MutexGuard, oneshot};

use super::Cluster;
use super::producer::{Care, Producer};
use crate::transactions::{TransactionError, Transactions};

/// How long the brokers may take for one step.
const STEP: Duration = Duration::from_secs(10);

/// How often a step is taken that times out. After that a new producer ends what the old one left open:
/// one way or the other, which the committed offsets then tell.
const STEPS: u32 = 2;

/// A transaction that timed out, and a process with the same id, fence a producer alike. After the first
/// it is fenced once; with the second they fence each other again and again, and then one has to go.
const FENCED_ONCE: Duration = Duration::from_secs(60);

/// The transactional producer of a pipeline, made anew when it is of no more use.
pub struct Transactional {
    cluster: Cluster,
    config: ClientConfig,
    /// Whose it is, for the log.
    of: String,
    id: String,
    /// One call at a time: its reports are those of the producer.
    turn: TurnMutex<()>,
    present: Mutex<Option<(Care, Producer)>>,
    wanted: Mutex<Care>,
    fenced: Mutex<Option<Instant>>,
}

impl Transactional {
    /// `config` is that of a producer; what transactions need is added.
    pub fn new(
        cluster: Cluster,
        mut config: ClientConfig,
        of: String,
        id: String,
        timeout: Duration,
    ) -> Transactional {
        let timeout_ms = timeout.as_millis().to_string();
        config.set("transactional.id", &id);
        config.set("transaction.timeout.ms", &timeout_ms);
        let wanted = Mutex::new(Care::default());
        let (turn, present, fenced) = (TurnMutex::default(), Mutex::default(), Mutex::default());
        Transactional { cluster, config, of, id, turn, present, wanted, fenced }
    }

    /// Waits for the turn to make a call.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The producer whose transaction is open, and how careful it is.
    pub fn present(&self) -> Option<(Care, Producer)> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next transaction is to be that careful. The open one has to be aborted for it.
    pub fn want(&self, care: Care) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.batch_bytes = wanted.batch_bytes.min(care.batch_bytes);
        wanted.alone |= care.alone;
    }

    /// The producer is of no more use: the next transaction has a new one.
    pub fn discard(&self) {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Ends the open transaction with these offsets of the group in it.
    pub async fn commit(
        &self,
        offsets: TopicPartitionList,
        group: ConsumerGroupMetadata,
    ) -> Result<(), TransactionError> {
        let (_, producer) = self.present().ok_or_else(|| failed("there is no producer"))?;
        let commit = move || {
            let client = producer.client();
            if offsets.count() > 0 {
                // Not again: where the group has another coordinator since, librdkafka waits for the one of
                // before, and nothing is committed yet.
                client.send_offsets_to_transaction(&offsets, &group, STEP)?;
            }
            repeat(|| client.commit_transaction(STEP))
        };
        self.step("commit", commit).await?;
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).alone = false;
        Ok(())
    }

    /// Takes a step that waits for the brokers. After an error that only a new producer gets over, the
    /// next transaction has one.
    async fn step(
        &self,
        what: &str,
        step: impl FnOnce() -> Result<(), KafkaError> + Send + 'static,
    ) -> Result<(), TransactionError> {
        let error = match self.answer(what, step).await? {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let aborts = matches!(&error, KafkaError::Transaction(error) if error.txn_requires_abort());
        if !aborts {
            self.discard();
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced) if self.is_fenced_again() => {
                let id = &self.id;
                Err(TransactionError::Fatal(format!(
                    "another process has taken over the transactional id {id:?} ({error}); every member needs one of \
                     its own (`transactional_id`)"
                )))
            }
            _ => Err(TransactionError::Failed(format!("{what}: {error}"))),
        }
    }

    /// Takes a step on a thread of its own, so that a stop need not wait for it, and no longer than the
    /// step may take: librdkafka has been seen not to come back from one.
    async fn answer(
        &self,
        what: &str,
        step: impl FnOnce() -> Result<(), KafkaError> + Send + 'static,
    ) -> Result<Result<(), KafkaError>, TransactionError> {
        let (done, answered) = oneshot::channel();
        // If nobody waits any more nobody needs it.
        let take = move || drop(done.send(step()));
        std::thread::Builder::new()
            .name("kafka-transaction".to_owned())
            .spawn(take)
            .map_err(|error| TransactionError::Failed(format!("{what}: no thread: {error}")))?;
        match tokio::time::timeout(STEP * (STEPS + 1), answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(TransactionError::Fatal(format!("{what} panicked; see the log"))),
            Err(_) => {
                self.discard();
                Err(TransactionError::Failed(format!("{what}: librdkafka did not come back from it")))
            }
        }
    }

    /// Notes that it was fenced; whether it was not long ago, too.
    fn is_fenced_again(&self) -> bool {
        let before = self.fenced.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
        before.is_some_and(|before| before.elapsed() < FENCED_ONCE)
    }

    /// A producer as it is wanted: that of before, if it is of use.
    async fn fit(&self) -> Result<Producer, TransactionError> {
        let wanted = *self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((care, producer)) = self.present()
            && care == wanted
            && producer.client().client().fatal_error().is_none()
        {
            return Ok(producer);
        }
        // The old one first: with the new one it would be fenced.
        self.discard();
        let fatal = |error: anyhow::Error| TransactionError::Fatal(format!("{error:#}"));
        let context = self.cluster.context(&self.of).map_err(fatal)?;
        let producer = Producer::start(self.config.clone(), wanted, context).map_err(fatal)?;
        let of_it = producer.clone();
        self.step("init", move || repeat(|| of_it.client().init_transactions(STEP))).await?;
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = Some((wanted, producer.clone()));
        Ok(producer)
    }
}

#[async_trait]
impl Transactions for Transactional {
    async fn begin(&self) -> Result<(), TransactionError> {
        let producer = self.fit().await?;
        self.step("begin", move || producer.client().begin_transaction()).await
    }

    async fn abort(&self) -> Result<(), TransactionError> {
        if let Some((_, producer)) = self.present() {
            match self.step("abort", move || repeat(|| producer.client().abort_transaction(STEP))).await {
                Ok(()) => return Ok(()),
                Err(error @ TransactionError::Fatal(_)) => return Err(error),
                Err(TransactionError::Failed(reason)) => {
                    tracing::warn!(
                        of = self.of,
                        reason,
                        "the transaction cannot be aborted; a new producer does it"
                    );
                    self.discard();
                }
            }
        }
        self.fit().await.map(drop)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn failed(reason: &str) -> TransactionError {
    TransactionError::Failed(reason.to_owned())
}

/// Takes a step again that timed out, as librdkafka asks for.
fn repeat(step: impl Fn() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let mut left = STEPS;
    loop {
        left -= 1;
        match step() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && left > 0 => {}
            other => return other,
        }
    }
}

/// The transactional producer behind `transactions`.
pub fn of(transactions: &dyn Transactions) -> Option<&Transactional> {
    transactions.as_any().downcast_ref()
}
