//! Sends spans to a receiver of OTLP over HTTP, never holding up or failing a pipeline: what does not fit
//! into the queue, and what the receiver does not take, is dropped and counted (P6).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use prometheus::IntCounter;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::otlp::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, Resource, ResourceSpans, Scope,
    ScopeSpans, Span,
};
use super::span::EXPORTED_BYTES;
use crate::config::secrets::Redactor;
use crate::config::tracing_section::Tracing;
use crate::http_client;
use crate::observe::metrics::Metrics;

/// Spans of a request, at most: what OpenTelemetry's SDKs take by default.
const BATCH: usize = 512;

/// A span waits so long for others, at most.
const LINGER: Duration = Duration::from_secs(1);

/// A batch is tried so often while the receiver is away: 15 s with the waits below.
const TRIES: u32 = 5;

/// Before the second try; doubles each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// No wait is longer, whatever the receiver asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Bytes of an answer that are looked at.
const ANSWER_BYTES: usize = 16 << 10;

pub struct Exporter {
    queue: mpsc::Sender<Span>,
    counts: Arc<Counts>,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What became of spans.
struct Counts {
    pipeline: String,
    exported: IntCounter,
    dropped: IntCounter,
    /// Taken, and neither exported nor dropped.
    waiting: AtomicU64,
    /// Spans have been dropped since the last request that went well, and it was said.
    told: AtomicBool,
}

impl Counts {
    fn dropped(&self, count: u64, reason: &str) {
        self.dropped.inc_by(count);
        if !self.told.swap(true, Relaxed) {
            let reason = Redactor::global().redact(reason);
            tracing::warn!(pipeline = %self.pipeline, %reason, "spans are dropped; millstream_spans_dropped_total counts them");
        }
    }

    fn exported(&self, count: u64) {
        self.exported.inc_by(count);
        if self.told.swap(false, Relaxed) {
            tracing::info!(pipeline = %self.pipeline, dropped = self.dropped.get(), "spans are exported again");
        }
    }
}

impl Exporter {
    /// To be called within a runtime. A receiver that is not there is no error.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn start(tracing: &Tracing, pipeline: &str, metrics: &Metrics) -> anyhow::Result<Exporter> {
        let (queue, spans) = mpsc::channel(tracing.queue);
        let counts = Arc::new(Counts {
            pipeline: pipeline.to_owned(),
            exported: metrics.spans_exported.with_label_values(&[pipeline]),
            dropped: metrics.spans_dropped.with_label_values(&[pipeline]),
            waiting: AtomicU64::new(0),
            told: AtomicBool::new(false),
        });
        let closing = CancellationToken::new();
        let resource = [
            ("service.name", tracing.service_name.as_str()),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("millstream.pipeline.name", pipeline),
        ];
        let worker = Worker {
            client: client(tracing).context("[tracing]: cannot set up the http client")?,
            url: tracing.url.clone(),
            resource: Resource {
                attributes: resource.map(|(key, text)| KeyValue::text(key, &redacted(text))).to_vec(),
            },
            spans,
            counts: Arc::clone(&counts),
            closing: closing.clone(),
        };
        let task = Mutex::new(Some(tokio::spawn(worker.run())));
        Ok(Exporter { queue, counts, closing, task })
    }

    /// Never waits.
    pub fn export(&self, span: Span) {
        // Counted first: the worker may have it before this returns.
        self.counts.waiting.fetch_add(1, Relaxed);
        if self.queue.try_send(span).is_err() {
            self.counts.waiting.fetch_sub(1, Relaxed);
            self.counts.dropped(1, "the queue is full: they come faster than they are exported");
        }
    }

    /// Sends what waits, each batch tried once more, and gives up after `patience`.
    pub async fn close(&self, patience: Duration) {
        self.closing.cancel();
        let Some(mut task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        match tokio::time::timeout(patience, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "what exports spans panicked"),
            Err(_) => task.abort(),
        }
        match self.counts.waiting.swap(0, Relaxed) {
            0 => {}
            left => self.counts.dropped(left, "the pipeline has ended before they were exported"),
        }
    }
}

/// What exports the spans of a pipeline.
struct Worker {
    client: Client,
    url: Url,
    resource: Resource,
    spans: mpsc::Receiver<Span>,
    counts: Arc<Counts>,
    closing: CancellationToken,
}

/// Why a request did not go well.
struct Failure {
    reason: String,
    /// It may go well later, but not before this time has passed.
    retry: Option<Duration>,
}

