//! Where the fields of a new envelope come from.

use std::borrow::Cow;

use millstream_sdk::pointer::Pointers;
use millstream_sdk::prelude::*;
use serde_json::value::RawValue;

use crate::{INVALID, config};

/// A place to look at in each message.
pub enum Origin {
    Text(String),
    Header(String),
    /// Its number among the pointers of [`Origins`].
    Pointer(usize, String),
}

/// All places of one configuration; the payload is gone through once for all pointers.
#[derive(Default)]
pub struct Origins {
    pointers: Pointers,
    count: usize,
}

/// The JSON text at each pointer of [`Origins`], of one payload.
pub struct Found<'a>(Vec<Option<&'a str>>);

impl Origins {
    pub fn add(&mut self, field: &str, origin: config::Origin) -> Result<Origin, ConfigError> {
        let origin = match origin {
            config::Origin::Text(text) => Origin::Text(text),
            config::Origin::Header(config::Header { header }) => Origin::Header(header),
            config::Origin::Pointer(config::Pointer { pointer }) => {
                let number = self.pointers.push(&pointer);
                let number = number
                    .map_err(|error| ConfigError::at(format!("/{field}/pointer"), error.to_string()))?;
                self.count = number + 1;
                Origin::Pointer(number, pointer)
            }
        };
        match &origin {
            Origin::Text(text) | Origin::Header(text) if text.is_empty() => {
                Err(ConfigError::at(format!("/{field}"), "is empty; say what it is or where it is found"))
            }
            _ => Ok(origin),
        }
    }

    pub fn find<'a>(&self, message: &Message<'a>) -> Result<Found<'a>, Failure> {
        let mut found = vec![None; self.count];
        if let Some(payload) = message.payload() {
            self.pointers.find(payload, |pointer, text| {
                found[pointer].get_or_insert(text);
            })?;
        }
        Ok(Found(found))
    }
}

impl Origin {
    /// The text there; `None` if there is none, or a JSON null or an empty text.
    ///
    /// # Errors
    /// Rejects what is no text, number or boolean.
    pub fn text<'a>(
        &'a self,
        message: &Message<'a>,
        found: &Found<'a>,
    ) -> Result<Option<Cow<'a, str>>, Failure> {
        let text = match self {
            Origin::Text(text) => Some(Cow::Borrowed(text.as_str())),
            Origin::Header(name) => match message.header(name).map(str::from_utf8).transpose() {
                Ok(text) => text.map(Cow::Borrowed),
                Err(_) => {
                    return Err(Failure::reject(INVALID, format!("header `{name}` is not text")));
                }
            },
            Origin::Pointer(number, pointer) => match found.0[*number] {
                None => None,
                Some(json) => text_of(json).ok_or_else(|| {
                    Failure::reject(INVALID, format!("{pointer} of the payload is neither text nor number"))
                })?,
            },
        };
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// As [`Origin::text`], but what is found at a pointer stays the JSON that it is.
    pub fn json<'a>(&'a self, message: &Message<'a>, found: &Found<'a>) -> Result<Option<Json<'a>>, Failure> {
        match self {
            Origin::Pointer(number, _) => {
                Ok(found.0[*number].and_then(|json| serde_json::from_str(json).ok()).map(Json::Raw))
            }
            _ => Ok(self.text(message, found)?.map(Json::Text)),
        }
    }

    /// For people: where this looks.
    pub fn place(&self) -> String {
        match self {
            Origin::Text(_) => "the configuration".to_owned(),
            Origin::Header(name) => format!("header `{name}`"),
            Origin::Pointer(_, pointer) => format!("{pointer} of the payload"),
        }
    }
}

#[derive(serde::Serialize)]
#[serde(untagged)]
pub enum Json<'a> {
    Text(Cow<'a, str>),
    Raw(&'a RawValue),
}

/// `Some(None)` for null, `None` for what is no scalar.
fn text_of(json: &str) -> Option<Option<Cow<'_, str>>> {
    match json.as_bytes().first()? {
        b'n' => Some(None),
        b'{' | b'[' => None,
        b'"' => match serde_json::from_str::<Text<'_>>(json) {
            Ok(Text(text)) => Some(Some(text)),
            Err(_) => None,
        },
        _ => Some(Some(Cow::Borrowed(json))),
    }
}

/// Borrows where nothing is escaped, which a bare `Cow` does not.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
