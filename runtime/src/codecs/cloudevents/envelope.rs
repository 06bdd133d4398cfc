//! The standard envelope, as plugins see it.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::event::{
    Attribute, CAUSATION, CORRELATION, Data, Event, SPECVERSION, is_attribute_name, parse_time,
};
use super::members::{Members, text};
use super::structured::{of_json, value};
use crate::codecs::typed::Extra;
use crate::traces::context::{TRACEPARENT, TRACESTATE, of_trace as of_trace_field};

/// The content type, in `metadata`.
const CONTENT_TYPE: &str = "datacontenttype";

/// How data that is bytes stands in `data`, in `metadata`. No attribute can have that name.
const ENCODING: &str = "dataEncoding";

const BASE64: &str = "base64";

/// What cannot be an attribute by a name in `metadata`, since it is one already.
const OF_THE_ENVELOPE: [&str; 10] =
    ["id", "source", "type", "specversion", "time", "data", CORRELATION, CAUSATION, TRACEPARENT, TRACESTATE];

/// Appends the envelope of an event. One without a time has that of its message.
pub fn write(event: &Event<'_>, timestamp_ms: i64, out: &mut Vec<u8>) -> Result<(), String> {
    let timestamp = match event.time.as_deref() {
        Some(time) => {
            let parsed = parse_time("time", time)?;
            // In UTC it stays as it is, digits and all.
            let is_utc = time.ends_with('Z') && time.contains('T');
            if is_utc { Cow::Borrowed(time) } else { Cow::Owned(parsed.to_string()) }
        }
        None => {
            let time = jiff::Timestamp::from_millisecond(timestamp_ms)
                .map_err(|error| format!("it has no `time`, and the message none either: {error}"))?;
            Cow::Owned(format!("{time:.3}"))
        }
    };
    let other = |name: &str| event.others.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let trace = Trace { traceparent: other(TRACEPARENT), tracestate: other(TRACESTATE) };
    let envelope = Envelope {
        id: &event.id,
        r#type: &event.kind,
        timestamp: &timestamp,
        source: &event.source,
        specversion: SPECVERSION,
        data: &event.data,
        metadata: Metadata(event),
        correlation_id: other(CORRELATION).map_or(Cow::Borrowed(&*event.id), Attribute::to_text),
        causation_id: other(CAUSATION).map(Attribute::to_text),
        trace: (trace.traceparent.is_some() || trace.tracestate.is_some()).then_some(trace),
    };
    serde_json::to_writer(out, &envelope).expect("texts and numbers are JSON");
    Ok(())
}

#[derive(Serialize)]
struct Envelope<'e, 'a> {
    id: &'e str,
    r#type: &'e str,
    timestamp: &'e str,
    source: &'e str,
    specversion: &'static str,
    #[serde(serialize_with = "data")]
    data: &'e Data<'a>,
    metadata: Metadata<'e, 'a>,
    #[serde(rename = "correlationId")]
    correlation_id: Cow<'e, str>,
    #[serde(rename = "causationId", skip_serializing_if = "Option::is_none")]
    causation_id: Option<Cow<'e, str>>,
    #[serde(rename = "_trace", skip_serializing_if = "Option::is_none")]
    trace: Option<Trace<'e, 'a>>,
}

#[derive(Serialize)]
struct Trace<'e, 'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'e Attribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'e Attribute<'a>>,
}

fn data<S: Serializer>(data: &Data<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    match data {
        Data::Nothing => serializer.serialize_none(),
        Data::Json(json) => json.serialize(serializer),
        Data::Text(text) => serializer.serialize_str(text),
        Data::Bytes(bytes) => serializer.serialize_str(&STANDARD.encode(bytes)),
    }
}

/// The attributes for which the envelope has no field.
struct Metadata<'e, 'a>(&'e Event<'a>);

impl Serialize for Metadata<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Metadata(event) = self;
        let mut map = serializer.serialize_map(None)?;
        if let Some(content_type) = &event.content_type {
            map.serialize_entry(CONTENT_TYPE, content_type)?;
        }
        if let Data::Bytes(_) = event.data {
            map.serialize_entry(ENCODING, BASE64)?;
        }
        for (name, value) in event.others.iter().filter(|(name, _)| !OF_THE_ENVELOPE.contains(&&**name)) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The event of an envelope.
