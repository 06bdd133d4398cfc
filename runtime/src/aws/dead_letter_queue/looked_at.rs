//! Messages of a queue that somebody looks at: hidden from others meanwhile, then given back.

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageSystemAttributeName,
};
use tokio::sync::{mpsc as async_mpsc, oneshot};

use super::DeadLetterQueue;
use super::letter::{self, ATTRIBUTE, Received};
use crate::aws::claim_check::{Fetcher, LEGACY_SIZE_ATTRIBUTE, NoPayload, Pointer, SIZE_ATTRIBUTE};
use crate::aws::{Connection, Failure, queue};
use crate::dead_letters::DeadLetter;
use crate::dead_letters::story::Settled;

/// So long they are hidden from others, and then again, as long as somebody looks.
const HIDDEN: Duration = Duration::from_secs(120);
const EXTENDED_EVERY: Duration = Duration::from_secs(40);

/// Messages of a request:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>.
const BATCH: usize = 10;

/// Long polling asks all of its servers, so the queue is empty when nothing comes. Those that somebody
/// else has are not seen.
const WAIT: Duration = Duration::from_secs(1);

/// The largest payload that is fetched from S3.
const MAX_PAYLOAD_BYTES: usize = 64 << 20;

/// A request is tried that often, for what may pass.
const TRIES: u32 = 5;

/// Lives on a thread of its own, which gives everything back when this is dropped.
pub struct LookedAt {
    orders: Option<async_mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// Deletes these, and says how that went.
type Order = (Vec<Settled>, oneshot::Sender<anyhow::Result<()>>);

impl LookedAt {
    /// Gives every dead letter that is in the queue now to `each`. Blocks.
    ///
    /// # Errors
    /// The queue cannot be read, or `each` failed.
    pub fn look(
        of: DeadLetterQueue,
        mut each: impl FnMut(DeadLetter) -> anyhow::Result<()>,
    ) -> anyhow::Result<LookedAt> {
        let (found, letters) = mpsc::sync_channel(BATCH);
        let (orders, ordered) = async_mpsc::channel(1);
        let thread = std::thread::Builder::new()
            .name("dead-letters".to_owned())
            .spawn(move || on_thread(of, &found, ordered))
            .context("no thread for the queue")?;
        let this = LookedAt { orders: Some(orders), thread: Some(thread) };
        loop {
            match letters.recv() {
                Ok(Found::Letter(letter)) => each(*letter)?,
                Ok(Found::All) => return Ok(this),
                Ok(Found::Error(error)) => return Err(error),
                Err(mpsc::RecvError) => bail!("reading the queue was cut off"),
            }
        }
    }

    /// Deletes the messages of these dead letters. Blocks; to be called within a runtime.
    ///
    /// # Errors
    /// Some of them are still in the queue.
    pub fn delete(&self, settled: Vec<Settled>) -> anyhow::Result<()> {
        if settled.is_empty() {
            return Ok(());
        }
        let (done, answer) = oneshot::channel();
        let orders = self.orders.as_ref().context("the queue is not looked at any more")?;
        let handle = tokio::runtime::Handle::current();
        handle.block_on(async {
            orders.send((settled, done)).await.context("the queue is not looked at any more")?;
            answer.await.context("deleting was cut off")?
        })
    }
}

impl Drop for LookedAt {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has said so already.
            let _ = thread.join();
        }
    }
}

enum Found {
    Letter(Box<DeadLetter>),
    All,
    Error(anyhow::Error),
}

fn on_thread(of: DeadLetterQueue, found: &mpsc::SyncSender<Found>, mut orders: async_mpsc::Receiver<Order>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(found.send(Found::Error(error.into()))),
    };
    runtime.block_on(async {
        let mut hidden = match Hidden::open(of).await {
            Ok(hidden) => hidden,
            Err(error) => return drop(found.send(Found::Error(error))),
        };
        let read = hidden.read_all(found).await;
        let told = match read {
            Ok(()) => found.send(Found::All),
            Err(error) => found.send(Found::Error(error)),
        };
        let mut extend = tokio::time::interval(EXTENDED_EVERY);
        while told.is_ok() {
            tokio::select! {
                order = orders.recv() => match order {
                    Some((settled, done)) => drop(done.send(hidden.delete(settled).await)),
                    None => break,
                },
                _ = extend.tick() => hidden.extend().await,
            }
        }
        hidden.give_back().await;
    });
}

