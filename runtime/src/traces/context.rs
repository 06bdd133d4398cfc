//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): read from the headers `traceparent` and
//! `tracestate`, or from the field `_trace` of an envelope.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder};
use serde::Deserialize;
use serde_json::Value;

use crate::message::{Message, MessageRef};

/// Header with trace, span and flags.
pub const TRACEPARENT: &str = "traceparent";

/// Header with what tracing systems add to it.
pub const TRACESTATE: &str = "tracestate";

/// Characters of a `tracestate` that are passed on at least (section 3.3.1.5 there); a longer one is not kept.
const MAX_STATE: usize = 512;

/// Header with the `_trace` of an envelope that the plugin `envelope` has unwrapped, as JSON.
const ENVELOPE_TRACE: &str = "envelope-trace";

/// Headers with the attribute `traceparent` of a CloudEvent, which says where the trace of the event began. That
/// of the message, if there is one, is where it went since.
const EVENT_TRACE: [&str; 2] = ["ce-traceparent", "ce_traceparent"];

const SAMPLED: u8 = 1;

/// A span, and the trace that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpanContext {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    pub flags: u8,
}

impl SpanContext {
    /// The first span of a new trace.
    pub fn root() -> SpanContext {
        let trace = rand::random::<u128>().max(1).to_be_bytes();
        SpanContext { trace, span: [0; 8], flags: SAMPLED }.child()
    }

    /// A new span of the same trace, which is sampled.
    pub fn child(self) -> SpanContext {
        let span = rand::random::<u64>().max(1).to_be_bytes();
        SpanContext { span, flags: self.flags | SAMPLED, ..self }
    }

    /// Reads `version-trace-span-flags`. A later version may have more behind it.
    pub fn parse(traceparent: &[u8]) -> Option<SpanContext> {
        let mut fields = traceparent.trim_ascii().splitn(5, |&byte| byte == b'-');
        let [version] = hex(fields.next()?)?;
        let context = SpanContext {
            trace: hex(fields.next()?)?,
            span: hex(fields.next()?)?,
            flags: hex::<1>(fields.next()?)?[0],
        };
        let is_whole = version != 0 || fields.next().is_none();
        let is_valid = version != 0xff && context.trace != [0; 16] && context.span != [0; 8];
        (is_whole && is_valid).then_some(context)
    }

    /// As the value of a header.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id(), hex::encode(self.span), self.flags)
    }

    pub fn trace_id(&self) -> String {
        hex::encode(self.trace)
    }

    /// The random part of the trace id.
    pub fn trace_number(&self) -> u64 {
        self.trace.last_chunk().map_or(0, |&last| u64::from_be_bytes(last))
    }
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// Where a message comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parent {
    pub context: SpanContext,
    /// Whether the trace is recorded, if anything says so.
    pub sampled: Option<bool>,
    pub state: Option<String>,
}

impl Parent {
    /// Of a message that was read.
    pub fn of(message: &MessageRef<'_>) -> Option<Parent> {
        from(message.headers(), message.payload())
    }

    pub fn of_owned(message: &Message) -> Option<Parent> {
        let headers = message.headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        from(headers, message.payload.as_deref())
    }
}

fn from<'a>(
    headers: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    payload: Option<&[u8]>,
) -> Option<Parent> {
    let named = |name: &'static str| {
        let is_it = move |(known, _): &(&[u8], &[u8])| known.eq_ignore_ascii_case(name.as_bytes());
        headers.clone().filter(is_it).map(|(_, value)| value)
    };
    match named(TRACEPARENT).next().and_then(SpanContext::parse) {
        Some(context) => {
            let states: Vec<&str> =
                named(TRACESTATE).filter_map(|value| std::str::from_utf8(value).ok()).collect();
            let sampled = Some(context.flags & SAMPLED != 0);
            Some(Parent { context, sampled, state: state(states.join(",")) })
        }
        None => {
            let unwrapped = named(ENVELOPE_TRACE).next().and_then(|json| serde_json::from_slice(json).ok());
            let of_event =
                || EVENT_TRACE.iter().find_map(|name| std::str::from_utf8(named(name).next()?).ok());
            let event = || of_event().map(|traceparent| Value::String(traceparent.to_owned()));
            of_trace(&unwrapped.or_else(event).or_else(|| of_envelope(payload?))?)
        }
    }
}

