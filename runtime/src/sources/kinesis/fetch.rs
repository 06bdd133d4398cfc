//! Fetching the records of a shard, within the limits of the service and the budget.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::types::Record;
use prometheus::IntGaugeVec;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::leases::Checkpoint;
use super::stream::{self, From, Stream};
use super::troubles::{Backoff, Trouble, Troubles};
use crate::aws::{Failure, Kind};

/// What was fetched of a shard in one call.
pub struct Fetched {
    pub shard: Arc<Shard>,
    pub records: std::vec::IntoIter<Record>,
    /// There is nothing more.
    pub is_end: bool,
    /// Its bytes of what may be fetched beforehand.
    _permit: OwnedSemaphorePermit,
}

impl Fetched {
    pub fn new(
        shard: Arc<Shard>,
        records: Vec<Record>,
        is_end: bool,
        permit: OwnedSemaphorePermit,
    ) -> Fetched {
        Fetched { shard, records: records.into_iter(), is_end, _permit: permit }
    }
}

/// A shard that is ours.
pub struct Shard {
    pub id: String,
    /// As positions name it.
    pub number: u32,
    pub term: u64,
    pub hash_keys: Option<(u128, u128)>,
    /// Since when the service knows of no such shard.
    pub missing_since: Mutex<Option<Instant>>,
}

impl Shard {
    pub fn missing_for(&self) -> Option<Duration> {
        let since = self.missing_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed())
    }

    fn is_missing(&self, missing: bool) {
        let mut since = self.missing_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = missing.then(|| since.unwrap_or_else(Instant::now));
    }
}

/// What those who fetch share.
pub struct Fetching {
    pub pipeline: String,
    pub stream: Arc<Stream>,
    pub poll_interval: Duration,
    /// Records of a call, at most.
    pub limit: u32,
    pub queue: mpsc::UnboundedSender<anyhow::Result<Fetched>>,
    /// What may be fetched beforehand (P6), in KiB. It bounds the queue.
    pub room: Arc<Semaphore>,
    pub budget_is_used_up: Arc<AtomicBool>,
    pub troubles: Arc<Troubles>,
    pub behind: IntGaugeVec,
    /// The shards of the stream have changed, maybe.
    pub resharded: Arc<Notify>,
}

/// How often a used up budget is looked at.
const BUDGET_LOOK: Duration = Duration::from_millis(20);

/// What a call may need of the room, in KiB.
const CALL_KIB: u32 = (stream::MAX_ANSWER_BYTES >> 10) as u32;

/// The room for so many bytes, but for one call at least.
pub fn room(bytes: usize) -> Semaphore {
    Semaphore::new((bytes >> 10).max(CALL_KIB as usize))
}

impl Fetching {
    /// Fetches until the shard has ended. Dropped where the shard is not ours any more.
    pub async fn run(self: Arc<Self>, shard: Arc<Shard>, checkpoint: Checkpoint) {
        let mut from = From::Checkpoint(checkpoint);
        let mut iterator: Option<String> = None;
        let mut backoff = Backoff::default();
        loop {
            while self.budget_is_used_up.load(Ordering::Relaxed) {
                tokio::time::sleep(BUDGET_LOOK).await;
            }
            let Ok(mut permit) = Arc::clone(&self.room).acquire_many_owned(CALL_KIB).await else { return };
            let started = Instant::now();
            let answer = self.fetch(&shard, &from, &mut iterator).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(Trouble::Stop(error)) => {
                    // Nobody listens if the pipeline ends anyway.
                    let _ = self.queue.send(Err(error));
                    return;
                }
                Err(Trouble::Wait(failure)) => {
                    drop(permit);
                    self.wait(&shard, failure, &mut iterator, &mut backoff).await;
                    continue;
                }
            };
            backoff.reset();
            shard.is_missing(false);
            self.troubles.clear(&shard.id);
            let GetRecordsOutput { records, next_shard_iterator, millis_behind_latest, child_shards, .. } =
                answer;
            let is_end = next_shard_iterator.is_none();
            let behind = millis_behind_latest.unwrap_or_default();
            self.behind.with_label_values(&[&self.pipeline, self.stream.name(), &shard.id]).set(behind);
            let bytes: usize = records.iter().map(size).sum();
            if let Some(last) = records.last() {
                from = From::After(last.sequence_number.clone());
            }
            if !records.is_empty() || is_end {
                let unused = (CALL_KIB as usize).saturating_sub(bytes.div_ceil(1 << 10));
                drop(permit.split(unused));
                let fetched = Fetched::new(Arc::clone(&shard), records, is_end, permit);
                // Nobody listens if the pipeline ends anyway.
                let _ = self.queue.send(Ok(fetched));
            } else {
                drop(permit);
            }
            if is_end {
                let children = child_shards.unwrap_or_default().len();
                tracing::info!(stream = self.stream.name(), shard = shard.id, children, "a shard has ended");
                self.resharded.notify_one();
                return;
            }
            iterator = next_shard_iterator;
            tokio::time::sleep(self.pause(bytes, behind).saturating_sub(started.elapsed())).await;
        }
    }

    async fn fetch(
        &self,
        shard: &Shard,
        from: &From,
        iterator: &mut Option<String>,
    ) -> Result<GetRecordsOutput, Trouble> {
        if iterator.is_none() {
            *iterator = self.stream.iterator(&shard.id, from).await?;
        }
        match iterator {
            Some(iterator) => self.stream.records(&shard.id, iterator, self.limit).await,
            // As the one of an ended shard with nothing behind it.
            None => Ok(GetRecordsOutput::builder()
                .set_records(Some(Vec::new()))
                .build()
                .map_err(|error| Trouble::Stop(anyhow::Error::new(error).context("an empty answer")))?),
        }
    }

    /// How long after the beginning of a call the next one may come.
    fn pause(&self, bytes: usize, behind_ms: i64) -> Duration {
        let quota = Duration::from_secs_f64(bytes as f64 / stream::BYTES_PER_SECOND as f64);
        let wanted = if behind_ms > 0 { Duration::ZERO } else { self.poll_interval };
        wanted.max(quota).max(stream::MIN_INTERVAL)
    }

    async fn wait(
        &self,
        shard: &Shard,
        failure: Failure,
        iterator: &mut Option<String>,
        backoff: &mut Backoff,
    ) {
        if failure.code == "ExpiredIteratorException" {
            tracing::debug!(shard = shard.id, "an iterator has expired; getting another one");
            *iterator = None;
            // It was one of the calls that a shard takes in a second.
            tokio::time::sleep(stream::MIN_INTERVAL).await;
            return;
        }
        if failure.kind == Kind::Missing {
            shard.is_missing(true);
            self.resharded.notify_one();
        }
        if failure.kind == Kind::Refused {
            // Maybe of the iterator; a new one costs a call.
            *iterator = None;
        }
        let delay = backoff.next(failure.kind);
        // Where several read a stream, a refusal now and then is how they share what a shard gives.
        if failure.kind == Kind::Throttled && !backoff.goes_on() {
            tracing::debug!(shard = shard.id, reason = failure.reason, "throttled");
        } else {
            self.troubles.tell(&shard.id, &failure.reason);
        }
        tokio::time::sleep(delay).await;
    }
}

/// Bytes of a record as they count here.
fn size(record: &Record) -> usize {
    /// A partition key has 256 characters at most, and a sequence number some 60 digits.
    const STRINGS: usize = 256;
    record.data.as_ref().len() + STRINGS
}