/// Messages that are hidden from others.
struct Hidden {
    of: DeadLetterQueue,
    client: Client,
    url: String,
    fetcher: Option<Fetcher>,
    /// Those of dead letters of this pipeline, by their ids.
    letters: HashMap<String, Vec<Known>>,
    /// Those that are none.
    others: Vec<String>,
}

/// What is known of a message that is a dead letter.
struct Known {
    handle: String,
    replays: u32,
    failed_at_ms: i64,
    pointer: Option<Pointer>,
}

impl Hidden {
    async fn open(of: DeadLetterQueue) -> anyhow::Result<Hidden> {
        let connection = Connection::new(of.access.clone(), &of.base, Client::new).that_waits(WAIT);
        let client = connection.client().await?.clone();
        let url = queue::url(&client, &of.queue).await?;
        let fetcher = of.claim_check.as_ref().map(|section| section.fetcher(&of.access, &of.base));
        Ok(Hidden { of, client, url, fetcher, letters: HashMap::new(), others: Vec::new() })
    }

    async fn read_all(&mut self, found: &mpsc::SyncSender<Found>) -> anyhow::Result<()> {
        let mut extended = tokio::time::Instant::now();
        loop {
            let receive = self
                .client
                .receive_message()
                .queue_url(&self.url)
                .max_number_of_messages(BATCH as i32)
                .wait_time_seconds(WAIT.as_secs() as i32)
                .visibility_timeout(HIDDEN.as_secs() as i32)
                .message_attribute_names("All")
                .message_system_attribute_names(MessageSystemAttributeName::All);
            let received = match receive.send().await {
                Ok(received) => received.messages.unwrap_or_default(),
                Err(error) => {
                    let failure = Failure::of(&format!("ReceiveMessage of {}", self.of.queue), &error);
                    if failure.code.ends_with("OverLimit") {
                        tracing::warn!(
                            reason = failure.reason,
                            "not all dead letters of the queue are shown"
                        );
                        return Ok(());
                    }
                    return Err(failure.into());
                }
            };
            if received.is_empty() {
                return Ok(());
            }
            for message in received {
                if let Some(letter) = self.take(message).await?
                    && found.send(Found::Letter(Box::new(letter))).is_err()
                {
                    return Ok(());
                }
            }
            if extended.elapsed() > EXTENDED_EVERY {
                self.extend().await;
                extended = tokio::time::Instant::now();
            }
        }
    }

    /// Keeps a message; the dead letter that it is, if it is one of this pipeline.
    async fn take(&mut self, message: Message) -> anyhow::Result<Option<DeadLetter>> {
        let Some(handle) = message.receipt_handle.clone() else { return Ok(None) };
        let mut pointer = None;
        let mut received = received(message);
        let is_kept_aside = received.headers.iter().any(|(name, _)| is_size(name));
        if let Some(fetcher) = self.fetcher.as_ref().filter(|_| is_kept_aside) {
            received.headers.retain(|(name, _)| !is_size(name));
            match Pointer::read(&received.body) {
                Ok(found) => {
                    received.body = match fetcher.fetch(&found, MAX_PAYLOAD_BYTES).await? {
                        Ok(payload) => payload.to_vec(),
                        Err(NoPayload::Now(failure)) => return Err(failure.into()),
                        Err(NoPayload::Never { reason, .. }) => {
                            tracing::warn!(
                                message = received.message_id,
                                reason,
                                "a dead letter without its payload"
                            );
                            self.others.push(handle);
                            return Ok(None);
                        }
                    };
                    pointer = Some(found);
                }
                Err(reason) => tracing::debug!(message = received.message_id, reason, "no pointer"),
            }
        }
        let letter = letter::read(received, queue::name(&self.of.queue), &self.of.pipeline);
        match &letter {
            Some(letter) => self.letters.entry(letter.id.clone()).or_default().push(Known {
                handle,
                replays: letter.replays,
                failed_at_ms: letter.failed_at_ms,
                pointer,
            }),
            None => self.others.push(handle),
        }
        Ok(letter)
    }

    async fn delete(&mut self, settled: Vec<Settled>) -> anyhow::Result<()> {
        let mut settled_now = Vec::new();
        for one in settled {
            let Some(of_id) = self.letters.get_mut(&one.id) else { continue };
            let is_settled =
                |known: &mut Known| known.replays <= one.replays && known.failed_at_ms <= one.failed_at_ms;
            settled_now.extend(of_id.extract_if(.., is_settled).map(|known| (one.id.clone(), known)));
        }
        let mut failed = Vec::new();
        while !settled_now.is_empty() {
            let batch: Vec<(String, Known)> = settled_now.drain(..settled_now.len().min(BATCH)).collect();
            failed.extend(self.delete_batch(batch).await);
        }
        let Some(reason) = failed.first().map(|(_, _, reason)| reason.clone()) else { return Ok(()) };
        let count = failed.len();
        for (id, known, _) in failed {
            self.letters.entry(id).or_default().push(known);
        }
        bail!("{count} dead letters are still in queue {}: {reason}", self.of.queue)
    }

