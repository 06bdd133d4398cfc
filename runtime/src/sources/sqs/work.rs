//! What goes on beside reader and committer, a task each: receiving, keeping messages hidden, deleting,
//! giving back, and looking at the queue's depth.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body;
use super::custody::{Arrived, Ask, BATCH, Custody, Taken};
use super::failures::Failed;
use super::opener::Opener;
use super::queue::{Attributes, Queue, Receive, Trouble, is_gone};
use crate::aws::queue::number_of;
use crate::config::Retry;
use crate::observe::metrics::Metrics;
use crate::observe::waits::Waits;
use crate::pipeline::retry::unavailable_delay;

/// Requests that delete, at the same time.
const DELETES: usize = 8;

/// How long messages to delete are collected, so that a request has ten.
const LINGER: Duration = Duration::from_millis(5);

/// How often a message that cannot be given back is tried; then it comes back by itself, once its
/// visibility timeout is over.
const RETURN_TRIES: u32 = 4;

/// How often the queue is asked for its depth.
const DEPTH_INTERVAL: Duration = Duration::from_secs(30);

/// An answer that was lost can be asked for again for so long
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html>).
const ATTEMPT_LASTS: Duration = Duration::from_secs(300);

/// The parts of the pipeline that wait, in readiness and log.
const RECEIVING: &str = "source";
const DELETING: &str = "source (deleting what is settled)";
const HIDING: &str = "source (keeping messages hidden)";
const OPENING: &str = "source (payloads and certificates)";

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub receivers: usize,
    pub wait_secs: i32,
    pub visibility: Duration,
    pub max_failures: u32,
}

/// Shared by reader, committer and the tasks.
pub struct Work {
    pub pipeline: String,
    pub queue: Queue,
    pub custody: Custody,
    pub settings: Settings,
    pub failed: Failed,
    pub opener: Opener,
    pub waits: Arc<Waits>,
    pub gauges: Gauges,
    /// What no waiting mends: the reader returns it.
    pub broken: Mutex<Option<anyhow::Error>>,
    pub breaks: CancellationToken,
    /// Nothing could be received the last time.
    pub is_waiting: AtomicBool,
    /// Nothing more is received.
    pub stopping: CancellationToken,
    /// Receives on their way are given up.
    pub cut: CancellationToken,
    /// All tasks end.
    pub closing: CancellationToken,
}

/// `millstream_sqs_messages` and `millstream_sqs_age_seconds` of the queue.
pub struct Gauges {
    visible: IntGauge,
    in_flight: IntGauge,
    delayed: IntGauge,
    age: IntGauge,
    /// The age of the oldest message that was received since the last look, in seconds.
    oldest: AtomicI64,
}

impl Gauges {
    pub fn new(metrics: &Metrics, pipeline: &str, queue: &str) -> Gauges {
        let messages = |state| metrics.sqs_messages.with_label_values(&[pipeline, queue, state]);
        Gauges {
            visible: messages("visible"),
            in_flight: messages("in_flight"),
            delayed: messages("delayed"),
            age: metrics.sqs_age.with_label_values(&[pipeline, queue]),
            oldest: AtomicI64::new(0),
        }
    }

    fn received(&self, sent_at_ms: i64) {
        let age = (jiff::Timestamp::now().as_millisecond() - sent_at_ms) / 1000;
        self.oldest.fetch_max(age, Ordering::Relaxed);
        self.age.set(self.age.get().max(age));
    }

    fn looked(&self, attributes: &Attributes) {
        self.visible.set(attributes.visible);
        self.in_flight.set(attributes.in_flight);
        self.delayed.set(attributes.delayed);
        self.age.set(self.oldest.swap(0, Ordering::Relaxed));
    }
}

