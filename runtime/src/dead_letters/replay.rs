//! Replay: dead letters as a source, read again by a pipeline beside or in place of its own.
//!
//! A replayed message has its original position and the name of its original source, so that what
//! plugins make of these (the id of an envelope, say) is as it was. It carries how often it has been
//! replayed in [`REPLAYS_HEADER`] ([`mark`]) and goes only to the sinks that did not have it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::filter::Filter;
use super::store::{Cursor, DeadLetterStore};
use super::{DeadLetter, REPLAYS_HEADER, Stage};
use crate::codecs::{Decoder, DecoderConfig, FrameMeta};
use crate::config::Pipeline;
use crate::message::{Batch, BatchBuilder, HeaderSpan, Message, Position, SinkSet, Span};
use crate::sources::{
    CommitKind, Committer, OpenSource, Read, ReadBatch, ReadLimit, Reader, RejectedRow, Replayed, SettledAs,
    SettledRow,
};

/// A message that failed again after that many replays is not replayed any more unless it is forced.
pub const MAX_REPLAYS: u32 = 5;

/// Ids that the store is asked for at once.
const IDS: usize = 500;

/// Ids that a summary names for each reason why some were left out.
const EXAMPLES: usize = 5;

/// What a replay must know of the pipeline.
#[derive(Clone)]
pub struct ReplayContext {
    /// Names of its sinks, in order.
    pub sinks: Vec<String>,
    /// What decodes its source.
    pub codec: Arc<dyn DecoderConfig>,
}

impl ReplayContext {
    pub fn of(pipeline: &Pipeline) -> ReplayContext {
        ReplayContext {
            sinks: pipeline.sinks.iter().map(|sink| sink.name.clone()).collect(),
            codec: Arc::clone(&pipeline.source.codec),
        }
    }

    /// Why this one cannot or should not be replayed, if so; it then stays as it is.
    pub fn obstacle(&self, letter: &DeadLetter, force: bool) -> Option<String> {
        if letter.replays >= MAX_REPLAYS && !force {
            return Some(format!(
                "replayed {MAX_REPLAYS} times already, each time in vain; --force replays it again"
            ));
        }
        if letter.stage == Stage::Source && letter.code == "too-large" {
            return Some(
                "only the first part of it was kept; raise `max_message_bytes` and read it from the source again"
                    .to_owned(),
            );
        }
        if letter.stage == Stage::Source && self.codec.decoder().has_head() {
            return Some(
                "its codec needs the head of the file it was read from; correct the file and read it again"
                    .to_owned(),
            );
        }
        let gone = letter.sinks.iter().find(|name| !self.sinks.contains(name))?;
        Some(format!(
            "it is to go to the sink {gone:?}, which the pipeline does not have; its sinks are {}",
            self.sinks.join(", ")
        ))
    }

    fn sink_set(&self, letter: &DeadLetter) -> SinkSet {
        if letter.sinks.is_empty() {
            return SinkSet::ALL;
        }
        let numbered = self.sinks.iter().enumerate().filter(|(_, name)| letter.sinks.contains(name));
        numbered.fold(SinkSet::NONE, |set, (number, _)| set.with(number))
    }
}

/// What became of a replay, counted in dead letters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub delivered: u64,
    /// Dropped by a plugin.
    pub filtered: u64,
    /// Failed again: there is a dead letter of it as before.
    pub dead_lettered: u64,
    /// Given back and not read again, because the pipeline stopped: still a dead letter.
    pub returned: u64,
    /// The pipeline stopped before all were read; those left are dead letters as before.
    pub stopped: bool,
    /// Left out, by the reason.
    pub skipped: BTreeMap<String, Skipped>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    pub count: u64,
    /// The first few.
    pub ids: Vec<String>,
}

impl Summary {
    /// Adds what became of another part of the same replay.
    pub fn add(&mut self, other: Summary) {
        self.delivered += other.delivered;
        self.filtered += other.filtered;
        self.dead_lettered += other.dead_lettered;
        self.returned += other.returned;
        self.stopped |= other.stopped;
        for (reason, Skipped { count, ids }) in other.skipped {
            let skipped = self.skipped.entry(reason).or_default();
            skipped.count += count;
            let room = EXAMPLES.saturating_sub(skipped.ids.len());
            skipped.ids.extend(ids.into_iter().take(room));
        }
    }