    /// Returns those that are still there, with the reason.
    async fn delete_batch(&self, mut batch: Vec<(String, Known)>) -> Vec<(String, Known, String)> {
        let mut reason = String::new();
        for _ in 0..TRIES {
            let entries = batch.iter().enumerate().map(|(number, (_, known))| {
                DeleteMessageBatchRequestEntry::builder()
                    .id(number.to_string())
                    .receipt_handle(&known.handle)
                    .build()
                    .expect("it has an id and a handle")
            });
            let request = self.client.delete_message_batch().queue_url(&self.url);
            let answer = request.set_entries(Some(entries.collect())).send().await;
            let done: Vec<usize> = match answer {
                Ok(answer) => {
                    if let Some(entry) = answer.failed.first() {
                        reason = entry.message().unwrap_or(entry.code()).to_owned();
                    }
                    answer.successful.iter().filter_map(|entry| entry.id.parse().ok()).collect()
                }
                Err(error) => {
                    reason = Failure::of("DeleteMessageBatch", &error).reason;
                    Vec::new()
                }
            };
            let mut left = Vec::new();
            for (number, one) in batch.into_iter().enumerate() {
                match done.contains(&number) {
                    true => self.remove_payload(&one.1).await,
                    false => left.push(one),
                }
            }
            batch = left;
            if batch.is_empty() {
                break;
            }
        }
        batch.into_iter().map(|(id, known)| (id, known, reason.clone())).collect()
    }

    /// What cannot be removed stays there for nobody: it is told.
    async fn remove_payload(&self, known: &Known) {
        let (Some(fetcher), Some(pointer)) = (&self.fetcher, &known.pointer) else { return };
        match fetcher.remove(pointer).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::warn!(reason = failure.reason, "a payload stays in S3"),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "a payload stays in S3"),
        }
    }

    async fn extend(&self) {
        self.change_visibility(HIDDEN).await;
    }

    async fn give_back(&self) {
        self.change_visibility(Duration::ZERO).await;
    }

    /// What fails here ends by itself: they come back after a while.
    async fn change_visibility(&self, timeout: Duration) {
        let handles: Vec<&String> =
            self.letters.values().flatten().map(|known| &known.handle).chain(&self.others).collect();
        for batch in handles.chunks(BATCH) {
            let entries = batch.iter().enumerate().map(|(number, handle)| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(number.to_string())
                    .receipt_handle(*handle)
                    .visibility_timeout(timeout.as_secs() as i32)
                    .build()
                    .expect("it has an id and a handle")
            });
            let request = self.client.change_message_visibility_batch().queue_url(&self.url);
            if let Err(error) = request.set_entries(Some(entries.collect())).send().await {
                let reason = Failure::of("ChangeMessageVisibilityBatch", &error).reason;
                tracing::warn!(reason, "dead letters come back to the queue later");
            }
        }
    }
}

fn is_size(name: &[u8]) -> bool {
    [SIZE_ATTRIBUTE, LEGACY_SIZE_ATTRIBUTE].iter().any(|known| known.as_bytes() == name)
}

fn received(message: Message) -> Received {
    let system = message.attributes.unwrap_or_default();
    let number = |name| system.get(&name).and_then(|text: &String| text.parse().ok());
    let mut attribute = None;
    let mut headers = Vec::new();
    for (name, value) in message.message_attributes.unwrap_or_default() {
        let bytes = match (value.string_value, value.binary_value) {
            (Some(text), _) if name == ATTRIBUTE => {
                attribute = Some(text);
                continue;
            }
            (Some(text), _) => text.into_bytes(),
            (None, binary) => binary.map(|blob| blob.into_inner()).unwrap_or_default(),
        };
        headers.push((name.into_bytes(), bytes));
    }
    // They come in any order.
    headers.sort();
    Received {
        message_id: message.message_id.unwrap_or_default(),
        body: message.body.unwrap_or_default().into_bytes(),
        attribute,
        headers,
        sent_ms: number(MessageSystemAttributeName::SentTimestamp).unwrap_or_default(),
        receives: number(MessageSystemAttributeName::ApproximateReceiveCount)
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or_default(),
    }
}
