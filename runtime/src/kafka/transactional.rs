//! The transactional producer of a pipeline: its sinks and its dead letters write through it, and its
//! source ends its transactions.

use std::any::Any;
use std::sync::{Mutex, MutexGuard as StateGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use rdkafka::{ClientConfig, TopicPartitionList};
use tokio::sync::{Mutex as TurnMutex, MutexGuard};

use super::producer::{Care, Producer};
use super::{Cluster, on_a_thread};
use crate::transactions::{TransactionError, Transactions};

/// How long the brokers may take for one step.
const STEP: Duration = Duration::from_secs(10);

/// How often a step is taken that times out. After that a new producer ends what the old one left open:
/// one way or the other, which the committed offsets then tell.
const STEPS: u32 = 2;

/// A transaction that timed out, and a process with the same id, fence a producer alike. One that was fenced
/// before its transaction can have timed out, so often within that time, has a twin: they fence each other
/// again and again, and then one has to go. Once may be a coordinator that another broker took over.
const TWIN_FENCES: usize = 3;
const TWIN_WINDOW: Duration = Duration::from_secs(60);

/// The transactional producer of a pipeline, made anew when it is of no more use.
pub struct Transactional {
    cluster: Cluster,
    config: ClientConfig,
    /// Whose it is, for the log.
    of: String,
    id: String,
    /// After so long the brokers abort a transaction.
    timeout: Duration,
    /// One call at a time: its reports are those of the producer.
    turn: TurnMutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The producer there is, and how careful it is.
    present: Option<(Care, Producer)>,
    /// How careful the next one is to be.
    wanted: Care,
    /// When the open transaction began.
    begun: Option<Instant>,
    /// When it was fenced without a transaction that timed out.
    fenced: Vec<Instant>,
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
        Transactional {
            cluster,
            config,
            of,
            id,
            timeout,
            turn: TurnMutex::default(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> StateGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to make a call.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The producer whose transaction is open, and how careful it is.
    pub fn present(&self) -> Option<(Care, Producer)> {
        self.state().present.clone()
    }

    /// The next transaction is to be that careful. The open one has to be aborted for it.
    pub fn want(&self, care: Care) {
        let wanted = &mut self.state().wanted;
        wanted.batch_bytes = wanted.batch_bytes.min(care.batch_bytes);
        wanted.alone |= care.alone;
    }

    /// The producer is of no more use: the next transaction has a new one.
    pub fn discard(&self) {
        self.state().present = None;
    }

    /// Ends the open transaction with these offsets of the group in it.
    pub async fn commit(
        &self,
        offsets: TopicPartitionList,
        group: ConsumerGroupMetadata,
    ) -> Result<(), TransactionError> {
        let (_, producer) =
            self.present().ok_or_else(|| TransactionError::Failed("there is no producer".to_owned()))?;
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
        self.state().wanted.alone = false;
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
            Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced) if self.has_twin() => {
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
        match tokio::time::timeout(STEP * (STEPS + 1), on_a_thread("kafka-transaction", step)).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(TransactionError::Fatal(format!("{what} panicked; see the log"))),
            Ok(Err(error)) => Err(TransactionError::Failed(format!("{what}: no thread: {error}"))),
            Err(_) => {
                self.discard();
                Err(TransactionError::Failed(format!("{what}: librdkafka did not come back from it")))
            }
        }
    }

    /// Notes that it was fenced; whether so often that it must be by another process.
    fn has_twin(&self) -> bool {
        let mut state = self.state();
        let may_have_timed_out = state.begun.take().is_some_and(|begun| begun.elapsed() >= self.timeout);
        if may_have_timed_out {
            return false;
        }
        state.fenced.retain(|before| before.elapsed() < TWIN_WINDOW);
        state.fenced.push(Instant::now());
        state.fenced.len() >= TWIN_FENCES
    }

    /// A producer as it is wanted: that of before, if it is of use.
    async fn fit(&self) -> Result<Producer, TransactionError> {
        let wanted = self.state().wanted;
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
        self.state().present = Some((wanted, producer.clone()));
        Ok(producer)
    }
}

#[async_trait]
impl Transactions for Transactional {
    async fn begin(&self) -> Result<(), TransactionError> {
        let producer = self.fit().await?;
        self.step("begin", move || producer.client().begin_transaction()).await?;
        self.state().begun = Some(Instant::now());
        Ok(())
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
