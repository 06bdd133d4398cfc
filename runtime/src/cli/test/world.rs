//! What a test puts around a pipeline: a source, sinks and a place for dead letters in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::input::Piece;
use crate::cli::plugin::fixtures;
use crate::codecs::{Decoder, Encoder, FrameMeta};
use crate::config::problem::Problem;
use crate::config::test_section::Answered;
use crate::dead_letters::{DeadLetter, DeadLetterWriter};
use crate::message::{Batch, BatchBuilder, MessageRef, Position};
use crate::pipeline::lane::Step;
use crate::plugin::{Passage, PluginIdentity, Processed};
use crate::sinks::{self, CallError, Outcome, Outcomes, Sink, SinkConfig, SinkContext, SinkTraits};
use crate::sources::{
    CommitKind, Committer, OpenSource, Read, ReadBatch, ReadLimit, Reader, RejectedRow, Replay, SourceConfig,
    SourceContext, SourceTraits,
};

/// What is outside of the pipeline of a test. It outlives a crash of it.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    input: Vec<Piece>,
    /// By the number of the sink.
    sinks: Vec<Mutex<SinkState>>,
    letters: Mutex<Vec<DeadLetter>>,
    /// The pipeline is about to commit its last message for the first time, if a crash is wanted then.
    crash: Option<Notify>,
    /// By the number of the plugin, whether it was given the message for which it overruns.
    overran: Vec<Mutex<bool>>,
}

#[derive(Default)]
struct SinkState {
    answers: VecDeque<Answered>,
    got: Vec<Delivered>,
}

/// What a sink has.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    /// How often the pipeline had been started.
    pub start: u32,
    pub position: Position,
    /// As a record.
    pub message: Map<String, Value>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn new(input: Vec<Piece>, answers: Vec<Vec<Answered>>, plugins: usize, crash: bool) -> World {
        let sink =
            |answers: Vec<Answered>| Mutex::new(SinkState { answers: answers.into(), got: Vec::new() });
        World(Arc::new(Inner {
            input,
            sinks: answers.into_iter().map(sink).collect(),
            letters: Mutex::default(),
            crash: crash.then(Notify::new),
            overran: (0..plugins).map(|_| Mutex::default()).collect(),
        }))
    }

    /// What came to a sink.
    pub fn delivered(&self, sink: usize) -> Vec<Delivered> {
        lock(&self.0.sinks[sink]).got.clone()
    }

    /// Answers but `ok` that a sink was never asked for.
    pub fn unused_answers(&self, sink: usize) -> usize {
        lock(&self.0.sinks[sink]).answers.iter().filter(|answer| **answer != Answered::Ok).count()
    }

    pub fn letters(&self) -> Vec<DeadLetter> {
        lock(&self.0.letters).clone()
    }

    /// Whether a plugin was given the message for which it overruns.
    pub fn overran(&self, plugin: usize) -> bool {
        *lock(&self.0.overran[plugin])
    }

    /// Waits for the moment of the crash, for ever if there is none.
    pub async fn crash(&self) {
        match &self.0.crash {
            Some(crash) => crash.notified().await,
            None => std::future::pending().await,
        }
    }

    pub fn source(&self, crashes: bool) -> Box<dyn SourceConfig> {
        Box::new(TestSource { world: self.clone(), crashes })
    }

    pub fn sink(&self, number: usize, start: u32) -> Box<dyn SinkConfig> {
        Box::new(TestSink { world: self.clone(), number, start })
    }

    pub fn letter_writer(&self) -> Box<dyn DeadLetterWriter> {
        Box::new(Letters(self.clone()))
    }

    /// A plugin with the clock of the test, which overruns if it is to.
    pub fn step(
        &self,
        mut step: Box<dyn Step>,
        number: usize,
        now_ms: u64,
        overruns: Option<u64>,
    ) -> Box<dyn Step> {
        if let Some(record) = overruns {
            step.overrun_at(record);
        }
        // The same after a crash, so that what is read again becomes the same again.
        step.determine(Arc::new(Mutex::new(StdRng::seed_from_u64(0))));
        Box::new(TestStep { world: self.clone(), step, number, now_ms, overruns })
    }
}

struct TestSource {
    world: World,
    crashes: bool,
}

impl SourceConfig for TestSource {
    fn check(&self, _context: &SourceContext, _problems: &mut Vec<Problem>) {}

    fn traits(&self) -> SourceTraits {
        SourceTraits { replay: Replay::Yes, unordered: None, partitions: Some(1) }
    }

    fn open(self: Box<Self>, context: SourceContext) -> anyhow::Result<OpenSource> {
        let TestSource { world, crashes } = *self;
        let last = world.0.input.len() as u64;
        Ok(OpenSource {
            name: "test".to_owned(),
            reader: Box::new(Input {
                world: world.clone(),
                next: 0,
                is_headed: false,
                decoder: context.codec.decoder(),
                max_message_bytes: context.max_message_bytes,
            }),
            committer: Box::new(Commits { world, last, crashes }),
            describe: Arc::new(|position| format!("message {} of the test", position.record)),
        })
    }
}

struct Input {
    world: World,
    next: usize,
    is_headed: bool,
    decoder: Box<dyn Decoder>,
    max_message_bytes: usize,
}

