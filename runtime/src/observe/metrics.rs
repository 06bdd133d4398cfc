//! Metrics, in the names of the organisation's standard and those of our own.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
};

use crate::plugin::{FaultKind, Measure, Point};

/// Something whose gauges are set when somebody looks.
pub trait Observed: Send + Sync {
    fn observe(&self, metrics: &Metrics);
}

/// All metrics of a process.
pub struct Metrics {
    watched: Mutex<Vec<Weak<dyn Observed>>>,
    kept: Mutex<Vec<Arc<dyn Observed>>>,
    registry: Registry,
    pub plugin_calls: IntCounterVec,
    pub plugin_rows: IntCounterVec,
    pub plugin_seconds: CounterVec,
    pub plugin_faults: IntCounterVec,
    pub plugin_bytes: IntCounterVec,
    pub plugin_peak_memory: GaugeVec,
    pub plugin_reloads: IntCounterVec,
    pub plugin_info: IntGaugeVec,
    pub plugin_counters: IntCounterVec,
    pub plugin_histograms: HistogramVec,
    pub shadow_messages: IntCounterVec,
    pub sent: IntCounterVec,
    pub received: IntCounterVec,
    pub processing: HistogramVec,
    pub queue_depth: IntGaugeVec,
    pub errors: IntCounterVec,
    pub books: IntGaugeVec,
    pub sink_books: IntGaugeVec,
    pub dead_letter_depth: IntGaugeVec,
    pub retries: IntCounterVec,
    pub in_flight_bytes: IntGaugeVec,
    pub sink_unavailable: IntGaugeVec,
    pub spans_exported: IntCounterVec,
    pub spans_dropped: IntCounterVec,
    pub kafka_lag: IntGaugeVec,
    pub kafka_rebalances: IntCounterVec,
    pub kafka_commit: HistogramVec,
    pub kafka_transactions: IntCounterVec,
    pub sqs_messages: IntGaugeVec,
    pub sqs_age: IntGaugeVec,
    pub kinesis_behind: IntGaugeVec,
    pub kinesis_leases: IntGaugeVec,
    pub kinesis_losses: IntCounterVec,
}

