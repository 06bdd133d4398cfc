//! Binary mode: attributes in headers, the data as the payload.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use super::event::{Attribute, Data, Event, Format, content};
use super::{CONTENT_TYPE, PREFIXES, STRUCTURED};
use crate::codecs::{Body, GivenHeader, Protocol};
use crate::message::MessageRef;

/// What a header in HTTP cannot hold as it is, and the sign for that.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Media types of lines that are messages of their own, each with the headers of them all.
const LINES: [&str; 2] = ["application/x-ndjson", "application/ndjson"];

/// By whose rules a message is in binary mode; none if it is in structured mode.
///
/// # Errors
/// It is in another mode or format.
pub fn protocol(message: &MessageRef<'_>) -> Result<Option<Protocol>, String> {
    let content_type = message.header(CONTENT_TYPE).map(String::from_utf8_lossy);
    let essence =
        content_type.as_deref().map(|text| text.split(';').next().unwrap_or_default().trim().to_lowercase());
    match essence.as_deref() {
        Some(STRUCTURED) => return Ok(None),
        Some("application/cloudevents-batch+json") => {
            return Err(
                "a batch of CloudEvents (application/cloudevents-batch+json), which is not taken; send \
                        an event a request, or lines of them as application/x-ndjson"
                    .into(),
            );
        }
        Some(other) if other.starts_with("application/cloudevents") => {
            return Err(format!("it is {other:?}; of structured modes only {STRUCTURED} is known"));
        }
        _ => {}
    }
    for protocol in [Protocol::Http, Protocol::Kafka] {
        let version = [protocol.prefix(), b"specversion"].concat();
        if message.headers().any(|(name, _)| name.eq_ignore_ascii_case(&version)) {
            return Ok(Some(protocol));
        }
    }
    match essence {
        Some(other) if !LINES.contains(&&*other) && message.payload().is_some() => Err(format!(
            "it is {other:?} without a header `ce-specversion` (in Kafka, `ce_specversion`); in structured mode \
             it would be {STRUCTURED}"
        )),
        _ => Ok(None),
    }
}

/// An event in binary mode.
pub fn read<'a>(message: &MessageRef<'a>, protocol: Protocol) -> Result<Event<'a>, String> {
    let (mut content_type, mut attributes) = (None, Vec::new());
    for (name, value) in message.headers() {
        if name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()) {
            let text = str::from_utf8(value).map_err(|_| "the header `content-type` is not UTF-8")?;
            if content_type.replace(Cow::Borrowed(text)).is_some() {
                return Err("`content-type` comes twice".into());
            }
            continue;
        }
        let Some((prefix, name)) = name.split_at_checked(PREFIXES[0].len()) else { continue };
        if !prefix.eq_ignore_ascii_case(protocol.prefix()) {
            continue;
        }
        let name = String::from_utf8_lossy(name).to_lowercase();
        if name == "datacontenttype" {
            return Err("`datacontenttype` is said by `content-type` and not by a header of its own".into());
        }
        if attributes.iter().any(|(known, _)| *known == name) {
            return Err(format!("`{name}` comes twice"));
        }
        let value = match protocol {
            Protocol::Http => decoded(value),
            Protocol::Kafka => str::from_utf8(value).map(Cow::Borrowed).ok(),
        };
        let value = value.ok_or_else(|| format!("`{name}` is not UTF-8"))?;
        attributes.push((Cow::Owned(name), Attribute::Text(value)));
    }
    let mut event = Event::of(attributes.into_iter(), content_type)?;
    event.data = data(message.payload(), protocol, event.content_type.as_deref())?;
    Ok(event)
}

/// The data in a payload. Without a content type it is bytes. In HTTP an empty body is no data, unless its
/// content type says that data may be empty.
fn data<'a>(
    payload: Option<&'a [u8]>,
    protocol: Protocol,
    content_type: Option<&str>,
) -> Result<Data<'a>, String> {
    let content = content_type.map(content).transpose()?;
    let Some(payload) = payload else { return Ok(Data::Nothing) };
    let format = content.map(|content| content.format);
    if payload.is_empty() && protocol == Protocol::Http && matches!(format, None | Some(Format::Json)) {
        return Ok(Data::Nothing);
    }
    match format {
        _ if content.is_some_and(|content| !content.is_utf8) => Ok(Data::Bytes(Cow::Borrowed(payload))),
        Some(Format::Json) => serde_json::from_slice(payload)
            .map(|json: &serde_json::value::RawValue| match json.get() {
                "null" => Data::Nothing,
                _ => Data::Json(json),
            })
            .map_err(|error| format!("its data is not JSON, as its content type says: {error}")),
        Some(Format::Text) => match str::from_utf8(payload) {
            Ok(text) => Ok(Data::Text(Cow::Borrowed(text))),
            Err(_) => Ok(Data::Bytes(Cow::Borrowed(payload))),
        },
        Some(Format::Bytes) | None => Ok(Data::Bytes(Cow::Borrowed(payload))),
    }
}

/// The value of a header in HTTP: what is in quotes without them, then percent-encoding.
fn decoded(value: &[u8]) -> Option<Cow<'_, str>> {
    let quoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let Some(quoted) = quoted else { return percent_decode(value).decode_utf8().ok() };
    let mut unquoted = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(&byte) = bytes.next() {
        unquoted.push(if byte == b'\\' { *bytes.next()? } else { byte });
    }
    percent_decode(&unquoted).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
}

/// Appends the data, and a header for each attribute.
pub fn write(
    event: &Event<'_>,
    protocol: Protocol,
    out: &mut Vec<u8>,
    headers: &mut Vec<GivenHeader>,
) -> Result<Body, String> {
    let content_type = match (&event.content_type, &event.data) {
        (Some(content_type), _) => Some(&**content_type),
        // What goes without saying in JSON is to be said here.
        (None, Data::Json(_)) => Some("application/json"),
        (None, _) => None,
    };
    let (body, bytes): (Body, &[u8]) = match &event.data {
        Data::Nothing => (Body::Nothing, b""),
        Data::Json(json) => (Body::Written, json.get().as_bytes()),
        Data::Text(text) => (Body::Written, text.as_bytes()),
        Data::Bytes(bytes) => (Body::Written, bytes),
    };
    if let (Some(content_type), Data::Json(_) | Data::Text(_)) = (content_type, &event.data)
        && !content(content_type)?.is_utf8
    {
        return Err(format!(
            "its data is text, and would be written in UTF-8 and not as {content_type:?} says"
        ));
    }
    let read_back = match (body, protocol) {
        (Body::Nothing, Protocol::Kafka) => None,
        _ => Some(bytes),
    };
    let is_nothing = matches!(data(read_back, protocol, content_type)?, Data::Nothing);
    if is_nothing != matches!(event.data, Data::Nothing) {
        let content_type = content_type.unwrap_or("none");
        return Err(format!(
            "in binary mode over HTTP no data and empty data cannot be told apart with the content type \
             {content_type}; mode = \"structured\" can"
        ));
    }
    for (name, value) in event.attributes() {
        let name = [protocol.prefix(), name.as_bytes()].concat();
        let name = String::from_utf8(name).expect("a prefix of ASCII and a name");
        let text = value.to_text();
        let value = match protocol {
            Protocol::Http => utf8_percent_encode(&text, ENCODED).to_string(),
            Protocol::Kafka => text.into_owned(),
        };
        headers.push(GivenHeader::new(name, value));
    }
    if let Some(content_type) = content_type {
        headers.push(GivenHeader::new(CONTENT_TYPE, content_type.to_owned()));
    }
    out.extend_from_slice(bytes);
    Ok(body)
}
