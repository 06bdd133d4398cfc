//! Lets only messages through whose payload carries a valid HMAC-SHA-256 signature in a header.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use millstream_sdk::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Sha256;

/// Length of an HMAC-SHA-256 in bytes.
const SIGNATURE_BYTES: usize = 32;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Header that holds the signature; case does not matter.
    header: String,
    /// What stands before the signature in the header, such as `sha256=`.
    #[serde(default)]
    prefix: String,
    /// The secret that the payload was signed with.
    secret: Option<Secret>,
    /// Several secrets, any of which may have been used, so that they can be changed one after the
    /// other. Instead of `secret` or beside it.
    #[serde(default)]
    secrets: Vec<Secret>,
    /// How the signature is written.
    #[serde(default)]
    encoding: Encoding,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    /// 64 hexadecimal digits, large or small.
    #[default]
    Hex,
    /// RFC 4648, with padding.
    Base64,
}

pub struct VerifySignature {
    header: String,
    prefix: String,
    encoding: Encoding,
    /// One for each secret, ready to be fed.
    macs: Vec<Hmac<Sha256>>,
}

impl Plugin for VerifySignature {
    type Config = Config;
    const NAME: &'static str = "verify-signature";
    const SUMMARY: &'static str = "Rejects messages without a valid HMAC-SHA-256 signature of the payload.";
    const READS: Reads = Reads::PAYLOAD.and(Reads::HEADERS);

    fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { header, prefix, secret, secrets, encoding } = config;
        if header.is_empty() {
            return Err(ConfigError::at("/header", "name the header that holds the signature"));
        }
        if secret.is_none() && secrets.is_empty() {
            return Err(ConfigError::at("/secret", "give a secret here, or several in `secrets`"));
        }
        let one = secret.iter().map(|secret| ("/secret".to_owned(), secret));
        let many = secrets.iter().enumerate().map(|(index, secret)| (format!("/secrets/{index}"), secret));
        let macs = one.chain(many).map(|(field, secret)| {
            if secret.expose().is_empty() {
                return Err(ConfigError::at(field, "an empty secret protects nothing"));
            }
            Hmac::new_from_slice(secret.expose().as_bytes())
                .map_err(|_| ConfigError::at(field, "this secret cannot be a key"))
        });
        let macs = macs.collect::<Result<_, _>>()?;
        Ok(VerifySignature { header, prefix, encoding, macs })
    }
}

impl Filter for VerifySignature {
    fn keep(&mut self, message: &Message<'_>) -> Result<bool, Failure> {
        let Some(header) = message.header(&self.header) else {
            return Err(Failure::reject("signature-missing", format!("header `{}` is missing", self.header)));
        };
        let signature = self.signature(header)?;
        let payload = message.payload().unwrap_or_default();
        let signed = self.macs.iter().any(|mac| {
            // Compares in constant time.
            mac.clone().chain_update(payload).verify_slice(&signature).is_ok()
        });
        if signed {
            Ok(true)
        } else {
            Err(Failure::reject(
                "signature-mismatch",
                format!(
                    "the payload is not what was signed in header `{}`, or with another secret",
                    self.header
                ),
            ))
        }
    }
}

impl VerifySignature {
    fn signature(&self, header: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Failure> {
        let malformed = |expected: &str| {
            Failure::reject("signature-malformed", format!("header `{}` {expected}", self.header))
        };
        let Some(text) = header.strip_prefix(self.prefix.as_bytes()) else {
            return Err(malformed(&format!("does not start with `{}`", self.prefix)));
        };
        match self.encoding {
            Encoding::Hex => {
                let mut signature = [0; SIGNATURE_BYTES];
                hex::decode_to_slice(text, &mut signature)
                    .map_err(|_| malformed("does not hold 64 hexadecimal digits"))?;
                Ok(signature)
            }
            Encoding::Base64 => STANDARD
                .decode(text)
                .ok()
                .and_then(|signature| signature.try_into().ok())
                .ok_or_else(|| malformed("does not hold 32 bytes in base64")),
        }
    }
}

millstream_sdk::export!(VerifySignature);

#[cfg(test)]
mod tests;
