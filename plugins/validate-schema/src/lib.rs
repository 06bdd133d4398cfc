//! Rejects messages whose payload breaks a JSON Schema.
//!
//! - `seed`: in the sandbox, in place of randomness

#[cfg(target_arch = "wasm32")]
mod seed;

use millstream_schema::{Check, Config, Mistake, Refusal};
use millstream_sdk::prelude::*;

pub struct ValidateSchema(Check);

impl Plugin for ValidateSchema {
    type Config = Config;
    const NAME: &'static str = "validate-schema";
    const SUMMARY: &'static str = "Rejects messages whose payload breaks a JSON Schema.";

    fn new(config: Config) -> Result<Self, ConfigError> {
        let check = Check::new(config);
        check.map(ValidateSchema).map_err(|Mistake { field, message }| ConfigError::at(field, message))
    }
}

impl Filter for ValidateSchema {
    fn keep(&mut self, message: &Message<'_>) -> Result<bool, Failure> {
        match self.0.check(message.payload()) {
            Ok(()) => Ok(true),
            Err(Refusal { code, reason }) => Err(Failure::reject(code, reason)),
        }
    }
}

millstream_sdk::export!(ValidateSchema);

#[cfg(test)]
mod tests;
