//! Where in a message a key is found, as a plugin's configuration says it.

use std::borrow::Cow;

use millstream_json_pointer::{Pointers, scalar};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::ConfigError;
use crate::message::Message;
use crate::plugin::Failure;

/// One of `{ pointer = "/..." }`, `{ header = "..." }`, `{ key = true }`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Key {
    /// At a JSON pointer (RFC 6901) in the payload: a text, or the digits of a number.
    Pointer(String),
    /// In the header of this name; case does not matter.
    Header(String),
    /// `true`: it is the message's own key.
    #[serde(rename = "key")]
    Message(bool),
}

/// A [`Key`] that was checked.
pub struct KeyPlace(Place);

enum Place {
    Payload(Pointers),
    Header(String),
    Message,
}

impl Key {
    /// `field` is the JSON pointer to this in the configuration.
    ///
    /// # Errors
    /// It names no one place.
    pub fn place(self, field: &str) -> Result<KeyPlace, ConfigError> {
        let place = match self {
            Key::Message(true) => Place::Message,
            Key::Message(false) => {
                let message = "is true, or use `pointer` or `header` instead";
                return Err(ConfigError::at(format!("{field}/key"), message));
            }
            Key::Header(name) if name.is_empty() => {
                return Err(ConfigError::at(format!("{field}/header"), "name the header"));
            }
            Key::Header(name) => Place::Header(name),
            Key::Pointer(pointer) => {
                let field = format!("{field}/pointer");
                if pointer.split('/').any(|step| step == "*") {
                    return Err(ConfigError::at(field, "is one place; `*` would be many"));
                }
                let mut pointers = Pointers::default();
                pointers.push(&pointer).map_err(|error| ConfigError::at(field, error.to_string()))?;
                Place::Payload(pointers)
            }
        };
        Ok(KeyPlace(place))
    }
}

impl KeyPlace {
    /// The key of a message, if it has one there. Lists, objects and null in a payload are no keys.
    ///
    /// # Errors
    /// The key is in the payload, which is not JSON.
    pub fn find<'a>(&self, message: &Message<'a>) -> Result<Option<Cow<'a, [u8]>>, Failure> {
        let pointers = match &self.0 {
            Place::Message => return Ok(message.key().map(Cow::Borrowed)),
            Place::Header(name) => return Ok(message.header(name).map(Cow::Borrowed)),
            Place::Payload(pointers) => pointers,
        };
        let Some(payload) = message.payload() else { return Ok(None) };
        let mut key = None;
        pointers.find(payload, |_, json| key = key.take().or(Some(json)))?;
        Ok(key.and_then(scalar))
    }
}
