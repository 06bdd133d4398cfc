//! Where in a message a key is found, as the plugin SDK's configurations say it too.

use std::borrow::Cow;

use millstream_json_pointer::{Pointers, scalar};
use schemars::JsonSchema;
use serde::Deserialize;

use super::batches::Refused;
use crate::config::problem::Problem;
use crate::message::MessageRef;

/// One of `{ pointer = "/..." }`, `{ header = "..." }`, `{ key = true }`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Key {
    /// At a JSON pointer (RFC 6901) in the payload: a text, or the digits of a number.
    pointer: Option<String>,
    /// In the header of this name; case does not matter.
    header: Option<String>,
    /// `true`: it is the message's own key.
    key: Option<bool>,
}

/// A [`Key`] that was checked.
#[derive(Debug)]
pub enum Place {
    Payload(Pointers),
    Header(String),
    Message,
}

impl Key {
    /// `at` is its place in the section.
    ///
    /// # Errors
    /// It names no one place.
    pub fn place(&self, at: &str) -> Result<Place, Problem> {
        match (&self.pointer, &self.header, self.key) {
            (Some(pointer), None, None) => of_pointer(pointer, &format!("{at}/pointer")),
            (None, Some(header), None) if header.is_empty() => {
                Err(Problem::new(format!("{at}/header"), "a header has a name"))
            }
            (None, Some(header), None) => Ok(Place::Header(header.clone())),
            (None, None, Some(true)) => Ok(Place::Message),
            (None, None, Some(false)) => Err(Problem::new(format!("{at}/key"), "it is no place then")
                .help("true, or `pointer` or `header` instead")),
            _ => Err(Problem::new(at, "it has to name one place")
                .help("one of `pointer = \"/...\"`, `header = \"...\"`, `key = true`")),
        }
    }
}

fn of_pointer(pointer: &str, at: &str) -> Result<Place, Problem> {
    if pointer.split('/').any(|step| step == "*") {
        return Err(Problem::new(at, "`*` would be many places").help("one place, as \"/id\""));
    }
    let mut pointers = Pointers::default();
    match pointers.push(pointer) {
        Ok(_) => Ok(Place::Payload(pointers)),
        Err(error) => Err(Problem::new(at, error.to_string()).help("as in \"/order/id\"")),
    }
}

impl Place {
    /// What a message has there. Lists, objects and null in a payload are nothing.
    ///
    /// # Errors
    /// It is in the payload, which is not JSON.
    pub fn find<'a>(&self, message: &MessageRef<'a>) -> Result<Option<Cow<'a, [u8]>>, Refused> {
        let pointers = match self {
            Place::Message => return Ok(message.key().map(Cow::Borrowed)),
            Place::Header(name) => return Ok(message.header(name).map(Cow::Borrowed)),
            Place::Payload(pointers) => pointers,
        };
        let Some(payload) = message.payload() else { return Ok(None) };
        let mut key = None;
        pointers
            .find(payload, |_, json| key = key.take().or(Some(json)))
            .map_err(|error| Refused::new("not-json", error.to_string()))?;
        Ok(key.and_then(scalar))
    }
}
