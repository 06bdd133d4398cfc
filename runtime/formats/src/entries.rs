//! Maps of formats whose keys are any values: a record, if all of them are texts.

use std::collections::HashSet;

use crate::Error;
use crate::error::At;
use crate::json::{key_text, no_key_twice};
use crate::model::Value;

/// The entries of a map, as they come.
pub(crate) enum Entries {
    Texts(Vec<(String, Value)>),
    /// Some key is no text.
    Any(Vec<(Value, Value)>),
}

impl Default for Entries {
    fn default() -> Entries {
        Entries::Texts(Vec::new())
    }
}

impl Entries {
    pub fn push(&mut self, key: Value, value: Value) {
        match (&mut *self, key) {
            (Entries::Texts(fields), Value::Text(name)) => fields.push((name, value)),
            (Entries::Texts(fields), key) => {
                let fields = std::mem::take(fields).into_iter();
                let mut entries: Vec<_> = fields.map(|(name, value)| (Value::Text(name), value)).collect();
                entries.push((key, value));
                *self = Entries::Any(entries);
            }
            (Entries::Any(entries), key) => entries.push((key, value)),
        }
    }

    /// The value that they are. Keys are compared as `encode` writes them.
    ///
    /// # Errors
    /// A key is there twice.
    pub fn into_value(
        self,
        encode: impl Fn(&Value, &mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<Value, Error> {
        match self {
            Entries::Texts(fields) => {
                no_key_twice(&fields)?;
                Ok(Value::Record(fields))
            }
            Entries::Any(entries) => {
                let mut seen = HashSet::with_capacity(entries.len());
                for (key, _) in &entries {
                    let mut written = Vec::new();
                    encode(key, &mut written).at(place_of(key))?;
                    if !seen.insert(written) {
                        return Err(Error::new(format!("the key {} is there twice", place_of(key))));
                    }
                }
                Ok(Value::Map(entries))
            }
        }
    }
}

/// A key within the path of an error.
pub(crate) fn place_of(key: &Value) -> String {
    key_text(key).unwrap_or_else(|_| key.kind().to_owned())
}
