//! The spans that a message leaves on its way: one when it is received, one a plugin, one a sink.
//!
//! Each is the child of the one before, so that the trace shows the way: receive, the plugins in their
//! order, send. What a sink is given as `traceparent` is the span of sending it, so whoever receives it goes
//! on from there.
//!
//! Contexts do not travel in rows, which everybody would pay for: [`Held`] points at a table of the sampled
//! ones among the messages of its claim, and at nothing where there are none. The table is kept by the row
//! in the claim, so plugins may do with messages and headers what they like. Where a message was split, its
//! parts share the span of a plugin; each has a span of its own when it is sent.
//!
//! What is given back to its source leaves no span of sending: it is traced again when it is read again.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::ledger::{Aside, Held};
use crate::message::{Batch, HeaderSpan, MessageRef, Row, Span as Bytespan};
use crate::plugin::{FateVerdict, PluginIdentity};
use crate::sources::{Describe, RejectedRow, Replayed};
use crate::traces::context::{Parent, SpanContext, TRACEPARENT, TRACESTATE};
use crate::traces::otlp::{Event, Kind, Span};
use crate::traces::span::{ParentSpan, attempt_failed};
use crate::traces::{Place, Tracer, now};

/// Headers that the id of a process is looked for in, in this order; case does not matter.
const CORRELATION_HEADERS: [&str; 6] = [
    "correlation-id",
    "correlationId",
    "x-correlation-id",
    "envelope-correlation-id",
    // CloudEvents in binary mode.
    "ce-correlationid",
    "ce_correlationid",
];

/// Failed attempts that a span of sending tells of, at most.
const MAX_EVENTS: usize = 32;

/// The sampled ones among the messages of a claim.
#[derive(Clone, Debug)]
pub struct Traced {
    /// By their row in the claim.
    entries: Vec<Entry>,
    /// When they were first given to their sink; 0 before.
    sent_at: u64,
    /// Failed attempts, where it is one message.
    attempts: Vec<Event>,
}

#[derive(Clone, Debug)]
struct Entry {
    claim_row: u32,
    /// The last span that it left.
    context: SpanContext,
    about: Arc<About>,
}

/// What is known of a message as it was read.
#[derive(Debug)]
struct About {
    state: Option<String>,
    correlation: Option<String>,
}

impl Traced {
    fn entry(&self, row: &Row) -> Option<&Entry> {
        let found = self.entries.binary_search_by_key(&row.claim_row, |entry| entry.claim_row);
        found.ok().map(|index| &self.entries[index])
    }

    /// The trace of a message, in hex, if it is sampled.
    pub fn trace_id(&self, row: &Row) -> Option<String> {
        self.entry(row).map(|entry| entry.context.trace_id())
    }
}

/// What was read, as a span of it needs to know it.
pub struct Receipt<'a> {
    pub batch: &'a Batch,
    pub rejected: &'a [RejectedRow],
    pub replays: &'a [Replayed],
    pub describe: &'a Describe,
    pub at: u64,
}

impl Tracer {
    /// Decides which messages are traced, and exports a span for the receipt of each of those.
    pub fn received(&self, receipt: &Receipt<'_>) -> Option<Arc<Traced>> {
        let mut entries = Vec::new();
        for message in receipt.batch.messages() {
            let parent = Parent::of(&message);
            if self.samples(parent.as_ref(), message.position()) {
                entries.push(self.receive(receipt, &message, parent));
            }
        }
        (!entries.is_empty()).then(|| Arc::new(Traced { entries, sent_at: 0, attempts: Vec::new() }))
    }

