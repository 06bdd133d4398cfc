//! Typed configuration. No error of this module holds a value of the configuration: it may be a
//! secret, also in a field of the wrong type.

mod de;

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use millstream_secret::Secret;

/// What is wrong with a configuration, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// JSON pointer to the field; empty for the whole configuration.
    pub field: String,
    pub message: String,
}

impl ConfigError {
    /// About the configuration as a whole.
    pub fn new(message: impl Into<String>) -> ConfigError {
        ConfigError { field: String::new(), message: message.into() }
    }

    /// About one field, given as a JSON pointer such as `/rules/0/pointer`.
    pub fn at(field: impl Into<String>, message: impl Into<String>) -> ConfigError {
        ConfigError { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

impl std::error::Error for ConfigError {}

/// Reads a configuration from JSON text; `null` is taken for an empty one.
pub(crate) fn parse<T: DeserializeOwned>(json: &str) -> Result<T, ConfigError> {
    let value: Value = serde_json::from_str(json).map_err(|error| {
        ConfigError::new(format!("not json, at line {} column {}", error.line(), error.column()))
    })?;
    let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
    de::from_value(&value)
}

/// The configuration of a plugin that has none.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

#[cfg(test)]
mod tests;
