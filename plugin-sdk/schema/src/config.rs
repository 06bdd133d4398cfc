//! What a schema is checked by.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The JSON Schema: an object, or its JSON text as `{ file = "order.schema.json" }` gives it.
    pub schema: Value,
    /// Schemas that a `$ref` may lead to, by the URI that it says, each as `schema` is given. Nothing
    /// is fetched: a `$ref` to any other document is an error.
    #[serde(default)]
    pub references: BTreeMap<String, Value>,
    /// The draft to read the schema by, in place of the one that its `$schema` names; without
    /// either it is `2020-12`.
    #[serde(default)]
    pub draft: Option<Draft>,
    /// Whether `format` is checked, such as `date-time`, `email` and `uuid`.
    #[serde(default = "default_formats")]
    pub formats: bool,
    /// How many violations of one message are told; of the others only the number.
    #[serde(default = "default_max_violations")]
    pub max_violations: NonZeroU32,
    /// Whether violations quote the values that break the schema. What they say goes to logs, so
    /// leave this off for personal data.
    #[serde(default)]
    pub show_values: bool,
}

/// A version of JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Draft {
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

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// JSON pointer to the field.
    pub field: String,
    pub message: String,
}

impl Config {
    /// With the defaults beside a schema.
    pub fn of(schema: Value) -> Config {
        Config {
            schema,
            references: BTreeMap::new(),
            draft: None,
            formats: default_formats(),
            max_violations: default_max_violations(),
            show_values: false,
        }
    }
}

pub fn default_formats() -> bool {
    true
}

pub fn default_max_violations() -> NonZeroU32 {
    const { NonZeroU32::new(20).unwrap() }
}

/// A schema that may have been given as its JSON text.
pub(crate) fn schema(field: impl FnOnce() -> String, value: Value) -> Result<Value, Mistake> {
    match value {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| Mistake { field: field(), message: format!("the schema is not json: {error}") }),
        schema => Ok(schema),
    }
}

impl From<Draft> for jsonschema::Draft {
    fn from(draft: Draft) -> Self {
        match draft {
            Draft::Draft4 => Self::Draft4,
            Draft::Draft6 => Self::Draft6,
            Draft::Draft7 => Self::Draft7,
            Draft::Draft201909 => Self::Draft201909,
            Draft::Draft202012 => Self::Draft202012,
        }
    }
}