    fn receive(&self, receipt: &Receipt<'_>, message: &MessageRef<'_>, parent: Option<Parent>) -> Entry {
        let (context, parent_span, state) = match parent {
            Some(Parent { context, state, .. }) => (context.child(), ParentSpan::Remote(context.span), state),
            None => (SpanContext::root(), ParentSpan::None, None),
        };
        let row = message.row();
        let about = envelope(message);
        let position = (receipt.describe)(row.position);
        let kafka = (self.source.system == "kafka").then(|| topic_partition_offset(&position)).flatten();
        let destination = kafka.map_or(self.source.destination.as_str(), |(topic, ..)| topic);
        let name = format!("receive {destination}");
        let mut span = Span::new(context, parent_span, name, Kind::Consumer, receipt.at, now());
        span.trace_state = state.clone().unwrap_or_default();
        span.text("messaging.system", self.source.system);
        span.text("messaging.destination.name", destination);
        span.text("messaging.operation.type", "receive");
        span.text("messaging.operation.name", "receive");
        span.text("millstream.position", &position);
        if let Some((_, partition, offset)) = kafka {
            span.text("messaging.destination.partition.id", partition);
            span.number("messaging.kafka.offset", offset);
        }
        if let Some(payload) = message.payload() {
            span.number("messaging.message.body.size", payload.len() as u64);
        }
        if let Some(id) = header(message, "sqs-message-id").or(about.id) {
            span.text("messaging.message.id", &id);
        }
        if let Some(replayed) = receipt.replays.get(row.claim_row as usize) {
            span.number("millstream.replays", u64::from(replayed.times));
        }
        let correlation =
            CORRELATION_HEADERS.iter().find_map(|name| header(message, name)).or(about.correlation);
        tell_correlation(&mut span, correlation.as_deref());
        let rejected = receipt.rejected.binary_search_by_key(&row.claim_row, |rejected| rejected.row);
        if let Ok(index) = rejected {
            let RejectedRow { code, reason, .. } = &receipt.rejected[index];
            span.failed(code, reason);
        }
        self.export(span);
        Entry { claim_row: row.claim_row, context, about: Arc::new(About { state, correlation }) }
    }

    /// Exports spans of messages that no sink takes.
    pub fn unrouted(&self, held: &Held, reason: &str) {
        let Some(traced) = held.traced() else { return };
        let at = now();
        for entry in held.batch().rows().iter().filter_map(|row| traced.entry(row)) {
            let parent = ParentSpan::Local(entry.context.span);
            let mut span =
                Span::new(entry.context.child(), parent, "route".to_owned(), Kind::Internal, at, at);
            tell_correlation(&mut span, entry.about.correlation.as_deref());
            span.failed("unrouted", reason);
            self.export(span);
        }
    }

    /// Exports spans of messages that are in their sink now, or are given up: with a code and a reason.
    pub fn sent(&self, sink: usize, held: &Held, failed: Option<(&str, &str)>) {
        let Some(traced) = held.traced() else { return };
        let Place { system, destination } = &self.sinks[sink];
        let at = now();
        for message in held.batch().messages() {
            let Some(entry) = traced.entry(message.row()) else { continue };
            // It was written there by `begin_sending`, since rows have no other place for it.
            let context = message.header(TRACEPARENT).and_then(SpanContext::parse);
            let context = context.unwrap_or_else(|| entry.context.child());
            let parent = ParentSpan::Local(entry.context.span);
            let began = if traced.sent_at == 0 { at } else { traced.sent_at };
            let mut span =
                Span::new(context, parent, format!("send {destination}"), Kind::Producer, began, at);
            span.trace_state = entry.about.state.clone().unwrap_or_default();
            span.text("messaging.system", system);
            span.text("messaging.destination.name", destination);
            span.text("messaging.operation.type", "send");
            span.text("messaging.operation.name", "send");
            if let Some(payload) = message.payload() {
                span.number("messaging.message.body.size", payload.len() as u64);
            }
            tell_correlation(&mut span, entry.about.correlation.as_deref());
            span.events = traced.attempts.clone();
            if let Some((code, reason)) = failed {
                span.failed(code, reason);
            }
            self.export(span);
        }
    }
}

