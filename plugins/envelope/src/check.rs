//! `check`: every field of an envelope is as the standard says.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millstream_sdk::prelude::*;
use serde_json::value::RawValue;

use crate::config::{Config, Data};
use crate::{INVALID, SPECVERSION, id};

/// Fields that the standard does not know are told up to this many.
const MAX_OTHER_FIELDS: usize = 10;

/// Header names of an unwrapped envelope.
const HEADERS: [(&str, &str); 6] = [
    ("id", "envelope-id"),
    ("type", "envelope-type"),
    ("timestamp", "envelope-timestamp"),
    ("source", "envelope-source"),
    ("correlationId", "envelope-correlation-id"),
    ("causationId", "envelope-causation-id"),
];

/// The field with the trace that an envelope is of, which it need not have.
const TRACE: &str = "_trace";

pub struct Check {
    /// How the payload stands in `data`, if it is to be taken out.
    unwrap: Option<Data>,
    allow_other_fields: bool,
}

/// The fields of an envelope and their JSON text, slices of the payload.
type Fields<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

impl Check {
    pub fn new(config: &Config) -> Self {
        Check { unwrap: config.unwrap.then_some(config.data), allow_other_fields: config.allow_other_fields }
    }

    pub fn process(&self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        let payload: &RawValue = message.json()?;
        let fields: Fields<'_> = serde_json::from_str(payload.get())
            .map_err(|_| Failure::reject(INVALID, "the payload is not an object, so it is no envelope"))?;

        let mut violations = Violations::default();
        let text = |name| fields.get(name).and_then(|json| serde_json::from_str::<String>(json.get()).ok());
        for name in ["id", "type", "timestamp", "source", "specversion", "correlationId"] {
            if !fields.contains_key(name) {
                violations.add(name, "is missing");
            } else if text(name).is_none_or(|text| text.is_empty()) {
                violations.add(name, "is not a text, or an empty one");
            }
        }
        if text("id").is_some_and(|text| !text.is_empty() && id::parse(&text).is_none()) {
            violations.add("id", "is not a uuid of version 4");
        }
        let time = text("timestamp").map(|text| humantime::parse_rfc3339(&text));
        if let Some(Err(_)) = time {
            violations.add("timestamp", "is not a time in UTC such as 2024-02-29T12:00:00.000Z");
        }
        if text("specversion").is_some_and(|version| version != SPECVERSION) {
            violations.add("specversion", &format!("is not `{SPECVERSION}`"));
        }
        if fields.get("causationId").is_some_and(|json| json.get() != "null")
            && text("causationId").is_none_or(|text| text.is_empty())
        {
            violations.add("causationId", "is neither null nor a text, or an empty one");
        }
        if fields.get(TRACE).is_some_and(|json| !json.get().starts_with(['{', '"'])) {
            violations.add(TRACE, "is neither a text nor an object");
        }
        match fields.get("metadata") {
            Some(json) if json.get().starts_with('{') => {}
            Some(_) => violations.add("metadata", "is not an object"),
            None => violations.add("metadata", "is missing"),
        }
        let data = match fields.get("data") {
            Some(json) => self.data(json, &mut violations),
            None => {
                violations.add("data", "is missing");
                None
            }
        };
        if !self.allow_other_fields {
            violations.other_fields(&fields);
        }
        violations.none()?;

        if self.unwrap.is_none() {
            return Ok(Verdict::Pass);
        }
        let mut emission = match &data {
            Some(data) => out.emit().payload(data),
            None => out.emit().null_payload(),
        };
        for (name, header) in HEADERS {
            emission = match text(name) {
                Some(text) => emission.set_header(header, text),
                None => emission.remove_header(header),
            };
        }
        if let Some(metadata) = fields.get("metadata") {
            emission = emission.set_header("envelope-metadata", metadata.get());
        }
        emission = match fields.get(TRACE) {
            Some(trace) => emission.set_header("envelope-trace", trace.get()),
            None => emission.remove_header("envelope-trace"),
        };
        let time = time.and_then(Result::ok).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        if let Some(since_1970) = time {
            emission.timestamp_ms(since_1970.as_millis() as i64);
        }
        Ok(Verdict::Emit)
    }

    /// The payload that stands in `data`; `None` for null.
    fn data<'a>(&self, json: &'a RawValue, violations: &mut Violations) -> Option<Cow<'a, [u8]>> {
        if json.get() == "null" {
            return None;
        }
        let data = match self.unwrap {
            None | Some(Data::Json) => return Some(Cow::Borrowed(json.get().as_bytes())),
            Some(Data::String) => serde_json::from_str::<String>(json.get()).ok().map(String::into_bytes),
            Some(Data::Base64) => {
                serde_json::from_str::<String>(json.get()).ok().and_then(|text| STANDARD.decode(text).ok())
            }
        };
        match data {
            Some(data) => Some(Cow::Owned(data)),
            None => {
                let base64 = self.unwrap == Some(Data::Base64);
                violations.add("data", if base64 { "is not a text in base64" } else { "is not a text" });
                None
            }
        }
    }
}

/// What is wrong, a line each, with a JSON pointer.
#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn add(&mut self, field: &str, what: &str) {
        let field = field.replace('~', "~0").replace('/', "~1");
        self.0.push(format!("/{field} {what}"));
    }

    fn other_fields(&mut self, fields: &Fields<'_>) {
        let known = |name: &str| {
            ["specversion", "data", "metadata", TRACE].contains(&name)
                || HEADERS.iter().any(|(known, _)| *known == name)
        };
        let mut others = fields.keys().filter(|name| !known(name));
        for name in others.by_ref().take(MAX_OTHER_FIELDS) {
            self.add(&name.chars().take(100).collect::<String>(), "is no field of an envelope");
        }
        let more = others.count();
        if more > 0 {
            self.0.push(format!("and {more} other fields that are none of an envelope"));
        }
    }

    fn none(self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(Failure::reject(INVALID, self.0.join("\n"))) }
    }
}
