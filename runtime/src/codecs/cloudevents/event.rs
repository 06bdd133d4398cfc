//! A CloudEvent, whichever form it is in.

use std::borrow::Cow;

use mime::Mime;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::traces::context::{TRACEPARENT, TRACESTATE};

/// The version of CloudEvents, and of the envelope.
pub const SPECVERSION: &str = "1.0";

/// Attributes that become fields of the envelope, and are texts there.
pub const CORRELATION: &str = "correlationid";
pub const CAUSATION: &str = "causationid";
const TEXTS: [&str; 4] = [CORRELATION, CAUSATION, TRACEPARENT, TRACESTATE];

/// Attributes and data. Context attributes that have no field of their own (`subject`, `dataschema`) are among
/// the `others`, with the extensions.
#[derive(Debug)]
pub struct Event<'a> {
    pub id: Cow<'a, str>,
    pub source: Cow<'a, str>,
    pub kind: Cow<'a, str>,
    /// RFC 3339.
    pub time: Option<Cow<'a, str>>,
    pub content_type: Option<Cow<'a, str>>,
    pub others: Vec<(Cow<'a, str>, Attribute<'a>)>,
    pub data: Data<'a>,
}

/// The value of an attribute. What CloudEvents has beside these (bytes, URIs, times) is a text in all forms.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Attribute<'a> {
    Text(Cow<'a, str>),
    Boolean(bool),
    Integer(i32),
}

#[derive(Debug)]
pub enum Data<'a> {
    Nothing,
    Json(&'a RawValue),
    /// Of a content type that is not JSON.
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

impl Attribute<'_> {
    /// As it stands in a header.
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Attribute::Text(text) => Cow::Borrowed(text),
            Attribute::Boolean(flag) => Cow::Borrowed(if *flag { "true" } else { "false" }),
            Attribute::Integer(number) => Cow::Owned(number.to_string()),
        }
    }
}

impl<'a> Event<'a> {
    /// From attributes by their names, none of which comes twice.
    ///
    /// # Errors
    /// One is missing, or is not what it must be; says which.
    pub fn of(
        attributes: impl Iterator<Item = (Cow<'a, str>, Attribute<'a>)>,
        content_type: Option<Cow<'a, str>>,
    ) -> Result<Event<'a>, String> {
        let (mut id, mut source, mut kind, mut time, mut version) = (None, None, None, None, None);
        let mut others = Vec::new();
        for (name, value) in attributes {
            let not_text = || format!("`{name}` is not a text");
            let field = match &*name {
                "id" => &mut id,
                "source" => &mut source,
                "type" => &mut kind,
                "time" => &mut time,
                "specversion" => &mut version,
                _ => {
                    if TEXTS.contains(&&*name) && !matches!(value, Attribute::Text(_)) {
                        return Err(not_text());
                    }
                    others.push((checked_name(name)?, value));
                    continue;
                }
            };
            let Attribute::Text(text) = value else { return Err(not_text()) };
            *field = Some(text);
        }
        let required = |name: &str, value: Option<Cow<'a, str>>| match value {
            None => Err(format!("`{name}` is missing")),
            Some(text) if text.is_empty() => Err(format!("`{name}` is empty")),
            Some(text) => Ok(text),
        };
        let version = required("specversion", version)?;
        if version != SPECVERSION {
            return Err(format!("`specversion` is {version:?}, and only {SPECVERSION:?} is known"));
        }
        if let Some(time) = &time {
            parse_time("time", time)?;
        }
        Ok(Event {
            id: required("id", id)?,
            source: required("source", source)?,
            kind: required("type", kind)?,
            time,
            content_type,
            others,
            data: Data::Nothing,
        })
    }

    /// All attributes but that of the content, in the order in which they are written.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, Attribute<'_>)> {
        [("specversion", SPECVERSION), ("id", &self.id), ("source", &self.source), ("type", &self.kind)]
            .into_iter()
            .chain(self.time.as_deref().map(|time| ("time", time)))
            .map(|(name, text)| (name, Attribute::Text(Cow::Borrowed(text))))
            .chain(self.others.iter().map(|(name, value)| (&**name, value.clone())))
    }
}

/// A name that an attribute can have: lower-case letters and digits of ASCII, but not `data`.
pub fn is_attribute_name(name: &str) -> bool {
    !name.is_empty() && name != "data" && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'))
}

fn checked_name(name: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    match is_attribute_name(&name) {
        true => Ok(name),
        false => Err(format!("{name:?} cannot be the name of an attribute: lower-case letters and digits")),
    }
}

/// The time that a text of RFC 3339 says.
///
/// # Errors
/// It says none.
pub fn parse_time(field: &str, text: &str) -> Result<jiff::Timestamp, String> {
    text.parse()
        .map_err(|error| format!("`{field}` is {text:?}, not a time such as 2024-02-29T12:00:00Z: {error}"))
}

/// What a content type says of data.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    pub format: Format,
    /// Whether text in it is UTF-8, as it is where nothing else is said.
    pub is_utf8: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Json,
    Text,
    Bytes,
}

/// Reads a content type.
///
/// # Errors
/// It is no media type.
pub fn content(content_type: &str) -> Result<Content, String> {
    let mime: Mime =
        content_type.parse().map_err(|error| format!("{content_type:?} is no media type: {error}"))?;
    let subtype = mime.suffix().unwrap_or(mime.subtype());
    let format = match mime.type_() {
        _ if subtype == mime::JSON => Format::Json,
        kind if kind == mime::TEXT || subtype == mime::XML => Format::Text,
        _ => Format::Bytes,
    };
    let charset = mime.get_param(mime::CHARSET);
    let is_utf8 = charset.is_none_or(|charset| charset == mime::UTF_8 || charset == "us-ascii");
    Ok(Content { format, is_utf8 })
}