    pub fn skip(&mut self, reason: String, id: &str) {
        let skipped = self.skipped.entry(reason).or_default();
        skipped.count += 1;
        if skipped.ids.len() < EXAMPLES {
            skipped.ids.push(id.to_owned());
        }
    }
}

/// Replays those that `filter` means and that are there now, and returns when all are settled.
///
/// `run` has a pipeline read a source to its end and returns when everything of it is settled and
/// committed. It is called once for each source that the dead letters were read from.
pub async fn replay<F>(
    store: &DeadLetterStore,
    context: &ReplayContext,
    filter: &Filter,
    force: bool,
    mut run: impl FnMut(OpenSource) -> F,
) -> anyhow::Result<Summary>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let (end, sources) = {
        let (store, filter) = (store.clone(), filter.clone());
        blocking(move || {
            let end = store.end()?;
            Ok((end, store.sources(&filter, end)?))
        })
        .await?
    };
    let desk = Arc::new(Desk::default());
    for source in sources {
        let filter = Filter { source: Some(source.clone()), ..filter.clone() };
        let reader = ReplayReader {
            store: store.clone(),
            context: context.clone(),
            filter,
            force,
            after: 0,
            end,
            read_all: false,
            queue: VecDeque::new(),
            decoder: context.codec.decoder(),
            desk: Arc::clone(&desk),
        };
        let committer = ReplayCommitter { store: store.clone(), desk: Arc::clone(&desk) };
        let describing = Arc::clone(&desk);
        run(OpenSource {
            name: source,
            reader: Box::new(reader),
            committer: Box::new(committer),
            describe: Arc::new(move |position| describing.describe(position)),
        })
        .await?;
        let given_back = std::mem::take(&mut desk.lock().given_back);
        desk.lock().summary.returned += given_back.len() as u64;
        if !std::mem::take(&mut desk.lock().read_to_the_end) {
            desk.lock().summary.stopped = true;
            break;
        }
    }
    let summary = desk.lock().summary.clone();
    Ok(summary)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("work on the dead letters was cut off")?
}

/// What reader and committer share.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    /// Told when something was settled.
    settled: Notify,
}

#[derive(Default)]
struct State {
    in_flight: HashMap<Position, InFlight>,
    /// Ids of those that are to be read again: the transaction they were in was aborted.
    given_back: Vec<String>,
    summary: Summary,
    read_to_the_end: bool,
}

/// A dead letter that was read and is not yet settled.
#[derive(Clone)]
struct InFlight {
    id: String,
    replays: u32,
    position_text: String,
    /// A frame may hold many messages.
    rows_left: usize,
    delivered: bool,
    dead_lettered: bool,
    returned: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, position: Position) -> String {
        let state = self.lock();
        let known = state.in_flight.get(&position).map(|in_flight| in_flight.position_text.clone());
        known.unwrap_or_else(|| format!("partition {} offset {}", position.partition, position.offset))
    }
}

struct ReplayReader {
    store: DeadLetterStore,
    context: ReplayContext,
    filter: Filter,
    force: bool,
    after: Cursor,
    end: Cursor,
    read_all: bool,
    queue: VecDeque<DeadLetter>,
    decoder: Box<dyn Decoder>,
    desk: Arc<Desk>,
}

#[async_trait]
impl Reader for ReplayReader {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        loop {
            // Asked for before looking, or the news could be missed.
            let desk = Arc::clone(&self.desk);
            let settled = desk.settled.notified();
            if self.queue.is_empty() {
                if !self.read_all {
                    self.fill_queue().await?;
                    continue;
                }
                let is_settled = {
                    let mut state = desk.lock();
                    state.read_to_the_end = true;
                    state.in_flight.is_empty()
                };
                if !is_settled {
                    settled.await;
                } else if !self.turn_to_given_back() {
                    return Ok(Read::End);
                }
                continue;
            }
            let read = self.take(limit);
            if !read.batch.is_empty() {
                return Ok(Read::Batch(read));
            }
            if !self.queue.is_empty() {
                settled.await;
            }
        }
    }
}

