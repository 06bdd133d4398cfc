//! Lets only messages through whose payload carries a valid HMAC-SHA-256 signature in a header.

use millstream_sdk::prelude::*;
use millstream_signature::{Check, Config, Mistake, Refusal};

pub struct VerifySignature(Check);

impl Plugin for VerifySignature {
    type Config = Config;
    const NAME: &'static str = "verify-signature";
    const SUMMARY: &'static str = "Rejects messages without a valid HMAC-SHA-256 signature of the payload.";
    const READS: Reads = Reads::PAYLOAD.and(Reads::HEADERS);

    fn new(config: Config) -> Result<Self, ConfigError> {
        let check = Check::new(config);
        check.map(VerifySignature).map_err(|Mistake { field, message }| ConfigError::at(field, message))
    }
}

impl Filter for VerifySignature {
    fn keep(&mut self, message: &Message<'_>) -> Result<bool, Failure> {
        match self.0.check(message.header(self.0.header()), message.payload()) {
            Ok(()) => Ok(true),
            Err(Refusal { code, reason }) => Err(Failure::reject(code, reason)),
        }
    }
}

millstream_sdk::export!(VerifySignature);

#[cfg(test)]
mod tests;
