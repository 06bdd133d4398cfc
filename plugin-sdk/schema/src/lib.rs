//! What is wrong with a payload by a JSON Schema: in the plugin `validate-schema` and natively in a
//! source.
//!
//! - [`config`]: what a schema is checked by
//! - [`references`]: other schemas that one refers to; nothing is ever fetched
//! - `validator`: the compiled schema and its verdict
//! - `closest`: of many alternatives, the one a document was probably meant to be
//! - `report`: the violations, for people

mod closest;
pub mod config;
pub mod references;
mod report;
mod validator;

use serde_json::Value;

pub use config::{Config, Draft, Mistake};
use validator::Validator;

/// The check of one configuration.
pub struct Check(Validator);

/// Why a payload is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `schema-violation`, `payload-not-json` or `payload-null`.
    pub code: &'static str,
    /// One violation a line.
    pub reason: String,
}

impl Check {
    /// Compiles the schema. Nothing outside of the configuration is read.
    ///
    /// # Errors
    /// The schema is none, or refers to one that is not there.
    pub fn new(config: Config) -> Result<Check, Mistake> {
        Validator::new(config).map(Check)
    }

    /// # Errors
    /// The payload is no JSON, or breaks the schema.
    pub fn check(&self, payload: Option<&[u8]>) -> Result<(), Refusal> {
        let Some(payload) = payload else {
            return Err(Refusal { code: "payload-null", reason: "the payload is null".to_owned() });
        };
        let not_json = |error: &dyn std::fmt::Display| Refusal {
            code: "payload-not-json",
            reason: format!("the payload is not json: {error}"),
        };
        let text = std::str::from_utf8(payload).map_err(|error| not_json(&error))?;
        let document: Value = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        match self.0.violations(&document) {
            None => Ok(()),
            Some(reason) => Err(Refusal { code: "schema-violation", reason }),
        }
    }
}

#[cfg(test)]
mod tests;