/// A call of a plugin with sampled messages in it.
pub struct PluginCall {
    before: Arc<Traced>,
    /// Rows in the claim of the sampled ones, in order.
    sampled: Vec<u32>,
    began: u64,
}

impl PluginCall {
    /// `None` if there are none.
    pub fn begin(held: &Held) -> Option<PluginCall> {
        let before = Arc::clone(held.traced()?);
        let rows = held.batch().rows().iter();
        let mut sampled: Vec<u32> =
            rows.filter(|row| before.entry(row).is_some()).map(|row| row.claim_row).collect();
        sampled.sort_unstable();
        sampled.dedup();
        (!sampled.is_empty()).then(|| PluginCall { before, sampled, began: now() })
    }

    /// Exports a span for each of them, which is the parent of what comes next for those that go on. One
    /// that is to be tried again goes on from the span before.
    pub fn end(self, tracer: &Tracer, plugin: &PluginIdentity, passed: &mut Held, asides: &[Aside]) {
        let PluginCall { before, sampled, began } = self;
        let at = now();
        let mut outcomes = vec![Outcome::default(); sampled.len()];
        for row in passed.batch().rows() {
            if let Ok(index) = sampled.binary_search(&row.claim_row) {
                outcomes[index].passed += 1;
            }
        }
        for Aside { held, verdict, .. } in asides {
            let row = held.batch().rows().first().map(|row| row.claim_row);
            if let Some(Ok(index)) = row.map(|row| sampled.binary_search(&row)) {
                outcomes[index].verdict.get_or_insert(verdict);
            }
        }
        let mut after = Traced::clone(&before);
        for (claim_row, outcome) in sampled.into_iter().zip(outcomes) {
            let found = after.entries.binary_search_by_key(&claim_row, |entry| entry.claim_row);
            let Ok(entry) = found.map(|index| &mut after.entries[index]) else { continue };
            let (context, parent) = (entry.context.child(), ParentSpan::Local(entry.context.span));
            let mut span =
                Span::new(context, parent, format!("plugin {}", plugin.step), Kind::Internal, began, at);
            span.text("millstream.plugin.step", &plugin.step);
            span.text("millstream.plugin.name", &plugin.name);
            span.text("millstream.plugin.version", &plugin.version);
            outcome.tell(&mut span);
            tell_correlation(&mut span, entry.about.correlation.as_deref());
            tracer.export(span);
            entry.context = context;
        }
        passed.set_traced(Some(Arc::new(after)));
    }
}

/// What a plugin made of a message.
#[derive(Clone, Copy, Default)]
struct Outcome<'a> {
    passed: u64,
    verdict: Option<&'a FateVerdict>,
}

impl Outcome<'_> {
    fn tell(&self, span: &mut Span) {
        let word = match (self.verdict, self.passed) {
            (None, 0) | (Some(FateVerdict::Dropped), _) => "drop",
            (None, 1) => "pass",
            (None, _) => "emit",
            (Some(FateVerdict::Duplicate(_)), _) => "duplicate",
            (Some(FateVerdict::Rejected { code, reason }), _) => {
                span.failed(code, reason);
                "reject"
            }
            (Some(FateVerdict::Retry { code, reason }), _) => {
                span.failed(code, reason);
                "retry"
            }
            (Some(FateVerdict::Faulted(fault)), _) => {
                span.failed(fault.kind.as_str(), &fault.message);
                "fault"
            }
        };
        span.text("millstream.plugin.verdict", word);
        if self.passed > 1 {
            span.number("messaging.batch.message_count", self.passed);
        }
    }
}

