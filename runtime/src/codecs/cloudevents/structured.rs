//! Structured mode: an event as a JSON object.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::event::{Attribute, Data, Event, Format, content};
use super::members::{Members, text};
use crate::codecs::json::compact;

pub fn read(payload: &[u8]) -> Result<Event<'_>, String> {
    let Members(members) = serde_json::from_slice(payload).map_err(|error| format!("not JSON: {error}"))?;
    let (mut data, mut base64, mut content_type) = (None, None, None);
    let mut attributes = Vec::with_capacity(members.len());
    for (name, json) in members {
        match &*name {
            "data" => data = Some(json),
            "data_base64" => base64 = Some(json),
            _ => match attribute(&name, json)? {
                None => {}
                Some(Attribute::Text(text)) if name == "datacontenttype" => content_type = Some(text),
                Some(_) if name == "datacontenttype" => {
                    return Err("`datacontenttype` is not a text".into());
                }
                Some(value) => attributes.push((name, value)),
            },
        }
    }
    let mut event = Event::of(attributes.into_iter(), content_type)?;
    event.data = match (data, base64) {
        (Some(_), Some(_)) => return Err("it has both `data` and `data_base64`".into()),
        (None, None) => Data::Nothing,
        (None, Some(json)) => {
            let bytes = text(json).and_then(|text| STANDARD.decode(&*text).ok());
            Data::Bytes(bytes.ok_or("`data_base64` is not a text in base64")?.into())
        }
        (Some(json), None) => of_json(json, event.content_type.as_deref())?,
    };
    Ok(event)
}

/// Data as it stands in JSON, by its content type.
///
/// # Errors
/// It is no text, as all content types but JSON want it.
pub fn of_json<'a>(json: &'a RawValue, content_type: Option<&str>) -> Result<Data<'a>, String> {
    if json.get() == "null" {
        return Ok(Data::Nothing);
    }
    match content_type {
        Some(content_type) if content(content_type)?.format != Format::Json => match text(json) {
            Some(text) => Ok(Data::Text(text)),
            None => Err(format!("`data` is not a text, though it is {content_type:?} and not JSON")),
        },
        _ => Ok(Data::Json(json)),
    }
}

/// The value of an attribute; null is as if it were not there.
fn attribute<'a>(name: &str, json: &'a RawValue) -> Result<Option<Attribute<'a>>, String> {
    value(json).map_err(|what| format!("`{name}` is {what}; attributes are texts, booleans and integers"))
}

/// What an attribute can be of JSON, or what it is instead.
pub fn value(json: &RawValue) -> Result<Option<Attribute<'_>>, &'static str> {
    Ok(Some(match json.get().as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b't') => Attribute::Boolean(true),
        Some(b'f') => Attribute::Boolean(false),
        Some(b'"') => Attribute::Text(text(json).ok_or("a text that cannot be read")?),
        Some(b'{') => return Err("an object"),
        Some(b'[') => return Err("an array"),
        _ => Attribute::Integer(json.get().parse().map_err(|_| "a number that is no integer of 32 bits")?),
    }))
}

/// Appends an event on one line.
pub fn write(event: &Event<'_>, out: &mut Vec<u8>) {
    let text = serde_json::to_string(&Structured(event)).expect("texts and numbers are JSON");
    match &event.data {
        // As it came, maybe over several lines.
        Data::Json(json) if memchr::memchr2(b'\n', b'\r', json.get().as_bytes()).is_some() => {
            compact(&text, out);
        }
        _ => out.extend_from_slice(text.as_bytes()),
    }
}

struct Structured<'e, 'a>(&'e Event<'a>);

impl Serialize for Structured<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Structured(event) = self;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in event.attributes() {
            map.serialize_entry(name, &value)?;
        }
        if let Some(content_type) = &event.content_type {
            map.serialize_entry("datacontenttype", content_type)?;
        }
        match &event.data {
            Data::Nothing => {}
            Data::Json(json) => map.serialize_entry("data", json)?,
            Data::Text(text) => map.serialize_entry("data", text)?,
            Data::Bytes(bytes) => map.serialize_entry("data_base64", &STANDARD.encode(bytes))?,
        }
        map.end()
    }
}