#[async_trait]
impl Reader for Input {
    async fn read(&mut self, limit: ReadLimit) -> anyhow::Result<Read> {
        let input = &self.world.0.input;
        let mut out = BatchBuilder::new();
        let mut rejected = Vec::new();
        while let Some(piece) = input.get(self.next).filter(|_| out.len() < limit.rows) {
            self.next += 1;
            let number = self.next as u64;
            let position = Position { partition: 0, offset: number, record: number };
            let (frame, key, headers, timestamp_ms) = match piece {
                Piece::Message(message) => {
                    out.push_message(message, position);
                    continue;
                }
                Piece::Payload(message) => {
                    let payload = message.payload.as_deref().unwrap_or_default();
                    (payload, message.key.as_deref(), message.headers.as_slice(), message.timestamp_ms)
                }
                Piece::Frame { bytes, timestamp_ms } => (bytes.as_slice(), None, &[][..], *timestamp_ms),
            };
            let key = key.map_or(crate::message::Span::ABSENT, |key| out.copy(key));
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| crate::message::HeaderSpan {
                    name: out.copy(name),
                    value: out.copy(value),
                })
                .collect();
            let span = out.copy(frame);
            let meta = FrameMeta { key, headers: &headers, timestamp_ms, position };
            let refused = if frame.len() > self.max_message_bytes {
                let reason =
                    format!("{} bytes, `max_message_bytes` is {}", frame.len(), self.max_message_bytes);
                Err(("too-large", reason))
            } else if self.decoder.has_head() && !std::mem::replace(&mut self.is_headed, true) {
                self.decoder.head(frame).map_err(|error| ("decode-error", error.to_string()))
            } else {
                let decoded = self.decoder.decode(frame, span, &meta, &mut out);
                decoded.map_err(|error| ("decode-error", error.to_string()))
            };
            if let Err((code, reason)) = refused {
                let row = out.push(span, key, &headers, timestamp_ms, position);
                rejected.push(RejectedRow { row, code, reason });
            }
        }
        let batch = out.finish();
        Ok(if batch.is_empty() {
            Read::End
        } else {
            Read::Batch(ReadBatch { batch, rejected, replays: Vec::new() })
        })
    }
}

struct Commits {
    world: World,
    last: u64,
    crashes: bool,
}

#[async_trait]
impl Committer for Commits {
    fn kind(&self) -> CommitKind {
        CommitKind::UpTo
    }

    async fn up_to(&mut self, positions: &[Position]) -> anyhow::Result<()> {
        // One partition: the last position is committed when everything is settled.
        if self.crashes && positions.iter().any(|position| position.offset == self.last) {
            if let Some(crash) = &self.world.0.crash {
                crash.notify_one();
            }
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

struct TestSink {
    world: World,
    number: usize,
    start: u32,
}

impl SinkConfig for TestSink {
    fn check(&self, _context: &SinkContext, _problems: &mut Vec<Problem>) {}

    fn traits(&self) -> SinkTraits {
        SinkTraits::with_batch(1)
    }

    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        let TestSink { world, number, start } = *self;
        Ok(Box::new(Answering { world, number, start, name: context.name, codec: context.codec }))
    }
}

struct Answering {
    world: World,
    number: usize,
    start: u32,
    name: String,
    codec: Arc<dyn Encoder>,
}

impl Answering {
    fn write_one(&self, message: &MessageRef<'_>) -> Result<Outcome, CallError> {
        if let Err(error) = self.codec.encode(message, &mut Vec::new()) {
            return Ok(Outcome::Reject { code: sinks::ENCODE_ERROR, reason: error.to_string() });
        }
        let mut state = lock(&self.world.0.sinks[self.number]);
        let answer = state.answers.pop_front().unwrap_or(Answered::Ok);
        let told = format!("the sink {}", self.name);
        let outcome = match answer {
            Answered::Ok => Outcome::Durable,
            Answered::Status(status) => sinks::answered(&told, status)?,
            Answered::Unavailable => {
                let reason = format!("{told} is not available");
                return Err(CallError::Unavailable { reason, retry_after: None, credentials: false });
            }
            Answered::Timeout => {
                Outcome::Retry { reason: format!("{told} did not answer in time"), after: None }
            }
            Answered::Reject => Outcome::Reject { code: "rejected", reason: format!("{told} refuses it") },
            Answered::Fatal => return Err(CallError::Fatal(format!("{told} cannot go on"))),
        };
        if outcome == Outcome::Durable {
            let line = fixtures::line(message).map_err(|error| CallError::Fatal(format!("{error:#}")))?;
            let (start, position) = (self.start, message.position());
            state.got.push(Delivered { start, position, message: line });
        }
        Ok(outcome)
    }
}

#[async_trait]
impl Sink for Answering {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        let mut outcomes = Vec::with_capacity(messages.len());
        for message in messages {
            outcomes.push(self.write_one(message)?);
        }
        Ok(Outcomes::Each(outcomes))
    }
}

struct Letters(World);

#[async_trait]
impl DeadLetterWriter for Letters {
    async fn write(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        let mut all = lock(&self.0.0.letters);
        for letter in letters {
            // The store knows the same failure of the same message again.
            if !all.iter().any(|known| known.id == letter.id) {
                all.push(letter.clone());
            }
        }
        Ok(())
    }
}

struct TestStep {
    world: World,
    step: Box<dyn Step>,
    number: usize,
    now_ms: u64,
    overruns: Option<u64>,
}

impl Step for TestStep {
    fn identity(&self) -> &PluginIdentity {
        self.step.identity()
    }

    fn process(&mut self, batch: Batch, passage: &Passage) -> anyhow::Result<Processed> {
        if batch.rows().iter().any(|row| Some(row.position.record) == self.overruns) {
            *lock(&self.world.0.overran[self.number]) = true;
        }
        self.step.process(batch, &Passage { now_ms: self.now_ms, ..passage.clone() })
    }

    fn keeps_state(&self) -> bool {
        self.step.keeps_state()
    }

    fn memory_bytes(&self) -> usize {
        self.step.memory_bytes()
    }
}