fn state(text: String) -> Option<String> {
    (!text.is_empty() && text.len() <= MAX_STATE).then_some(text)
}

/// The field `_trace` of an envelope, or the attribute `traceparent` of a CloudEvent.
fn of_envelope(payload: &[u8]) -> Option<Value> {
    // Most payloads have none, and looking for it costs little beside reading JSON.
    static FIELDS: LazyLock<[Finder<'static>; 2]> =
        LazyLock::new(|| [Finder::new(b"\"_trace\""), Finder::new(b"\"traceparent\"")]);
    FIELDS.iter().find(|field| field.find(payload).is_some())?;
    #[derive(Deserialize)]
    struct Envelope {
        #[serde(rename = "_trace", alias = "traceparent")]
        trace: Value,
    }
    serde_json::from_slice(payload).ok().map(|Envelope { trace }| trace)
}

/// The parent that such a field names: a `traceparent` as text, or a table.
pub fn of_trace(trace: &Value) -> Option<Parent> {
    let field = |names: &[&str]| names.iter().find_map(|name| trace.get(name)?.as_str());
    if let Some(traceparent) = trace.as_str().or_else(|| field(&[TRACEPARENT])) {
        let context = SpanContext::parse(traceparent.as_bytes())?;
        let state = field(&[TRACESTATE]).and_then(|text| state(text.to_owned()));
        return Some(Parent { context, sampled: Some(context.flags & SAMPLED != 0), state });
    }
    let flags =
        ["traceFlags", "trace_flags", "flags"].iter().find_map(|name| trace.get(name)).and_then(flags);
    let told = trace.get("sampled").and_then(Value::as_bool);
    let context = SpanContext {
        trace: hex(field(&["traceId", "trace_id"])?.as_bytes()).filter(|id| *id != [0; 16])?,
        span: hex(field(&["spanId", "span_id"])?.as_bytes()).filter(|id| *id != [0; 8])?,
        flags: flags.unwrap_or_default(),
    };
    let state = field(&["traceState", "trace_state", TRACESTATE]).and_then(|text| state(text.to_owned()));
    Some(Parent { context, sampled: flags.map(|flags| flags & SAMPLED != 0).or(told), state })
}

/// Flags as a number, or in hex.
fn flags(value: &Value) -> Option<u8> {
    match value {
        Value::String(text) => u8::from_str_radix(text, 16).ok(),
        value => value.as_u64().and_then(|flags| u8::try_from(flags).ok()),
    }
}

/// What was written of a message without the value of its `traceparent`, if that is in it, as with the codec
/// `record`: the trace is another one whenever it is read again, and what tells a repetition must not be.
pub fn without_traceparent<'b>(message: &MessageRef<'_>, written: &'b [u8]) -> [&'b [u8]; 2] {
    let value = message.header(TRACEPARENT).filter(|value| !value.is_empty());
    match value.and_then(|value| Some((memmem::find(written, value)?, value.len()))) {
        Some((start, length)) => [&written[..start], &written[start + length..]],
        None => [written, &[]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{BatchBuilder, Position};
    use serde_json::json;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn parent(headers: &[(&str, &str)], payload: &str) -> Option<Parent> {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let headers = headers.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
        Parent::of_owned(&Message { payload: Some(bytes(payload)), headers, ..Message::default() })
    }

    /// As the plugin `envelope` has it.
    fn unwrapped(trace: &Value) -> Message {
        let header = (ENVELOPE_TRACE.as_bytes().to_vec(), trace.to_string().into_bytes());
        Message { headers: vec![header], ..Message::default() }
    }

    #[test]
    fn a_traceparent_comes_back_as_it_was() {
        for flags in ["00", "01", "03"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            let parent =
                parent(&[("Traceparent", &text), ("TraceState", "a=1"), ("tracestate", "b=2")], "").unwrap();
            assert_eq!(parent.context.traceparent(), text);
            assert_eq!(parent.sampled, Some(flags != "00"));
            assert_eq!(parent.state.as_deref(), Some("a=1,b=2"));
        }
        let child = SpanContext::parse(format!("00-{TRACE}-{SPAN}-00").as_bytes()).unwrap().child();
        assert_eq!((child.trace_id(), child.flags), (TRACE.to_owned(), 1));
        assert_ne!(hex::encode(child.span), SPAN);
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let zero = "0".repeat(32);
        for text in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zero}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{}x-{SPAN}-01", &TRACE[1..]),
        ] {
            assert_eq!(SpanContext::parse(text.as_bytes()), None, "{text}");
        }
        assert!(SpanContext::parse(format!("01-{TRACE}-{SPAN}-01-more").as_bytes()).is_some());
    }

    #[test]
    fn what_is_written_is_told_without_its_trace() {
        let mut builder = BatchBuilder::new();
        let headers = vec![(TRACEPARENT.as_bytes().to_vec(), b"00-1-2-01".to_vec())];
        builder.push_message(&Message { headers, ..Message::default() }, Position::default());
        let batch = builder.finish();
        let written = |text| without_traceparent(&batch.message(0), text).concat();
        assert_eq!(written(b"<traceparent: 00-1-2-01>"), b"<traceparent: >");
        assert_eq!(written(b"without"), b"without");
    }

    #[test]
    fn a_cloudevent_names_where_its_trace_began_where_no_header_says_where_it_went() {
        let (began, went) = (format!("00-{TRACE}-{SPAN}-01"), format!("00-{TRACE}-{}-01", "1".repeat(16)));
        for header in ["ce-traceparent", "ce_traceparent"] {
            assert_eq!(parent(&[(header, &began)], "").unwrap().context.traceparent(), began);
            let both = parent(&[(header, &began), ("traceparent", &went)], "").unwrap();
            assert_eq!(both.context.traceparent(), went);
        }
        let structured = json!({ "specversion": "1.0", "traceparent": began }).to_string();
        assert_eq!(parent(&[], &structured).unwrap().context.traceparent(), began);
    }

    #[test]
    fn an_envelope_names_a_parent_where_no_header_does() {
        let traceparent = format!("00-{TRACE}-{SPAN}-01");
        for (trace, sampled) in [
            (json!(traceparent), Some(true)),
            (json!({ "traceparent": traceparent }), Some(true)),
            (json!({ "traceId": TRACE, "spanId": SPAN }), None),
            (json!({ "trace_id": TRACE, "span_id": SPAN, "trace_flags": 1 }), Some(true)),
            (json!({ "traceId": TRACE, "spanId": SPAN, "traceFlags": "00" }), Some(false)),
            (json!({ "traceId": TRACE, "spanId": SPAN, "sampled": false }), Some(false)),
        ] {
            let payload = json!({ "id": 1, "_trace": trace }).to_string();
            let parent = parent(&[], &payload).unwrap_or_else(|| panic!("no parent in {payload}"));
            assert_eq!(
                (parent.context.trace_id(), hex::encode(parent.context.span)),
                (TRACE.into(), SPAN.into())
            );
            assert_eq!(parent.sampled, sampled, "{payload}");
            assert_eq!(Parent::of_owned(&unwrapped(&trace)), Some(parent));
        }
        let other = format!("00-{}-{SPAN}-00", TRACE.replace('0', "1"));
        let both = parent(&[("traceparent", &other)], &json!({ "_trace": traceparent }).to_string()).unwrap();
        assert_eq!(both.context.traceparent(), other);
        for payload in
            ["{\"_trace\": 1}", "{\"_trace\": {\"traceId\": \"x\"}}", "{\"_trace\"", "\"_trace\"", ""]
        {
            assert_eq!(parent(&[], payload), None, "{payload}");
        }
    }
}
