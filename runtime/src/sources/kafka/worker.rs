//! The thread that polls: it is the member of the group.
//!
//! It polls also while the pipeline takes nothing, or the group would think it dead: then the partitions
//! are paused. librdkafka throws away what it had fetched when a partition is paused, so that is done only
//! after a while.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use prometheus::IntCounterVec;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::super::{Read, ReadLimit, SourceContext};
use super::callbacks::{self, Callbacks, Rebalance};
use super::filling::Filling;
use super::maker::{Maker, Subscription};
use super::ownership::Ownership;
use super::{GroupProtocol, partition_name};
use crate::codecs::Decoder;
use crate::kafka::{ClusterContext, membership};
use crate::observe::waits::Waits;

/// How often librdkafka tells how it is: connections, membership, lag.
pub const STATISTICS_INTERVAL_MS: u64 = 2000;

/// How long a poll waits for messages: the thread sees to the rest so often.
const POLL: Duration = Duration::from_millis(100);

/// How long the next batch may grow while the pipeline has not yet taken the one before.
const GROW: Duration = Duration::from_millis(2);

/// How long the pipeline may take nothing until the partitions are paused.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the log says what the source waits for, at most.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// A member for so long that has got no partition by then is a spare one: with the protocol `consumer`
/// nobody tells it so. Brokers hand out partitions with a heartbeat, every five seconds unless they are told
/// otherwise.
const SPARE_AFTER: Duration = Duration::from_secs(11);

/// How long going back to another offset may take.
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);

/// The part of the pipeline that waits, in readiness and log.
const PART: &str = "source";

/// How much the next batch may hold: what the pipeline asked for last.
pub struct Limit {
    rows: AtomicUsize,
    bytes: AtomicUsize,
}

impl Limit {
    pub fn set(&self, limit: ReadLimit) {
        self.rows.store(limit.rows, Ordering::Relaxed);
        self.bytes.store(limit.bytes, Ordering::Relaxed);
    }

