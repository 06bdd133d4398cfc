//! Reader and committer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::rows::Rows;
use super::super::{CommitKind, Committer, Read, ReadBatch, ReadLimit, Reader, SettledAs, SettledRow};
use super::body::Content;
use super::custody::Taken;
use super::work::Work;
use crate::aws::queue::position_of;
use crate::codecs::{Decoder, FrameMeta, Framing};
use crate::message::{HeaderSpan, Span};

/// How long receives on their way are waited for at a stop. What comes by one that is cut off stays hidden
/// until its visibility timeout is over.
const RECEIVES_END: Duration = Duration::from_secs(2);

/// How long deleting and giving back may take at a stop.
const REQUESTS_END: Duration = Duration::from_secs(10);

pub struct SqsReader {
    work: Arc<Work>,
    has_started: bool,
    framing: Framing,
    decoder: Box<dyn Decoder>,
    max_message_bytes: usize,
    reserved: usize,
    /// Messages that are being opened: what they hold is elsewhere, or has to be checked. Handed out in
    /// the order in which they are open; of a group there is one at a time anyway.
    opening: JoinSet<Taken>,
    /// Their numbers, and those that are open.
    unread: HashSet<u64>,
    open: Vec<Taken>,
}

impl SqsReader {
    pub fn new(
        work: Arc<Work>,
        framing: Framing,
        decoder: Box<dyn Decoder>,
        max_message_bytes: usize,
        reserved: usize,
    ) -> SqsReader {
        SqsReader {
            work,
            has_started: false,
            framing,
            decoder,
            max_message_bytes,
            reserved,
            opening: JoinSet::new(),
            unread: HashSet::new(),
            open: Vec::new(),
        }
    }

    /// Takes what is ready; what can be handed out at once is open.
    fn take(&mut self, limit: ReadLimit) {
        for message in self.work.custody.take(limit, Instant::now()) {
            self.unread.insert(message.number);
            if self.work.opener.wants(&message.content) {
                let (work, mut message) = (Arc::clone(&self.work), message);
                self.opening.spawn(async move {
                    work.open(&mut message).await;
                    message
                });
            } else {
                self.open.push(message);
            }
        }
    }

    fn batch(&mut self, taken: Vec<Taken>) -> ReadBatch {
        let mut rows = Rows::default();
        for message in taken {
            let before = rows.builder.len();
            self.add(&mut rows, &message);
            match rows.builder.len() - before {
                1 => {}
                count => self.work.custody.set_rows(message.number, count),
            }
        }
        rows.finish()
    }

    fn add(&mut self, rows: &mut Rows, message: &Taken) {
        let Taken { number, id, content } = message;
        let Content { payload, refused, key, headers, sent_at_ms } = &**content;
        let builder = &mut rows.builder;
        let key_span = key.as_ref().map_or(Span::ABSENT, |key| builder.copy(key.as_bytes()));
        let headers: Vec<HeaderSpan> = (headers.iter())
            .map(|(name, value)| HeaderSpan {
                name: builder.copy(name.as_bytes()),
                value: builder.copy(value),
            })
            .collect();
        let position = position_of(self.work.queue.name(), key.as_deref(), *number);
        let meta = FrameMeta { key: key_span, headers: &headers, timestamp_ms: *sent_at_ms, position };
        let failures = self.work.failed.of(id);
        let most = self.work.settings.max_failures;
        let refused = refused.clone().or_else(|| {
            let reason = || format!("it failed in {failures} deliveries, and `max_failures` is {most}");
            (failures >= most).then(|| ("max-failures", reason()))
        });
        if let Some((code, reason)) = refused {
            let payload = rows.builder.copy(payload);
            rows.reject(payload, &meta, code, reason);
        } else if !rows.reject_too_large(payload, &meta, self.max_message_bytes) {
            // The end of a message is the end of a line too.
            let bytes = self.framing.trim(payload);
            let frame = rows.builder.copy(bytes);
            rows.decode(&mut *self.decoder, bytes, frame, &meta);
        }
    }
}

#[async_trait]
impl Reader for SqsReader {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        if !self.has_started {
            self.has_started = true;
            self.work.start();
        }
        loop {
            let rows = match self.work.opener.opens() {
                // What they point to is not in the budget yet.
                true => limit.rows.min(self.work.opener.at_once().saturating_sub(self.opening.len())),
                false => limit.rows,
            };
            tokio::select! {
                () = self.work.custody.readable(), if rows > 0 => {
                    self.take(ReadLimit { rows, ..limit });
                }
                Some(opened) = self.opening.join_next() => {
                    self.open.push(opened.context("opening a message was cut off")?);
                }
                () = self.work.breaks.cancelled() => return Err(self.work.why_broken()),
            }
            // From here on nothing waits, so nothing is lost when this is dropped.
            while let Some(opened) = self.opening.try_join_next() {
                self.open.push(opened.context("opening a message was cut off")?);
            }
            let taken = std::mem::take(&mut self.open);
            for message in &taken {
                self.unread.remove(&message.number);
            }
            let read = self.batch(taken);
            if !read.batch.is_empty() {
                return Ok(Read::Batch(read));
            }
        }
    }

    fn reserved(&self) -> usize {
        self.reserved
    }
}

impl Drop for SqsReader {
    /// Nothing more is read: what waits is given back.
    fn drop(&mut self) {
        self.opening.abort_all();
        self.work.custody.give_back(self.unread.drain());
        self.work.stop();
    }
}

pub struct SqsCommitter {
    work: Arc<Work>,
}

impl SqsCommitter {
    pub fn new(work: Arc<Work>) -> SqsCommitter {
        SqsCommitter { work }
    }
}

#[async_trait]
impl Committer for SqsCommitter {
    fn kind(&self) -> CommitKind {
        CommitKind::Each
    }

    /// Returns before they are deleted: until they are they stay hidden, and [`Committer::close`] waits.
    async fn each(&mut self, settled: Vec<SettledRow>) -> anyhow::Result<()> {
        let has_failed = |row: &&SettledRow| row.outcome == SettledAs::Returned && row.failures > 0;
        let mut failed: Vec<u64> = settled.iter().filter(has_failed).map(|row| row.position.offset).collect();
        failed.sort_unstable();
        failed.dedup();
        let ids = failed.into_iter().filter_map(|number| self.work.custody.id(number)).collect();
        // Before it is given back, so that nobody has it before it is counted.
        self.work.failed.add(ids).await;
        self.work.custody.settle(&settled);
        Ok(())
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        let work = &self.work;
        work.stop();
        // Given back at once, messages come by the receives that are still on their way, and are given
        // back again; cut off, those would hide them.
        if tokio::time::timeout(RECEIVES_END, work.custody.idle()).await.is_err() {
            work.cut.cancel();
            work.custody.forget_receives();
            if tokio::time::timeout(REQUESTS_END, work.custody.idle()).await.is_err() {
                tracing::warn!(
                    pipeline = %work.pipeline, queue = work.queue.name(), messages = work.custody.to_delete(),
                    "not all settled messages could be deleted; they are handed out again"
                );
            }
        }
        work.close();
        Ok(())
    }
}

impl Drop for SqsCommitter {
    fn drop(&mut self) {
        self.work.close();
    }
}

impl Work {
    /// The error that ends the reader.
    fn why_broken(&self) -> anyhow::Error {
        let broken = self.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        broken.unwrap_or_else(|| anyhow::anyhow!("the source has ended"))
    }
}
