//! What is measured on the way: the time in each native step, each plugin and each sink.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::codecs::Encoder;
use crate::config::problem::Problem;
use crate::dead_letters::{DeadLetter, DeadLetterWriter};
use crate::message::{Batch, MessageRef};
use crate::pipeline::lane::Step;
use crate::pipeline::native::{NativeSpec, NativeStep};
use crate::plugin::{Passage, PluginIdentity, Processed};
use crate::sinks::{CallError, ENCODE_ERROR, Outcome, Outcomes, Sink, SinkConfig, SinkContext, SinkTraits};

/// Time in a stage, and the messages that came to it.
#[derive(Clone, Default)]
pub struct Stage(Arc<(AtomicU64, AtomicU64)>);

impl Stage {
    fn took(&self, time: Duration, messages: usize) {
        self.0.0.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.0.1.fetch_add(messages as u64, Relaxed);
    }

    pub fn messages(&self) -> u64 {
        self.0.1.load(Relaxed)
    }

    /// Nanoseconds a message.
    pub fn nanos(&self) -> f64 {
        self.0.0.load(Relaxed) as f64 / self.messages().max(1) as f64
    }
}

pub struct TimedStep {
    pub step: Box<dyn Step>,
    pub stage: Stage,
}

impl Step for TimedStep {
    fn identity(&self) -> &PluginIdentity {
        self.step.identity()
    }

    fn process(&mut self, batch: Batch, passage: &Passage) -> anyhow::Result<Processed> {
        let (started, messages) = (Instant::now(), batch.len());
        let processed = self.step.process(batch, passage);
        self.stage.took(started.elapsed(), messages);
        processed
    }

    fn keeps_state(&self) -> bool {
        self.step.keeps_state()
    }

    fn memory_bytes(&self) -> usize {
        self.step.memory_bytes()
    }
}

/// A native step that is measured.
pub struct TimedNative {
    pub native: Arc<dyn NativeSpec>,
    pub stage: Stage,
}

impl NativeSpec for TimedNative {
    fn name(&self) -> &'static str {
        self.native.name()
    }

    fn start(&self) -> Box<dyn NativeStep> {
        Box::new(TimedNativeStep { step: self.native.start(), stage: self.stage.clone() })
    }
}

struct TimedNativeStep {
    step: Box<dyn NativeStep>,
    stage: Stage,
}

impl NativeStep for TimedNativeStep {
    fn process(&mut self, batch: Batch) -> anyhow::Result<Processed> {
        let (started, messages) = (Instant::now(), batch.len());
        let processed = self.step.process(batch);
        self.stage.took(started.elapsed(), messages);
        processed
    }
}

/// A sink that is measured: the one of the pipeline, or one that encodes as that does and drops.
pub struct TimedSinkConfig {
    pub config: Box<dyn SinkConfig>,
    pub stage: Stage,
    pub is_real: bool,
}

impl SinkConfig for TimedSinkConfig {
    fn check(&self, context: &SinkContext, problems: &mut Vec<Problem>) {
        self.config.check(context, problems);
    }

    fn traits(&self) -> SinkTraits {
        self.config.traits()
    }

    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        let TimedSinkConfig { config, stage, is_real } = *self;
        let sink: Box<dyn Sink> = match is_real {
            true => config.open(context)?,
            false => Box::new(Dropping { codec: context.codec, buffer: Vec::new() }),
        };
        Ok(Box::new(TimedSink { sink, stage }))
    }
}

struct TimedSink {
    sink: Box<dyn Sink>,
    stage: Stage,
}

#[async_trait]
impl Sink for TimedSink {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        let started = Instant::now();
        let outcomes = self.sink.write(messages).await;
        self.stage.took(started.elapsed(), messages.len());
        outcomes
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        self.sink.close().await
    }
}

struct Dropping {
    codec: Arc<dyn Encoder>,
    buffer: Vec<u8>,
}

#[async_trait]
impl Sink for Dropping {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        let mut outcomes = Vec::with_capacity(messages.len());
        for message in messages {
            self.buffer.clear();
            outcomes.push(match self.codec.encode(message, &mut self.buffer) {
                Ok(()) => Outcome::Durable,
                Err(error) => Outcome::Reject { code: ENCODE_ERROR, reason: error.to_string() },
            });
        }
        Ok(Outcomes::Each(outcomes))
    }
}

/// Dead letters are counted, and kept nowhere.
pub struct DroppedLetters;

#[async_trait]
impl DeadLetterWriter for DroppedLetters {
    async fn write(&mut self, _letters: &[DeadLetter]) -> anyhow::Result<()> {
        Ok(())
    }
}
