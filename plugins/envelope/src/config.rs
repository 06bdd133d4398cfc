//! The configuration of `envelope`.

use std::collections::BTreeMap;

use millstream_sdk::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whether payloads are put into an envelope, or must stand in one.
    pub mode: Mode,

    /// For `wrap`, and required there: the type of the event, such as `order.placed`. A text, or
    /// where it is found: `{ header = "..." }` or `{ pointer = "/..." }`, a JSON pointer (RFC 6901)
    /// into the payload.
    #[serde(rename = "type")]
    pub kind: Option<Origin>,
    /// For `wrap`: who sends the event, as `type`. By default the name of the pipeline's source.
    pub source: Option<Origin>,
    /// For `wrap`: where the id is found, as `type`. What is no UUID of version 4 is hashed into
    /// one. By default the id is drawn from source, partition, offset and payload, so that a message
    /// that is read again has the same.
    pub id: Option<Origin>,
    /// For `wrap`: where the id is found that all events of one process share, as `type`. Without
    /// it, or where it is missing, the event starts a process: it is the event's own id.
    pub correlation_id: Option<Origin>,
    /// For `wrap`: where the id of the event is found that caused this one, as `type`. Without it,
    /// or where it is missing, there is no `causationId`.
    pub causation_id: Option<Origin>,
    /// For `wrap`: fields of `metadata` and where they are found, as `type`. One that is missing is
    /// left out.
    #[serde(default)]
    pub metadata: BTreeMap<String, Origin>,

    /// How the payload stands in `data`. For `check` it goes with `unwrap`.
    #[serde(default)]
    pub data: Data,

    /// For `check`: whether what stands in `data` becomes the payload, and the other fields headers.
    #[serde(default)]
    pub unwrap: bool,
    /// For `check`: whether an envelope may have fields that the standard does not know.
    #[serde(default)]
    pub allow_other_fields: bool,
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Wrap,
    Check,
}

/// Where a text is found.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text, { header = \"...\" } or { pointer = \"/...\" }")]
pub enum Origin {
    Text(String),
    Header(Header),
    Pointer(Pointer),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name; case does not matter.
    pub header: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pointer {
    /// A JSON pointer (RFC 6901) into the payload.
    pub pointer: String,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    /// As the JSON that it is.
    #[default]
    Json,
    /// As a string; it is UTF-8.
    String,
    /// As a string in base64 (RFC 4648, with padding); it may be any bytes.
    Base64,
}

impl Config {
    pub fn only_what_goes_with_its_mode(&self) -> Result<(), ConfigError> {
        let fields = [
            ("type", Mode::Wrap, self.kind.is_some()),
            ("source", Mode::Wrap, self.source.is_some()),
            ("id", Mode::Wrap, self.id.is_some()),
            ("correlation_id", Mode::Wrap, self.correlation_id.is_some()),
            ("causation_id", Mode::Wrap, self.causation_id.is_some()),
            ("metadata", Mode::Wrap, !self.metadata.is_empty()),
            ("unwrap", Mode::Check, self.unwrap),
            ("allow_other_fields", Mode::Check, self.allow_other_fields),
        ];
        if let Some((name, ..)) = fields.iter().find(|(_, mode, given)| *given && *mode != self.mode) {
            let other = if self.mode == Mode::Wrap { "check" } else { "wrap" };
            return Err(ConfigError::at(format!("/{name}"), format!("goes with mode `{other}`; remove it")));
        }
        if self.mode == Mode::Wrap && self.kind.is_none() {
            return Err(ConfigError::at("/type", "say of which type the events are, or where that is found"));
        }
        if self.mode == Mode::Check && self.data != Data::Json && !self.unwrap {
            return Err(ConfigError::at("/data", "goes with `unwrap = true`; add that or remove this"));
        }
        Ok(())
    }
}
