//! Rejects messages whose payload breaks a JSON Schema.
//!
//! - [`validator`]: the compiled schema and its verdict
//! - [`closest`]: of many alternatives, the one a document was probably meant to be
//! - [`report`]: the violations, for people
//! - `seed`: in the sandbox, in place of randomness

mod closest;
mod report;
#[cfg(target_arch = "wasm32")]
mod seed;
mod validator;

use std::num::NonZeroU32;

use millstream_sdk::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use validator::Validator;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The JSON Schema: an object, or its JSON text as `{ file = "order.schema.json" }` gives it.
    /// It must be complete: a `$ref` to another document is an error.
    schema: Value,
    /// The draft to read the schema by, in place of the one that its `$schema` names; without
    /// either it is `2020-12`.
    #[serde(default)]
    draft: Option<Draft>,
    /// Whether `format` is checked, such as `date-time` and `email`.
    #[serde(default)]
    formats: bool,
    /// How many violations of one message are told; of the others only the number.
    #[serde(default = "default_max_violations")]
    max_violations: NonZeroU32,
    /// Whether violations quote the values that break the schema. What they say goes to logs, so
    /// leave this off for personal data.
    #[serde(default)]
    show_values: bool,
}

/// A version of JSON Schema.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum Draft {
    #[serde(rename = "4")]
    Draft4,
    #[serde(rename = "6")]
    Draft6,
    #[serde(rename = "7")]
    Draft7,
    #[serde(rename = "2019-09")]
    Draft201909,
    #[serde(rename = "2020-12")]
    Draft202012,
}

fn default_max_violations() -> NonZeroU32 {
    const { NonZeroU32::new(20).unwrap() }
}

pub struct ValidateSchema {
    validator: Validator,
}

impl Plugin for ValidateSchema {
    type Config = Config;
    const NAME: &'static str = "validate-schema";
    const SUMMARY: &'static str = "Rejects messages whose payload breaks a JSON Schema.";

    fn new(mut config: Config) -> Result<Self, ConfigError> {
        let schema = match config.schema.take() {
            Value::String(text) => serde_json::from_str(&text)
                .map_err(|error| ConfigError::at("/schema", format!("the schema is not json: {error}")))?,
            schema => schema,
        };
        let validator = Validator::new(schema, &config).map_err(|error| ConfigError::at("/schema", error))?;
        Ok(ValidateSchema { validator })
    }
}

impl Filter for ValidateSchema {
    fn keep(&mut self, message: &Message<'_>) -> Result<bool, Failure> {
        let document: Value = message.json()?;
        match self.validator.violations(&document) {
            None => Ok(true),
            Some(violations) => Err(Failure::reject("schema-violation", violations)),
        }
    }
}

millstream_sdk::export!(ValidateSchema);

#[cfg(test)]
mod tests;