/// From half a millisecond to half a minute.
const LATENCY_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels).expect("the name is valid");
            registry.register(Box::new(metric.clone())).expect("the name is used once");
            metric
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels).expect("the name is valid");
            registry.register(Box::new(metric.clone())).expect("the name is used once");
            metric
        };
        let plugin_seconds = CounterVec::new(
            Opts::new("millstream_plugin_seconds_total", "time spent inside the guest"),
            &["pipeline", "plugin"],
        )
        .expect("the name is valid");
        let plugin_peak_memory = GaugeVec::new(
            Opts::new("millstream_plugin_peak_memory_bytes", "largest memory an instance has had"),
            &["pipeline", "plugin"],
        )
        .expect("the name is valid");
        let processing = HistogramVec::new(
            HistogramOpts::new(
                "messaging_processing_duration_seconds",
                "time from reading a batch until everything of it is settled",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &["queue", "type"],
        )
        .expect("the name is valid");
        let kafka_commit = HistogramVec::new(
            HistogramOpts::new(
                "millstream_kafka_commit_seconds",
                "time that a commit of offsets, or of a transaction with them, took",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &["pipeline"],
        )
        .expect("the name is valid");
        let plugin_histograms = HistogramVec::new(
            HistogramOpts::new("millstream_plugin_histogram", "what a plugin observed, by the name it chose")
                .buckets(prometheus::exponential_buckets(0.001, 4.0, 16).expect("the numbers are valid")),
            &["pipeline", "plugin", "name"],
        )
        .expect("the name is valid");
        for metric in [
            Box::new(plugin_histograms.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(plugin_seconds.clone()),
            Box::new(plugin_peak_memory.clone()),
            Box::new(processing.clone()),
            Box::new(kafka_commit.clone()),
        ] {
            registry.register(metric).expect("the name is used once");
        }
        Metrics {
            plugin_calls: counter(
                "millstream_plugin_calls_total",
                "calls into the guest",
                &["pipeline", "plugin"],
            ),
            plugin_rows: counter(
                "millstream_plugin_rows_total",
                "messages by the verdict of the plugin",
                &["pipeline", "plugin", "verdict"],
            ),
            plugin_seconds,
            plugin_histograms,
            plugin_counters: counter(
                "millstream_plugin_counter_total",
                "what a plugin counted, by the name it chose",
                &["pipeline", "plugin", "name"],
            ),
            plugin_bytes: counter(
                "millstream_plugin_bytes_total",
                "bytes copied into the sandbox and out of it",
                &["pipeline", "plugin", "direction"],
            ),
            plugin_faults: counter(
                "millstream_plugin_faults_total",
                "calls that failed, by kind",
                &["pipeline", "plugin", "kind"],
            ),
            plugin_peak_memory,
            plugin_reloads: counter(
                "millstream_plugin_reloads_total",
                "reloads while the pipeline ran, by result; after one that failed the old plugin goes on",
                &["pipeline", "plugin", "result"],
            ),
            plugin_info: gauge(
                "millstream_plugin_info",
                "1 for what runs as this step now",
                &["pipeline", "plugin", "name", "version", "sha256"],
            ),
            shadow_messages: counter(
                "millstream_plugin_shadow_messages_total",
                "messages that a candidate had too, by what it made of them beside the active plugin",
                &["pipeline", "plugin", "result"],
            ),
            sent: counter(
                "messaging_messages_sent_total",
                "messages that are durable in a sink",
                &["queue", "type"],
            ),
            received: counter(
                "messaging_messages_received_total",
                "messages read from a source",
                &["queue", "type"],
            ),
            processing,
            queue_depth: gauge(
                "messaging_queue_depth",
                "messages in flight between source and sinks",
                &["queue"],
            ),
            errors: counter("messaging_errors_total", "failures by kind", &["queue", "type", "error_type"]),
            books: gauge(
                "millstream_messages",
                "the books: received + added = delivered + filtered + dead_lettered + returned + in_flight",
                &["pipeline", "account"],
            ),
            sink_books: gauge(
                "millstream_sink_messages",
                "the books of a sink: offered = delivered + dead_lettered + returned + in_flight",
                &["pipeline", "sink", "account"],
            ),
            dead_letter_depth: gauge(
                "millstream_dead_letters",
                "dead letters in the embedded store",
                &["pipeline"],
            ),
            retries: counter(
                "millstream_retries_total",
                "failed attempts that are tried again",
                &["pipeline", "stage"],
            ),
            in_flight_bytes: gauge(
                "millstream_in_flight_bytes",
                "bytes in flight and guest memory, as the budget counts them",
                &["pipeline", "of"],
            ),
            sink_unavailable: gauge(
                "millstream_sink_unavailable",
                "1 while a sink cannot take anything",
                &["pipeline", "sink"],
            ),
            spans_exported: counter(
                "millstream_spans_exported_total",
                "spans that the receiver of traces has taken",
                &["pipeline"],
            ),
            spans_dropped: counter(
                "millstream_spans_dropped_total",
                "spans that nobody has: the queue was full, or the receiver did not take them",
                &["pipeline"],
            ),
            kafka_lag: gauge(
                "millstream_kafka_lag",
                "messages of a partition that are not committed yet, of the partitions that this member has",
                &["pipeline", "topic", "partition"],
            ),
            kafka_rebalances: counter(
                "millstream_kafka_rebalances_total",
                "changes of what this member has: assigned, revoked (drained first) or lost",
                &["pipeline", "event"],
            ),
            kafka_commit,
            kafka_transactions: counter(
                "millstream_kafka_transactions_total",
                "transactions by how they ended: committed or aborted",
                &["pipeline", "result"],
            ),
            sqs_messages: gauge(
                "millstream_sqs_messages",
                "messages of a queue that is read, about: visible, in flight (with whom ever) or delayed",
                &["pipeline", "queue", "state"],
            ),
            sqs_age: gauge(
                "millstream_sqs_age_seconds",
                "age of the oldest message that was received within the last 30 to 60 s, since it was sent",
                &["pipeline", "queue"],
            ),
            kinesis_behind: gauge(
                "millstream_kinesis_millis_behind_latest",
                "how far the last answer of a shard was from its end, of the shards that this member has",
                &["pipeline", "stream", "shard"],
            ),
            kinesis_leases: gauge(
                "millstream_kinesis_leases",
                "shards that this member reads",
                &["pipeline", "stream"],
            ),
            kinesis_losses: counter(
                "millstream_kinesis_lease_losses_total",
                "shards that were lost with messages in flight: this member was away for too long",
                &["pipeline", "stream"],
            ),
            registry,
            watched: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    /// Has the gauges of `observed` set whenever somebody looks, as long as it lives.
    pub fn watch<T: Observed + 'static>(&self, observed: Weak<T>) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(observed);
    }

    /// Has the gauges of `observed` set whenever somebody looks.
    pub fn watch_for_ever<T: Observed + 'static>(&self, observed: Arc<T>) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(observed);
    }

    /// Everything, in the text format of Prometheus.
    pub fn render(&self) -> String {
        // Held to the end, so that two who look do not add to the same sums.
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        self.queue_depth.reset();
        watched.retain(|observed| observed.upgrade().inspect(|observed| observed.observe(self)).is_some());
        for observed in self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            observed.observe(self);
        }
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("our metrics have help and values of one type")
    }

    /// The metrics of one plugin step of a pipeline.
    pub fn plugin(&self, pipeline: &str, step: &str) -> PluginMetrics {
        let labels = &[pipeline, step];
        let rows = |verdict| self.plugin_rows.with_label_values(&[pipeline, step, verdict]);
        let bytes = |direction| self.plugin_bytes.with_label_values(&[pipeline, step, direction]);
        PluginMetrics {
            bytes_in: bytes("in"),
            bytes_out: bytes("out"),
            calls: self.plugin_calls.with_label_values(labels),
            passed: rows("pass"),
            dropped: rows("drop"),
            emitted: rows("emit"),
            rejected: rows("reject"),
            retried: rows("retry"),
            faulted: rows("fault"),
            seconds: self.plugin_seconds.with_label_values(labels),
            faults: self.plugin_faults.clone(),
            counters: self.plugin_counters.clone(),
            histograms: self.plugin_histograms.clone(),
            peak_memory: self.plugin_peak_memory.with_label_values(labels),
            labels: [pipeline.to_owned(), step.to_owned()],
        }
    }
}

