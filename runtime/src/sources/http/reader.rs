//! Requests made into batches.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::super::rows::Rows;
use super::super::{Read, ReadLimit, Reader, SettledAs, SettledRow};
use super::inbox::{Inbox, Request};
use super::server::Server;
use crate::codecs::{DecodeError, Decoder, DecoderConfig, FrameMeta, Framing};
use crate::message::{HeaderSpan, Position, Span};

pub struct HttpReader {
    inbox: Arc<Inbox>,
    queue: mpsc::Receiver<Request>,
    server: Server,
    framing: Framing,
    takes_whole_bodies: bool,
    decoder: Box<dyn Decoder>,
    max_message_bytes: usize,
    /// A request that was read in part.
    current: Option<Current>,
    next_offset: u64,
    next_record: u64,
}

struct Current {
    request: Taken,
    /// Where its messages are in the body.
    frames: std::vec::IntoIter<Range<usize>>,
}

/// What is needed of a request when its answer waits elsewhere.
struct Taken {
    body: bytes::Bytes,
    is_batch: bool,
    headers: Vec<(axum::http::HeaderName, axum::http::HeaderValue)>,
    key: Option<axum::http::HeaderValue>,
    received_ms: i64,
    _memory: tokio::sync::OwnedSemaphorePermit,
}

/// Spans of what all messages of a request have, in the batch that is being filled.
struct Shared {
    key: Span,
    headers: Vec<HeaderSpan>,
}

impl HttpReader {
    pub fn new(
        inbox: Arc<Inbox>,
        queue: mpsc::Receiver<Request>,
        server: Server,
        codec: &dyn DecoderConfig,
        max_message_bytes: usize,
        first_offset: u64,
    ) -> HttpReader {
        HttpReader {
            inbox,
            queue,
            server,
            framing: codec.framing(),
            takes_whole_bodies: codec.takes_whole_bodies(),
            decoder: codec.decoder(),
            max_message_bytes,
            current: None,
            next_offset: first_offset,
            next_record: 1,
        }
    }

    /// Requests in the queue.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    #[cfg(test)]
    pub fn server_handle(&self) -> super::server::ServerHandle {
        self.server.handle()
    }

    /// Takes a request out of the queue, unless its client has gone.
    fn take(&mut self, request: Request) {
        let Request { body, is_batch, headers, key, received_ms, ticket, answer, memory } = request;
        if !ticket.take(self.next_offset) {
            return;
        }
        let (mut lines, mut frames) = (Vec::new(), Vec::new());
        if is_batch {
            (lines, frames) = lines_of(&body).unzip();
        } else {
            lines.push(1);
            // The end of a request is the end of a line too.
            let message = if self.takes_whole_bodies { &body } else { self.framing.trim(&body) };
            frames.push(0..message.len());
        }
        self.inbox.register(self.next_offset, lines.into_iter(), answer);
        let request = Taken { body, is_batch, headers, key, received_ms, _memory: memory };
        self.current = Some(Current { request, frames: frames.into_iter() });
    }

    /// Adds messages of the current request until it has no more, or the batch is full.
    fn fill(&mut self, batch: &mut Rows, limit: ReadLimit) {
        let Some(Current { request, mut frames }) = self.current.take() else { return };
        let shared = Shared {
            key: request.key.as_ref().map_or(Span::ABSENT, |key| batch.builder.copy(key.as_bytes())),
            headers: (request.headers.iter())
                .map(|(name, value)| HeaderSpan {
                    name: batch.builder.copy(name.as_str().as_bytes()),
                    value: batch.builder.copy(value.as_bytes()),
                })
                .collect(),
        };
        while !is_full(batch, limit) {
            let Some(frame) = frames.next() else { return };
            self.add(&request, &request.body[frame], &shared, batch);
        }
        if !frames.as_slice().is_empty() {
            self.current = Some(Current { request, frames });
        }
    }

    fn add(&mut self, request: &Taken, bytes: &[u8], shared: &Shared, batch: &mut Rows) {
        let position = Position { partition: 0, offset: self.next_offset, record: self.next_record };
        self.next_offset += 1;
        self.next_record += 1;
        let meta = FrameMeta {
            key: shared.key,
            headers: &shared.headers,
            timestamp_ms: request.received_ms,
            position,
        };
        if bytes.is_empty() && !self.takes_whole_bodies {
            // Only of a request that is one message: empty lines are none.
            self.inbox.refuse(position.offset, "the body is empty".to_owned());
            return;
        }
        if batch.reject_too_large(bytes, &meta, self.max_message_bytes) {
            return;
        }
        let (rows, frame) = (batch.builder.len(), batch.builder.copy(bytes));
        match self.decoder.decode(bytes, frame, &meta, &mut batch.builder) {
            Ok(()) => match batch.builder.len() - rows {
                1 => {}
                rows => self.inbox.set_rows(position.offset, rows),
            },
            Err(DecodeError(reason)) if request.is_batch => {
                batch.reject(frame, &meta, "decode-error", reason);
            }
            Err(DecodeError(reason)) => self.inbox.refuse(position.offset, reason),
        }
    }
}

/// Numbers, from 1, and places of the lines that are not empty.
pub fn lines_of(body: &[u8]) -> impl Iterator<Item = (usize, Range<usize>)> {
    let ends = memchr::memchr_iter(b'\n', body).chain([body.len()]);
    let mut start = 0;
    ends.enumerate().filter_map(move |(index, end)| {
        let line = start..start + Framing::Lines.trim(&body[start..end]).len();
        start = end + 1;
        (!line.is_empty()).then_some((index + 1, line))
    })
}

fn is_full(batch: &Rows, limit: ReadLimit) -> bool {
    let builder = &batch.builder;
    !builder.is_empty() && (builder.len() >= limit.rows || builder.bytes() >= limit.bytes)
}

#[async_trait]
impl Reader for HttpReader {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        self.server.start()?;
        let mut batch = Rows::default();
        // It waits only while the batch is empty, so nothing is lost when it is dropped.
        while !is_full(&batch, limit) {
            if self.current.is_some() {
                self.fill(&mut batch, limit);
                continue;
            }
            match self.queue.try_recv() {
                Ok(request) => self.take(request),
                Err(_) if !batch.builder.is_empty() => break,
                Err(_) => {
                    let request = self.queue.recv().await.context("the http server has ended")?;
                    self.take(request);
                }
            }
        }
        Ok(Read::Batch(batch.finish()))
    }
}

impl Drop for HttpReader {
    /// Nothing more is read: no connection is accepted, what waits is answered with 503.
    fn drop(&mut self) {
        self.inbox.start_closing();
        self.server.stop_accepting();
        if let Some(Current { frames, .. }) = self.current.take() {
            self.inbox.settle((0..frames.len() as u64).map(|nth| SettledRow {
                position: Position { offset: self.next_offset + nth, ..Position::default() },
                outcome: SettledAs::Returned,
                failures: 0,
            }));
        }
    }
}