impl Worker {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut due = None;
        loop {
            let room = BATCH - batch.len();
            let taken = tokio::select! {
                biased;
                taken = self.spans.recv_many(&mut batch, room) => Some(taken),
                () = until(due) => None,
                () = self.closing.cancelled(), if !self.spans.is_closed() => {
                    self.spans.close();
                    continue;
                }
            };
            due = due.or_else(|| (!batch.is_empty()).then(|| Instant::now() + LINGER));
            if batch.len() >= BATCH || taken.is_none() || (taken == Some(0) && !batch.is_empty()) {
                self.export(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).await;
                due = None;
            }
            if taken == Some(0) {
                return;
            }
        }
    }

    async fn export(&self, mut spans: Vec<Span>) {
        let count = spans.len() as u64;
        for text in spans.iter_mut().flat_map(Span::texts_mut) {
            *text = redacted(text);
        }
        let scope = Scope { name: "millstream".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        let of_pipeline = ResourceSpans { resource: Some(self.resource.clone()), scope_spans };
        let body = ExportTraceServiceRequest { resource_spans: vec![of_pipeline] }.encode_to_vec();
        let mut tries = 0;
        loop {
            let is_last = self.closing.is_cancelled();
            tries += 1;
            match self.send(&body).await {
                Ok(None) => self.counts.exported(count),
                Ok(Some((rejected, reason))) => {
                    let rejected = rejected.min(count);
                    self.counts.exported(count - rejected);
                    self.counts.dropped(rejected, &reason);
                }
                Err(Failure { reason, retry: Some(at_least) }) if tries < TRIES && !is_last => {
                    let wait = (FIRST_WAIT * 2u32.pow(tries - 1)).max(at_least).min(LONGEST_WAIT);
                    tracing::debug!(pipeline = %self.counts.pipeline, reason, ?wait, "spans cannot be exported yet");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.closing.cancelled() => {}
                    }
                    continue;
                }
                Err(Failure { reason, .. }) => self.counts.dropped(count, &reason),
            }
            self.counts.waiting.fetch_sub(count, Relaxed);
            return;
        }
    }

    /// One request. `Some` with how many spans the receiver did not take of it, and why.
    async fn send(&self, body: &[u8]) -> Result<Option<(u64, String)>, Failure> {
        let request = self.client.post(self.url.clone()).body(body.to_vec());
        let mut response = request.send().await.map_err(|error| Failure {
            reason: format!("the receiver is not reached: {:#}", anyhow::Error::new(error.without_url())),
            retry: Some(Duration::ZERO),
        })?;
        let status = response.status();
        if !status.is_success() {
            let after =
                response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            // The ones that the specification of OTLP names.
            let may_go_well = matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            );
            let retry = may_go_well.then(|| after.map_or(Duration::ZERO, Duration::from_secs));
            return Err(Failure { reason: format!("the receiver answers {status}"), retry });
        }
        let mut answer = Vec::new();
        while let Ok(Some(part)) = response.chunk().await {
            answer.extend_from_slice(&part);
            if answer.len() > ANSWER_BYTES {
                break;
            }
        }
        // A receiver that answers with something else has taken them all the same.
        let partial =
            ExportTraceServiceResponse::decode(answer.as_slice()).ok().and_then(|it| it.partial_success);
        Ok(partial.and_then(|partial| {
            let rejected = u64::try_from(partial.rejected_spans).ok().filter(|&rejected| rejected > 0)?;
            Some((
                rejected,
                format!("the receiver does not take {rejected} of them: {}", partial.error_message),
            ))
        }))
    }
}

fn redacted(text: &str) -> String {
    let text = Redactor::global().redact(text);
    text[..text.floor_char_boundary(EXPORTED_BYTES)].to_owned()
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn client(tracing: &Tracing) -> anyhow::Result<Client> {
    let builder = http_client::builder(&tracing.url, &tracing.tls, &tracing.base)?
        .default_headers(headers(&tracing.headers)?)
        .timeout(tracing.timeout.0);
    Ok(builder.build()?)
}

fn headers(given: &BTreeMap<String, String>) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let mut value =
            HeaderValue::try_from(value).with_context(|| format!("the value of header {name:?}"))?;
        value.set_sensitive(true);
        headers.insert(HeaderName::try_from(name).with_context(|| format!("header {name:?}"))?, value);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    Ok(headers)
}

#[cfg(test)]
mod tests;