/// Metrics of a plugin, its labels already put in: counting costs no look-up.
#[derive(Clone)]
pub struct PluginMetrics {
    pub calls: IntCounter,
    pub bytes_in: IntCounter,
    pub bytes_out: IntCounter,
    pub passed: IntCounter,
    pub dropped: IntCounter,
    pub emitted: IntCounter,
    pub rejected: IntCounter,
    pub retried: IntCounter,
    pub faulted: IntCounter,
    pub seconds: prometheus::Counter,
    pub peak_memory: prometheus::Gauge,
    faults: IntCounterVec,
    counters: IntCounterVec,
    histograms: HistogramVec,
    labels: [String; 2],
}

impl PluginMetrics {
    pub fn fault(&self, kind: FaultKind) {
        self.faults.with_label_values(&[&self.labels[0], &self.labels[1], kind.as_str()]).inc();
    }

    /// Counts what a plugin gave for its own metrics, and takes it.
    pub fn own(&self, points: &mut Vec<Point>) {
        let [pipeline, plugin] = &self.labels;
        for Point { name, measure } in points.drain(..) {
            let labels = [pipeline, plugin, &name];
            match measure {
                Measure::Count(count) => self.counters.with_label_values(&labels).inc_by(count),
                Measure::Observe(value) => self.histograms.with_label_values(&labels).observe(value),
            }
        }
    }

    /// What an instance holds after a call.
    pub fn has_memory(&self, bytes: usize) {
        let bytes = bytes as f64;
        if bytes > self.peak_memory.get() {
            self.peak_memory.set(bytes);
        }
    }

    pub fn called(&self, inside: Duration) {
        self.calls.inc();
        self.seconds.inc_by(inside.as_secs_f64());
    }
}
