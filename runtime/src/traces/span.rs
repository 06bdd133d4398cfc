//! Spans as they are made, bounded in size.

use super::context::SpanContext;
use super::otlp::{AnyValue, Code, Event, KeyValue, Kind, Span, Status, Value};

/// Bytes of a text that a span keeps until it is exported: what is in it may come from a message. Far more
/// than is exported, so that a secret is never cut before it was looked for.
const KEPT_BYTES: usize = 4 << 10;

/// Bytes of a text as it is exported.
pub const EXPORTED_BYTES: usize = 1 << 10;

/// It is known whether the parent is of another process, and it is (`SpanFlags` of OTLP).
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// The parent of a span.
#[derive(Clone, Copy)]
pub enum ParentSpan {
    None,
    /// Of whoever sent the message.
    Remote([u8; 8]),
    Local([u8; 8]),
}

impl Span {
    pub fn new(
        context: SpanContext,
        parent: ParentSpan,
        name: String,
        kind: Kind,
        start: u64,
        end: u64,
    ) -> Span {
        let (parent_span_id, remote) = match parent {
            ParentSpan::None => (Vec::new(), 0),
            ParentSpan::Remote(id) => (id.to_vec(), PARENT_IS_REMOTE),
            ParentSpan::Local(id) => (id.to_vec(), 0),
        };
        Span {
            trace_id: context.trace.to_vec(),
            span_id: context.span.to_vec(),
            parent_span_id,
            name: kept(&name),
            kind: kind.into(),
            start_time_unix_nano: start,
            // Clocks are set back now and then.
            end_time_unix_nano: end.max(start),
            flags: u32::from(context.flags) | PARENT_IS_KNOWN | remote,
            ..Span::default()
        }
    }

    pub fn text(&mut self, key: &str, text: &str) {
        self.attributes.push(KeyValue::text(key, text));
    }

    pub fn number(&mut self, key: &str, number: u64) {
        let value = Value::Number(i64::try_from(number).unwrap_or(i64::MAX));
        self.attributes.push(KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) });
    }

    /// What it stands for has failed.
    pub fn failed(&mut self, code: &str, reason: &str) {
        self.text("error.type", code);
        self.status = Some(Status { message: kept(reason), code: Code::Error.into() });
    }

    /// All texts in it that can come from elsewhere than this program.
    pub fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let attributes = self.attributes.iter_mut();
        let of_events = self.events.iter_mut().flat_map(|event| &mut event.attributes);
        let values = attributes.chain(of_events).filter_map(KeyValue::text_mut);
        let status = self.status.iter_mut().map(|status| &mut status.message);
        values.chain(status).chain([&mut self.name, &mut self.trace_state])
    }
}

impl KeyValue {
    pub fn text(key: &str, text: &str) -> KeyValue {
        let value = Some(AnyValue { value: Some(Value::Text(kept(text))) });
        KeyValue { key: key.to_owned(), value }
    }

    fn text_mut(&mut self) -> Option<&mut String> {
        match self.value.as_mut()?.value.as_mut()? {
            Value::Text(text) => Some(text),
            Value::Number(_) => None,
        }
    }
}

/// An attempt that failed, of several.
pub fn attempt_failed(time: u64, reason: &str) -> Event {
    Event {
        time_unix_nano: time,
        name: "attempt failed".to_owned(),
        attributes: vec![KeyValue::text("millstream.reason", reason)],
    }
}

fn kept(text: &str) -> String {
    text[..text.floor_char_boundary(KEPT_BYTES)].to_owned()
}
