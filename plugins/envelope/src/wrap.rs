//! `wrap`: a payload becomes the `data` of a new envelope.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millstream_sdk::prelude::*;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::config::{self, Config};
use crate::origin::{Found, Json, Origin, Origins};
use crate::{INVALID, SPECVERSION, id};

pub struct Wrap {
    origins: Origins,
    kind: Origin,
    /// Without it, the name of the pipeline's source.
    source: Option<Origin>,
    /// Without it, drawn from the position and the payload.
    id: Option<Origin>,
    correlation_id: Option<Origin>,
    causation_id: Option<Origin>,
    metadata: Vec<(String, Origin)>,
    data: config::Data,
}

impl Wrap {
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let mut origins = Origins::default();
        let mut add = |field: &str, origin: Option<config::Origin>| {
            origin.map(|origin| origins.add(field, origin)).transpose()
        };
        let kind = add("type", config.kind)?;
        let source = add("source", config.source)?;
        let id = add("id", config.id)?;
        let correlation_id = add("correlation_id", config.correlation_id)?;
        let causation_id = add("causation_id", config.causation_id)?;
        let metadata = config.metadata.into_iter().map(|(name, origin)| {
            let origin = origins.add(&format!("metadata/{name}"), origin)?;
            Ok((name, origin))
        });
        let metadata = metadata.collect::<Result<_, _>>()?;
        let kind = kind.ok_or_else(|| ConfigError::at("/type", "is missing"))?;
        Ok(Wrap { origins, kind, source, id, correlation_id, causation_id, metadata, data: config.data })
    }

    pub fn process<'m>(&'m self, message: &Message<'m>, out: &mut Output) -> Result<Verdict, Failure> {
        let found = self.origins.find(message)?;
        let required = |field: &str, origin: &Origin| {
            Failure::reject(INVALID, format!("no `{field}`: {} has none", origin.place()))
        };
        let kind = self.kind.text(message, &found)?.ok_or_else(|| required("type", &self.kind))?;
        let source = match &self.source {
            Some(origin) => origin.text(message, &found)?.ok_or_else(|| required("source", origin))?,
            None => Cow::Borrowed(message.source()),
        };
        let id = match &self.id {
            Some(origin) => {
                id::of_text(&origin.text(message, &found)?.ok_or_else(|| required("id", origin))?)
            }
            None => id::of_position(message),
        };
        let mut text = Uuid::encode_buffer();
        let id: &str = id.hyphenated().encode_lower(&mut text);
        let optional =
            |origin: Option<&'m Origin>| origin.map(|origin| origin.text(message, &found)).transpose();
        let correlation_id = optional(self.correlation_id.as_ref())?.flatten();
        let causation_id = optional(self.causation_id.as_ref())?.flatten();
        out.emit().payload_json(&Envelope {
            id,
            r#type: &kind,
            timestamp: timestamp(message.timestamp_ms())?,
            source: &source,
            specversion: SPECVERSION,
            data: self.data(message.payload())?,
            metadata: self.metadata(message, &found)?,
            correlation_id: correlation_id.as_deref().unwrap_or(id),
            causation_id: causation_id.as_deref(),
        })?;
        Ok(Verdict::Emit)
    }

    fn data<'a>(&self, payload: Option<&'a [u8]>) -> Result<Data<'a>, Failure> {
        let Some(payload) = payload else { return Ok(Data::Text(None)) };
        match self.data {
            config::Data::Json => serde_json::from_slice(payload).map(Data::Raw).map_err(|error| {
                Failure::reject("payload-not-json", format!("the payload is not json: {error}"))
            }),
            config::Data::String => match str::from_utf8(payload) {
                Ok(text) => Ok(Data::Text(Some(Cow::Borrowed(text)))),
                Err(error) => {
                    Err(Failure::reject("payload-not-utf8", format!("the payload is not text: {error}")))
                }
            },
            config::Data::Base64 => Ok(Data::Text(Some(Cow::Owned(STANDARD.encode(payload))))),
        }
    }

    fn metadata<'a>(&'a self, message: &Message<'a>, found: &Found<'a>) -> Result<Fields<'a>, Failure> {
        let mut fields = Vec::with_capacity(self.metadata.len());
        for (name, origin) in &self.metadata {
            fields.extend(origin.json(message, found)?.map(|value| (name.as_str(), value)));
        }
        Ok(Fields(fields))
    }
}

#[derive(serde::Serialize)]
struct Envelope<'a> {
    id: &'a str,
    r#type: &'a str,
    timestamp: String,
    source: &'a str,
    specversion: &'static str,
    data: Data<'a>,
    metadata: Fields<'a>,
    #[serde(rename = "correlationId")]
    correlation_id: &'a str,
    #[serde(rename = "causationId", skip_serializing_if = "Option::is_none")]
    causation_id: Option<&'a str>,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Raw(&'a RawValue),
    /// Null for a null payload.
    Text(Option<Cow<'a, str>>),
}

struct Fields<'a>(Vec<(&'a str, Json<'a>)>);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// ISO 8601 in UTC, with milliseconds.
fn timestamp(ms: i64) -> Result<String, Failure> {
    let since_1970 = u64::try_from(ms).ok().map(Duration::from_millis);
    // The last year of four digits.
    let time = since_1970.filter(|since| since.as_secs() < 253_402_300_800);
    match time.and_then(|since| UNIX_EPOCH.checked_add(since)) {
        Some(time) => Ok(humantime::format_rfc3339_millis(time).to_string()),
        None => Err(Failure::reject(
            INVALID,
            format!("the message's time, {ms} ms since 1970, is not in the years 1970 to 9999"),
        )),
    }
}
