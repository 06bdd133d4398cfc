//! What one can see of a pipeline from outside.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::Shared;
use super::ledger::Held;
use crate::config::secrets::Redactor;
use crate::message::Batch;
use crate::observe::metrics::{Metrics, Observed};

/// Values of a label that comes from messages or plugins: more of them count as `other`, so that
/// nobody outside can make metrics grow.
const LABEL_VALUES: usize = 50;

/// The metrics of a pipeline, with their labels put in.
pub struct PipelineMetrics {
    received: Counted,
    sent: Vec<Counted>,
    pub latency: Histogram,
    pub unavailable: Vec<IntGauge>,
    source: String,
    error_types: Mutex<Vec<(String, String)>>,
    errors: IntCounterVec,
    retries: IntCounterVec,
}

/// A counter with a `type` label from a header.
struct Counted {
    queue: String,
    header: Option<String>,
    all: IntCounterVec,
    /// Where messages have no type.
    plain: IntCounter,
    types: Mutex<HashMap<Vec<u8>, IntCounter>>,
}

/// The `type` of messages of which it is not known.
const NO_TYPE: &str = "message";

impl Counted {
    fn new(all: &IntCounterVec, queue: &str, header: Option<String>) -> Counted {
        Counted {
            queue: queue.to_owned(),
            header,
            all: all.clone(),
            plain: all.with_label_values(&[queue, NO_TYPE]),
            types: Mutex::default(),
        }
    }

    fn count(&self, batch: &Batch) {
        let Some(header) = &self.header else {
            self.plain.inc_by(batch.len() as u64);
            return;
        };
        let mut types = self.types.lock().unwrap_or_else(PoisonError::into_inner);
        for message in batch.messages() {
            match message.header(header) {
                None => self.plain.inc(),
                Some(value) => match types.get(value) {
                    Some(counter) => counter.inc(),
                    None => {
                        let known = types.len() < LABEL_VALUES;
                        let label = if known { String::from_utf8_lossy(value) } else { "other".into() };
                        let counter = self.all.with_label_values(&[&self.queue, label.as_ref()]);
                        counter.inc();
                        if known {
                            types.insert(value.to_vec(), counter);
                        }
                    }
                },
            }
        }
    }
}

impl PipelineMetrics {
    pub fn new(
        metrics: &Metrics,
        pipeline: &str,
        source: &str,
        sinks: &[String],
        type_header: Option<String>,
    ) -> PipelineMetrics {
        // It holds the path of the source, which may come from a variable.
        let source = &*Redactor::global().redact(source);
        PipelineMetrics {
            received: Counted::new(&metrics.received, source, type_header.clone()),
            sent: (sinks.iter()).map(|sink| Counted::new(&metrics.sent, sink, type_header.clone())).collect(),
            latency: metrics.processing.with_label_values(&[source, NO_TYPE]),
            unavailable: (sinks.iter())
                .map(|sink| metrics.sink_unavailable.with_label_values(&[pipeline, sink]))
                .collect(),
            source: source.to_owned(),
            error_types: Mutex::default(),
            errors: metrics.errors.clone(),
            retries: metrics.retries.clone(),
        }
    }

    /// Retries of a stage (`sink:NAME`, `plugin:STEP`, `source:STEP`).
    pub fn retries(&self, pipeline: &str, stage: &str) -> IntCounter {
        self.retries.with_label_values(&[pipeline, stage])
    }
}

impl Shared {
    pub(super) fn count_received(&self, batch: &Batch) {
        self.metrics.received.count(batch);
    }

    /// Messages are durable in a sink.
    pub(super) fn sent(&self, sink: usize, held: &Held) {
        self.metrics.sent[sink].count(held.batch());
        if let Some(tracer) = &self.tracer {
            tracer.sent(sink, held, None);
        }
    }

    /// Messages are given up at a sink, or written in vain.
    pub(super) fn not_sent(&self, sink: usize, held: &Held, code: &str, reason: &str) {
        if let Some(tracer) = &self.tracer {
            tracer.sent(sink, held, Some((code, reason)));
        }
    }

    /// Counts a failure by where it happened and its code, which may come from a plugin.
    pub(super) fn count_error(&self, stage: &str, code: &str) {
        let mut known = self.metrics.error_types.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (stage.to_owned(), code.to_owned());
        let is_known = known.contains(&pair);
        if !is_known && known.len() < LABEL_VALUES {
            known.push(pair);
        } else if !is_known {
            self.metrics.errors.with_label_values(&[self.metrics.source.as_str(), stage, "other"]).inc();
            return;
        }
        self.metrics.errors.with_label_values(&[self.metrics.source.as_str(), stage, code]).inc();
    }
}

impl Observed for Shared {
    /// Sets the gauges of the books from one snapshot (P11).
    fn observe(&self, metrics: &Metrics) {
        let snapshot = self.ledger.snapshot();
        let books = snapshot.books;
        for (account, value) in [
            ("received", books.received),
            ("added", books.added),
            ("delivered", books.delivered),
            ("filtered", books.filtered),
            ("dead_lettered", books.dead_lettered),
            ("returned", books.returned),
            ("in_flight", books.in_flight),
        ] {
            metrics.books.with_label_values(&[self.name.as_str(), account]).set(value as i64);
        }
        for (sink, name) in snapshot.sinks.iter().zip(&self.sink_names) {
            for (account, value) in [
                ("offered", sink.offered),
                ("delivered", sink.delivered),
                ("dead_lettered", sink.dead_lettered),
                ("returned", sink.returned),
                ("in_flight", sink.in_flight),
            ] {
                metrics.sink_books.with_label_values(&[self.name.as_str(), name, account]).set(value as i64);
            }
        }
        // Sources of several pipelines may have the same name.
        metrics.queue_depth.with_label_values(&[&self.metrics.source]).add(books.in_flight as i64);
        let bytes = |of, value: usize| {
            metrics.in_flight_bytes.with_label_values(&[self.name.as_str(), of]).set(value as i64);
        };
        bytes("messages", self.budget.in_flight());
        bytes("guests", self.budget.guests());
    }
}