impl ReplayReader {
    async fn fill_queue(&mut self) -> anyhow::Result<()> {
        let (store, filter, after, end) = (self.store.clone(), self.filter.clone(), self.after, self.end);
        let page = blocking(move || store.page(&filter, after, end)).await?;
        self.queue.extend(page.letters);
        match page.next {
            Some(next) => self.after = next,
            None => self.read_all = true,
        }
        Ok(())
    }

    /// Has what was given back read again; false if nothing was.
    fn turn_to_given_back(&mut self) -> bool {
        let mut state = self.desk.lock();
        if state.given_back.is_empty() {
            return false;
        }
        state.read_to_the_end = false;
        let some = state.given_back.len().min(IDS);
        let ids = state.given_back.drain(..some).collect();
        drop(state);
        self.filter = Filter { ids, ..Filter::default() };
        (self.after, self.read_all) = (0, false);
        true
    }

    /// As many of the queue as the limit allows. Empty if the first of it has the position of one in
    /// flight, by which the two would be taken for each other.
    fn take(&mut self, limit: ReadLimit) -> ReadBatch {
        let mut state = self.desk.lock();
        let mut batch = Building::default();
        while let Some(letter) = self.queue.front() {
            let rows = batch.builder.len();
            let full = rows > 0 && (rows >= limit.rows || batch.builder.bytes() >= limit.bytes);
            if full || state.in_flight.contains_key(&letter.position) {
                break;
            }
            let Some(letter) = self.queue.pop_front() else { break };
            if let Some(reason) = self.context.obstacle(&letter, self.force) {
                state.summary.skip(reason, &letter.id);
                continue;
            }
            let rows_left = batch.push(&letter, self.context.sink_set(&letter), self.decoder.as_mut());
            if rows_left == 0 {
                state.summary.skip("its bytes hold no message any more".to_owned(), &letter.id);
                continue;
            }
            let in_flight = InFlight {
                id: letter.id,
                replays: letter.replays,
                position_text: letter.position_text,
                rows_left,
                delivered: false,
                dead_lettered: false,
                returned: false,
            };
            state.in_flight.insert(letter.position, in_flight);
        }
        batch.finish()
    }
}

/// A batch of replayed messages in the making.
struct Building {
    builder: BatchBuilder,
    rejected: Vec<RejectedRow>,
    /// Of each row.
    sinks: Vec<SinkSet>,
    replays: Vec<Replayed>,
}

impl Default for Building {
    fn default() -> Building {
        let builder = BatchBuilder::new();
        Building { builder, rejected: Vec::new(), sinks: Vec::new(), replays: Vec::new() }
    }
}

impl Building {
    /// Returns how many rows it became: one, but for a frame that holds more or no messages.
    fn push(&mut self, letter: &DeadLetter, sinks: SinkSet, decoder: &mut dyn Decoder) -> usize {
        let first = self.builder.len();
        match (&letter.stage, &letter.message.payload) {
            (Stage::Source, Some(frame)) => self.decode(letter, frame, decoder),
            _ => drop(self.builder.push_message(&letter.message, letter.position)),
        }
        let rows = self.builder.len();
        let replayed = Replayed { times: letter.replays.saturating_add(1), read_at_ms: letter.read_at_ms };
        self.sinks.resize(rows, sinks);
        self.replays.resize(rows, replayed);
        rows - first
    }

    fn decode(&mut self, letter: &DeadLetter, frame: &[u8], decoder: &mut dyn Decoder) {
        let Message { key, headers, timestamp_ms, .. } = &letter.message;
        let builder = &mut self.builder;
        let key = key.as_deref().map_or(Span::ABSENT, |bytes| builder.copy(bytes));
        let headers: Vec<HeaderSpan> = headers
            .iter()
            .map(|(name, value)| HeaderSpan { name: builder.copy(name), value: builder.copy(value) })
            .collect();
        let span = builder.copy(frame);
        let meta =
            FrameMeta { key, headers: &headers, timestamp_ms: *timestamp_ms, position: letter.position };
        if let Err(error) = decoder.decode(frame, span, &meta, builder) {
            let row = builder.push(span, key, &headers, *timestamp_ms, letter.position);
            self.rejected.push(RejectedRow { row, code: "decode-error", reason: error.to_string() });
        }
    }