///
/// # Errors
/// It is none, or holds what no CloudEvent can say and `extra` does not drop; says which field.
pub fn read<'p>(payload: &'p [u8], extra: Extra) -> Result<Event<'p>, String> {
    let Members(members) =
        serde_json::from_slice(payload).map_err(|error| format!("it is no envelope: {error}"))?;
    let mut attributes = Vec::with_capacity(members.len() + 4);
    let mut add = |name: &'static str, field: &str, json: &'p RawValue| {
        let text = text(json).ok_or_else(|| format!("`{field}` is not a text"))?;
        attributes.push((Cow::Borrowed(name), Attribute::Text(text)));
        Ok::<(), String>(())
    };
    let (mut data, mut trace, mut metadata) = (None, None, None);
    for &(ref name, json) in &members {
        let is_null = json.get() == "null";
        match &**name {
            "id" => add("id", name, json)?,
            "type" => add("type", name, json)?,
            "source" => add("source", name, json)?,
            "specversion" => add("specversion", name, json)?,
            "timestamp" => {
                add("time", name, json)?;
                parse_time(name, &text(json).unwrap_or_default())?;
            }
            "correlationId" | "causationId" | "_trace" | "metadata" if is_null => {}
            "correlationId" => add(CORRELATION, name, json)?,
            "causationId" => add(CAUSATION, name, json)?,
            "_trace" => trace = Some(json),
            "data" => data = Some(json),
            "metadata" => metadata = Some(json),
            _ if extra == Extra::Drop => {}
            _ => {
                return Err(format!("{name:?} is no field of an envelope; extra_fields = \"drop\" drops it"));
            }
        }
    }
    if let Some(json) = trace {
        attributes.extend(of_trace(json)?);
    }
    let mut is_base64 = false;
    let mut content_type = None;
    if let Some(json) = metadata {
        let Members(members) = serde_json::from_str(json.get()).map_err(|_| "`metadata` is not an object")?;
        for (name, json) in members {
            let wrong = |what: &str| format!("`metadata` has {name:?}, which is {what}");
            match &*name {
                ENCODING if text(json).as_deref() == Some(BASE64) => is_base64 = true,
                ENCODING => return Err(wrong("not \"base64\"")),
                CONTENT_TYPE => content_type = Some(text(json).ok_or_else(|| wrong("not a text"))?),
                _ => {
                    let attribute = match value(json) {
                        Ok(None) => continue,
                        Ok(Some(_)) if OF_THE_ENVELOPE.contains(&&*name) => {
                            Err("an attribute that another field of the envelope says")
                        }
                        Ok(Some(_)) if !is_attribute_name(&name) => {
                            Err("no name of an attribute: lower-case letters and digits")
                        }
                        Ok(Some(value)) => Ok(value),
                        Err(what) => Err(what),
                    };
                    match attribute {
                        Ok(value) => attributes.push((name, value)),
                        Err(_) if extra == Extra::Drop => {}
                        Err(what) => {
                            return Err(format!("{}; extra_fields = \"drop\" drops it", wrong(what)));
                        }
                    }
                }
            }
        }
    }
    let mut event = Event::of(attributes.into_iter(), content_type)?;
    event.data = match data {
        None => Data::Nothing,
        Some(json) if is_base64 => {
            let bytes = text(json).and_then(|text| STANDARD.decode(&*text).ok());
            let bytes = bytes.ok_or_else(|| {
                format!("`data` is not a text in base64, as `{ENCODING}` in `metadata` says")
            })?;
            Data::Bytes(bytes.into())
        }
        Some(json) => of_json(json, event.content_type.as_deref())?,
    };
    Ok(event)
}

/// The attributes of a trace: as they are, or made of what tells the span in another way.
fn of_trace(json: &RawValue) -> Result<Vec<(Cow<'_, str>, Attribute<'_>)>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct AsAttributes {
        traceparent: Option<String>,
        tracestate: Option<String>,
    }
    let pair = |name, text: String| (Cow::Borrowed(name), Attribute::Text(Cow::Owned(text)));
    let (parent, state) = match serde_json::from_str::<AsAttributes>(json.get()) {
        Ok(trace) => (trace.traceparent, trace.tracestate),
        Err(_) => {
            let value: Value = serde_json::from_str(json.get()).map_err(|error| error.to_string())?;
            let parent = of_trace_field(&value)
                .ok_or("`_trace` names no span: neither a `traceparent` nor `traceId` and `spanId`")?;
            (Some(parent.context.traceparent()), parent.state)
        }
    };
    let parent = parent.map(|text| pair(TRACEPARENT, text));
    Ok(parent.into_iter().chain(state.map(|text| pair(TRACESTATE, text))).collect())
}