impl Held {
    /// Gives each sampled message the context of sending it, as headers. Does nothing the second time.
    pub fn begin_sending(&mut self) {
        let Some(before) = self.traced().filter(|traced| traced.sent_at == 0).map(Arc::clone) else { return };
        let batch = self.batch();
        let mut texts: Vec<u8> = [TRACEPARENT, TRACESTATE].concat().into_bytes();
        let Ok(arena) = u16::try_from(batch.arenas().len()) else { return };
        let known = |start: usize, text: &str| Bytespan::new(arena, start as u32, text.len() as u32);
        let (parent_name, state_name) = (known(0, TRACEPARENT), known(TRACEPARENT.len(), TRACESTATE));
        let mut headers: Vec<HeaderSpan> = Vec::new();
        // Index of a message, and how many headers it has now.
        let mut changed: Vec<(usize, u32)> = Vec::new();
        for (index, message) in batch.messages().enumerate() {
            let row = message.row();
            let Some(entry) = before.entry(row) else { continue };
            let first = headers.len();
            let own = &batch.headers()[row.first_header as usize..][..row.header_count as usize];
            let is_named = |header: &HeaderSpan, name: &str| {
                batch.bytes(header.name).is_some_and(|known| known.eq_ignore_ascii_case(name.as_bytes()))
            };
            headers.extend(own.iter().filter(|header| !is_named(header, TRACEPARENT)));
            let mut add = |name: Bytespan, text: &str| {
                headers.push(HeaderSpan { name, value: known(texts.len(), text) });
                texts.extend_from_slice(text.as_bytes());
            };
            add(parent_name, &entry.context.child().traceparent());
            // A plugin may have made a message without the headers that it had.
            if let Some(state) = entry.about.state.as_deref().filter(|_| message.header(TRACESTATE).is_none())
            {
                add(state_name, state);
            }
            changed.push((index, (headers.len() - first) as u32));
        }
        if !changed.is_empty() && self.set_headers(Bytes::from(texts), &headers, &changed) {
            self.set_traced(Some(Arc::new(Traced { sent_at: now(), ..Traced::clone(&before) })));
        }
    }

    /// Notes that an attempt at the one message failed, for the span of sending it.
    pub fn note_attempt(&mut self, reason: &str) {
        let Some(traced) = self.traced() else { return };
        let is_sampled = self.batch().rows().iter().any(|row| traced.entry(row).is_some());
        if !is_sampled || traced.attempts.len() >= MAX_EVENTS {
            return;
        }
        let mut traced = Traced::clone(traced);
        traced.attempts.push(attempt_failed(now(), reason));
        self.set_traced(Some(Arc::new(traced)));
    }
}

fn tell_correlation(span: &mut Span, id: Option<&str>) {
    if let Some(id) = id {
        span.text("messaging.message.conversation_id", id);
    }
}

/// The value of a header, if it is text that is not empty.
fn header(message: &MessageRef<'_>, name: &str) -> Option<String> {
    let text = std::str::from_utf8(message.header(name)?).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// Ids in an envelope.
#[derive(Default, Deserialize)]
struct Envelope {
    id: Option<Value>,
    #[serde(rename = "correlationId", alias = "correlationid")]
    correlation: Option<Value>,
}

struct Ids {
    id: Option<String>,
    correlation: Option<String>,
}

/// The ids of a message, if its payload is an envelope.
fn envelope(message: &MessageRef<'_>) -> Ids {
    let payload = message.payload().unwrap_or_default();
    let is_table = payload.trim_ascii_start().starts_with(b"{");
    let envelope: Envelope =
        if is_table { serde_json::from_slice(payload).unwrap_or_default() } else { Envelope::default() };
    let text = |value: Option<Value>| match value? {
        Value::String(text) => Some(text).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let correlation = text(envelope.correlation);
    // Without one it is any JSON, whose `id` may be that of anything.
    let id = text(envelope.id).filter(|_| correlation.is_some());
    Ids { id, correlation }
}

/// Reads `topic/partition offset N`, as the source `kafka` describes a position.
fn topic_partition_offset(position: &str) -> Option<(&str, &str, u64)> {
    let (place, offset) = position.rsplit_once(" offset ")?;
    let (topic, partition) = place.rsplit_once('/')?;
    Some((topic, partition, offset.parse().ok()?))
}

#[cfg(test)]
#[path = "traced_tests.rs"]
mod tests;