    fn finish(self) -> ReadBatch {
        let mut batch = self.builder.finish();
        for (row, sinks) in batch.rows_mut().iter_mut().zip(self.sinks) {
            row.sinks = sinks;
        }
        ReadBatch { batch, rejected: self.rejected, replays: self.replays }
    }
}

/// Marks messages as replayed, in place of the mark of an earlier replay.
pub fn mark(batch: &mut Batch, replays: &[Replayed]) {
    let mut bytes = REPLAYS_HEADER.as_bytes().to_vec();
    let values: Vec<Range<usize>> = replays
        .iter()
        .map(|replayed| {
            let start = bytes.len();
            bytes.extend_from_slice(replayed.times.to_string().as_bytes());
            start..bytes.len()
        })
        .collect();
    let arena = batch.add_arena(Bytes::from(bytes)).expect("what was just read has a handful of arenas");
    let span = |range: Range<usize>| Span::new(arena, range.start as u32, range.len() as u32);
    let name = span(0..REPLAYS_HEADER.len());
    for (row, value) in values.into_iter().enumerate() {
        let headers = marked(batch, row, HeaderSpan { name, value: span(value) });
        let first_header = batch.add_headers(&headers);
        let row = &mut batch.rows_mut()[row];
        (row.first_header, row.header_count) = (first_header, headers.len() as u32);
    }
}

/// The headers of a row, with the mark in place of one from an earlier replay.
fn marked(batch: &Batch, row: usize, mark: HeaderSpan) -> Vec<HeaderSpan> {
    let row = &batch.rows()[row];
    let first = row.first_header as usize;
    let is_mark = |header: &&HeaderSpan| {
        let name = batch.bytes(header.name).unwrap_or_default();
        name.eq_ignore_ascii_case(REPLAYS_HEADER.as_bytes())
    };
    let headers = &batch.headers()[first..first + row.header_count as usize];
    headers.iter().filter(|header| !is_mark(header)).copied().chain([mark]).collect()
}

struct ReplayCommitter {
    store: DeadLetterStore,
    desk: Arc<Desk>,
}

#[async_trait]
impl Committer for ReplayCommitter {
    fn kind(&self) -> CommitKind {
        CommitKind::Each
    }

    async fn each(&mut self, settled: Vec<SettledRow>) -> anyhow::Result<()> {
        let ended = self.note(settled);
        // What was returned was not settled: it stays a dead letter.
        let gone = ended.iter().filter(|(_, letter)| !letter.returned);
        let gone: Vec<(String, u32)> = gone.map(|(_, letter)| (letter.id.clone(), letter.replays)).collect();
        let store = self.store.clone();
        blocking(move || store.settle_replayed(&gone)).await?;
        let mut state = self.desk.lock();
        for (position, letter) in ended {
            state.in_flight.remove(&position);
            if letter.returned {
                state.given_back.push(letter.id);
                continue;
            }
            let summary = &mut state.summary;
            let count = match letter {
                InFlight { dead_lettered: true, .. } => &mut summary.dead_lettered,
                InFlight { delivered: true, .. } => &mut summary.delivered,
                _ => &mut summary.filtered,
            };
            *count += 1;
        }
        drop(state);
        self.desk.settled.notify_waiters();
        Ok(())
    }
}

impl ReplayCommitter {
    /// Notes what became of the rows; returns the dead letters of which none is left. They stay in
    /// flight until that is durable.
    fn note(&self, settled: Vec<SettledRow>) -> Vec<(Position, InFlight)> {
        let mut state = self.desk.lock();
        let mut ended = Vec::new();
        for SettledRow { position, outcome, .. } in settled {
            let Some(letter) = state.in_flight.get_mut(&position) else { continue };
            match outcome {
                SettledAs::Delivered => letter.delivered = true,
                SettledAs::Filtered => {}
                SettledAs::DeadLettered(_) => letter.dead_lettered = true,
                SettledAs::Returned => letter.returned = true,
            }
            letter.rows_left = letter.rows_left.saturating_sub(1);
            if letter.rows_left == 0 {
                ended.push((position, letter.clone()));
            }
        }
        ended
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