impl Work {
    /// Starts all tasks.
    pub fn start(self: &Arc<Work>) {
        for number in 0..self.settings.receivers {
            let work = Arc::clone(self);
            tokio::spawn(async move {
                tokio::select! {
                    () = work.cut.cancelled() => {}
                    () = work.receive(number == 0) => {}
                }
            });
        }
        self.spawn(|work| async move { work.hide().await });
        self.spawn(|work| async move { work.delete().await });
        self.spawn(|work| async move { work.give_back().await });
        self.spawn(|work| async move { work.look().await });
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(self: &Arc<Work>, task: impl FnOnce(Arc<Work>) -> F) {
        let (task, closing) = (task(Arc::clone(self)), self.closing.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Nothing more is received; what waits is given back.
    pub fn stop(&self) {
        if !self.stopping.is_cancelled() {
            self.stopping.cancel();
            self.custody.stop();
            self.waits.clear(RECEIVING);
        }
    }

    /// Ends all tasks.
    pub fn close(&self) {
        self.stop();
        self.cut.cancel();
        self.closing.cancel();
        [DELETING, HIDING, OPENING].iter().for_each(|part| self.waits.clear(part));
    }

    async fn receive(&self, first: bool) {
        let mut attempt = Attempt::default();
        let mut tries = 0;
        loop {
            let asked = tokio::select! {
                () = self.stopping.cancelled() => return,
                asked = self.custody.room(first) => asked,
            };
            let receive = Receive {
                messages: asked,
                wait_secs: self.settings.wait_secs,
                visibility_secs: self.settings.visibility.as_secs() as i32,
                attempt: self.queue.is_fifo().then(|| attempt.id()),
            };
            match self.queue.receive(receive).await {
                Ok(messages) => {
                    attempt = Attempt::default();
                    let arrived = messages.into_iter().filter_map(|message| self.arrived(message)).collect();
                    self.custody.arrived(asked, arrived, Instant::now());
                    tries = 0;
                    if self.is_waiting.swap(false, Ordering::Relaxed) {
                        tracing::info!(pipeline = %self.pipeline, queue = self.queue.name(), "the source reads");
                        self.waits.clear(RECEIVING);
                    }
                }
                Err(trouble) => {
                    if !trouble.may_be_done() {
                        attempt = Attempt::default();
                    }
                    self.custody.arrived(asked, Vec::new(), Instant::now());
                    if let Trouble::Setup(error) = trouble {
                        self.break_down(error);
                        return;
                    }
                    if self.stopping.is_cancelled() {
                        return;
                    }
                    self.is_waiting.store(true, Ordering::Relaxed);
                    self.wait(RECEIVING, "the source waits for its queue", &trouble, &mut tries).await;
                }
            }
        }
    }

    /// A message as it is taken into custody; none if it has no id or no handle, which does not happen.
    fn arrived(&self, message: aws_sdk_sqs::types::Message) -> Option<Arrived> {
        let id: Arc<str> = message.message_id.as_deref()?.into();
        let handle: Arc<str> = message.receipt_handle.as_deref()?.into();
        use aws_sdk_sqs::types::MessageSystemAttributeName as System;
        let receives = message.attributes.as_ref().and_then(|all| all.get(&System::ApproximateReceiveCount));
        let receives = receives.and_then(|text| text.parse().ok()).unwrap_or_default();
        let content = Box::new(body::read(message));
        self.gauges.received(content.sent_at_ms);
        let group = self.queue.is_fifo().then(|| content.key.as_deref().unwrap_or_default().into());
        Some(Arrived { number: number_of(&id), id, handle, group, receives, content })
    }

    /// Opens what a message holds, however long that takes.
    pub async fn open(&self, message: &mut Taken) {
        let mut tries = 0;
        loop {
            match self.opener.open(&mut message.content).await {
                Ok(Ok(pointer)) => {
                    if let Some(pointer) = pointer {
                        self.custody.set_pointer(message.number, pointer);
                    }
                    if tries > 0 {
                        self.waits.clear(OPENING);
                    }
                    return;
                }
                Ok(Err(failure)) => {
                    self.wait(OPENING, "a message waits for what it points to", &failure.into(), &mut tries)
                        .await;
                }
                Err(error) => {
                    self.break_down(error);
                    return std::future::pending().await;
                }
            }
        }
    }

    fn break_down(&self, error: anyhow::Error) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.breaks.cancel();
    }

    /// Tells what is waited for, and waits a while.
    async fn wait(&self, part: &str, what: &str, trouble: &Trouble, tries: &mut u32) {
        let retry = Retry::default();
        let delay = match trouble.is_of_credentials() {
            true => retry.max_delay.0,
            false => unavailable_delay(&retry, *tries, None),
        };
        *tries = tries.saturating_add(1);
        let reason = trouble.reason();
        tracing::warn!(pipeline = %self.pipeline, queue = self.queue.name(), reason, ?delay, "{what}");
        self.waits.set(part, reason);
        tokio::time::sleep(delay).await;
    }

    /// Keeps messages hidden for as long as they are here.
    async fn hide(&self) {
        let visibility = self.settings.visibility;
        let mut ticks =
            tokio::time::interval((visibility / 8).clamp(Duration::from_millis(100), Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tries = 0;
        loop {
            ticks.tick().await;
            let due = self.custody.due(Instant::now());
            for id in due.too_old {
                tracing::warn!(
                    pipeline = %self.pipeline, queue = self.queue.name(), message = &*id,
                    "SQS hides a message for twelve hours at most: this one is still in flight, and is handed \
                     out again"
                );
            }
            let mut trouble = None;
            let chunks: Vec<&[(Ask, u32)]> = due.extend.chunks(BATCH).collect();
            for together in chunks.chunks(DELETES) {
                let requests = together.iter().map(|asks| self.extend(asks));
                for result in futures_of(requests).await {
                    trouble = result.err().or(trouble);
                }
            }
            match trouble {
                Some(trouble) => {
                    // Not slept for long: what is not extended in time is received again.
                    let reason = trouble.reason();
                    if tries == 0 {
                        tracing::warn!(
                            pipeline = %self.pipeline, queue = self.queue.name(), reason,
                            "messages in flight cannot be kept hidden; they may be handed out again"
                        );
                        self.waits.set(HIDING, reason);
                    }
                    tries += 1;
                }
                None if !due.extend.is_empty() && tries > 0 => {
                    tries = 0;
                    self.waits.clear(HIDING);
                }
                None => {}
            }
        }
    }

    /// Extends the visibility of some messages by one request.
    async fn extend(&self, asks: &[(Ask, u32)]) -> Result<(), Trouble> {
        let now = Instant::now();
        // An answer that takes longer is of no use.
        let limit = (self.settings.visibility / 3).max(Duration::from_secs(1));
        let result = tokio::time::timeout(limit, self.queue.change_visibility(asks)).await;
        let outcomes = match result {
            Ok(Ok(outcomes)) => outcomes,
            failed => {
                asks.iter().for_each(|(ask, _)| drop(self.custody.extended(ask, None)));
                return match failed {
                    Ok(Err(trouble)) => Err(trouble),
                    _ => Err(Trouble::no_answer("ChangeMessageVisibilityBatch", limit)),
                };
            }
        };
        let mut trouble = Ok(());
        for ((ask, seconds), outcome) in asks.iter().zip(outcomes) {
            let result = match &outcome {
                None => Some(Ok(now + Duration::from_secs(u64::from(*seconds)))),
                Some(failure) if is_gone(failure) => Some(Err(())),
                Some(failure) => {
                    trouble = Err(failure.clone().into());
                    None
                }
            };
            if let Some(id) = self.custody.extended(ask, result) {
                let reason = outcome.map(|failure| failure.reason);
                tracing::warn!(
                    pipeline = %self.pipeline, queue = self.queue.name(), message = &*id, reason,
                    "a message in flight is not hidden any more, and may be handed out again"
                );
            }
        }
        trouble
    }

    /// Deletes what is settled, until it is gone.
    async fn delete(self: &Arc<Work>) {
        let mut requests: JoinSet<Result<(), Trouble>> = JoinSet::new();
        let mut tries = 0;
        loop {
            let ended = tokio::select! {
                () = self.custody.deletable(), if requests.len() < DELETES => None,
                Some(ended) = requests.join_next() => Some(ended),
            };
            match ended {
                None => {
                    if self.custody.to_delete() < BATCH {
                        tokio::time::sleep(LINGER).await;
                    }
                    let asks = self.custody.next_deletes();
                    if !asks.is_empty() {
                        let work = Arc::clone(self);
                        requests.spawn(async move { work.delete_together(asks).await });
                    }
                }
                Some(Ok(Err(trouble))) => {
                    self.wait(DELETING, "messages that are settled cannot be deleted", &trouble, &mut tries)
                        .await;
                }
                Some(_) if tries > 0 => {
                    tries = 0;
                    self.waits.clear(DELETING);
                }
                Some(_) => {}
            }
        }
    }

    /// Deletes some messages by one request; those that are not gone are to be deleted again.
    async fn delete_together(&self, asks: Vec<Ask>) -> Result<(), Trouble> {
        let outcomes = match self.queue.delete(&asks).await {
            Ok(outcomes) => outcomes,
            Err(trouble) => {
                self.custody.deletes_ended(&[], &asks);
                return Err(trouble);
            }
        };
        let (mut gone, mut again, mut why) = (Vec::new(), Vec::new(), None);
        for (ask, outcome) in asks.into_iter().zip(outcomes) {
            match outcome {
                Some(failure) if !is_gone(&failure) => {
                    again.push(ask);
                    why = Some(failure);
                }
                outcome => {
                    if let Some(failure) = outcome {
                        // It comes again, and is deleted then.
                        let (queue, reason) = (self.queue.name(), failure.reason);
                        tracing::debug!(pipeline = %self.pipeline, queue, reason, "not deleted: it is gone, or not hidden any more");
                    }
                    gone.push(ask);
                }
            }
        }
        let gone = self.custody.deletes_ended(&gone, &again);
        let ids: Vec<Arc<str>> = gone.iter().map(|gone| Arc::clone(&gone.id)).collect();
        self.failed.forget(&ids).await;
        for pointer in gone.into_iter().filter_map(|gone| gone.pointer) {
            self.opener.remove(&self.pipeline, &pointer).await;
        }
        why.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Makes visible what is given back, in order.
    async fn give_back(&self) {
        let mut tries = 0;
        loop {
            self.custody.returnable().await;
            let asks = self.custody.next_returns();
            if asks.is_empty() {
                continue;
            }
            let at_once: Vec<(Ask, u32)> = asks.iter().map(|ask| (ask.clone(), 0)).collect();
            match self.queue.change_visibility(&at_once).await {
                Ok(outcomes) => {
                    tries = 0;
                    for failure in outcomes.into_iter().flatten() {
                        let (queue, reason) = (self.queue.name(), failure.reason);
                        tracing::debug!(pipeline = %self.pipeline, queue, reason, "not given back: it comes back by itself");
                    }
                    self.custody.returns_ended(&asks, &[]);
                }
                Err(trouble) => {
                    tries += 1;
                    let (queue, reason) = (self.queue.name(), trouble.reason());
                    tracing::warn!(pipeline = %self.pipeline, queue, reason, "messages cannot be given back; they come back when their visibility timeout is over");
                    let (done, again): (&[Ask], &[Ask]) =
                        if tries < RETURN_TRIES { (&[], &asks) } else { (&asks, &[]) };
                    self.custody.returns_ended(done, again);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    /// Looks at the queue's depth, and once at its settings.
    async fn look(&self) {
        let mut is_first = true;
        loop {
            match self.queue.attributes().await {
                Ok(attributes) => {
                    self.gauges.looked(&attributes);
                    if is_first {
                        self.tell_settings(&attributes);
                    }
                    is_first = false;
                }
                Err(trouble) => {
                    let (queue, reason) = (self.queue.name(), trouble.reason());
                    tracing::debug!(pipeline = %self.pipeline, queue, reason, "the depth of the queue is not known");
                }
            }
            tokio::time::sleep(DEPTH_INTERVAL).await;
        }
    }

    fn tell_settings(&self, attributes: &Attributes) {
        for warning in attributes.warnings(&self.queue, self.settings.max_failures) {
            tracing::warn!(pipeline = %self.pipeline, queue = self.queue.name(), "{warning}");
        }
    }
}

/// The id of a receive of a FIFO queue, kept until it is answered.
#[derive(Default)]
struct Attempt(Option<(String, Instant)>);

impl Attempt {
    fn id(&mut self) -> &str {
        let is_fresh = |(_, since): &(String, Instant)| since.elapsed() < ATTEMPT_LASTS;
        self.0 = self.0.take().filter(is_fresh);
        &self.0.get_or_insert_with(|| (uuid::Uuid::new_v4().to_string(), Instant::now())).0
    }
}

/// Waits for all of them at the same time.
async fn futures_of<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(Box::pin).map(Some).collect();
    let mut outputs: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (slot, output) in pending.iter_mut().zip(&mut outputs) {
            if let Some(future) = slot
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                (*slot, *output) = (None, Some(value));
            }
        }
        match pending.iter().all(Option::is_none) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}
