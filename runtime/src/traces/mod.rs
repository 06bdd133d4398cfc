//! Traces: where a message comes from in a distributed trace, and the spans that it leaves.
//!
//! - [`context`]: W3C trace context, from headers or an envelope
//! - [`span`]: spans as they are made
//! - [`otlp`]: the messages of OTLP
//! - [`exporter`]: sends spans to a receiver, never holding up a pipeline
//!
//! Which spans a message leaves on its way is in `pipeline/traced.rs`. Without a `[tracing]` section there
//! is no [`Tracer`], and nothing of this is done.

pub mod context;
pub mod exporter;
pub mod otlp;
pub mod span;

use std::time::{Duration, SystemTime};

use crate::config::tracing_section::Tracing;
use crate::message::Position;
use crate::observe::metrics::Metrics;
use context::Parent;
use exporter::Exporter;
use otlp::Span;

/// What a pipeline with `[tracing]` has.
pub struct Tracer {
    /// A message without a parent is traced if the number of its position is at most this.
    threshold: Option<u64>,
    /// Where messages come from.
    pub source: Place,
    /// Where they go, by the number of the sink.
    pub sinks: Vec<Place>,
    exporter: Exporter,
    timeout: Duration,
}

/// A source or a sink, in the words of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `messaging.system`
    pub system: &'static str,
    /// `messaging.destination.name`
    pub destination: String,
}

impl Place {
    /// `kind` is the `type` of a source or a sink.
    pub fn new(kind: &'static str, destination: String) -> Place {
        // The names that the semantic conventions have; what they do not know keeps ours.
        let system = match kind {
            "sqs" => "aws_sqs",
            "sns" => "aws.sns",
            "kinesis" => "aws_kinesis",
            other => other,
        };
        Place { system, destination }
    }
}

impl Tracer {
    /// Starts what exports spans. To be called within a runtime.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn start(
        tracing: &Tracing,
        pipeline: &str,
        source: Place,
        sinks: Vec<Place>,
        metrics: &Metrics,
    ) -> anyhow::Result<Tracer> {
        let threshold = (tracing.ratio > 0.0).then_some((tracing.ratio * u64::MAX as f64) as u64);
        let exporter = Exporter::start(tracing, pipeline, metrics)?;
        Ok(Tracer { threshold, source, sinks, exporter, timeout: tracing.timeout.0 })
    }

    /// Whether a message is traced: as its parent says, otherwise by the ratio. A parent that says nothing
    /// of it is taken by its trace id, so that all of a trace is taken or nothing; a message without one by
    /// its position, so that it is the same when it is read again.
    pub fn samples(&self, parent: Option<&Parent>, position: Position) -> bool {
        let by_ratio = |number| self.threshold.is_some_and(|threshold| number <= threshold);
        match parent {
            Some(Parent { sampled: Some(sampled), .. }) => *sampled,
            Some(Parent { context, .. }) => by_ratio(context.trace_number()),
            None => by_ratio(spread(spread(u64::from(position.partition)).wrapping_add(position.offset))),
        }
    }

    /// Gives a span to the exporter, or drops and counts it.
    pub fn export(&self, span: Span) {
        self.exporter.export(span);
    }

    /// Exports what waits, for so long at most, and for no longer than a request may take.
    pub async fn close(&self, patience: Duration) {
        self.exporter.close(patience.min(self.timeout)).await;
    }

    /// See [`Tracer::close`].
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// A number in which every bit depends on all bits of the one given: the finish of SplitMix64
/// (<https://doi.org/10.1145/2660193.2660195>).
fn spread(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Nanoseconds since 1970-01-01T00:00:00Z.
pub fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}