    fn get(&self) -> ReadLimit {
        ReadLimit { rows: self.rows.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// The consumer of the moment: another one where the broker does not speak the first one's protocol.
type Slot = Arc<Mutex<Option<Arc<BaseConsumer<Callbacks>>>>>;

/// Asks for going back to what is committed; told when that is done.
type Rewind = Arc<Mutex<Option<oneshot::Sender<()>>>>;

/// What the thread is held by.
pub struct WorkerHandle {
    slot: Slot,
    stop: Arc<AtomicBool>,
    rewind: Rewind,
    thread: JoinHandle<()>,
    ends: Option<Ends>,
}

/// How the thread ends. An error is a panic.
pub struct Ends {
    /// The member has left its group.
    pub left: oneshot::Receiver<()>,
    /// Nothing is left of the consumer.
    pub gone: oneshot::Receiver<()>,
}

impl WorkerHandle {
    pub fn consumer(&self) -> Option<Arc<BaseConsumer<Callbacks>>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the thread go back to what is committed. It says when it has; `None` if it has ended.
    pub fn rewind(&self) -> Option<oneshot::Receiver<()>> {
        let (done, rewound) = oneshot::channel();
        *self.rewind.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        (!self.thread.is_finished()).then_some(rewound)
    }

    /// Ends the thread, which leaves the group; `None` if that was asked for before.
    pub fn close(&mut self) -> Option<Ends> {
        self.stop.store(true, Ordering::Release);
        self.ends.take()
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// The ends that the two halves of the source hold.
pub struct Link {
    pub batches: mpsc::Receiver<anyhow::Result<Read>>,
    pub limit: Arc<Limit>,
    pub handle: WorkerHandle,
}

/// Partitions that go to another member, and drain.
struct Leaving {
    partitions: TopicPartitionList,
    since: Instant,
}

pub struct Worker {
    maker: Maker,
    consumer: Arc<BaseConsumer<Callbacks>>,
    slot: Slot,
    stop: Arc<AtomicBool>,
    rewind: Rewind,
    ownership: Arc<Ownership>,
    waits: Arc<Waits>,
    rebalances: IntCounterVec,
    decoder: Box<dyn Decoder>,
    limit: Arc<Limit>,
    sender: mpsc::Sender<anyhow::Result<Read>>,
    /// What the pipeline is to have next, before what is in `filling`.
    outbox: VecDeque<Read>,
    /// Since when the pipeline has not taken what is in the outbox.
    full_since: Option<Instant>,
    filling: Filling,
    /// The partition that the last message was of, and its number: messages come in runs.
    last: Option<(String, i32, u32)>,
    is_paused: bool,
    has_joined: bool,
    /// Since when it is a member without ever having got a partition.
    member_since: Option<Instant>,
    /// What the group decided and could not be done yet.
    pending: Option<Rebalance>,
    leaving: Vec<Leaving>,
    /// What a broker said that has to do with no message.
    trouble: Option<String>,
    told: Option<String>,
    /// When that was logged last.
    logged: Instant,
}

impl Worker {
    /// Starts the thread. A broker that is not there is no error.
    pub fn spawn(
        config: ClientConfig,
        cluster: ClusterContext,
        subscription: Subscription,
        context: &SourceContext,
        ownership: Arc<Ownership>,
    ) -> anyhow::Result<Link> {
        let maker = Maker {
            config,
            cluster,
            subscription,
            ownership: Arc::clone(&ownership),
            context: context.clone(),
        };
        let consumer = Arc::new(maker.make(maker.first_protocol())?);
        let slot: Slot = Arc::new(Mutex::new(Some(Arc::clone(&consumer))));
        let (sender, batches) = mpsc::channel(1);
        let limit = Arc::new(Limit { rows: AtomicUsize::new(256), bytes: AtomicUsize::new(1 << 20) });
        let stop = Arc::new(AtomicBool::new(false));
        let rewind = Rewind::default();
        let worker = Worker {
            consumer,
            slot: Arc::clone(&slot),
            stop: Arc::clone(&stop),
            rewind: Arc::clone(&rewind),
            ownership,
            waits: Arc::clone(&context.waits),
            rebalances: context.metrics.kafka_rebalances.clone(),
            decoder: context.codec.decoder(),
            limit: Arc::clone(&limit),
            sender,
            outbox: VecDeque::new(),
            full_since: None,
            filling: Filling::default(),
            last: None,
            is_paused: false,
            has_joined: false,
            member_since: None,
            pending: None,
            leaving: Vec::new(),
            trouble: None,
            told: None,
            logged: Instant::now(),
            maker,
        };
        let ((has_left, left), (is_gone, gone)) = (oneshot::channel(), oneshot::channel());
        let run = move || {
            worker.run(has_left);
            // Nobody listens any more if the process ends.
            let _ = is_gone.send(());
        };
        let thread = std::thread::Builder::new().name("kafka-source".to_owned()).spawn(run);
        let thread = thread.context("cannot start a thread")?;
        let ends = Some(Ends { left, gone });
        Ok(Link { batches, limit, handle: WorkerHandle { slot, stop, rewind, thread, ends } })
    }

    fn run(mut self, has_left: oneshot::Sender<()>) {
        if let Err(error) = self.poll_until_stopped() {
            // Nobody listens if the pipeline ends anyway.
            let _ = self.sender.blocking_send(Err(error));
        }
        self.leave_group();
        let _ = has_left.send(());
    }

    fn poll_until_stopped(&mut self) -> anyhow::Result<()> {
        while !self.stop.load(Ordering::Acquire) {
            self.answer_rebalances()?;
            self.let_go_of_drained()?;
            self.go_back_if_asked()?;
            self.tell_waits();
            let consumer = Arc::clone(&self.consumer);
            let got_none = match consumer.poll(self.next_wait()) {
                Some(Ok(record)) => {
                    self.add(&record);
                    false
                }
                Some(Err(error)) => {
                    self.hear(error)?;
                    false
                }
                None => true,
            };
            if got_none || self.filling.is_full(self.limit.get()) {
                self.hand_over();
            }
        }
        Ok(())
    }

    fn next_wait(&self) -> Duration {
        match (self.is_paused, self.filling.is_empty(), self.outbox.is_empty()) {
            (true, ..) | (_, true, true) => POLL,
            (_, false, true) => Duration::ZERO,
            (.., false) => GROW,
        }
    }

    fn add(&mut self, record: &BorrowedMessage<'_>) {
        self.trouble = None;
        let (topic, partition) = (record.topic(), record.partition());
        let known = self.last.as_ref().filter(|(last, of, _)| *of == partition && last == topic);
        let number = match known {
            Some(&(_, _, number)) => number,
            // Not ours, or on its way to another member: that one reads it.
            None => {
                let is_leaving =
                    |leaving: &Leaving| leaving.partitions.find_partition(topic, partition).is_some();
                let number = self.ownership.number(topic, partition);
                let Some(number) = number.filter(|_| !self.leaving.iter().any(is_leaving)) else { return };
                self.last = Some((topic.to_owned(), partition, number));
                number
            }
        };
        self.filling.add(record, number, &mut *self.decoder, self.maker.context.max_message_bytes);
    }

    /// Gives the pipeline what it can take, and pauses when it takes nothing for a while.
    fn hand_over(&mut self) {
        if self.outbox.is_empty() {
            self.push_filling();
        }
        let is_full = self.filling.is_full(self.limit.get());
        loop {
            let Some(read) = self.outbox.pop_front() else {
                self.full_since = None;
                self.resume();
                return;
            };
            match self.sender.try_send(Ok(read)) {
                Ok(()) => self.full_since = None,
                Err(TrySendError::Full(read)) => {
                    self.outbox.push_front(read.expect("it was put in so"));
                    let since = *self.full_since.get_or_insert_with(Instant::now);
                    if is_full && !self.is_paused && since.elapsed() < PATIENCE {
                        // Nothing more fits, and what is fetched is not thrown away yet.
                        std::thread::sleep(GROW);
                        continue;
                    }
                    if is_full || since.elapsed() >= PATIENCE {
                        self.pause();
                    }
                    return;
                }
                Err(TrySendError::Closed(_)) => {
                    // Nothing more is read; the membership is held until everything is committed.
                    self.outbox.clear();
                    self.filling = Filling::default();
                    self.pause();
                    return;
                }
            }
        }
    }

    fn push_filling(&mut self) {
        if self.filling.is_empty() {
            return;
        }
        let (batch, behind) = self.filling.take();
        self.ownership.hand_over(behind.into_iter());
        self.outbox.push_back(Read::Batch(batch));
    }

    fn pause(&mut self) {
        if !self.is_paused {
            self.is_paused = self.on_assignment("pause", |consumer, all| consumer.pause(all));
        }
    }

    fn resume(&mut self) {
        if self.is_paused && !self.sender.is_closed() {
            self.is_paused = !self.on_assignment("resume", |consumer, all| consumer.resume(all));
        }
    }

    fn on_assignment(
        &self,
        what: &str,
        act: impl Fn(&BaseConsumer<Callbacks>, &TopicPartitionList) -> Result<(), KafkaError>,
    ) -> bool {
        let done = self.consumer.assignment().and_then(|all| act(&self.consumer, &all));
        if let Err(error) = &done {
            tracing::warn!(%error, "cannot {what} the partitions");
        }
        done.is_ok()
    }

    /// Does what the group decided.
    fn answer_rebalances(&mut self) -> anyhow::Result<()> {
        while let Some(rebalance) = self.pending.take().or_else(|| self.consumer.context().next_rebalance()) {
            self.last = None;
            match rebalance {
                Rebalance::Assign(partitions) => {
                    let starts = match self.maker.subscription.start.resolve(&self.consumer, &partitions) {
                        Ok(starts) => starts,
                        Err(error) => {
                            self.trouble = Some(format!("cannot find out where partitions begin: {error}"));
                            self.pending = Some(Rebalance::Assign(partitions));
                            return Ok(());
                        }
                    };
                    self.assign(&starts)?;
                }
                Rebalance::Revoke { partitions, lost: false } => {
                    self.count("revoked");
                    tracing::info!(
                        partitions = names(&partitions),
                        "partitions go to another member; draining"
                    );
                    if let Err(error) = self.consumer.pause(&partitions) {
                        tracing::debug!(%error, "partitions that go cannot be paused");
                    }
                    self.push_filling();
                    self.leaving.push(Leaving { partitions, since: Instant::now() });
                }
                Rebalance::Revoke { partitions, lost: true } => {
                    self.count("lost");
                    tracing::warn!(
                        partitions = names(&partitions),
                        "partitions were lost: this member was away for too long; nothing more of them is committed"
                    );
                    self.leaving.retain(|leaving| !overlaps(&leaving.partitions, &partitions));
                    self.give_away(&partitions, true)?;
                }
            }
        }
        Ok(())
    }

    fn assign(&mut self, starts: &TopicPartitionList) -> anyhow::Result<()> {
        self.count("assigned");
        self.has_joined = true;
        self.trouble = None;
        if starts.count() > 0 {
            tracing::info!(partitions = names(starts), "partitions assigned");
        }
        self.ownership.assign(starts)?;
        self.consumer.incremental_assign(starts).context("cannot take the partitions assigned")?;
        if self.is_paused {
            self.is_paused = false;
            self.pause();
        } else if let Err(error) = self.consumer.resume(starts) {
            // One that was ours before is still paused from when it went.
            tracing::warn!(%error, "cannot resume the partitions assigned");
        }
        let callbacks = self.consumer.context();
        callbacks.is_connected.store(true, Ordering::Relaxed);
        callbacks.is_steady.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets go of partitions of which everything is committed, or that had their time.
    fn let_go_of_drained(&mut self) -> anyhow::Result<()> {
        for leaving in std::mem::take(&mut self.leaving) {
            let drained = self.ownership.is_drained(&leaving.partitions);
            if drained || leaving.since.elapsed() >= self.maker.subscription.drain_timeout {
                if !drained {
                    tracing::warn!(
                        partitions = names(&leaving.partitions),
                        "partitions did not drain in time; what is in flight of them is delivered twice"
                    );
                }
                self.give_away(&leaving.partitions, !drained)?;
            } else {
                self.leaving.push(leaving);
            }
        }
        Ok(())
    }

    /// Goes back to what is committed, if that is asked for.
    fn go_back_if_asked(&mut self) -> anyhow::Result<()> {
        let asked = self.rewind.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(done) = asked else { return Ok(()) };
        let assignment = self.consumer.assignment()?;
        if assignment.count() > 0
            && let Err(error) = self.seek_to_committed(&assignment)
        {
            self.trouble = Some(format!("cannot go back to what is committed: {error}"));
            *self.rewind.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            return Ok(());
        }
        self.filling = Filling::default();
        self.outbox.clear();
        self.outbox.push_back(Read::Rewound);
        // Nobody listens if the pipeline ends anyway.
        let _ = done.send(());
        Ok(())
    }

    fn seek_to_committed(&mut self, assignment: &TopicPartitionList) -> anyhow::Result<()> {
        let starts = self.maker.subscription.start.resolve(&self.consumer, assignment)?;
        let sought = self.consumer.seek_partitions(starts.clone(), SEEK_TIMEOUT)?;
        for element in sought.elements() {
            element.error()?;
        }
        self.trouble = None;
        self.ownership.assign(&starts)
    }

    fn give_away(
        &mut self,
        partitions: &TopicPartitionList,
        with_messages_in_flight: bool,
    ) -> anyhow::Result<()> {
        self.push_filling();
        let numbers = self.ownership.release(partitions, with_messages_in_flight);
        if with_messages_in_flight {
            self.outbox.push_back(Read::Lost(numbers));
        }
        let context = self.consumer.context();
        for element in partitions.elements() {
            let labels = [context.pipeline.as_str(), element.topic(), &element.partition().to_string()];
            // It is not there if nothing was fetched.
            let _ = context.lag.remove_label_values(&labels);
        }
        self.consumer.incremental_unassign(partitions).context("cannot let partitions go")
    }

    fn count(&self, event: &str) {
        self.rebalances.with_label_values(&[self.maker.context.pipeline.as_str(), event]).inc();
    }

    /// An error that has to do with no message. What may get better is waited for.
    fn hear(&mut self, error: KafkaError) -> anyhow::Result<()> {
        let code = error.rdkafka_error_code();
        let reason = self
            .consumer
            .context()
            .cluster
            .take_error()
            .map_or_else(|| error.to_string(), |(_, reason)| reason);
        match (&error, code) {
            (KafkaError::MessageConsumptionFatal(_), Some(code)) => {
                let unknown = matches!(
                    code,
                    RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion
                );
                let may_change = self.maker.subscription.protocol == GroupProtocol::Auto && !self.has_joined;
                anyhow::ensure!(unknown && may_change, "Kafka: {reason}: {error}");
                tracing::info!("the broker does not know the group protocol `consumer`; taking `classic`");
                self.change_consumer(GroupProtocol::Classic)
            }
            (KafkaError::MessageConsumptionFatal(_), None) => anyhow::bail!("Kafka: {reason}: {error}"),
            // Follows the reason why.
            (_, Some(RDKafkaErrorCode::AllBrokersDown)) if self.trouble.is_some() => Ok(()),
            _ => {
                self.trouble = Some(format!("{reason}: {error}"));
                Ok(())
            }
        }
    }

    fn is_spare(&mut self) -> bool {
        if !membership::is_member(self.consumer.client()) {
            self.member_since = None;
            return false;
        }
        self.member_since.get_or_insert_with(Instant::now).elapsed() >= SPARE_AFTER
    }

    fn change_consumer(&mut self, protocol: GroupProtocol) -> anyhow::Result<()> {
        let consumer = Arc::new(self.maker.make(protocol)?);
        self.consumer.context().closing.store(true, Ordering::Release);
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&consumer));
        self.consumer = consumer;
        Ok(())
    }

    /// Tells readiness and log what is waited for.
    fn tell_waits(&mut self) {
        let consumer = Arc::clone(&self.consumer);
        let callbacks = consumer.context();
        let reason = match self.trouble.clone() {
            Some(trouble) => Some(trouble),
            None if !self.has_joined && !callbacks.is_steady.load(Ordering::Relaxed) && !self.is_spare() => {
                let error = callbacks.cluster.last_error();
                let error = error.map_or_else(String::new, |reason| format!(": {reason}"));
                Some(format!("no partitions are assigned yet{error}"))
            }
            None if self.has_joined && !callbacks.is_connected.load(Ordering::Relaxed) => {
                Some("no broker can be reached".to_owned())
            }
            None => None,
        };
        if reason == self.told {
            return;
        }
        match &reason {
            Some(reason) => {
                self.waits.set(PART, reason.clone());
                // Errors of connections tell how often they were, and so change all the time.
                let is_news = self.told.is_none() || self.logged.elapsed() >= LOG_INTERVAL;
                if is_news {
                    self.logged = Instant::now();
                    tracing::warn!(pipeline = %self.maker.context.pipeline, reason, "the source waits");
                }
            }
            None => {
                self.waits.clear(PART);
                tracing::info!(pipeline = %self.maker.context.pipeline, "the source reads");
            }
        }
        self.told = reason;
    }

    /// Closes the consumer: it leaves the group, unless it is a static member.
    fn leave_group(&mut self) {
        self.consumer.context().closing.store(true, Ordering::Release);
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.waits.clear(PART);
        // What the group decided and nobody answered would keep it open.
        for leaving in std::mem::take(&mut self.leaving) {
            callbacks::let_go(&self.consumer, &leaving.partitions);
        }
        while let Some(rebalance) = self.pending.take().or_else(|| self.consumer.context().next_rebalance()) {
            match rebalance {
                Rebalance::Assign(_) => callbacks::take_nothing(&self.consumer),
                Rebalance::Revoke { partitions, .. } => callbacks::let_go(&self.consumer, &partitions),
            }
        }
        match self.consumer.close_queue() {
            Ok(()) => {
                while !self.consumer.closed() {
                    // Whatever comes now is read by another member.
                    let _ = self.consumer.poll(POLL);
                }
            }
            Err(error) => tracing::debug!(%error, "the consumer cannot be closed"),
        }
    }
}

fn overlaps(one: &TopicPartitionList, other: &TopicPartitionList) -> bool {
    one.elements().iter().any(|element| other.find_partition(element.topic(), element.partition()).is_some())
}

/// `orders/0@17, orders/1@0`, for the log.
fn names(partitions: &TopicPartitionList) -> String {
    let elements = partitions.elements();
    let names = elements.iter().map(|element| {
        let name = partition_name(element.topic(), element.partition());
        match element.offset() {
            Offset::Offset(offset) => format!("{name}@{offset}"),
            _ => name,
        }
    });
    names.collect::<Vec<String>>().join(", ")
}
